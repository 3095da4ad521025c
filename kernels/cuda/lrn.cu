// Local response normalisation across channels:
// y = x / S^beta, S = k + alpha / size * (sum of x^2 over `size` channels around its own).
//
//   x, dy (rows, C)   y, dx (rows, C)        rows = N*H*W
//
// Bytes of an element: forward 4 + 4 in float32, 2 + 2 in bfloat16; backward 8 + 4 and 4 + 2. That
// is the floor: S is computed again in backward.
//
// The nets' windows have size 5 and beta 0.75. There one thread computes VECTOR channels in
// registers: it reads its own 128 bits and those on both sides, which the cache has, and in
// backward computes also what the two nearest channels on each side send it. Any other window: one
// thread computes a channel; backward, a block computes a few rows at a time, whose channels send
// each other their shares through a little memory of its own.
//
// Krizhevsky et al., "ImageNet classification with deep convolutional neural networks" (2012), with
// Caffe's division of alpha by size.
// A cache serves what a thread reads of its neighbours' channels:
// Moved: lrn_forward: x 3
// Moved: lrn_backward: dy 3, x 3
//
// Read next: concat.cu.

#define BLOCKS 4
#include "common.cuh"

constexpr int HALF = 2;  // channels on each side of one in a window of size 5

// -- size 5, beta 0.75 ----------------------------------------------------------------------------

// N channels and REACH on each side of them; those that do not exist are 0.
template <int N, int REACH>
struct Around {
    float v[REACH + N + REACH];
};

template <int N, int REACH>
__device__ inline Around<N, REACH> load_around(const real* from, bool first, bool last) {
    static_assert(REACH <= N, "they lie in the next 128 bits");
    Around<N, REACH> around = {};
    const Pack<N> own = load<N>(from);
#pragma unroll
    for (int j = 0; j < N; ++j) around.v[REACH + j] = own.v[j];
    if (!first) {
        const Pack<N> left = load<N>(from - N);
#pragma unroll
        for (int j = 0; j < REACH; ++j) around.v[j] = left.v[N - REACH + j];
    }
    if (!last) {
        const Pack<N> right = load<N>(from + N);
#pragma unroll
        for (int j = 0; j < REACH; ++j) around.v[REACH + N + j] = right.v[j];
    }
    return around;
}

// The sum of the five values around v[2].
__device__ inline float sum_of_five(const float* v) { return v[0] + v[1] + v[2] + v[3] + v[4]; }

// S^-0.75 and S^-1.75 by two inverse square roots, each exact to 2 units in the last place. Of an
// infinite S the first is 0, and so is the power.
struct Powers {
    float three_quarters, and_one;
};

__device__ inline Powers inverse_powers(float sum) {
    const float root = rsqrtf(sum), power = root > 0.0f ? root * (root * rsqrtf(root)) : root;
    return {power, power * root * root};
}

template <int N>
__device__ void forward_of_five(const real* __restrict__ x, real* __restrict__ y, int64 size,
                                int64 C, float alpha, float k) {
    const int64 width = C / N;
    for (int64 i = first_index(); i < size / N; i += stride_of_grid()) {
        const int64 vector = split(i, width).rest;
        const bool first = vector == 0, last = vector == width - 1;
        const Around<N, HALF> own = load_around<N, HALF>(x + i * N, first, last);
        float squares[N + 2 * HALF];
#pragma unroll
        for (int j = 0; j < N + 2 * HALF; ++j) squares[j] = own.v[j] * own.v[j];
        Pack<N> result;
#pragma unroll
        for (int j = 0; j < N; ++j) {
            const float sum = k + alpha * sum_of_five(squares + j);
            result.v[j] = own.v[HALF + j] * inverse_powers(sum).three_quarters;
        }
        store<N>(y + i * N, result);
    }
}

template <int N>
__device__ void backward_of_five(const real* __restrict__ dy, const real* __restrict__ x,
                                 real* __restrict__ dx, int64 size, int64 C, float alpha, float k,
                                 float slope) {
    const int64 width = C / N;
    for (int64 i = first_index(); i < size / N; i += stride_of_grid()) {
        const int64 vector = split(i, width).rest;
        const bool first = vector == 0, last = vector == width - 1;
        const Around<N, 2 * HALF> own = load_around<N, 2 * HALF>(x + i * N, first, last);
        const Around<N, HALF> gradient = load_around<N, HALF>(dy + i * N, first, last);
        float squares[N + 4 * HALF], sent[N + 2 * HALF];
        Pack<N> result;
#pragma unroll
        for (int j = 0; j < N + 4 * HALF; ++j) squares[j] = own.v[j] * own.v[j];
#pragma unroll
        for (int j = 0; j < N + 2 * HALF; ++j) {
            const Powers powers = inverse_powers(k + alpha * sum_of_five(squares + j));
            sent[j] = gradient.v[j] * own.v[HALF + j] * powers.and_one;
            if (j >= HALF && j < HALF + N)
                result.v[j - HALF] = gradient.v[j] * powers.three_quarters;
        }
#pragma unroll
        for (int j = 0; j < N; ++j)
            result.v[j] -= slope * own.v[2 * HALF + j] * sum_of_five(sent + j);
        store<N>(dx + i * N, result);
    }
}

// -- any window -----------------------------------------------------------------------------------

// S of channel c.
__device__ inline float sum_around(const real* row, int64 c, int64 C, int64 half, float alpha,
                                   float k) {
    const int64 stop = min(c + half + 1, C);
    float sum = 0.0f;
#pragma unroll 4
    for (int64 other = max(c - half, int64(0)); other < stop; ++other) {
        const float value = widen(row[other]);
        sum += value * value;
    }
    return k + alpha * sum;
}

__device__ inline void forward(const real* __restrict__ x, real* __restrict__ y, int64 size,
                               int64 C, int64 half, float alpha, float beta, float k) {
    for (int64 i = first_index(); i < size; i += stride_of_grid()) {
        const int64 c = split(i, C).rest;
        const float sum = sum_around(x + i - c, c, C, half, alpha, k);
        narrow(widen(x[i]) * powf(sum, -beta), y[i]);
    }
}

// The first `parts` blocks work, each on as many rows as fit `share` elements. workspace: of each
// of them `share` times what a channel sends its neighbours, then as many powers of S.
__device__ inline void backward(const real* __restrict__ dy, const real* __restrict__ x,
                                real* __restrict__ dx, float* workspace, int64 parts, int64 share,
                                int64 size, int64 C, int64 half, float alpha, float beta, float k,
                                float slope) {
    if (blockIdx.x >= parts || size == 0) return;
    float *sent = workspace + 2 * blockIdx.x * share, *powers = sent + share;
    const int64 chunk = split(share, C).quotient * C;
    for (int64 start = blockIdx.x * chunk; start < size; start += parts * chunk) {
        const int64 count = min(chunk, size - start);
        for (int64 i = threadIdx.x; i < count; i += THREADS) {
            const int64 at = start + i, c = split(i, C).rest;
            const float sum = sum_around(x + at - c, c, C, half, alpha, k);
            powers[i] = powf(sum, -beta);
            sent[i] = widen(dy[at]) * widen(x[at]) * powers[i] / sum;
        }
        __syncthreads();
        for (int64 i = threadIdx.x; i < count; i += THREADS) {
            const int64 at = start + i, c = split(i, C).rest;
            const int64 stop = i + min(half + 1, C - c);
            float received = 0.0f;
#pragma unroll 4
            for (int64 other = i - min(half, c); other < stop; ++other) received += sent[other];
            narrow(widen(dy[at]) * powers[i] - slope * widen(x[at]) * received, dx[at]);
        }
        __syncthreads();
    }
}

// -- the kernels ----------------------------------------------------------------------------------

// alpha: divided by the size. half: channels on each side of one.
KERNEL lrn_forward(const real* x, real* y, int64 size, int64 C, int64 half, double alpha,
                   double beta, double k) {
    if (half == HALF && beta == 0.75 && wide(C, x, y)) {
        forward_of_five<VECTOR>(x, y, size, C, float(alpha), float(k));
    } else {
        forward(x, y, size, C, half, float(alpha), float(beta), float(k));
    }
}

// slope: 2 alpha beta, of this alpha.
KERNEL lrn_backward(const real* dy, const real* x, real* dx, float* workspace, int64 parts,
                    int64 share, int64 size, int64 C, int64 half, double alpha, double beta,
                    double k, double slope) {
    if (half == HALF && beta == 0.75 && wide(C, dy, x, dx)) {
        backward_of_five<VECTOR>(dy, x, dx, size, C, float(alpha), float(k), float(slope));
    } else {
        backward(dy, x, dx, workspace, parts, share, size, C, half, float(alpha), float(beta),
                 float(k), float(slope));
    }
}
