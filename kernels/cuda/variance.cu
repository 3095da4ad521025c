// Mean and population variance of each of G blocks of channels: what LSUV scales weights by.
//
//   variance   x (rows, G*C) -> mean (G), variance (G) float64
//              reads 4 bytes an element (bfloat16: 2), once: the floor
//
// The moments of every channel as batch normalisation takes them (moments.cuh), but in float64, so
// that no square overflows or vanishes and 10^3 standard deviations from zero cost no digit: it is
// an operation of initialisation, whose result decides the scale of every weight. A second kernel
// merges the channels of a block. What is not finite makes mean and variance of its block not
// finite.
//
// A part's first row, its pivot, is read again, and of rows so few it is a large share:
// Moved: variance_moments: x 1.19
//
// Read next: loss.cu.

#define BLOCKS 2  // sums in float64 take two registers a number
#include "moments.cuh"

struct Doubles {
    double v[VECTOR];
};

// x (rows, C), partial (3, C, parts).
KERNEL variance_moments(const real* x, double* partial, int64 rows, int64 C, int64 across,
                        int64 tiles, int64 height, int64 parts) {
    __shared__ double smem[VECTOR * THREADS];
    const Matrix m = {rows, C, across, tiles, height, parts};
    if (wide(C, x)) {
        moments<true, Doubles>(x, partial, m, smem);
    } else {
        moments<false, Doubles>(x, partial, m, smem);
    }
}

// A block of threads a block of channels. result (2, groups).
KERNEL variance_merge(const double* __restrict__ partial, double* __restrict__ result, int64 rows,
                      int64 C, int64 groups, int64 height, int64 parts) {
    __shared__ double smem[WARP];
    const int64 channels = C / groups;
    for (int64 group = blockIdx.x; group < groups; group += gridDim.x) {
        const double* first = partial + group * channels * parts;
        const Moments of = merged(first, channels, C, rows, height, parts, smem);
        if (threadIdx.x == 0) {
            result[group] = of.mean;
            result[groups + group] = of.variance;
        }
    }
}
