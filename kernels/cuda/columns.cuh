// How the blocks of a grid share a matrix (rows, C), and sums over its rows.
//
// A block's threads stand in rows: `across` of them side by side, each with VECTOR channels, so
// that a row of threads reads a contiguous run; and as many rows of threads as there are threads
// for, `down`. A block takes `height` rows of the matrix, a part, of which a thread takes every
// `down`-th; more than THREADS * VECTOR channels are several blocks' work, in `tiles` of channels.
// Nothing of that depends on alignment: where no 128-bit access is possible, a thread makes VECTOR
// small ones, and sums have the same bits.
//
// ops.py (`_matrix_grid`) chooses these numbers, so that a thread sums at most 64 numbers in
// float32; those sums are added in pairs over the threads of a block, and then in float64 over the
// parts.
//
// Read next: columns.cu.
#pragma once

#include "common.cuh"

struct Matrix {
    int64 rows, C, across, tiles, height, parts;

    // Task number % tiles is a tile of channels, task number / tiles a part.
    __device__ int64 tasks() const { return tiles * parts; }
};

// What of a task is this thread's: `turns` times the `channels` elements at `offset`, `step` on
// each time. A thread without work has no channels and no turns.
struct Share {
    int64 part, channel, offset, step;
    int turns, channels, row;
};

__device__ inline Share share(const Matrix& m, int64 task) {
    const Split at = split(task, m.tiles);
    const int across = int(m.across), down = THREADS / across;
    const int row = int(threadIdx.x) / across, column = int(threadIdx.x) % across;
    const int64 channel = (at.rest * across + column) * VECTOR, start = at.quotient * m.height;
    const int channels = row < down ? int(max(min(m.C - channel, int64(VECTOR)), int64(0))) : 0;
    const int left = channels ? int(min(m.rows - start, m.height)) - row : 0;
    return {at.quotient,
            channel,
            (start + row) * m.C + channel,
            down * m.C,
            left > 0 ? (left + down - 1) / down : 0,
            channels,
            row};
}

// VECTOR neighbouring channels, of which only `channels` may exist; the others are 0.
template <bool WIDE>
__device__ inline Pack<VECTOR> load_channels(const real* from, int channels) {
    if constexpr (WIDE) {
        return load<VECTOR>(from);
    } else {
        Pack<VECTOR> pack = {};
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            if (k < channels) pack.v[k] = widen(from[k]);
        }
        return pack;
    }
}

template <bool WIDE>
__device__ inline void store_channels(real* to, const Pack<VECTOR>& pack, int channels) {
    if constexpr (WIDE) {
        store<VECTOR>(to, pack);
    } else {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            if (k < channels) narrow(pack.v[k], to[k]);
        }
    }
}

// The statistics of this thread's channels, of those in `of` (C).
template <bool WIDE>
__device__ inline Pack<VECTOR> statistics(const float* of, const Share& own) {
    Pack<VECTOR> pack = {};
    if constexpr (WIDE) {
        const float4* from = reinterpret_cast<const float4*>(of + own.channel);
#pragma unroll
        for (int k = 0; k < VECTOR; k += 4) {
            if (own.channels) {
                const float4 four = from[k / 4];
                pack.v[k] = four.x, pack.v[k + 1] = four.y;
                pack.v[k + 2] = four.z, pack.v[k + 3] = four.w;
            }
        }
    } else {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            if (k < own.channels) pack.v[k] = of[own.channel + k];
        }
    }
    return pack;
}

// y = function(x, a, b), with a and b those of the channel, over this thread's share.
template <bool WIDE, class Function>
__device__ inline void map_share(const real* __restrict__ x, real* __restrict__ y, const Share& own,
                                 const Pack<VECTOR>& a, const Pack<VECTOR>& b,
                                 const Function& function) {
#pragma unroll WIDE ? 4 : 1
    for (int turn = 0; turn < own.turns; ++turn) {
        const int64 at = own.offset + turn * own.step;
        Pack<VECTOR> value = load_channels<WIDE>(x + at, own.channels);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) value.v[k] = function(value.v[k], a.v[k], b.v[k]);
        store_channels<WIDE>(y + at, value, own.channels);
    }
}

// The same over the whole matrix, with a and b (C).
template <class Function>
__device__ inline void map_channels(const real* x, const float* a, const float* b, real* y,
                                    const Matrix& m, const Function& function) {
    const bool whole = wide(m.C, x, y, a, b);
    for (int64 task = blockIdx.x; task < m.tasks(); task += gridDim.x) {
        const Share own = share(m, task);
        if (whole) {
            map_share<true>(x, y, own, statistics<true>(a, own), statistics<true>(b, own),
                            function);
        } else {
            map_share<false>(x, y, own, statistics<false>(a, own), statistics<false>(b, own),
                             function);
        }
    }
}

// Sums of `values`, VECTOR numbers, over the rows of threads, in pairs; the threads of row 0 have
// them. `smem` is shared memory of VECTOR * THREADS numbers. All threads must call, and may use it
// again at once.
template <class Values, class Number>
__device__ inline void sum_rows(Values& values, const Matrix& m, int row, Number* smem) {
    const int across = int(m.across), down = THREADS / across;
    Number* own = smem + threadIdx.x;
#pragma unroll
    for (int k = 0; k < VECTOR; ++k) own[k * THREADS] = values.v[k];
    __syncthreads();
    int half = 1;
    while (2 * half < down) half *= 2;
    for (; half > 0; half /= 2) {
        if (row < half && row + half < down) {
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                values.v[k] += own[k * THREADS + half * across];
                own[k * THREADS] = values.v[k];
            }
        }
        __syncthreads();
    }
}

// The threads of row 0 write a part's numbers: to (C, parts), whose rows the merges read.
template <class Values, class Number>
__device__ inline void store_part(Number* to, const Values& values, const Matrix& m,
                                  const Share& own) {
    if (own.row == 0) {
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            if (k < own.channels) to[(own.channel + k) * m.parts + own.part] = values.v[k];
        }
    }
}
