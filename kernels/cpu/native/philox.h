// Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011): the same words as kernels/philox.py, which says how a counter is made.
//
// The ten rounds are written out, without a loop or an array, so that a loop over counters around
// `philox` becomes vector code, a counter a lane. A 32-bit word is kept in a 64-bit lane, since
// that is the width of the products; what a product leaves above bit 31 is masked where it would
// count.
//
// Read next: clock.h.
#pragma once

#include <cstdint>

namespace lsuv {

constexpr std::uint64_t DROPOUT = 1, AUGMENT = 3, FRACTIONAL = 6;  // purposes

struct Words {
    std::uint64_t w0, w1, w2, w3;
};

inline __attribute__((always_inline)) Words philox_round(Words c, std::uint32_t k0,
                                                         std::uint32_t k1) {
    constexpr std::uint64_t LOW = 0xFFFFFFFFu;
    const std::uint64_t a = 0xD2511F53u * (c.w0 & LOW), b = 0xCD9E8D57u * (c.w2 & LOW);
    return {(b >> 32) ^ c.w1 ^ k0, b, (a >> 32) ^ c.w3 ^ k1, a};
}

// The words of counter (index low, index high, step, stream), stream = purpose << 16 | layer.
inline __attribute__((always_inline)) Words philox(std::uint64_t seed, std::uint64_t index,
                                                   std::uint64_t step, std::uint64_t stream) {
    constexpr std::uint64_t LOW = 0xFFFFFFFFu;
    constexpr std::uint32_t BUMP0 = 0x9E3779B9u, BUMP1 = 0xBB67AE85u;  // of the key
    const auto k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
    Words c = {index & LOW, index >> 32, step, stream};
    c = philox_round(c, k0, k1);
    c = philox_round(c, k0 + BUMP0, k1 + BUMP1);
    c = philox_round(c, k0 + 2 * BUMP0, k1 + 2 * BUMP1);
    c = philox_round(c, k0 + 3 * BUMP0, k1 + 3 * BUMP1);
    c = philox_round(c, k0 + 4 * BUMP0, k1 + 4 * BUMP1);
    c = philox_round(c, k0 + 5 * BUMP0, k1 + 5 * BUMP1);
    c = philox_round(c, k0 + 6 * BUMP0, k1 + 6 * BUMP1);
    c = philox_round(c, k0 + 7 * BUMP0, k1 + 7 * BUMP1);
    c = philox_round(c, k0 + 8 * BUMP0, k1 + 8 * BUMP1);
    c = philox_round(c, k0 + 9 * BUMP0, k1 + 9 * BUMP1);
    return {c.w0 & LOW, c.w1 & LOW, c.w2 & LOW, c.w3 & LOW};
}

}  // namespace lsuv
