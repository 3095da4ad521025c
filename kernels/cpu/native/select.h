#pragma once
// Choosing among floats and bytes by masks, so that the compiler sees no branch.
//
// Written with `? :`, a loop that reads and writes both floats and bytes turns into branches, or
// into vectors of two lengths that fill only from 64 channels on. A mask is an int32: all ones, or
// 0.

#include <cstdint>
#include <cstring>

namespace lsuv {

#define LSUV_INLINE inline __attribute__((always_inline))

// Whether `value` takes the place of `old` as the largest: never on a tie, and NaN stays, so that
// the first largest wins, or the first NaN, as in NumPy's max.
LSUV_INLINE bool beats(float value, float old) { return !(old >= value) & (old == old); }

LSUV_INLINE std::int32_t mask_of(bool condition) { return -static_cast<std::int32_t>(condition); }

// which == index, both of 0 .. 255.
LSUV_INLINE std::int32_t mask_equal(std::int32_t which, std::int32_t index) {
    return ((which ^ index) - 1) >> 31;
}

// a where the mask is set, else b.
LSUV_INLINE std::int32_t choose(std::int32_t mask, std::int32_t a, std::int32_t b) {
    return b ^ ((a ^ b) & mask);
}

LSUV_INLINE float choose(std::int32_t mask, float a, float b) {
    std::int32_t a_bits, b_bits;
    std::memcpy(&a_bits, &a, sizeof a);
    std::memcpy(&b_bits, &b, sizeof b);
    const std::int32_t bits = choose(mask, a_bits, b_bits);
    float chosen;
    std::memcpy(&chosen, &bits, sizeof chosen);
    return chosen;
}

#undef LSUV_INLINE

}  // namespace lsuv
