// Philox 4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC
// 2011): the words of kernels/philox.py, which says what key and counter are.
//
// Read next: dropout.cu.
#pragma once

#include "common.cuh"

enum Purpose { DROPOUT = 1, ORDER, AUGMENT, WEIGHTS, SYNTHETIC, FRACTIONAL };

struct Words {
    uint32 w[4];
};

__device__ inline Words philox(uint64 seed, uint64 index, uint32 step, uint32 purpose,
                               uint32 layer) {
    uint32 key_0 = uint32(seed), key_1 = uint32(seed >> 32);
    uint32 c0 = uint32(index), c1 = uint32(index >> 32), c2 = step, c3 = purpose << 16 | layer;
#pragma unroll 5  // a loop, behind which ptxas does not put a load that stands before it
    for (int round = 0; round < 10; ++round) {
        const uint64 product_0 = uint64(0xD2511F53u) * c0, product_1 = uint64(0xCD9E8D57u) * c2;
        const uint32 next_0 = uint32(product_1 >> 32) ^ c1 ^ key_0;
        const uint32 next_2 = uint32(product_0 >> 32) ^ c3 ^ key_1;
        c0 = next_0, c1 = uint32(product_1), c2 = next_2, c3 = uint32(product_0);
        key_0 += 0x9E3779B9u;
        key_1 += 0xBB67AE85u;
    }
    return {{c0, c1, c2, c3}};
}

// Inverted dropout: element i is dropped where word i % 4 of the counter with index i / 4 is below
// `threshold`, and multiplied by `factor` where it is kept.
struct Dropout {
    uint32 threshold;
    float factor;
    uint64 seed;
    uint32 step, layer;

    // The words of the four elements, from a multiple of 4 on, of which i is one.
    __device__ Words words(int64 i) const {
        return philox(seed, uint64(i) / 4, step, DROPOUT, layer);
    }

    // Whether the element with this word is dropped.
    __device__ bool drops(uint32 word, float& value) const {
        const bool dropped = word < threshold;
        value = dropped ? 0.0f : value * factor;
        return dropped;
    }
};
