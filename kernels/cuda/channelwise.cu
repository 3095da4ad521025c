// What is learned for each channel: scale and shift, and the slope of PReLU.
//
//   forward    x (rows, C), scale and shift, or slope (C) -> y (rows, C)
//              reads 4 bytes an element, writes 4
//   backward   dy, x (rows, C), scale or slope (C) -> dx (rows, C), partial (2, C, parts)
//              reads 8, writes 4
// In bfloat16 half the bytes: the floor, as one read of dy and x makes dx and the sums of each part
// of the rows, which column_sums_merge adds. A thread keeps the numbers of its VECTOR channels in
// registers and walks down its rows (columns.cuh).
//
// Read next: variance.cu.

#define BLOCKS 3
#include "columns.cuh"

KERNEL scale_forward(const real* x, const float* scale, const float* shift, real* y, int64 rows,
                     int64 C, int64 across, int64 tiles, int64 height, int64 parts) {
    map_channels(x, scale, shift, y, {rows, C, across, tiles, height, parts},
                 [](float value, float factor, float level) { return value * factor + level; });
}

KERNEL prelu_forward(const real* x, const float* slope, real* y, int64 rows, int64 C, int64 across,
                     int64 tiles, int64 height, int64 parts) {
    map_channels(
        x, slope, slope, y, {rows, C, across, tiles, height, parts},
        [](float value, float factor, float) { return value > 0.0f ? value : factor * value; });
}

// dx = dy * slope(x, a), where it is wanted; partial (2, C, parts): the sums of dy * along(x), and
// of dy.
template <bool WIDE, class Slope, class Along>
__device__ void backward(const real* __restrict__ dy, const real* __restrict__ x,
                         const float* __restrict__ a, real* __restrict__ dx,
                         float* __restrict__ partial, const Matrix& m, bool wanted, float* smem,
                         const Slope& slope, const Along& along) {
    for (int64 task = blockIdx.x; task < m.tasks(); task += gridDim.x) {
        const Share own = share(m, task);
        const Pack<VECTOR> factor = statistics<WIDE>(a, own);
        Pack<VECTOR> products = {}, level = {};
        // In bfloat16 one row at a time, in float two: more spills registers.
#pragma unroll WIDE ? 8 / VECTOR : 1
        for (int turn = 0; turn < own.turns; ++turn) {
            const int64 at = own.offset + turn * own.step;
            Pack<VECTOR> gradient = load_channels<WIDE>(dy + at, own.channels);
            const Pack<VECTOR> value = load_channels<WIDE>(x + at, own.channels);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                products.v[k] += gradient.v[k] * along(value.v[k]);
                level.v[k] += gradient.v[k];
                gradient.v[k] *= slope(value.v[k], factor.v[k]);
            }
            if (wanted) store_channels<WIDE>(dx + at, gradient, own.channels);
        }
        sum_rows(products, m, own.row, smem);
        store_part(partial, products, m, own);
        sum_rows(level, m, own.row, smem);
        store_part(partial + m.C * m.parts, level, m, own);
    }
}

template <class Slope, class Along>
__device__ inline void backward(const real* dy, const real* x, const float* a, real* dx,
                                float* partial, const Matrix& m, bool wanted, float* smem,
                                const Slope& slope, const Along& along) {
    if (wide(m.C, dy, x, dx, a)) {
        backward<true>(dy, x, a, dx, partial, m, wanted, smem, slope, along);
    } else {
        backward<false>(dy, x, a, dx, partial, m, wanted, smem, slope, along);
    }
}

KERNEL scale_backward(const real* dy, const real* x, const float* scale, real* dx, float* partial,
                      int64 rows, int64 C, int64 across, int64 tiles, int64 height, int64 parts,
                      int64 wanted) {
    __shared__ float smem[VECTOR * THREADS];
    backward(
        dy, x, scale, dx, partial, {rows, C, across, tiles, height, parts}, wanted, smem,
        [](float, float factor) { return factor; }, [](float value) { return value; });
}

KERNEL prelu_backward(const real* dy, const real* x, const float* slope, real* dx, float* partial,
                      int64 rows, int64 C, int64 across, int64 tiles, int64 height, int64 parts,
                      int64 wanted) {
    __shared__ float smem[VECTOR * THREADS];
    backward(
        dy, x, slope, dx, partial, {rows, C, across, tiles, height, parts}, wanted, smem,
        [](float value, float factor) { return value > 0.0f ? 1.0f : factor; },
        [](float value) { return value > 0.0f ? 0.0f : value; });
}
