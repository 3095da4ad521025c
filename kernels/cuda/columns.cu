// Sums over the rows of a matrix: the gradient of a bias, from that of the outputs.
//
//   x (rows, C) -> sums (C)        reads 4 bytes an element (bfloat16: 2), once: the floor
//
// A block sums a part of the rows (columns.cuh), a row of the matrix a few neighbouring 128-bit
// reads. A second kernel adds the parts of each channel, one number for `height` rows, which are 4
// or more: of all but the smallest matrices 1/4 of the elements at most.
//
// Read next: moments.cuh.

#define BLOCKS 4
#include "columns.cuh"
#include "reduce.cuh"

template <bool WIDE>
__device__ void part_sums(const real* __restrict__ x, float* __restrict__ partial, const Matrix& m,
                          float* smem) {
    for (int64 task = blockIdx.x; task < m.tasks(); task += gridDim.x) {
        const Share own = share(m, task);
        Pack<VECTOR> sum = {};
#pragma unroll WIDE ? 4 : 1
        for (int turn = 0; turn < own.turns; ++turn) {
            const int64 at = own.offset + turn * own.step;
            const Pack<VECTOR> value = load_channels<WIDE>(x + at, own.channels);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) sum.v[k] += value.v[k];
        }
        sum_rows(sum, m, own.row, smem);
        store_part(partial, sum, m, own);
    }
}

// partial (C, parts).
KERNEL column_sums(const real* x, float* partial, int64 rows, int64 C, int64 across, int64 tiles,
                   int64 height, int64 parts) {
    __shared__ float smem[VECTOR * THREADS];
    const Matrix m = {rows, C, across, tiles, height, parts};
    if (wide(C, x)) {
        part_sums<true>(x, partial, m, smem);
    } else {
        part_sums<false>(x, partial, m, smem);
    }
}

// A block a channel.
KERNEL column_sums_merge(const float* __restrict__ partial, real* __restrict__ sums, int64 C,
                         int64 parts) {
    __shared__ double smem[WARP];
    for (int64 c = blockIdx.x; c < C; c += gridDim.x) {
        const double sum = sum_of(partial + c * parts, parts, smem);
        if (threadIdx.x == 0) narrow(float(sum), sums[c]);
    }
}
