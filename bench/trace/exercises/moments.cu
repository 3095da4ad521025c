// Exercise 4: mean and variance of the columns of a matrix, as batch normalisation needs them.
//
//   x (rows, C)   mean (C)   variance (C), the mean square of x - mean
//
// Launched with a block for every 32 columns: a lane of a warp a column, a warp every eighth row.
//
// What follows is right, and its requests are good. But it reads x twice, as no square is known
// before the mean; and eight lanes at a time want the same bank of `smem`.
//
// Reach: 1.1 times the bytes that must move, and no bank conflict. One pass can sum x - pivot and
// its square, for any pivot near the mean, such as the column's first number. Sums of x * x will
// not do: a column here lies a thousand standard deviations from zero, and hardly a digit is left.
//
// Read next: softmax_loss.cu.

#include "common.cuh"

constexpr int WARPS = THREADS / WARP;

// The sum of the numbers that the block's warps have for this lane's column, in every one of them.
__device__ float column_sum(float value) {
    __shared__ float smem[THREADS];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    smem[lane * WARPS + warp] = value;
    __syncthreads();
    float sum = 0;
    for (int other = 0; other < WARPS; ++other) sum += smem[lane * WARPS + other];
    __syncthreads();  // before the next call writes there again
    return sum;
}

KERNEL moments(const float* x, float* mean, float* variance, int64 rows, int64 C) {
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int64 c = int64(blockIdx.x) * WARP + lane;
    const int64 mine = c < C ? rows : 0;  // a lane without a column still comes to every barrier
    float sum = 0;
    for (int64 row = warp; row < mine; row += WARPS) sum += x[row * C + c];
    const float centre = column_sum(sum) / rows;
    float squares = 0;
    for (int64 row = warp; row < mine; row += WARPS) {
        const float away = x[row * C + c] - centre;
        squares += away * away;
    }
    squares = column_sum(squares);
    if (warp == 0 && c < C) {
        mean[c] = centre;
        variance[c] = squares / rows;
    }
}
