// Max pooling of a maxout in one pass, without and with the dropout behind it: the largest over the
// places of a window and the pieces of a channel, and which one it was.
//
//   x (N, H, W, P*C)   y (N, Ho, Wo, C)   which (N, Ho, Wo, C) uint8
//
// Forward, one thread computes VECTOR channels of an output: a 128-bit read of each piece of each
// place, a 128-bit write, and one of VECTOR bytes. Backward, one thread computes VECTOR channels of
// all pieces of a place (where windows do not overlap: of a row of a window). Bytes of an output of
// two pieces and a 2x2 window, either way: 8 * 4 + 4 + 1 = 37 in float32, 19 in bfloat16. That is
// the floor: one after the other, maxout, pooling and dropout move 4 * 13 + 21 + 8 = 81.
//
// Dropout costs no bytes: its words are computed, and `which` says what is dropped.
//
// Read next: avgpool.cu.

#define BLOCKS 4
#include "clock.cuh"
#include "philox.cuh"
#include "pool.cuh"

constexpr int DROPPED = 255;  // in `which`: the number of no winner

KERNEL maxout_pool_forward(const real* x, real* y, uint8* which, int64 N, int64 H, int64 W,
                           int64 Ho, int64 Wo, int64 C, int64 pieces, int64 size, int64 stride,
                           int64 log2_team) {
    const Windows shape = windows(N, H, W, Ho, Wo, C, pieces, size, stride, 0);
    if (!wide(C, x, y, which)) {
        pool_forward<1, 0, 0>(x, y, which, shape, log2_team, Plain());
    } else if (size == 2 && pieces == 2) {
        pool_forward<VECTOR, 2, 4>(x, y, which, shape, log2_team, Plain());
    } else {
        pool_forward<VECTOR, 0, 0>(x, y, which, shape, log2_team, Plain());
    }
}

KERNEL maxout_pool_backward(const real* dy, const uint8* which, real* dx, int64 N, int64 H, int64 W,
                            int64 Ho, int64 Wo, int64 C, int64 pieces, int64 size, int64 stride) {
    const Windows shape = windows(N, H, W, Ho, Wo, C, pieces, size, stride, 0);
    if (wide(C, dy, which, dx)) {
        pool_backward<VECTOR>(dy, which, dx, shape, 1.0f);
    } else {
        pool_backward<1>(dy, which, dx, shape, 1.0f);
    }
}

// -- with dropout ---------------------------------------------------------------------------------

// What pool_forward does with N winners from element `first` of y on.
struct Dropping {
    Dropout dropout;

    template <int N>
    __device__ void operator()(int64 first, Winner<N>& best) const {
        if constexpr (N == 1) {
            const Words words = dropout.words(first);
            const uint32 low = first & 1 ? words.w[1] : words.w[0];
            const uint32 high = first & 1 ? words.w[3] : words.w[2];
            apply(first & 2 ? high : low, best.value.v[0], best.number[0]);
        } else {
#pragma unroll
            for (int k = 0; k < N; k += 4) {
                const Words words = dropout.words(first + k);
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    apply(words.w[j], best.value.v[k + j], best.number[k + j]);
            }
        }
    }

    __device__ void apply(uint32 word, float& value, int& number) const {
        if (dropout.drops(word, value)) number = DROPPED;
    }
};

KERNEL maxout_pool_dropout_forward(const real* x, real* y, uint8* which, int64 N, int64 H, int64 W,
                                   int64 Ho, int64 Wo, int64 C, int64 pieces, int64 size,
                                   int64 stride, int64 log2_team, int64 threshold, double factor,
                                   int64 seed, int64 layer, const double* clock) {
    const Windows shape = windows(N, H, W, Ho, Wo, C, pieces, size, stride, 0);
    const Dropping dropping = {
        {uint32(threshold), float(factor), uint64(seed), uint32(clock[STEP]), uint32(layer)}};
    if (!wide(C, x, y, which)) {
        pool_forward<1, 0, 0>(x, y, which, shape, log2_team, dropping);
    } else if (size == 2 && pieces == 2) {
        pool_forward<VECTOR, 2, 4>(x, y, which, shape, log2_team, dropping);
    } else {
        pool_forward<VECTOR, 0, 0>(x, y, which, shape, log2_team, dropping);
    }
}

KERNEL maxout_pool_dropout_backward(const real* dy, const uint8* which, real* dx, int64 N, int64 H,
                                    int64 W, int64 Ho, int64 Wo, int64 C, int64 pieces, int64 size,
                                    int64 stride, double factor) {
    const Windows shape = windows(N, H, W, Ho, Wo, C, pieces, size, stride, 0);
    if (wide(C, dy, which, dx)) {
        pool_backward<VECTOR>(dy, which, dx, shape, float(factor));
    } else {
        pool_backward<1>(dy, which, dx, shape, float(factor));
    }
}
