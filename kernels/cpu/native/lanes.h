#pragma once
// Sixteen channels at a time, in one AVX-512 register or what the processor has in its place.
//
// For kernels that carry a value and its index from place to place: an array of sixteen would go
// through memory at every place, since GCC does not keep it in a register across loops.
// GCC's vector types compile for any processor.

#include <cstdint>
#include <cstring>

#include "element.h"

namespace lsuv {

constexpr std::int64_t LANES = 16;

using Floats = float __attribute__((vector_size(64)));
using Wholes = std::int32_t __attribute__((vector_size(64)));
using Bytes = std::uint8_t __attribute__((vector_size(16)));
using Halves = std::uint16_t __attribute__((vector_size(32)));

#define LSUV_INLINE inline __attribute__((always_inline))

template <class Vector, class From>
LSUV_INLINE Vector bits_of(const From& from) {
    static_assert(sizeof(Vector) == sizeof(From));
    Vector to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// `count` elements, and behind them zeros. Sixteen as a constant is a single load.
template <class Vector, class T>
LSUV_INLINE Vector load_bits(const T* from, std::int64_t count) {
    Vector to = {};
    if (count == LANES) {
        std::memcpy(&to, from, sizeof to);
    } else {
        for (std::int64_t lane = 0; lane < count; ++lane) {
            std::memcpy(reinterpret_cast<char*>(&to) + lane * sizeof(T), from + lane, sizeof(T));
        }
    }
    return to;
}

template <class Vector, class T>
LSUV_INLINE void store_bits(T* to, const Vector& from, std::int64_t count) {
    if (count == LANES) {
        std::memcpy(to, &from, sizeof from);
    } else {
        for (std::int64_t lane = 0; lane < count; ++lane) {
            std::memcpy(to + lane, reinterpret_cast<const char*>(&from) + lane * sizeof(T),
                        sizeof(T));
        }
    }
}

LSUV_INLINE Floats load(const float* from, std::int64_t count) {
    return load_bits<Floats>(from, count);
}

LSUV_INLINE Floats load(const bf16* from, std::int64_t count) {
    const Halves halves = load_bits<Halves>(from, count);
    return bits_of<Floats>(__builtin_convertvector(halves, Wholes) << 16);
}

LSUV_INLINE Wholes load(const std::uint8_t* from, std::int64_t count) {
    return __builtin_convertvector(load_bits<Bytes>(from, count), Wholes);
}

LSUV_INLINE void store(std::uint8_t* to, Wholes values, std::int64_t count) {
    store_bits(to, __builtin_convertvector(values, Bytes), count);
}

// Rounded to the nearest element, as `rounded` in element.h does it.
LSUV_INLINE void store_rounded(float* to, Floats values, std::int64_t count) {
    store_bits(to, values, count);
}

LSUV_INLINE void store_rounded(bf16* to, Floats values, std::int64_t count) {
    const Wholes wide = bits_of<Wholes>(values);
    const Wholes nearest = wide + 0x7FFF + (wide >> 16 & 1);
    const Wholes kept = values == values ? nearest : wide | 0x400000;
    store_bits(to, __builtin_convertvector(kept >> 16, Halves), count);
}

// Of values that are elements: chosen ones, or zero.
LSUV_INLINE void store_exactly(float* to, Floats values, std::int64_t count) {
    store_bits(to, values, count);
}

LSUV_INLINE void store_exactly(bf16* to, Floats values, std::int64_t count) {
    store_bits(to, __builtin_convertvector(bits_of<Wholes>(values) >> 16, Halves), count);
}

// Where `value` takes the place of `old` as the largest: never on a tie, and NaN stays (select.h).
LSUV_INLINE Wholes beats(Floats value, Floats old) { return ~(old >= value) & (old == old); }

#undef LSUV_INLINE

}  // namespace lsuv
