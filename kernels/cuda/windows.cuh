// The windows of a pooling, as the reference has them: `size` places wide, `stride` apart, Caffe's
// number of them, clipped to the image; padding only moves them.
//
// Read next: pool.cuh.
#pragma once

#include "common.cuh"

// x (N, H, W, P*C) pooled to y (N, Ho, Wo, C). Each number fits an int; products may not. row: how
// far the numbers of a winner's places are from row to row.
struct Windows {
    int64 N;
    int H, W, Ho, Wo, C, pieces, size, stride, pad, row;
};

__device__ inline Windows windows(int64 N, int64 H, int64 W, int64 Ho, int64 Wo, int64 C,
                                  int64 pieces, int64 size, int64 stride, int64 pad) {
    return {N,           int(H),    int(W),      int(Ho),  int(Wo),  int(C),
            int(pieces), int(size), int(stride), int(pad), int(size)};
}

// One window over the image, whose places are numbered h * W + w.
__device__ inline Windows whole_image(int64 N, int64 H, int64 W, int64 C) {
    const int side = int(max(H, W));
    return {N, int(H), int(W), 1, 1, int(C), 1, side, side, 0, int(W)};
}

// Along an axis: first .. stop - 1.
struct Span {
    int first, stop;
    __device__ int count() const { return stop - first; }
};

// The places inside an image of `length` of a window that begins at `begin`.
__device__ inline Span inside(int begin, int size, int length) {
    return {max(begin, 0), min(begin + size, length)};
}

// The last window of `count` that place `at`, counted with the padding, lies in. Those before it
// have the place too, until one ends before it; every place lies in one.
__device__ inline int last_window(int at, int stride, int count) {
    return min(int(uint32(at) / uint32(stride)), count - 1);
}

// Where vector i of an array (images, height, width, vectors) lies.
struct Place {
    int64 n;
    int h, w, vector;
};

__device__ inline Place place(int64 i, int height, int width, int vectors) {
    const Split run = split(i, vectors), row = split(run.quotient, width);
    const Split image = split(row.quotient, height);
    return {image.quotient, int(image.rest), int(row.rest), int(run.rest)};
}

// The first element of place (n, h, w) of an array (images, height, width, C).
__device__ inline int64 element(int64 n, int h, int w, int height, int width, int64 C) {
    return ((n * height + h) * width + w) * C;
}

// Forward, a team of 2^log2_team threads of a warp searches one window together, each some of its
// rows: windows as large as the image are few, and one thread for each would leave most of a GPU
// idle. A warp then has `vectors` vectors of the result; this thread has number `vector` of them,
// and of its window part `part`.
struct Team {
    int log2_team, vectors, vector, part;
    __device__ explicit Team(int64 log2_team)
        : log2_team(int(log2_team)), vectors(WARP >> log2_team),
          vector(threadIdx.x & (vectors - 1)), part((threadIdx.x % WARP << log2_team) / WARP) {}
    // This thread's first vector, and how far the next ones are.
    __device__ int64 first() const { return first_index() / WARP * vectors + vector; }
    __device__ int64 stride() const { return stride_of_grid() >> log2_team; }
    // This thread's part of a span; the first part is never empty, those behind may be.
    __device__ Span part_of(Span whole) const {
        const int each = (whole.count() + (1 << log2_team) - 1) >> log2_team;
        const int first = min(whole.first + part * each, whole.stop);
        return {first, min(first + each, whole.stop)};
    }
};
