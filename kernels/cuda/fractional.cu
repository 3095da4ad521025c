// Fractional max pooling: the largest of windows of at most 2 x 2 places, which begin 1 or 2 places
// apart, as each image draws it for its rows and its columns (kernels/regions.py says how).
//
//   x (N, H, W, C)   y (N, Ho, Wo, C)   which (N, Ho, Wo, C) uint8
//   rows, cols int: forward, of each window where it begins and how wide it is, (N, Ho, 2) and
//   (N, Wo, 2); backward, of each place the window of which it is the first and that of which it is
//   the second place, or -1, (N, H, 2) and (N, W, 2)
//
// fractional_regions writes rows and cols, one thread an axis of an image: some hundred numbers.
// Forward, one thread computes VECTOR channels of an output; backward, of a place, which adds four
// gradients at most, in the reference's order, so that nothing is added in memory.
//
// Windows overlap, and each reads its four places; so does a place its four windows:
// Moved: fractional_maxpool_forward: x 2.25
// Moved: fractional_maxpool_backward: dy 4.0, which 4.0
//
// Graham, "Fractional max-pooling" (2014).
// Read next: reduce.cuh.

#include "clock.cuh"
#include "philox.cuh"
#include "pool.cuh"

KERNEL fractional_regions(int* rows, int* cols, int64 N, int64 H, int64 W, int64 Ho, int64 Wo,
                          int64 overlapping, int64 random, int64 backward, int64 seed, int64 layer,
                          const double* clock) {
    const uint32 step = uint32(clock[STEP]);
    for (int64 i = first_index(); i < 2 * N; i += stride_of_grid()) {
        const int64 n = i / 2, axis = i % 2;
        const int length = int(axis ? W : H), count = int(axis ? Wo : Ho);
        const int A = length - 2 * int(overlapping), B = count - int(overlapping);
        int* result =
            axis ? cols + 2 * n * (backward ? W : Wo) : rows + 2 * n * (backward ? H : Ho);
        for (int h = 0; backward && h < 2 * length; ++h) result[h] = -1;
        const auto word = [=](int j) {
            const Words words = philox(uint64(seed), uint64(j / 2) << 32 | uint64(n), step,
                                       FRACTIONAL, uint32(layer));
            const uint32 even = axis ? words.w[1] : words.w[0];  // no index: they are in registers
            const uint32 odd = axis ? words.w[3] : words.w[2];
            return uint64(j % 2 ? odd : even);
        };
        const uint64 u = word(0), whole = uint64(B) << 32;
        int at = 0, twos = A - B;
        for (int j = 0; j < count; ++j) {
            int next = at;
            if (j < B && random) {
                const bool two = int(word(j) * uint64(B - j) >> 32) < twos;
                next += 1 + two;
                twos -= two;
            } else if (j < B) {
                next = int(((uint64(j + 1) << 32) + u) * A / whole - u * A / whole);
            }
            const int width = overlapping ? 2 : next - at;
            if (backward) {
                for (int r = 0; r < width; ++r) result[2 * (at + r) + r] = j;
            } else {
                result[2 * j] = at;
                result[2 * j + 1] = width;
            }
            at = next;
        }
    }
}

template <int N>
__device__ void forward(const real* __restrict__ x, real* __restrict__ y, uint8* __restrict__ which,
                        const int* __restrict__ rows, const int* __restrict__ cols, int64 images,
                        int H, int W, int Ho, int Wo, int C) {
    const int width = C / N;
    for (int64 i = first_index(); i < images * Ho * Wo * width; i += stride_of_grid()) {
        const Place at = place(i, Ho, Wo, width);
        const int* row = rows + 2 * (at.n * Ho + at.h);
        const int* col = cols + 2 * (at.n * Wo + at.w);
        const real* from = x + element(at.n, row[0], col[0], H, W, C) + at.vector * N;
        const int64 down = row[1] > 1 ? int64(W) * C : 0, across = col[1] > 1 ? C : 0;
        const Pack<N> values[4] = {load<N>(from), load<N>(from + across), load<N>(from + down),
                                   load<N>(from + down + across)};
        Winner<N> best(0);
#pragma unroll
        for (int k = 0; k < 4; ++k) best.challenge(values[k], k);  // of a place again, it ties
        store<N>(y + i * N, best.value);
        store_numbers<N>(which + i * N, best.number);
    }
}

KERNEL fractional_maxpool_forward(const real* x, real* y, uint8* which, const int* rows,
                                  const int* cols, int64 N, int64 H, int64 W, int64 Ho, int64 Wo,
                                  int64 C) {
    if (wide(C, x, y, which)) {
        forward<VECTOR>(x, y, which, rows, cols, N, H, W, Ho, Wo, C);
    } else {
        forward<1>(x, y, which, rows, cols, N, H, W, Ho, Wo, C);
    }
}

template <int N>
__device__ void backward(const real* __restrict__ dy, const uint8* __restrict__ which,
                         real* __restrict__ dx, const int* __restrict__ rows,
                         const int* __restrict__ cols, int64 images, int H, int W, int Ho, int Wo,
                         int C) {
    const int width = C / N;
    for (int64 i = first_index(); i < images * H * W * width; i += stride_of_grid()) {
        const Place at = place(i, H, W, width);
        const int* row = rows + 2 * (at.n * H + at.h);
        const int* col = cols + 2 * (at.n * W + at.w);
        Pack<N> sum = {};
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int h = row[k / 2], w = col[k % 2];
            if (h < 0 || w < 0) continue;
            const int64 from = element(at.n, h, w, Ho, Wo, C) + at.vector * N;
            const Pack<N> gradient = load<N>(dy + from);
            const Bytes<N> winner = load_bytes<N>(which + from);
#pragma unroll
            for (int c = 0; c < N; ++c) sum.v[c] += winner.v[c] == k ? gradient.v[c] : 0.0f;
        }
        store<N>(dx + i * N, sum);
    }
}

KERNEL fractional_maxpool_backward(const real* dy, const uint8* which, real* dx, const int* rows,
                                   const int* cols, int64 N, int64 H, int64 W, int64 Ho, int64 Wo,
                                   int64 C) {
    if (wide(C, dy, which, dx)) {
        backward<VECTOR>(dy, which, dx, rows, cols, N, H, W, Ho, Wo, C);
    } else {
        backward<1>(dy, which, dx, rows, cols, N, H, W, Ho, Wo, C);
    }
}
