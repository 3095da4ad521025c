// Batch normalisation per channel, without scale and shift (Ioffe and Szegedy 2015).
//
//   forward     x (rows, C) -> y (rows, C), mean (C), rstd (C)
//               reads x twice, 8 bytes an element, writes 4
//   backward    dy (rows, C), y (rows, C), rstd (C) -> dx (rows, C)       reads 16, writes 4
//   running     mean (C), rstd (C) -> added to running_mean, running_var (C) and weight (1)
//   inference   x (rows, C), running sums (C) -> y (rows, C)              reads 4, writes 4
// In bfloat16 half the bytes; statistics are float32. A second read is the floor, as no statistics
// are known before the first has ended: what fits the L2 cache comes from there.
//
// A thread keeps the statistics of its VECTOR channels in registers and walks down its rows
// (columns.cuh): no division and no other load an element. Blocks leave sums for each part of the
// rows, and a second kernel merges those of a channel in float64.
//
// A part's first row, its pivot, is read again, and of rows so few it is a large share:
// Moved: batchnorm_moments: x 1.19
//
// Read next: channelwise.cu.

#include "clock.cuh"
#include "moments.cuh"

// -- forward --------------------------------------------------------------------------------------

KERNEL batchnorm_moments(const real* x, float* partial, int64 rows, int64 C, int64 across,
                         int64 tiles, int64 height, int64 parts) {
    __shared__ float smem[VECTOR * THREADS];
    const Matrix m = {rows, C, across, tiles, height, parts};
    if (wide(C, x)) {
        moments<true, Pack<VECTOR>>(x, partial, m, smem);
    } else {
        moments<false, Pack<VECTOR>>(x, partial, m, smem);
    }
}

// A block a channel.
KERNEL batchnorm_merge(const float* __restrict__ partial, float* __restrict__ mean,
                       float* __restrict__ rstd, int64 rows, int64 C, int64 height, int64 parts,
                       double eps) {
    __shared__ double smem[WARP];
    for (int64 c = blockIdx.x; c < C; c += gridDim.x) {
        const Moments of = merged(partial + c * parts, 1, C, rows, height, parts, smem);
        if (threadIdx.x == 0) {
            mean[c] = float(of.mean);
            rstd[c] = float(1.0 / sqrt(of.variance + eps));
        }
    }
}

struct Normalised {
    __device__ float operator()(float value, float centre, float factor) const {
        return (value - centre) * factor;
    }
};

KERNEL batchnorm_forward(const real* x, real* y, const float* mean, const float* rstd, int64 rows,
                         int64 C, int64 across, int64 tiles, int64 height, int64 parts) {
    map_channels(x, mean, rstd, y, {rows, C, across, tiles, height, parts}, Normalised());
}

// -- backward -------------------------------------------------------------------------------------

// partial (2, C, parts): the sums of scale_backward -> means (2, C), of dy * y and of dy. A block
// for each.
KERNEL batchnorm_means(const float* __restrict__ partial, float* __restrict__ means, int64 rows,
                       int64 C, int64 parts) {
    __shared__ double smem[WARP];
    for (int64 i = blockIdx.x; i < 2 * C; i += gridDim.x) {
        const double sum = sum_of(partial + i * parts, parts, smem);
        if (threadIdx.x == 0) means[i] = float(sum / double(rows));
    }
}

template <bool WIDE>
__device__ void backward(const real* __restrict__ dy, const real* __restrict__ y,
                         const float* __restrict__ rstd, const float* __restrict__ means,
                         real* __restrict__ dx, const Matrix& m) {
    for (int64 task = blockIdx.x; task < m.tasks(); task += gridDim.x) {
        const Share own = share(m, task);
        const Pack<VECTOR> factor = statistics<WIDE>(rstd, own);
        const Pack<VECTOR> along = statistics<WIDE>(means, own);
        const Pack<VECTOR> level = statistics<WIDE>(means + m.C, own);
#pragma unroll WIDE ? 2 : 1
        for (int turn = 0; turn < own.turns; ++turn) {
            const int64 at = own.offset + turn * own.step;
            Pack<VECTOR> gradient = load_channels<WIDE>(dy + at, own.channels);
            const Pack<VECTOR> value = load_channels<WIDE>(y + at, own.channels);
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) {
                gradient.v[k] -= level.v[k] + value.v[k] * along.v[k];
                gradient.v[k] *= factor.v[k];
            }
            store_channels<WIDE>(dx + at, gradient, own.channels);
        }
    }
}

// dx = rstd * (dy - mean(dy) - y * mean(dy * y)).
KERNEL batchnorm_backward(const real* dy, const real* y, const float* rstd, const float* means,
                          real* dx, int64 rows, int64 C, int64 across, int64 tiles, int64 height,
                          int64 parts) {
    const Matrix m = {rows, C, across, tiles, height, parts};
    if (wide(C, dy, y, dx, rstd, means)) {
        backward<true>(dy, y, rstd, means, dx, m);
    } else {
        backward<false>(dy, y, rstd, means, dx, m);
    }
}

// -- running statistics ---------------------------------------------------------------------------

// A thread a channel: sum = fraction * sum + value. `count` values a channel were in the batch.
KERNEL batchnorm_running(const float* __restrict__ mean, const float* __restrict__ rstd,
                         float* __restrict__ running_mean, float* __restrict__ running_var,
                         float* __restrict__ weight, int64 C, int64 count, double fraction,
                         double eps, const double* __restrict__ clock) {
    if (clock[FINITE] == 0) return;
    const double unbiased = double(count) / double(count > 1 ? count - 1 : 1);
    for (int64 c = first_index(); c < C; c += stride_of_grid()) {
        const double r = rstd[c], variance = 1.0 / (r * r) - eps;
        const double biased = variance < 0 ? 0 : variance;
        running_mean[c] = float(fraction * running_mean[c] + mean[c]);
        running_var[c] = float(fraction * running_var[c] + biased * unbiased);
    }
    if (first_index() == 0) weight[0] = float(fraction * weight[0] + 1.0);
}

template <bool WIDE>
__device__ void inference(const real* x, real* y, const float* __restrict__ running_mean,
                          const float* __restrict__ running_var, float weight, float eps,
                          const Matrix& m) {
    for (int64 task = blockIdx.x; task < m.tasks(); task += gridDim.x) {
        const Share own = share(m, task);
        Pack<VECTOR> centre = statistics<WIDE>(running_mean, own);
        Pack<VECTOR> factor = statistics<WIDE>(running_var, own);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) {
            centre.v[k] /= weight;
            factor.v[k] = rsqrtf(factor.v[k] / weight + eps);
        }
        map_share<WIDE>(x, y, own, centre, factor, Normalised());
    }
}

// Without a batch in the running sums there are no statistics: a fault, and y is NaN.
KERNEL batchnorm_inference(const real* x, real* y, const float* running_mean,
                           const float* running_var, const float* weight, int64 rows, int64 C,
                           int64 across, int64 tiles, int64 height, int64 parts, double eps,
                           Fault* fault) {
    const Matrix m = {rows, C, across, tiles, height, parts};
    const bool known = weight[0] > 0;
    const float divisor = known ? weight[0] : __uint_as_float(0x7fc00000u);
    if (!known && first_index() == 0) report(fault, NO_STATISTICS, 0, 0);
    if (wide(C, x, y, running_mean, running_var)) {
        inference<true>(x, y, running_mean, running_var, divisor, float(eps), m);
    } else {
        inference<false>(x, y, running_mean, running_var, divisor, float(eps), m);
    }
}
