// The gate of a highway unit: y = t h + (1 - t) x, of h = max(zH, 0) and t = 1 / (1 + exp(-zT)).
//
//   forward    x (rows, C), z (rows, 2C) = zH | zT -> h, t, y (rows, C)     reads 12, writes 12
//   backward   dy, x, h, t (rows, C) -> dz (rows, 2C), dx (rows, C)         reads 16, writes 12
// bytes an element of x, in bfloat16 half: the floor. dx is what the carry, 1 - t, hands on; what
// comes through z is the convolution's to add. One thread computes VECTOR channels of a row.
//
// Srivastava, Greff and Schmidhuber, "Highway networks" (2015).
// Read next: philox.cuh.

#include "common.cuh"

template <int N>
__device__ void forward(const real* __restrict__ x, const real* __restrict__ z,
                        real* __restrict__ h, real* __restrict__ t, real* __restrict__ y,
                        int64 rows, int64 C) {
    const int64 width = C / N;
    for (int64 i = first_index(); i < rows * width; i += stride_of_grid()) {
        const Split at = split(i, width);
        const real* both = z + at.quotient * 2 * C + at.rest * N;
        const Pack<N> carried = load<N>(x + i * N);
        Pack<N> value = load<N>(both), gate = load<N>(both + C), result;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float small = expf(-fabsf(gate.v[k]));
            gate.v[k] = (gate.v[k] >= 0.0f ? 1.0f : small) / (1.0f + small);
            value.v[k] = value.v[k] < 0.0f ? 0.0f : value.v[k];  // and a NaN stays one
            result.v[k] = gate.v[k] * value.v[k] + (1.0f - gate.v[k]) * carried.v[k];
        }
        store<N>(h + i * N, value);
        store<N>(t + i * N, gate);
        store<N>(y + i * N, result);
    }
}

KERNEL highway_forward(const real* x, const real* z, real* h, real* t, real* y, int64 rows,
                       int64 C) {
    if (wide(C, x, z, h, t, y)) {
        forward<VECTOR>(x, z, h, t, y, rows, C);
    } else {
        forward<1>(x, z, h, t, y, rows, C);
    }
}

template <int N>
__device__ void backward(const real* __restrict__ dy, const real* __restrict__ x,
                         const real* __restrict__ h, const real* __restrict__ t,
                         real* __restrict__ dz, real* __restrict__ dx, int64 rows, int64 C,
                         bool wanted) {
    const int64 width = C / N;
    for (int64 i = first_index(); i < rows * width; i += stride_of_grid()) {
        const Split at = split(i, width);
        real* both = dz + at.quotient * 2 * C + at.rest * N;
        const Pack<N> gate = load<N>(t + i * N), value = load<N>(h + i * N);
        Pack<N> gradient = load<N>(dy + i * N), other = load<N>(x + i * N), through;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            const float open = gradient.v[k] * gate.v[k], closed = 1.0f - gate.v[k];
            other.v[k] = open * (value.v[k] - other.v[k]) * closed;
            through.v[k] = value.v[k] > 0.0f ? open : 0.0f;
            gradient.v[k] *= closed;
        }
        store<N>(both, through);
        store<N>(both + C, other);
        if (wanted) store<N>(dx + i * N, gradient);
    }
}

KERNEL highway_backward(const real* dy, const real* x, const real* h, const real* t, real* dz,
                        real* dx, int64 rows, int64 C, int64 wanted) {
    if (wide(C, dy, x, h, t, dz, dx)) {
        backward<VECTOR>(dy, x, h, t, dz, dx, rows, C, wanted);
    } else {
        backward<1>(dy, x, h, t, dz, dx, rows, C, wanted);
    }
}
