// The float32 weights of a product in the type of the activations: both operands are of one.
//
//   from (size) float32 -> to (size)        reads 4, writes 2 bytes an element, the floor
//
// One thread computes four neighbouring elements, whose floats are one read of 128 bits. VECTOR of
// bfloat16 would be two reads, each of half of every sector.
//
// Read next: conv.py.

#include "common.cuh"

struct alignas(4 * sizeof(real)) Four {
    real v[4];
};

KERNEL cast(const float* __restrict__ from, real* __restrict__ to, int64 size) {
    const int64 fours = wide(VECTOR, from, to) ? size / 4 : 0;
#pragma unroll 1
    for (int64 i = first_index(); i < fours; i += stride_of_grid()) {
        const float4 four = reinterpret_cast<const float4*>(from)[i];
        Four rounded;
        narrow(four.x, rounded.v[0]), narrow(four.y, rounded.v[1]);
        narrow(four.z, rounded.v[2]), narrow(four.w, rounded.v[3]);
        reinterpret_cast<Four*>(to)[i] = rounded;
    }
#pragma unroll 1
    for (int64 i = 4 * fours + first_index(); i < size; i += stride_of_grid()) {
        narrow(from[i], to[i]);
    }
}
