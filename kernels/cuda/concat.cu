// Concatenation along the channels: an array's channels to their place among those of the whole,
// and the gradient of these channels back.
//
//   x (rows, C)   y (rows, K), channels first .. first + C - 1; the others stay
//
// One thread copies 128 bits, unchanged. Bytes of an element either way: 4 + 4 in float32, 2 + 2 in
// bfloat16, the floor.
//
// Read next: activation.cu.

#include "common.cuh"

// Rows of C elements, between rows of `from_row` and of `to_row` elements: `count` in all.
template <class Element>
__device__ void copy(const Element* __restrict__ from, Element* __restrict__ to, int64 count,
                     int64 C, int64 from_row, int64 to_row) {
    for (int64 i = first_index(); i < count; i += stride_of_grid()) {
        const Split at = split(i, C);
        to[at.quotient * to_row + at.rest] = from[at.quotient * from_row + at.rest];
    }
}

__device__ inline const uint4* vectors(const real* elements) {
    return reinterpret_cast<const uint4*>(elements);
}

__device__ inline uint4* vectors(real* elements) { return reinterpret_cast<uint4*>(elements); }

KERNEL concat_forward(const real* x, real* y, int64 size, int64 C, int64 K, int64 first) {
    if (wide(C | K | first, x, y)) {
        copy(vectors(x), vectors(y + first), size / VECTOR, C / VECTOR, C / VECTOR, K / VECTOR);
    } else {
        copy(x, y + first, size, C, C, K);
    }
}

KERNEL concat_backward(const real* dy, real* dx, int64 size, int64 C, int64 K, int64 first) {
    if (wide(C | K | first, dy, dx)) {
        copy(vectors(dy + first), vectors(dx), size / VECTOR, C / VECTOR, K / VECTOR, C / VECTOR);
    } else {
        copy(dy + first, dx, size, C, K, C);
    }
}
