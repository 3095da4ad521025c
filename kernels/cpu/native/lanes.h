// As many channels at a time as a register of the processor holds: 16 with AVX-512, 8 with AVX,
// else
// 4. A wider vector would compile and be kept in memory: convolutions took eight times as long.
//
// For kernels that carry sums, or a value and its index, from place to place: GCC does not keep an
// array in a register across loops. The vectors are GCC's, which compile for any processor; where
// AVX-512 has one instruction for what takes several of them, it is named. A `Mask` says which
// lanes exist: the last of a row's vectors may be cut short, and memory beyond it is neither read
// nor written.
//
// Read next: pool.cpp.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "element.h"

// LSUV_PORTABLE: the sanitizers' build, which would not see what a masked instruction touches.
#if defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(LSUV_PORTABLE)
#define LSUV_AVX512 1
// GCC 12 warns of its own header's deliberately undefined registers (its bug 105593).
#pragma GCC diagnostic push
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#define LSUV_AVX512 0
#endif
#if defined(__AVX__) && !LSUV_AVX512 && !defined(LSUV_PORTABLE)
#define LSUV_AVX 1
#include <immintrin.h>
#else
#define LSUV_AVX 0
#endif

namespace lsuv {

#if LSUV_AVX512
constexpr std::int64_t LANES = 16;
#elif defined(__AVX__)
constexpr std::int64_t LANES = 8;
#else
constexpr std::int64_t LANES = 4;
#endif

using Floats = float __attribute__((vector_size(4 * LANES)));
using Wholes = std::int32_t __attribute__((vector_size(4 * LANES)));
using Unsigned = std::uint32_t __attribute__((vector_size(4 * LANES)));

#define LSUV_INLINE inline __attribute__((always_inline))

LSUV_INLINE Floats all(float value) { return Floats{} + value; }
LSUV_INLINE Wholes all(std::int32_t value) { return Wholes{} + value; }

#if LSUV_AVX512

using Mask = __mmask16;
using Choice = __mmask16;  // a bit a lane

// Loads and stores under a mask hold each other up, even a whole one: on large arrays a maxout took
// 1.6 times as long. So a whole one is told apart.
constexpr Mask WHOLE = 0xFFFF;

LSUV_INLINE Mask first_lanes(std::int64_t count) {
    return static_cast<Mask>(count >= LANES ? WHOLE : (1u << count) - 1);
}

LSUV_INLINE Floats load(const float* from, Mask mask) {
    return reinterpret_cast<Floats>(mask == WHOLE ? _mm512_loadu_ps(from)
                                                  : _mm512_maskz_loadu_ps(mask, from));
}

LSUV_INLINE Floats load(const bf16* from, Mask mask) {
    const __m256i halves = mask == WHOLE
                               ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from))
                               : _mm256_maskz_loadu_epi16(mask, from);
    const __m512i wide = _mm512_cvtepu16_epi32(halves);
    return reinterpret_cast<Floats>(_mm512_slli_epi32(wide, 16));
}

LSUV_INLINE Wholes load(const std::uint8_t* from, Mask mask) {
    return reinterpret_cast<Wholes>(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, from)));
}

LSUV_INLINE Wholes load(const std::int32_t* from, Mask mask) {
    return reinterpret_cast<Wholes>(_mm512_maskz_loadu_epi32(mask, from));
}

LSUV_INLINE Unsigned load(const std::uint32_t* from, Mask mask) {
    return reinterpret_cast<Unsigned>(mask == WHOLE ? _mm512_loadu_si512(from)
                                                    : _mm512_maskz_loadu_epi32(mask, from));
}

LSUV_INLINE void store(std::uint8_t* to, Wholes values, Mask mask) {
    const __m128i bytes = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(values));
    if (mask == WHOLE) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
    } else {
        _mm_mask_storeu_epi8(to, mask, bytes);
    }
}

LSUV_INLINE void store(std::int32_t* to, Wholes values, Mask mask) {
    _mm512_mask_storeu_epi32(to, mask, reinterpret_cast<__m512i>(values));
}

LSUV_INLINE void store_halves(bf16* to, __m256i halves, Mask mask) {
    if (mask == WHOLE) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves);
    } else {
        _mm256_mask_storeu_epi16(to, mask, halves);
    }
}

// Rounded to the nearest element. AVX512_BF16 takes numbers below 1e-38 for zero.
LSUV_INLINE void store_rounded(float* to, Floats values, Mask mask) {
    if (mask == WHOLE) {
        _mm512_storeu_ps(to, reinterpret_cast<__m512>(values));
    } else {
        _mm512_mask_storeu_ps(to, mask, reinterpret_cast<__m512>(values));
    }
}

LSUV_INLINE void store_rounded(bf16* to, Floats values, Mask mask) {
#ifdef __AVX512BF16__
    const __m256bh nearest = _mm512_cvtneps_pbh(reinterpret_cast<__m512>(values));
    store_halves(to, reinterpret_cast<__m256i>(nearest), mask);
#else
    Unsigned wide = reinterpret_cast<Unsigned>(values);
    wide = values == values ? wide + 0x7FFFu + (wide >> 16 & 1u) : wide | 0x400000u;
    store_halves(to, _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(wide >> 16)), mask);
#endif
}

// Of values that are elements: chosen ones, or zero.
LSUV_INLINE void store_exactly(float* to, Floats values, Mask mask) {
    store_rounded(to, values, mask);
}

LSUV_INLINE void store_exactly(bf16* to, Floats values, Mask mask) {
    const __m512i upper = _mm512_srli_epi32(reinterpret_cast<__m512i>(values), 16);
    store_halves(to, _mm512_cvtepi32_epi16(upper), mask);
}

// Past the caches: `to` is a whole line, which is not read before it is written.
LSUV_INLINE void stream(float* to, Floats values) {
    _mm512_stream_ps(to, reinterpret_cast<__m512>(values));
}

LSUV_INLINE void finish_streams() { _mm_sfence(); }

// Where `value` takes the place of `old` as the largest: never on a tie, and NaN stays, so that the
// first largest wins, or the first NaN, as in NumPy's max.
LSUV_INLINE Choice beats(Floats value, Floats old) {
    const auto a = reinterpret_cast<__m512>(old), b = reinterpret_cast<__m512>(value);
    return _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a, b, _CMP_NGE_UQ);
}

LSUV_INLINE Floats square_root(Floats x) {
    return reinterpret_cast<Floats>(_mm512_sqrt_ps(reinterpret_cast<__m512>(x)));
}

LSUV_INLINE Choice equal(Wholes a, Wholes b) {
    return _mm512_cmpeq_epi32_mask(reinterpret_cast<__m512i>(a), reinterpret_cast<__m512i>(b));
}

LSUV_INLINE Choice below(Unsigned values, std::uint32_t bound) {
    return _mm512_cmplt_epu32_mask(reinterpret_cast<__m512i>(values),
                                   _mm512_set1_epi32(static_cast<std::int32_t>(bound)));
}

// a where chosen, else b.
LSUV_INLINE Floats choose(Choice choice, Floats a, Floats b) {
    return reinterpret_cast<Floats>(
        _mm512_mask_mov_ps(reinterpret_cast<__m512>(b), choice, reinterpret_cast<__m512>(a)));
}

LSUV_INLINE Wholes choose(Choice choice, Wholes a, Wholes b) {
    return reinterpret_cast<Wholes>(
        _mm512_mask_mov_epi32(reinterpret_cast<__m512i>(b), choice, reinterpret_cast<__m512i>(a)));
}

#else

using Mask = int;       // the number of lanes
using Choice = Wholes;  // all ones, or 0

LSUV_INLINE Mask first_lanes(std::int64_t count) {
    return static_cast<Mask>(count < LANES ? count : LANES);
}

using Bytes = std::uint8_t __attribute__((vector_size(LANES)));
using Halves = std::uint16_t __attribute__((vector_size(2 * LANES)));

// A whole vector's memory in one piece, else lane by lane.
template <class Vector, class T>
LSUV_INLINE Vector load_lanes(const T* from, Mask mask) {
    Vector to = {};
    if (mask == LANES) {
        std::memcpy(&to, from, sizeof to);
    } else {
        for (int lane = 0; lane < mask; ++lane) std::memcpy(&to[lane], from + lane, sizeof(T));
    }
    return to;
}

template <class Vector, class T>
LSUV_INLINE void store_lanes(T* to, const Vector& from, Mask mask) {
    if (mask == LANES) {
        std::memcpy(to, &from, sizeof from);
    } else {
        for (int lane = 0; lane < mask; ++lane) std::memcpy(to + lane, &from[lane], sizeof(T));
    }
}

LSUV_INLINE Floats load(const float* from, Mask mask) { return load_lanes<Floats>(from, mask); }

LSUV_INLINE Floats load(const bf16* from, Mask mask) {
    const Halves halves = load_lanes<Halves>(from, mask);
    return reinterpret_cast<Floats>(__builtin_convertvector(halves, Unsigned) << 16);
}

LSUV_INLINE Wholes load(const std::uint8_t* from, Mask mask) {
    return __builtin_convertvector(load_lanes<Bytes>(from, mask), Wholes);
}

LSUV_INLINE Wholes load(const std::int32_t* from, Mask mask) {
    return load_lanes<Wholes>(from, mask);
}

LSUV_INLINE Unsigned load(const std::uint32_t* from, Mask mask) {
    return load_lanes<Unsigned>(from, mask);
}

LSUV_INLINE void store(std::uint8_t* to, Wholes values, Mask mask) {
    store_lanes(to, __builtin_convertvector(values, Bytes), mask);
}

LSUV_INLINE void store(std::int32_t* to, Wholes values, Mask mask) {
    store_lanes(to, values, mask);
}

LSUV_INLINE void store_rounded(float* to, Floats values, Mask mask) {
    store_lanes(to, values, mask);
}

LSUV_INLINE void store_rounded(bf16* to, Floats values, Mask mask) {
    Unsigned wide = reinterpret_cast<Unsigned>(values);
    wide = values == values ? wide + 0x7FFFu + (wide >> 16 & 1u) : wide | 0x400000u;
    store_lanes(to, __builtin_convertvector(wide >> 16, Halves), mask);
}

LSUV_INLINE void store_exactly(float* to, Floats values, Mask mask) {
    store_lanes(to, values, mask);
}

LSUV_INLINE void store_exactly(bf16* to, Floats values, Mask mask) {
    const Unsigned upper = reinterpret_cast<Unsigned>(values) >> 16;
    store_lanes(to, __builtin_convertvector(upper, Halves), mask);
}

#if LSUV_AVX
LSUV_INLINE void stream(float* to, Floats values) {
    _mm256_stream_ps(to, reinterpret_cast<__m256>(values));
}
LSUV_INLINE void finish_streams() { _mm_sfence(); }
#else
LSUV_INLINE void stream(float* to, Floats values) { store_rounded(to, values, LANES); }
LSUV_INLINE void finish_streams() {}
#endif

LSUV_INLINE Floats square_root(Floats x) {
    for (int lane = 0; lane < LANES; ++lane) x[lane] = std::sqrt(x[lane]);
    return x;
}

LSUV_INLINE Choice beats(Floats value, Floats old) { return ~(old >= value) & (old == old); }
LSUV_INLINE Choice equal(Wholes a, Wholes b) { return a == b; }
LSUV_INLINE Choice below(Unsigned values, std::uint32_t bound) { return values < bound; }
LSUV_INLINE Floats choose(Choice choice, Floats a, Floats b) { return choice ? a : b; }
LSUV_INLINE Wholes choose(Choice choice, Wholes a, Wholes b) { return choice ? a : b; }

#endif

#undef LSUV_INLINE

}  // namespace lsuv
