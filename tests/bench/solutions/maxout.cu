#include "common.cuh"

template <int N>
__device__ void forward(const float* x, float* y, uint8* which, int64 rows, int64 C) {
    for (int64 i = first_index() * N; i < rows * C; i += stride_of_grid() * N) {
        const float* from = x + i / C * 2 * C + i % C;
        Pack<N> best = load<N>(from);
        const Pack<N> second = load<N>(from + C);
        Bytes<N> winner = {};
        for (int k = 0; k < N; ++k) {
            if (second.v[k] > best.v[k]) best.v[k] = second.v[k], winner.v[k] = 1;
        }
        store<N>(y + i, best);
        store_bytes<N>(which + i, winner);
    }
}

KERNEL maxout(const float* x, float* y, uint8* which, int64 rows, int64 C) {
    if (wide(C, x, y, which)) {
        forward<VECTOR>(x, y, which, rows, C);
    } else {
        forward<1>(x, y, which, rows, C);
    }
}
