// Mean and population variance of each of G blocks of channels: what LSUV scales weights by.
//
//   variance   x (rows, G*C) -> mean (G), variance (G) float64
//              reads 4 bytes an element (bfloat16: 2), once: the floor
//
// A block of threads takes a tile, TILE values of a group, 32 a thread, which stay in registers:
// 8 (bfloat16: 4) independent 128-bit reads a thread. Two passes over the registers: float32 sums
// give a centre close to the tile's mean, and then d = x - centre is summed, and d^2. The squares
// about the mean itself are sum d^2 - (sum d)^2 / count, where nothing cancels, however far from
// zero the mean lies and however inexact the centre is. The first pass also finds how large
// deviations are; d is multiplied by a power of two of about the inverse, so that d^2 neither
// overflows nor vanishes for deviations from 10^-35 to 10^34.
//
// A second kernel merges the tiles' means and M2 (sums of squares about their means) in float64.
// Chan, Golub and LeVeque, "Updating formulae ... for computing sample variances" (1979).
//
// No sum in float32 has more than 8 numbers (32 where no 128-bit access is possible): the error is
// a few 10^-7 of the variance. Neighbouring blocks take the groups of the same rows, which share
// cache lines where C is small. What is not finite makes mean and variance of its group not finite.
//
// Read next: loss.cu.

#define BLOCKS 4
#include "reduce.cuh"

constexpr int TILE = 8192, VALUES = TILE / THREADS, WARPS = THREADS / WARP;

struct Pair {
    float first, second;
};

// The sums over the block of both numbers, in every thread, by way of 2 * WARPS floats of shared
// memory: the next sum must have others.
__device__ inline Pair sum_pairs(Pair value, float* smem) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        value.first += __shfl_xor_sync(0xffffffffu, value.first, distance);
        value.second += __shfl_xor_sync(0xffffffffu, value.second, distance);
    }
    if (threadIdx.x % WARP == 0) {
        smem[threadIdx.x / WARP] = value.first;
        smem[WARPS + threadIdx.x / WARP] = value.second;
    }
    __syncthreads();
    value = {smem[0], smem[WARPS]};
#pragma unroll
    for (int warp = 1; warp < WARPS; ++warp) {
        value.first += smem[warp], value.second += smem[WARPS + warp];
    }
    return value;
}

// The inverse of a power of two near `value`, or near the end of the range that float32 has.
__device__ inline float inverse(float value) {
    const int exponent = int(__float_as_uint(value) >> 23);
    return __uint_as_float(uint32(min(max(254 - exponent, 1), 253)) << 23);
}

// A tile's values as they lie in a thread's registers: packs t, t + THREADS, ... of the tile.
struct Registers {
    Pack<VECTOR> pack[VALUES / VECTOR];
    int left;  // packs of the tile from this thread's first one on

    // `packs` packs, from number `start` of a group, whose rows have `width` elements and are
    // `channels` elements apart.
    __device__ Registers(const real* __restrict__ group, int64 start, int packs, int64 width,
                         int64 channels) {
        left = packs - int(threadIdx.x);
        const Split at = split(start + threadIdx.x, width / VECTOR);
        const Split jump = split(THREADS, width / VECTOR);
        const int64 step = jump.quotient * channels + jump.rest * VECTOR, gap = channels - width;
        const real* from = group + at.quotient * channels + at.rest * VECTOR;
        // Packs of the row from this one on, and of a row: what is longer than a tile has no end.
        int behind = int(min(width / VECTOR - at.rest, int64(TILE)));
        const int row = int(min(width / VECTOR, int64(TILE))), ahead = int(jump.rest);
#pragma unroll
        for (int j = 0; j < VALUES / VECTOR; ++j) {
            if (j * THREADS < left) pack[j] = load<VECTOR>(from);
            from += step, behind -= ahead;
            if (behind <= 0) behind += row, from += gap;
        }
    }

    // Sums of both terms over the thread's values, four sums side by side.
    template <class Terms>
    __device__ Pair sums(Terms terms) const {
        Pair sum[4] = {};
#pragma unroll
        for (int j = 0; j < VALUES / VECTOR; ++j) {
            if (j * THREADS < left) {
#pragma unroll
                for (int k = 0; k < VECTOR; ++k) {
                    const Pair term = terms(pack[j].v[k]);
                    sum[k % 4].first += term.first;
                    sum[k % 4].second += term.second;
                }
            }
        }
        return {(sum[0].first + sum[1].first) + (sum[2].first + sum[3].first),
                (sum[0].second + sum[1].second) + (sum[2].second + sum[3].second)};
    }
};

// Where no 128-bit access is possible: the tile's values in memory, read one by one in each pass,
// in the second from a cache.
struct Memory {
    const real* group;
    int64 start;
    int count;
    int64 width, channels;

    template <class Terms>
    __device__ Pair sums(Terms terms) const {
        Pair sum = {};
#pragma unroll 1
        for (int i = int(threadIdx.x); i < count; i += THREADS) {
            const Split at = split(start + i, width);
            const Pair term = terms(widen(group[at.quotient * channels + at.rest]));
            sum.first += term.first;
            sum.second += term.second;
        }
        return sum;
    }
};

// Moments of a tile: mean = centre + offset * unit, M2 = squares * unit^2.
struct alignas(16) Moments {
    float centre, offset, squares, unit;
};

template <class Values, int N>
__device__ void tiles_of(const real* __restrict__ x, Moments* __restrict__ moments, int64 rows,
                         int64 C, int64 groups, int64 tiles, float* smem) {
    for (int64 task = blockIdx.x; task < tiles * groups; task += gridDim.x) {
        const Split at = split(task, groups);  // tile, group
        const real* group = x + at.rest * C;
        const int64 start = at.quotient * (TILE / N);
        const int packs = int(min(rows * C / N - start, int64(TILE / N)));
        const Values values{group, start, packs, C, groups * C};
        const float pivot = widen(group[0]), share = 1.0f / float(packs * N);

        const Pair rough = sum_pairs(values.sums([pivot](float value) {
            const float d = value - pivot;
            return Pair{d, fabsf(d)};
        }), smem);
        const float centre = pivot + rough.first * share, scale = inverse(rough.second * share);

        const Pair exact = sum_pairs(values.sums([centre, scale](float value) {
            const float d = (value - centre) * scale;
            return Pair{d, d * d};
        }), smem + 2 * WARPS);
        if (threadIdx.x == 0) {
            const float offset = exact.first * share;
            moments[task] = {centre, offset, exact.second - exact.first * offset, inverse(scale)};
        }
    }
}

// moments (tiles, groups).
KERNEL variance_tiles(const real* x, Moments* moments, int64 rows, int64 C, int64 groups,
                      int64 tiles) {
    __shared__ float smem[4 * WARPS];
    if (wide(C, x)) {
        tiles_of<Registers, VECTOR>(x, moments, rows, C, groups, tiles, smem);
    } else {
        tiles_of<Memory, 1>(x, moments, rows, C, groups, tiles, smem);
    }
}

// A block a group: the mean of all, then the tiles' M2 about it. result (2, groups).
KERNEL variance_merge(const Moments* __restrict__ moments, double* __restrict__ result, int64 rows,
                      int64 C, int64 groups, int64 tiles) {
    __shared__ double smem[WARP];
    const int64 size = rows * C;
    for (int64 group = blockIdx.x; group < groups; group += gridDim.x) {
        double total = 0;
#pragma unroll 4
        for (int64 tile = threadIdx.x; tile < tiles; tile += THREADS) {
            const Moments m = moments[tile * groups + group];
            const double count = double(min(size - tile * TILE, int64(TILE)));
            total += count * (m.centre + double(m.offset) * m.unit);
        }
        const double mean = block_sum(total, smem) / double(size);
        double M2 = 0;
#pragma unroll 4
        for (int64 tile = threadIdx.x; tile < tiles; tile += THREADS) {
            const Moments m = moments[tile * groups + group];
            const double count = double(min(size - tile * TILE, int64(TILE)));
            const double away = (m.centre - mean) + double(m.offset) * m.unit;
            M2 += m.squares * (double(m.unit) * m.unit) + count * (away * away);
        }
        M2 = block_sum(M2, smem);
        if (threadIdx.x == 0) {  // rounding can leave M2 of equal numbers a hair below zero
            result[group] = mean;
            result[groups + group] = M2 < 0 ? 0 : M2 / double(size);
        }
    }
}
