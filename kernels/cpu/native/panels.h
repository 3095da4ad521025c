// Matrix products C += A B and C += A' B, on matrices that are stored so that nothing is packed.
//
// A matrix of panels is cut into panels of LANES columns; a panel is its rows one after the other,
// LANES numbers each. A vector is one row of a panel of B or C, and a product is made tile by tile:
// ROWS rows of C in WIDTH columns, which are three panels, stay in the registers while k runs. For
// A' B a column of A is a row of C, so the ROWS numbers that a step multiplies with lie side by
// side; for A B they lie LANES apart, and so one layout of A serves both products. The idea of the
// tiles is Goto and van de Geijn's ("Anatomy of high-performance matrix multiplication", 2008).
//
// An element of C is one sum over k, in order: its bits depend neither on the tile nor on threads.
//
// Read next: tests/kernels/test_native.py.
#pragma once

#include <algorithm>
#include <cstdint>

#include "parallel.h"

namespace lsuv {

#if defined(__AVX512F__)
constexpr std::int64_t LANES = 8;  // 24 sums in 32 registers
#elif defined(__AVX__)
constexpr std::int64_t LANES = 4;  // 12 sums in 16 registers
#else
constexpr std::int64_t LANES = 2;
#endif
constexpr std::int64_t ROWS = LANES;
constexpr std::int64_t WIDTH = 3 * LANES;
constexpr std::int64_t DEPTH = 192;  // DEPTH x WIDTH of B stay in the first-level cache

using Vector = double __attribute__((vector_size(LANES * sizeof(double))));

// First number of a matrix of panels, and the distance from one panel to the next.
struct Panels {
    double* data;
    std::int64_t stride;

    double* at(std::int64_t row, std::int64_t column) const {
        return data + column / LANES * stride + row * LANES + column % LANES;
    }
};

struct Tile {
    Vector sum[ROWS][3];

    void load(const Panels& C, std::int64_t row, std::int64_t column) {
#pragma GCC unroll 8
        for (std::int64_t i = 0; i < ROWS; ++i) {
#pragma GCC unroll 3
            for (std::int64_t p = 0; p < 3; ++p) {
                sum[i][p] = *reinterpret_cast<const Vector*>(C.at(row + i, column + p * LANES));
            }
        }
    }

    void store(const Panels& C, std::int64_t row, std::int64_t column) const {
#pragma GCC unroll 8
        for (std::int64_t i = 0; i < ROWS; ++i) {
#pragma GCC unroll 3
            for (std::int64_t p = 0; p < 3; ++p) {
                *reinterpret_cast<Vector*>(C.at(row + i, column + p * LANES)) = sum[i][p];
            }
        }
    }

    // sum += a b over `count` steps k: a's ROWS numbers lie ROW apart, its steps STEP; b is a row
    // of three panels. Meanwhile memory at `next` is fetched, `step` numbers further every k.
    template <std::int64_t ROW, std::int64_t STEP>
    __attribute__((always_inline)) void add(const double* a, const double* b, std::int64_t stride,
                                            std::int64_t count, const double* next,
                                            std::int64_t step) {
        for (std::int64_t k = 0; k < count; ++k) {
            __builtin_prefetch(next + k * step, 0, 2);
            const Vector b0 = *reinterpret_cast<const Vector*>(b + k * LANES);
            const Vector b1 = *reinterpret_cast<const Vector*>(b + stride + k * LANES);
            const Vector b2 = *reinterpret_cast<const Vector*>(b + 2 * stride + k * LANES);
#pragma GCC unroll 8
            for (std::int64_t i = 0; i < ROWS; ++i) {
                const double scalar = a[i * ROW + k * STEP];
                sum[i][0] += scalar * b0;
                sum[i][1] += scalar * b1;
                sum[i][2] += scalar * b2;
            }
        }
    }
};

// Every WIDTH columns of C go through DEPTH rows of A once more. Each time a part of the DEPTH rows
// after them is fetched into the second-level cache, LANES numbers a step in all.
inline std::int64_t fetch_step(std::int64_t N) { return ceil_div(LANES * WIDTH, N); }

// C (M,N) += A (K,M)' B (K,N); M is a multiple of ROWS, N of WIDTH.
inline void add_transposed_product(const Panels& A, const Panels& B, const Panels& C,
                                   std::int64_t M, std::int64_t N, std::int64_t K) {
    const std::int64_t step = fetch_step(N);
    for (std::int64_t first = 0; first < K; first += DEPTH) {
        const std::int64_t count = std::min(DEPTH, K - first);
        for (std::int64_t column = 0; column < N; column += WIDTH) {
            for (std::int64_t row = 0; row < M; row += ROWS) {
                Tile tile;
                tile.load(C, row, column);
                const double* next = A.at(first + count, row) + column / WIDTH * step * count;
                tile.add<1, LANES>(A.at(first, row), B.at(first, column), B.stride, count, next,
                                   step);
                tile.store(C, row, column);
            }
        }
    }
}

// C (M,N) += A (M,K) B (K,N); M is a multiple of ROWS, N of WIDTH, K of LANES. triangular: A is
// zero below its diagonal.
inline void add_product(const Panels& A, const Panels& B, const Panels& C, std::int64_t M,
                        std::int64_t N, std::int64_t K, bool triangular = false) {
    const std::int64_t step = fetch_step(N);
    for (std::int64_t first = 0; first < M; first += DEPTH) {
        const std::int64_t last = std::min(first + DEPTH, M);
        for (std::int64_t column = 0; column < N; column += WIDTH) {
            for (std::int64_t row = first; row < last; row += ROWS) {
                Tile tile;
                tile.load(C, row, column);
                for (std::int64_t p = 0; p < 3; ++p) {
                    for (std::int64_t i = 0; i < ROWS; ++i) {
                        __builtin_prefetch(C.at(row + ROWS + i, column + p * LANES), 1);
                    }
                }
                for (std::int64_t k = triangular ? row / LANES * LANES : 0; k < K; k += LANES) {
                    const double* next = A.at(row + DEPTH, k) + column / WIDTH * step * LANES;
                    tile.add<LANES, 1>(A.at(row, k), B.at(k, column), B.stride, LANES, next, step);
                }
                tile.store(C, row, column);
            }
        }
    }
}

}  // namespace lsuv
