// Exercise 3: sums over the rows of a matrix, as a bias's gradient needs them.
//
//   x (rows, C)   partial (parts, C)   sums (C)
//
// `column_sums` is launched with `parts` blocks; then, with one, and only if you add it,
//
//   KERNEL column_sums_merge(const float* partial, float* sums, int64 parts, int64 C)
//
// What follows is right. But a block takes a column: its threads read C floats apart, so that 4
// bytes of a sector of 32 are used, and all of x is moved eight times.
//
// Reach: 1.1 times the bytes that must move, with all of the 32 warps reading x. Let a warp's lanes
// have neighbouring columns, and the warps of all blocks share the rows. Those of a block meet in
// shared memory, and a second kernel adds up the blocks' sums. There is no atomicAdd here: sums in
// an order that changes have other bits in every run.
//
// Read next: moments.cu.

#include "reduce.cuh"

KERNEL column_sums(const float* x, float* partial, float* sums, int64 rows, int64 C) {
    __shared__ float smem[WARP];
    for (int64 c = blockIdx.x; c < C; c += gridDim.x) {
        float sum = 0;
        for (int64 row = threadIdx.x; row < rows; row += THREADS) sum += x[row * C + c];
        sum = block_sum(sum, smem);  // of all threads of the block: reduce.cuh
        if (threadIdx.x == 0) sums[c] = sum;
    }
}
