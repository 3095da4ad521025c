// exp in float32 as plain arithmetic without a branch or a table, so that a loop around it becomes
// vector code.
//
// Read next: maxout.cpp.
#pragma once

#include <cstdint>
#include <cstring>

namespace lsuv {

// exp(x), within 1 ulp, for x in [-87.3, 88.3]; outside it the nearest end's value; NaN stays NaN.
//
// x = n ln2 + r with |r| <= ln2 / 2: exp(r) is a polynomial (minimax on that interval, relative
// error 3e-9), 2^n is built in the exponent bits. ln2 is split in two so that n * high is exact.
inline __attribute__((always_inline)) float exponential(float x) {
    constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693115234375f, LN2_LOW = 3.19461833e-5f;
    constexpr float ROUND = 12582912.0f;  // 1.5 * 2^23: adding it leaves n in the low bits
    x = x > 88.3f ? 88.3f : x;
    x = x < -87.3f ? -87.3f : x;
    const float shifted = x * LOG2E + ROUND;
    const float n = shifted - ROUND;
    const float r = (x - n * LN2_HIGH) - n * LN2_LOW;
    float p = 0.00138145964f;
    p = p * r + 0.00836871709f;
    p = p * r + 0.0416683881f;
    p = p * r + 0.166665206f;
    p = p * r + 0.499999934f;
    const float mantissa = p * (r * r) + r + 1.0f;
    std::uint32_t bits;
    std::memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127u) << 23;  // the bits above n's nine are shifted out
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    return mantissa * scale;
}

}  // namespace lsuv
