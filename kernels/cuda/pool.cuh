// The largest value of a window, over its places and the pieces of a maxout, and the way back.
//
//   x (N, H, W, P*C)   y (N, Ho, Wo, C)   which (N, Ho, Wo, C) uint8, of a whole image int
//
// The pieces of a channel lie C apart, and the next place of the row goes on with them: a row of a
// window is one run of vectors, C apart, in the order in which the reference compares them.
// which = (r * size + s) * P + p, the winner's place in the unclipped window and its piece, counts
// along these runs.
//
// Read next: maxout_pool.cu.
#pragma once

#include "windows.cuh"

#define MINUS_INFINITY __uint_as_float(0xff800000u)

// The largest of N channels so far, and its number.
template <int N>
struct Winner {
    Pack<N> value;
    int number[N];

    // Nobody yet: whoever challenges first wins, or ties with it.
    __device__ explicit Winner(int first) {
#pragma unroll
        for (int k = 0; k < N; ++k) value.v[k] = MINUS_INFINITY, number[k] = first;
    }

    __device__ void challenge(const Pack<N>& other, int its_number) {
#pragma unroll
        for (int k = 0; k < N; ++k) {
            if (beats(other.v[k], value.v[k])) value.v[k] = other.v[k], number[k] = its_number;
        }
    }
};

// The numbers in `which` beside N elements of y.
template <int N>
struct Numbers {
    int v[N];
};

template <int N>
__device__ inline Bytes<N> load_numbers(const uint8* from) {
    return load_bytes<N>(from);
}

template <int N>
__device__ inline Numbers<N> load_numbers(const int* from) {
    Numbers<N> numbers;
#pragma unroll
    for (int k = 0; k < N; ++k) numbers.v[k] = from[k];
    return numbers;
}

template <int N>
__device__ inline void store_numbers(uint8* to, const int* numbers) {
    Bytes<N> bytes;
#pragma unroll
    for (int k = 0; k < N; ++k) bytes.v[k] = uint8(numbers[k]);
    store_bytes<N>(to, bytes);
}

template <int N>
__device__ inline void store_numbers(int* to, const int* numbers) {
#pragma unroll
    for (int k = 0; k < N; ++k) to[k] = numbers[k];
}

// ROWS runs of RUN vectors: all loads are under way before the first is used.
template <int N, int ROWS, int RUN>
__device__ inline void search_whole(const real* from, int64 row, int64 C, Winner<N>& best) {
    Pack<N> values[ROWS * RUN];
#pragma unroll
    for (int i = 0; i < ROWS * RUN; ++i) values[i] = load<N>(from + i / RUN * row + i % RUN * C);
#pragma unroll
    for (int i = 0; i < ROWS * RUN; ++i) best.challenge(values[i], i);
}

// `rows` runs of `run` vectors, whose numbers begin `numbers` apart, the first with `number`; four
// at a time, of which the last may come again, as it can't beat itself.
template <int N>
__device__ inline void search(const real* from, int rows, int run, int64 row, int64 C, int number,
                              int numbers, Winner<N>& best) {
    for (int r = 0; r < rows; ++r, from += row, number += numbers) {
        for (int q = 0; q < run; q += 4) {
            Pack<N> values[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) values[i] = load<N>(from + min(q + i, run - 1) * C);
#pragma unroll
            for (int i = 0; i < 4; ++i) best.challenge(values[i], number + min(q + i, run - 1));
        }
    }
}

// Before a winner is stored, `finish(its first element in y, winner)` may change it.
struct Plain {
    template <int N>
    __device__ void operator()(int64, Winner<N>&) const {}
};

// One thread, or a team, computes N channels of an output. ROWS, RUN: of a window that is compiled
// for itself, else 0.
template <int N, int ROWS, int RUN, class Which, class Finish>
__device__ void pool_forward(const real* __restrict__ x, real* __restrict__ y,
                             Which* __restrict__ which, const Windows& shape, int64 log2_team,
                             const Finish& finish) {
    const int C = shape.C, width = C / N, pieces = shape.pieces;
    const int64 count = shape.N * shape.Ho * shape.Wo * width, row = int64(shape.W) * pieces * C;
    const Team team(log2_team);
    for (int64 i = team.first(); i - team.vector < count; i += team.stride()) {
        const Place at = place(min(i, count - 1), shape.Ho, shape.Wo, width);  // a warp stays whole
        const int top = at.h * shape.stride - shape.pad, left = at.w * shape.stride - shape.pad;
        const Span all = inside(top, shape.size, shape.H), w = inside(left, shape.size, shape.W);
        const Span h = team.part_of(all);
        const real* from = x + at.vector * N +
                           element(at.n, h.first, w.first, shape.H, shape.W, int64(pieces) * C);
        const int number = ((h.first - top) * shape.row + w.first - left) * pieces;
        Winner<N> best(number);
        if (ROWS && h.count() == ROWS && w.count() * pieces == RUN) {
            search_whole<N, ROWS ? ROWS : 1, RUN ? RUN : 1>(from, row, C, best);
        } else {
            search<N>(from, h.count(), w.count() * pieces, row, C, number, shape.row * pieces,
                      best);
        }
        // Neighbouring parts first, so that what comes later in the window challenges.
        for (int distance = team.vectors; distance < WARP; distance *= 2) {
#pragma unroll
            for (int k = 0; k < N; ++k) {
                const float value = __shfl_down_sync(0xffffffffu, best.value.v[k], distance);
                const int its_number = __shfl_down_sync(0xffffffffu, best.number[k], distance);
                if (beats(value, best.value.v[k]))
                    best.value.v[k] = value, best.number[k] = its_number;
            }
        }
        if (team.part == 0 && i < count) {
            finish(i * N, best);
            store<N>(y + i * N, best.value);
            store_numbers<N>(which + i * N, best.number);
        }
    }
}

// Windows that do not overlap: one thread computes the places of one row of a window, N channels of
// all pieces, from one read of dy and `which`.
template <int N, class Which>
__device__ void pool_backward_apart(const real* __restrict__ dy, const Which* __restrict__ which,
                                    real* __restrict__ dx, const Windows& shape, float factor) {
    const int C = shape.C, width = C / N, pieces = shape.pieces;
    const int64 count = shape.N * shape.H * shape.Wo * width;
    for (int64 i = first_index(); i < count; i += stride_of_grid()) {
        const Place at = place(i, shape.H, shape.Wo, width);
        const int a = last_window(at.h + shape.pad, shape.size, shape.Ho);
        const int r = at.h + shape.pad - a * shape.size, left = at.w * shape.size - shape.pad;
        const Span w = inside(left, shape.size, shape.W);
        const int64 from = element(at.n, a, at.w, shape.Ho, shape.Wo, C) + at.vector * N;
        Pack<N> gradient = load<N>(dy + from);
        const auto winner = load_numbers<N>(which + from);
#pragma unroll
        for (int k = 0; k < N; ++k) gradient.v[k] *= factor;
        real* to =
            dx + at.vector * N + element(at.n, at.h, w.first, shape.H, shape.W, int64(pieces) * C);
        const int number = (r * shape.row + w.first - left) * pieces;
#pragma unroll 4
        for (int q = 0; q < w.count() * pieces; ++q, to += C) {
            Pack<N> piece;
#pragma unroll
            for (int k = 0; k < N; ++k)
                piece.v[k] = winner.v[k] == number + q ? gradient.v[k] : 0.0f;
            store<N>(to, piece);
        }
    }
}

// Any windows: one thread computes one place, N channels, by GROUP pieces at a time, and looks at
// every window that the place lies in, as the reference does from the last one to the first. A
// product is rounded before it is added, so that the sum is the reference's to the bit.
template <int N, int GROUP>
__device__ void pool_backward_overlapping(const real* __restrict__ dy,
                                          const uint8* __restrict__ which, real* __restrict__ dx,
                                          const Windows& shape, float factor) {
    const int C = shape.C, width = C / N, pieces = shape.pieces;
    const int size = shape.size, stride = shape.stride;
    const int64 count = shape.N * shape.H * shape.W * width;
    for (int64 i = first_index(); i < count; i += stride_of_grid()) {
        const Place at = place(i, shape.H, shape.W, width);
        const int h = at.h + shape.pad, w = at.w + shape.pad;
        const int bottom = last_window(h, stride, shape.Ho);
        const int right = last_window(w, stride, shape.Wo);
        real* to =
            dx + at.vector * N + element(at.n, at.h, at.w, shape.H, shape.W, int64(pieces) * C);
        for (int first = 0; first < pieces; first += GROUP) {
            Pack<N> sum[GROUP] = {};
            for (int a = bottom, r = h - a * stride; a >= 0 && r < size; --a, r += stride) {
                int64 from = element(at.n, a, right, shape.Ho, shape.Wo, C) + at.vector * N;
                int b = right, s = w - b * stride;
                for (; b >= 0 && s < size; --b, s += stride, from -= C) {
                    Pack<N> gradient = load<N>(dy + from);
                    const Bytes<N> winner = load_bytes<N>(which + from);
                    const int number = (r * size + s) * pieces + first;
#pragma unroll
                    for (int k = 0; k < N; ++k) gradient.v[k] = __fmul_rn(gradient.v[k], factor);
#pragma unroll
                    for (int g = 0; g < GROUP; ++g) {
#pragma unroll
                        for (int k = 0; k < N; ++k)
                            sum[g].v[k] += winner.v[k] == number + g ? gradient.v[k] : 0.0f;
                    }
                }
            }
#pragma unroll
            for (int g = 0; g < GROUP; ++g) store<N>(to + int64(first + g) * C, sum[g]);
        }
    }
}

// dx = the sum over the windows that a place won of dy * factor; 0 where it won none.
template <int N>
__device__ void pool_backward(const real* dy, const uint8* which, real* dx, const Windows& shape,
                              float factor) {
    if (shape.stride == shape.size) {
        pool_backward_apart<N>(dy, which, dx, shape, factor);
    } else if (shape.pieces % 2 == 0) {
        pool_backward_overlapping<N, 2>(dy, which, dx, shape, factor);
    } else {
        pool_backward_overlapping<N, 1>(dy, which, dx, shape, factor);
    }
}
