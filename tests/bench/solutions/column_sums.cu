#include "common.cuh"

KERNEL column_sums(const float* x, float* partial, float* sums, int64 rows, int64 C) {
    __shared__ float smem[THREADS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = THREADS / WARP;
    for (int64 first = 0; first < C; first += WARP) {
        const int64 c = first + lane, mine = c < C ? rows : 0;
        float sum = 0;
        for (int64 row = blockIdx.x * warps + warp; row < mine; row += gridDim.x * warps) {
            sum += x[row * C + c];
        }
        smem[threadIdx.x] = sum;
        __syncthreads();
        if (warp == 0 && c < C) {
            for (int other = 1; other < warps; ++other) sum += smem[other * WARP + lane];
            partial[blockIdx.x * C + c] = sum;
        }
        __syncthreads();
    }
}

KERNEL column_sums_merge(const float* partial, float* sums, int64 parts, int64 C) {
    for (int64 c = first_index(); c < C; c += stride_of_grid()) {
        double sum = 0;
        for (int64 part = 0; part < parts; ++part) sum += partial[part * C + c];
        sums[c] = float(sum);
    }
}
