// Max pooling: the largest of each window, and its place.
//
//   x (N, H, W, C)   y (N, Ho, Wo, C)   which (N, Ho, Wo, C) uint8
//   globally, of one window as wide as the image:  y (N, C)   which (N, C) int
//
// Forward, one thread (for large windows a team) computes VECTOR channels of an output: a 128-bit
// read of each place of the window, a 128-bit write, and one of VECTOR bytes. Backward, one thread
// computes VECTOR channels of a place (where windows do not overlap: of a row of a window), so that
// nothing is added in memory. Bytes of an output of a 2x2 window, 2 apart, either way:
// 4 * 4 + 4 + 1 = 21 in float32, 11 in bfloat16, the floor. Overlapping windows read again what the
// cache still has.
//
// Read next: windows.cuh.

#define BLOCKS 4
#include "pool.cuh"

KERNEL maxpool_forward(const real* x, real* y, uint8* which, int64 N, int64 H, int64 W, int64 Ho,
                       int64 Wo, int64 C, int64 size, int64 stride, int64 pad, int64 log2_team) {
    const Windows shape = windows(N, H, W, Ho, Wo, C, 1, size, stride, pad);
    if (!wide(C, x, y, which)) {
        pool_forward<1, 0, 0>(x, y, which, shape, log2_team, Plain());
    } else if (size == 2) {
        pool_forward<VECTOR, 2, 2>(x, y, which, shape, log2_team, Plain());
    } else {
        pool_forward<VECTOR, 0, 0>(x, y, which, shape, log2_team, Plain());
    }
}

KERNEL maxpool_backward(const real* dy, const uint8* which, real* dx, int64 N, int64 H, int64 W,
                        int64 Ho, int64 Wo, int64 C, int64 size, int64 stride, int64 pad) {
    const Windows shape = windows(N, H, W, Ho, Wo, C, 1, size, stride, pad);
    if (wide(C, dy, which, dx)) {
        pool_backward<VECTOR>(dy, which, dx, shape, 1.0f);
    } else {
        pool_backward<1>(dy, which, dx, shape, 1.0f);
    }
}

KERNEL global_maxpool_forward(const real* x, real* y, int* which, int64 N, int64 H, int64 W,
                              int64 C, int64 log2_team) {
    const Windows shape = whole_image(N, H, W, C);
    if (wide(C, x, y)) {
        pool_forward<VECTOR, 0, 0>(x, y, which, shape, log2_team, Plain());
    } else {
        pool_forward<1, 0, 0>(x, y, which, shape, log2_team, Plain());
    }
}

KERNEL global_maxpool_backward(const real* dy, const int* which, real* dx, int64 N, int64 H,
                               int64 W, int64 C) {
    const Windows shape = whole_image(N, H, W, C);
    if (wide(C, dy, dx)) {
        pool_backward_apart<VECTOR>(dy, which, dx, shape, 1.0f);
    } else {
        pool_backward_apart<1>(dy, which, dx, shape, 1.0f);
    }
}
