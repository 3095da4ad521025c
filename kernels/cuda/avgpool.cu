// Average pooling: the mean of each window's places inside the image.
//
//   x (N, H, W, C)   y (N, Ho, Wo, C)
//
// Forward, one thread (for large windows a team) computes VECTOR channels of an output: a 128-bit
// read of each place of the window and a 128-bit write. Backward, one thread computes VECTOR
// channels of a place (where windows do not overlap: of a row of a window). Bytes of an output of
// an 8x8 window, 8 apart, either way: 65 * 4 = 260 in float32, 130 in bfloat16, the floor.
//
// Read next: lrn.cu.

#define BLOCKS 4
#include "windows.cuh"

// One over the number of places that a window has.
__device__ inline float share(Span h, Span w) { return 1.0f / (float(h.count()) * w.count()); }

template <int N>
__device__ void forward(const real* __restrict__ x, real* __restrict__ y, const Windows& shape,
                        int64 log2_team) {
    const int C = shape.C, width = C / N;
    const int64 count = shape.N * shape.Ho * shape.Wo * width;
    const Team team(log2_team);
    for (int64 i = team.first(); i - team.vector < count; i += team.stride()) {
        const Place at = place(min(i, count - 1), shape.Ho, shape.Wo, width);  // a warp stays whole
        const Span all = inside(at.h * shape.stride, shape.size, shape.H);
        const Span h = team.part_of(all), w = inside(at.w * shape.stride, shape.size, shape.W);
        Pack<N> sum = {};
        for (int r = h.first; r < h.stop; ++r) {
            const real* from = x + at.vector * N + element(at.n, r, w.first, shape.H, shape.W, C);
#pragma unroll 4
            for (int s = 0; s < w.count(); ++s, from += C) {
                const Pack<N> value = load<N>(from);
#pragma unroll
                for (int k = 0; k < N; ++k) sum.v[k] += value.v[k];
            }
        }
        for (int distance = team.vectors; distance < WARP; distance *= 2) {
#pragma unroll
            for (int k = 0; k < N; ++k)
                sum.v[k] += __shfl_down_sync(0xffffffffu, sum.v[k], distance);
        }
        if (team.part == 0 && i < count) {
            const float factor = share(all, w);
#pragma unroll
            for (int k = 0; k < N; ++k) sum.v[k] *= factor;
            store<N>(y + i * N, sum);
        }
    }
}

KERNEL avgpool_forward(const real* x, real* y, int64 N, int64 H, int64 W, int64 Ho, int64 Wo,
                       int64 C, int64 size, int64 stride, int64 log2_team) {
    const Windows shape = windows(N, H, W, Ho, Wo, C, 1, size, stride, 0);
    if (wide(C, x, y)) {
        forward<VECTOR>(x, y, shape, log2_team);
    } else {
        forward<1>(x, y, shape, log2_team);
    }
}

template <int N>
__device__ void backward_apart(const real* __restrict__ dy, real* __restrict__ dx,
                               const Windows& shape) {
    const int C = shape.C, width = C / N, size = shape.size;
    const int64 count = shape.N * shape.H * shape.Wo * width;
    for (int64 i = first_index(); i < count; i += stride_of_grid()) {
        const Place at = place(i, shape.H, shape.Wo, width);
        const int a = last_window(at.h, size, shape.Ho);
        const Span h = inside(a * size, size, shape.H), w = inside(at.w * size, size, shape.W);
        Pack<N> gradient =
            load<N>(dy + element(at.n, a, at.w, shape.Ho, shape.Wo, C) + at.vector * N);
        const float factor = share(h, w);
#pragma unroll
        for (int k = 0; k < N; ++k) gradient.v[k] *= factor;
        real* to = dx + element(at.n, at.h, w.first, shape.H, shape.W, C) + at.vector * N;
#pragma unroll 4
        for (int s = 0; s < w.count(); ++s, to += C) store<N>(to, gradient);
    }
}

template <int N>
__device__ void backward_overlapping(const real* __restrict__ dy, real* __restrict__ dx,
                                     const Windows& shape) {
    const int C = shape.C, width = C / N, size = shape.size, stride = shape.stride;
    const int64 count = shape.N * shape.H * shape.W * width;
    for (int64 i = first_index(); i < count; i += stride_of_grid()) {
        const Place at = place(i, shape.H, shape.W, width);
        const int right = last_window(at.w, stride, shape.Wo);
        Pack<N> sum = {};
        for (int a = last_window(at.h, stride, shape.Ho); a >= 0 && at.h - a * stride < size; --a) {
            const Span h = inside(a * stride, size, shape.H);
            const real* from = dy + at.vector * N + element(at.n, a, right, shape.Ho, shape.Wo, C);
            for (int b = right; b >= 0 && at.w - b * stride < size; --b, from -= C) {
                const Pack<N> gradient = load<N>(from);
                const float factor = share(h, inside(b * stride, size, shape.W));
#pragma unroll
                for (int k = 0; k < N; ++k) sum.v[k] += gradient.v[k] * factor;
            }
        }
        store<N>(dx + i * N, sum);
    }
}

template <int N>
__device__ void backward(const real* dy, real* dx, const Windows& shape) {
    if (shape.stride == shape.size) {
        backward_apart<N>(dy, dx, shape);
    } else {
        backward_overlapping<N>(dy, dx, shape);
    }
}

KERNEL avgpool_backward(const real* dy, real* dx, int64 N, int64 H, int64 W, int64 Ho, int64 Wo,
                        int64 C, int64 size, int64 stride) {
    const Windows shape = windows(N, H, W, Ho, Wo, C, 1, size, stride, 0);
    if (wide(C, dy, dx)) {
        backward<VECTOR>(dy, dx, shape);
    } else {
        backward<1>(dy, dx, shape);
    }
}
