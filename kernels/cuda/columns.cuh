// How the blocks of a grid share a matrix (rows, C), and sums over its rows.
//
// A block's threads stand in rows: `across` of them side by side, each with LANES channels, so that
// a row of threads reads a contiguous run; and as many rows of threads as there are threads for,
// `down`. A block takes `height` rows of the matrix, a part, of which a thread takes every
// `down`-th; more than THREADS * LANES channels are several blocks' work, in `tiles` of channels.
// Nothing of that depends on alignment: where no 128-bit access is possible, a thread makes LANES
// small ones, and sums have the same bits.
//
// ops.py (`_shared`) chooses these numbers, so that a thread sums at most 64 numbers in float32;
// those sums are added in pairs over the threads of a block, and then in float64 over the parts.
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
    const int64 channel = (at.rest * across + column) * LANES, start = at.quotient * m.height;
    const int channels = row < down ? int(max(min(m.C - channel, int64(LANES)), int64(0))) : 0;
    const int left = channels ? int(min(m.rows - start, m.height)) - row : 0;
    return {at.quotient, channel, (start + row) * m.C + channel, down * m.C,
            left > 0 ? (left + down - 1) / down : 0, channels, row};
}

// LANES neighbouring channels, of which only `channels` may exist; the others are 0.
template <bool WIDE>
__device__ inline Pack<LANES> load_channels(const real* from, int channels) {
    if constexpr (WIDE) {
        return load<LANES>(from);
    } else {
        Pack<LANES> pack = {};
#pragma unroll
        for (int k = 0; k < LANES; ++k) {
            if (k < channels) pack.v[k] = widen(from[k]);
        }
        return pack;
    }
}

template <bool WIDE>
__device__ inline void store_channels(real* to, const Pack<LANES>& pack, int channels) {
    if constexpr (WIDE) {
        store<LANES>(to, pack);
    } else {
#pragma unroll
        for (int k = 0; k < LANES; ++k) {
            if (k < channels) narrow(pack.v[k], to[k]);
        }
    }
}

// The statistics of this thread's channels, of those in `of` (C).
template <bool WIDE>
__device__ inline Pack<LANES> statistics(const float* of, const Share& own) {
    Pack<LANES> pack = {};
    if constexpr (WIDE) {
        const float4* from = reinterpret_cast<const float4*>(of + own.channel);
#pragma unroll
        for (int k = 0; k < LANES; k += 4) {
            if (own.channels) {
                const float4 four = from[k / 4];
                pack.v[k] = four.x, pack.v[k + 1] = four.y;
                pack.v[k + 2] = four.z, pack.v[k + 3] = four.w;
            }
        }
    } else {
#pragma unroll
        for (int k = 0; k < LANES; ++k) {
            if (k < own.channels) pack.v[k] = of[own.channel + k];
        }
    }
    return pack;
}

// Sums of `values` over the rows of threads, in pairs; the threads of row 0 have them. `room` is
// shared memory of LANES * THREADS elements. All threads must call, and may use it again at once.
__device__ inline void sum_rows(Pack<LANES>& values, const Matrix& m, int row, float* room) {
    const int across = int(m.across), down = THREADS / across;
    float* own = room + threadIdx.x;
#pragma unroll
    for (int k = 0; k < LANES; ++k) own[k * THREADS] = values.v[k];
    __syncthreads();
    int half = 1;
    while (2 * half < down) half *= 2;
    for (; half > 0; half /= 2) {
        if (row < half && row + half < down) {
#pragma unroll
            for (int k = 0; k < LANES; ++k) {
                values.v[k] += own[k * THREADS + half * across];
                own[k * THREADS] = values.v[k];
            }
        }
        __syncthreads();
    }
}

// The threads of row 0 write a part's numbers: to (C, parts), whose rows the merges read.
__device__ inline void store_part(float* to, const Pack<LANES>& values, const Matrix& m,
                                  const Share& own) {
    if (own.row == 0) {
#pragma unroll
        for (int k = 0; k < LANES; ++k) {
            if (k < own.channels) to[(own.channel + k) * m.parts + own.part] = values.v[k];
        }
    }
}
