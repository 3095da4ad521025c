// The float32 weights of a product in the type of the activations: both operands are of one.
//
//   from (size) float32 -> to (size)        reads 4, writes 2 bytes an element, the floor
//
// One thread computes VECTOR neighbouring elements.
//
// In bfloat16 a thread's 8 floats are two reads of 128 bits, each of half of every sector:
// Moved: cast: from 1 (bfloat16 2)
//
// Read next: conv.py.

#include "common.cuh"

KERNEL cast(const float* __restrict__ from, real* __restrict__ to, int64 size) {
    const int64 packs = wide(VECTOR, from, to) ? size / VECTOR : 0;
#pragma unroll 1
    for (int64 i = first_index(); i < packs; i += stride_of_grid()) {
        Pack<VECTOR> pack;
#pragma unroll
        for (int k = 0; k < VECTOR; k += 4) {
            const float4 four = *reinterpret_cast<const float4*>(from + i * VECTOR + k);
            pack.v[k] = four.x, pack.v[k + 1] = four.y;
            pack.v[k + 2] = four.z, pack.v[k + 3] = four.w;
        }
        store<VECTOR>(to + i * VECTOR, pack);
    }
#pragma unroll 1
    for (int64 i = packs * VECTOR + first_index(); i < size; i += stride_of_grid()) {
        narrow(from[i], to[i]);
    }
}
