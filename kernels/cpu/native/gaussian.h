// The normal numbers of kernels/philox.py: the same words, and Box and Muller's (1958) formulas in
// float64 as plain arithmetic without a branch or a table, so that a loop over words becomes vector
// code. They agree with NumPy's within 4e-15, which is the rounding of the angle.
//
// Read next: panels.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "philox.h"

namespace lsuv {

// (word + 0.5) / 2^32, exactly: the conversion is that of a signed number, which every processor
// has as a vector instruction.
inline __attribute__((always_inline)) double uniform_of(std::uint32_t word) {
    const auto shifted = static_cast<std::int32_t>(word ^ 0x80000000u);
    return (static_cast<double>(shifted) + 2147483648.5) * 0x1p-32;
}

// ln u for u in (0, 1), within a few units of the last place, near 1 too.
//
// u = 2^e m with m in [sqrt(1/2), sqrt(2)), and ln m = 2 artanh s, s = (m - 1) / (m + 1): with
// s^2 < 0.0295 eleven terms of the series are exact. ln 2 is split so that e * high is exact.
inline __attribute__((always_inline)) double logarithm(double u) {
    constexpr std::uint64_t BIAS = 0x3FF0000000000000u, ROOT_HALF = 0x3FE6A09E667F3BCDu;
    constexpr double LN2_HIGH = 0x1.62e42fefa38p-1, LN2_LOW = 0x1.ef35793c7673p-45;
    constexpr double TWO_52 = 0x1p52;
    std::uint64_t bits;
    std::memcpy(&bits, &u, sizeof bits);
    const std::uint64_t biased = (bits + (BIAS - ROOT_HALF)) >> 52;  // e + 1023
    bits -= (biased << 52) - BIAS;
    double m, e;
    std::memcpy(&m, &bits, sizeof m);
    const std::uint64_t above = biased | 0x4330000000000000u;  // 2^52 + biased, as a double's bits
    std::memcpy(&e, &above, sizeof e);
    e -= TWO_52 + 1023;
    const double s = (m - 1) / (m + 1), z = s * s;
    double series = 1.0 / 21;
    series = series * z + 1.0 / 19;
    series = series * z + 1.0 / 17;
    series = series * z + 1.0 / 15;
    series = series * z + 1.0 / 13;
    series = series * z + 1.0 / 11;
    series = series * z + 1.0 / 9;
    series = series * z + 1.0 / 7;
    series = series * z + 1.0 / 5;
    series = series * z + 1.0 / 3;
    return e * LN2_HIGH + (2 * s + (2 * s * z * series + e * LN2_LOW));
}

struct Turn {
    double cosine, sine;
};

// cos and sin of 2 pi v for v in (0, 1).
//
// 4 v = q + r / (pi / 2) with |r| <= pi / 4 is exact in v, and there the Taylor series are exact
// after nine and eight terms; the quarter q exchanges the two and sets their signs.
inline __attribute__((always_inline)) Turn turn(double v) {
    constexpr double HALF_PI = 1.57079632679489661923, ROUND = 0x1.8p52;
    const double shifted = 4 * v + ROUND;  // q in the low bits
    const double r = (4 * v - (shifted - ROUND)) * HALF_PI, z = r * r;
    double c = 1.0 / 20922789888000.0;
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 0.5;
    c = c * z + 1.0;
    double s = -1.0 / 1307674368000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = s * z * r + r;
    std::uint64_t q;
    std::memcpy(&q, &shifted, sizeof q);
    const double x = q & 1 ? s : c, y = q & 1 ? c : s;
    return {(q + 1) & 2 ? -x : x, q & 2 ? -y : y};
}

constexpr std::int64_t NORMALS = 64;  // made at a time

// Elements first .. first + NORMALS - 1 of a stream of normal numbers; first is a multiple of 4.
// stream = purpose << 16 | layer, and the step is 0.
inline void normals(std::uint64_t seed, std::uint64_t stream, std::uint64_t first,
                    double* __restrict__ out) {
    constexpr std::int64_t COUNTERS = NORMALS / 4, PAIRS = NORMALS / 2;
    std::uint32_t radii[PAIRS], angles[PAIRS];  // pair 2 i of the stream at i, 2 i + 1 after all
    double cosines[PAIRS], sines[PAIRS];
#pragma omp simd
    for (std::int64_t i = 0; i < COUNTERS; ++i) {
        const Words w = philox(seed, first / 4 + static_cast<std::uint64_t>(i), 0, stream);
        radii[i] = static_cast<std::uint32_t>(w.w0);
        angles[i] = static_cast<std::uint32_t>(w.w1);
        radii[COUNTERS + i] = static_cast<std::uint32_t>(w.w2);
        angles[COUNTERS + i] = static_cast<std::uint32_t>(w.w3);
    }
#pragma omp simd
    for (std::int64_t i = 0; i < PAIRS; ++i) {
        const double radius = std::sqrt(-2 * logarithm(uniform_of(radii[i])));
        const Turn t = turn(uniform_of(angles[i]));
        cosines[i] = radius * t.cosine;
        sines[i] = radius * t.sine;
    }
    for (std::int64_t i = 0; i < COUNTERS; ++i) {
        out[4 * i] = cosines[i];
        out[4 * i + 1] = sines[i];
        out[4 * i + 2] = cosines[COUNTERS + i];
        out[4 * i + 3] = sines[COUNTERS + i];
    }
}

}  // namespace lsuv
