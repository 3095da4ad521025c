#include "common.cuh"

constexpr int WARPS = THREADS / WARP;

// The sum of the numbers that the block's warps have for this lane's column, in every one of them.
__device__ float column_sum(float value) {
    __shared__ float smem[THREADS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    smem[warp * WARP + lane] = value;
    __syncthreads();
    float sum = 0;
    for (int other = 0; other < WARPS; ++other) sum += smem[other * WARP + lane];
    __syncthreads();  // before the next call writes there again
    return sum;
}

KERNEL moments(const float* x, float* mean, float* variance, int64 rows, int64 C) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int64 c = int64(blockIdx.x) * WARP + lane;
    const int64 mine = c < C ? rows : 0;  // a lane without a column still comes to every barrier
    const float pivot = c < C ? x[c] : 0;
    float sum = 0, squares = 0;
    for (int64 row = warp; row < mine; row += WARPS) {
        const float away = x[row * C + c] - pivot;
        sum += away;
        squares += away * away;
    }
    const float shift = column_sum(sum) / rows;
    squares = column_sum(squares);
    if (warp == 0 && c < C) {
        mean[c] = pivot + shift;
        variance[c] = squares / rows - shift * shift;
    }
}
