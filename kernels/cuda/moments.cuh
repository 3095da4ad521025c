// Mean and variance of the columns of a matrix, in one read, far from zero too.
//
// A part of the rows (columns.cuh) sums x - pivot and its square. The pivot of a channel is the
// median of the part's first, middle and last value: one of the numbers, near their mean unless two
// of the three lie far off; so one outlier can't spoil it. What the sum of squares about the mean
// loses grows with (pivot - mean)^2 / variance. `merged` then has the mean of all parts, and each
// part's squares about it, in float64: Chan, Golub and LeVeque, "Updating formulae ... for
// computing sample variances" (1979), for all parts at once.
//
// Read next: batchnorm.cu.
#pragma once

#include "columns.cuh"
#include "reduce.cuh"

// The median; a NaN counts as none of them, and spoils the sums later.
__device__ inline float median(float a, float b, float c) {
    return fmaxf(fminf(a, b), fminf(fmaxf(a, b), c));
}

// The medians of a part's first, middle and last row, of this thread's channels.
template <bool WIDE>
__device__ inline Pack<VECTOR> pivots(const real* __restrict__ x, const Matrix& m,
                                      const Share& own) {
    Pack<VECTOR> pivot = {};
    if (own.channels) {
        const real* first = x + own.offset - own.row * m.C;
        const int64 last = min(m.height, m.rows - own.part * m.height) - 1;
        pivot = load_channels<WIDE>(first, own.channels);
        const Pack<VECTOR> b = load_channels<WIDE>(first + last / 2 * m.C, own.channels);
        const Pack<VECTOR> c = load_channels<WIDE>(first + last * m.C, own.channels);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) pivot.v[k] = median(pivot.v[k], b.v[k], c.v[k]);
    }
    return pivot;
}

// partial (3, C, parts): pivot, sum of x - pivot, sum of its square. Sums holds VECTOR numbers of
// the type that they are summed in.
template <bool WIDE, class Sums, class Number>
__device__ void moments(const real* __restrict__ x, Number* __restrict__ partial, const Matrix& m,
                        Number* smem) {
    for (int64 task = blockIdx.x; task < m.tasks(); task += gridDim.x) {
        const Share own = share(m, task);
        const uint4 bits = packed(pivots<WIDE>(x, m, own));  // in bfloat16 half the registers
        Sums sum = {}, squares = {};
#pragma unroll WIDE ? 4 : 1
        for (int turn = 0; turn < own.turns; ++turn) {
            const int64 at = own.offset + turn * own.step;
            const Pack<VECTOR> value = load_channels<WIDE>(x + at, own.channels);
            const Pack<VECTOR> pivot = unpack(bits);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                const Number d = Number(value.v[k]) - Number(pivot.v[k]);
                sum.v[k] += d;
                squares.v[k] += d * d;
            }
        }
        store_part(partial, unpack(bits), m, own);
        sum_rows(sum, m, own.row, smem);
        store_part(partial + m.C * m.parts, sum, m, own);
        sum_rows(squares, m, own.row, smem);
        store_part(partial + 2 * m.C * m.parts, squares, m, own);
    }
}

struct Moments {
    double mean, variance;
};

// Of `channels` neighbouring channels together, in every thread of the block. pivots: where the
// first one's begin in a `partial` whose C channels have `parts` parts, of `height` of the rows.
template <class Number>
__device__ inline Moments merged(const Number* __restrict__ pivots, int64 channels, int64 C,
                                 int64 rows, int64 height, int64 parts, double* smem) {
    const Number *sums = pivots + C * parts, *squares = sums + C * parts;
    double total = 0;
    for (int64 i = threadIdx.x; i < channels * parts; i += THREADS) {
        const double count = double(min(height, rows - split(i, parts).rest * height));
        total += count * pivots[i] + sums[i];
    }
    const double size = double(channels * rows), mean = block_sum(total, smem) / size;
    double M2 = 0;
    for (int64 i = threadIdx.x; i < channels * parts; i += THREADS) {
        const double count = double(min(height, rows - split(i, parts).rest * height));
        const double away = pivots[i] - mean;
        M2 += squares[i] + away * (2.0 * sums[i] + count * away);
    }
    M2 = block_sum(M2, smem);
    return {mean, M2 < 0 ? 0 : M2 / size};  // rounding can leave M2 of equal numbers below zero
}
