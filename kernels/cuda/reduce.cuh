// Sums over the threads of a block, in an order that never changes.
//
// Read next: columns.cuh.
#pragma once

#include "common.cuh"

// The sum of `value` over the block, in every thread. `smem` has WARP elements of shared memory;
// all threads must call, and may use `smem` for the next sum at once.
template <class Value>
__device__ inline Value block_sum(Value value, Value* smem) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    if (lane == 0) smem[warp] = value;
    __syncthreads();
    value = smem[0];
    for (int other = 1; other < THREADS / WARP; ++other) value += smem[other];
    __syncthreads();
    return value;
}

// The sum of `count` numbers in memory, in float64, in every thread.
template <class Value>
__device__ inline double sum_of(const Value* __restrict__ from, int64 count, double* smem) {
    double sum = 0;
    for (int64 i = threadIdx.x; i < count; i += THREADS) sum += from[i];
    return block_sum(sum, smem);
}
