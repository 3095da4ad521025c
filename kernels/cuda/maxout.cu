// Maxout: the largest of the pieces of each channel, and which piece it was.
//
//   x (rows, P*C)   y (rows, C)   which (rows, C) uint8        rows = N*H*W
//
// One thread computes VECTOR channels of a row: a 128-bit read of each piece, a 128-bit write, and
// one of VECTOR bytes. Bytes of an output element with two pieces: 2 * 4 + 4 + 1 = 13 in float32,
// 7 in bfloat16; backward the same. That is the floor, but for `which`, of which a bit would do.
//
// Goodfellow et al., "Maxout networks" (2013).
// Read next: maxpool.cu.

#include "common.cuh"

template <int N>
__device__ void forward(const real* __restrict__ x, real* __restrict__ y, uint8* __restrict__ which,
                        int64 rows, int64 C, int64 pieces) {
    const int64 width = C / N;
    for (int64 i = first_index(); i < rows * width; i += stride_of_grid()) {
        const Split at = split(i, width);
        const real* row = x + at.quotient * pieces * C + at.rest * N;
        Pack<N> best = load<N>(row);
        Bytes<N> winner = {};
#pragma unroll 4
        for (int64 p = 1; p < pieces; ++p) {
            const Pack<N> piece = load<N>(row + p * C);
#pragma unroll
            for (int k = 0; k < N; ++k) {
                if (beats(piece.v[k], best.v[k])) best.v[k] = piece.v[k], winner.v[k] = uint8(p);
            }
        }
        store<N>(y + i * N, best);
        store_bytes<N>(which + i * N, winner);
    }
}

KERNEL maxout_forward(const real* x, real* y, uint8* which, int64 rows, int64 C, int64 pieces) {
    if (wide(C, x, y, which)) {
        forward<VECTOR>(x, y, which, rows, C, pieces);
    } else {
        forward<1>(x, y, which, rows, C, pieces);
    }
}

template <int N>
__device__ void backward(const real* __restrict__ dy, const uint8* __restrict__ which,
                         real* __restrict__ dx, int64 rows, int64 C, int64 pieces) {
    const int64 width = C / N;
    for (int64 i = first_index(); i < rows * width; i += stride_of_grid()) {
        const Split at = split(i, width);
        real* row = dx + at.quotient * pieces * C + at.rest * N;
        const Pack<N> gradient = load<N>(dy + i * N);
        const Bytes<N> winner = load_bytes<N>(which + i * N);
#pragma unroll 4
        for (int64 p = 0; p < pieces; ++p) {
            Pack<N> piece;
#pragma unroll
            for (int k = 0; k < N; ++k) piece.v[k] = winner.v[k] == p ? gradient.v[k] : 0.0f;
            store<N>(row + p * C, piece);
        }
    }
}

KERNEL maxout_backward(const real* dy, const uint8* which, real* dx, int64 rows, int64 C,
                       int64 pieces) {
    if (wide(C, dy, dx, which)) {
        backward<VECTOR>(dy, which, dx, rows, C, pieces);
    } else {
        backward<1>(dy, which, dx, rows, C, pieces);
    }
}
