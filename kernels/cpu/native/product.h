// Matrix products in registers: what every convolution and the fully connected layer are made of.
//
// A tile of R rows and V vectors of sums stays in registers while the depth runs: a step of it
// loads V vectors and broadcasts R numbers for R V multiplications. A core multiplies two vectors
// in a cycle and loads two, so R V has to be well above R + V, and large enough that a sum is not
// wanted again before it is there (4 cycles). 8 x 3 of AVX-512's 32 registers do both: 24 products
// for 11 loads. The idea is Goto and van de Geijn's ("Anatomy of high-performance matrix
// multiplication", 2008); here no operand but the weights is turned: rows are read where they lie.
//
// In bf16 a processor with AVX512_BF16 multiplies pairs of neighbours of the depth and adds both
// products, twice the work of an instruction. Without, operands are widened where they are packed.
//
// A sum has one order, that of the depth: its bits depend neither on tiles nor on threads.
// Read next: amx.h.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <utility>

#include "element.h"
#include "lanes.h"

namespace lsuv {

#define LSUV_INLINE inline __attribute__((always_inline))
#define LSUV_UNROLL _Pragma("GCC unroll 8")

// Rows and vectors of a tile: of 32 registers, those of AVX-512 or NEON, or of 16.
#if LSUV_AVX512 || defined(__aarch64__)
constexpr std::int64_t ROWS = 8, VECTORS = 3;
#elif defined(__AVX__)
constexpr std::int64_t ROWS = 6, VECTORS = 2;
#else
constexpr std::int64_t ROWS = 4, VECTORS = 2;
#endif

inline std::int64_t round_up(std::int64_t n) { return (n + LANES - 1) / LANES * LANES; }

// Into and out of memory whose rows are whole vectors.
LSUV_INLINE Floats get(const float* p) { return *reinterpret_cast<const Floats*>(p); }
LSUV_INLINE void put(float* p, Floats value) { *reinterpret_cast<Floats*>(p) = value; }
LSUV_INLINE Unsigned get(const std::uint32_t* p) { return *reinterpret_cast<const Unsigned*>(p); }

// How elements of T are packed: as `Packed`, each of which holds DEPTH neighbours of the depth.
template <class T>
struct Operand {
    using Packed = float;
    static constexpr std::int64_t DEPTH = 1;
};

LSUV_INLINE void add_product(Floats& sum, float left, Floats right) { sum += left * right; }

#if defined(__AVX512BF16__) && LSUV_AVX512
constexpr bool PAIRS = true;

template <>
struct Operand<bf16> {
    using Packed = std::uint32_t;
    static constexpr std::int64_t DEPTH = 2;
};

LSUV_INLINE void add_product(Floats& sum, std::uint32_t left, Unsigned right) {
    const __m512i all = _mm512_set1_epi32(static_cast<std::int32_t>(left));
    sum = reinterpret_cast<Floats>(_mm512_dpbf16_ps(reinterpret_cast<__m512>(sum),
                                                    reinterpret_cast<__m512bh>(all),
                                                    reinterpret_cast<__m512bh>(right)));
}
#else
constexpr bool PAIRS = false;
#endif

// sums (R, V vectors), added to unless `first` = over `taps` runs of the depth, in which row i of
// the left operand is left[i][0 .. depth), then `step` further for the next run; the right operand
// (taps, depth, V vectors) lies whole.
template <int R, int V, class E>
void multiply_rows(const E* const* left, std::int64_t taps, std::int64_t step, std::int64_t depth,
                   const E* __restrict__ right, float* __restrict__ sums, bool first) {
    Floats sum[R][V];
    const E* row[R];
    LSUV_UNROLL
    for (int i = 0; i < R; ++i) {
        row[i] = left[i];
        LSUV_UNROLL
        for (int j = 0; j < V; ++j) {
            sum[i][j] = first ? Floats{} : get(sums + (i * V + j) * LANES);
        }
    }
    for (std::int64_t tap = 0; tap < taps; ++tap) {
        for (std::int64_t d = 0; d < depth; ++d, right += V * LANES) {
            decltype(get(right)) vector[V];
            LSUV_UNROLL
            for (int j = 0; j < V; ++j) vector[j] = get(right + j * LANES);
            LSUV_UNROLL
            for (int i = 0; i < R; ++i) {
                LSUV_UNROLL
                for (int j = 0; j < V; ++j) add_product(sum[i][j], row[i][d], vector[j]);
            }
        }
        LSUV_UNROLL
        for (int i = 0; i < R; ++i) row[i] += step;
    }
    LSUV_UNROLL
    for (int i = 0; i < R; ++i) {
        LSUV_UNROLL
        for (int j = 0; j < V; ++j) put(sums + (i * V + j) * LANES, sum[i][j]);
    }
}

// sums (R, V vectors), rows `row` apart, are added to: the left operand (runs, depth) of ROWS
// numbers each, the right one (depth) of V vectors in each run, which are `step` apart.
template <int R, int V, class E>
void multiply_columns(const E* __restrict__ left, std::int64_t runs, std::int64_t depth,
                      const E* __restrict__ right, std::int64_t step, float* __restrict__ sums,
                      std::int64_t row) {
    Floats sum[R][V];
    LSUV_UNROLL
    for (int i = 0; i < R; ++i) {
        LSUV_UNROLL
        for (int j = 0; j < V; ++j) sum[i][j] = Floats{};
    }
    for (std::int64_t run = 0; run < runs; ++run, right += step) {
        const E* from = right;
        for (std::int64_t d = 0; d < depth; ++d, left += ROWS, from += V * LANES) {
            decltype(get(right)) vector[V];
            LSUV_UNROLL
            for (int j = 0; j < V; ++j) vector[j] = get(from + j * LANES);
            LSUV_UNROLL
            for (int i = 0; i < R; ++i) {
                LSUV_UNROLL
                for (int j = 0; j < V; ++j) add_product(sum[i][j], left[i], vector[j]);
            }
        }
    }
    LSUV_UNROLL
    for (int i = 0; i < R; ++i) {
        LSUV_UNROLL
        for (int j = 0; j < V; ++j) {
            float* out = sums + i * row + j * LANES;
            put(out, get(out) + sum[i][j]);
        }
    }
}

// The function of 1 .. ROWS rows and 1 .. VECTORS vectors that Kernel::of<R, V>() gives.
template <class Kernel, std::size_t... I>
auto tile_function(std::int64_t rows, std::int64_t vectors, std::index_sequence<I...>) {
    static constexpr std::array table{Kernel::template of<static_cast<int>(I / VECTORS) + 1,
                                                          static_cast<int>(I % VECTORS) + 1>()...};
    return table[(rows - 1) * VECTORS + vectors - 1];
}

template <class Kernel>
auto tile_function(std::int64_t rows, std::int64_t vectors) {
    return tile_function<Kernel>(rows, vectors, std::make_index_sequence<ROWS * VECTORS>());
}

// Vectors of `channels` channels, cut into panels of up to VECTORS of even width: 5 = 2 + 3,
// 10 = 2 + 3 + 2 + 3.
struct Panels {
    std::int64_t vectors, count;

    explicit Panels(std::int64_t channels, std::int64_t most = VECTORS)
        : vectors(round_up(channels) / LANES), count((vectors + most - 1) / most) {}

    std::int64_t begin(std::int64_t panel) const { return panel * vectors / count; }
    std::int64_t width(std::int64_t panel) const { return begin(panel + 1) - begin(panel); }
};

}  // namespace lsuv
