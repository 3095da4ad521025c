// Dropout, whose mask is computed and never stored: forward and backward are one kernel.
//
//   x (size) -> y (size)        reads 4, writes 4 bytes an element (bfloat16: 2 and 2), the floor
//
// Element i is dropped where word i % 4 of the Philox counter (index i / 4, step, DROPOUT << 16 |
// layer) is below floor(drop * 2^32); the kept are multiplied by `factor`. One
// thread computes VECTOR neighbouring elements: one counter in float32, two in bfloat16, about 15
// instructions an element. It asks for the elements first, and computes the words while they are
// under way. What no 128-bit access can reach is computed four elements at a time. y may be x
// itself.
//
// channel_mask: of channels that are dropped whole, mask (C). One block draws the words, THREADS
// counters at a time; one thread goes through them, as each depends on how many are left.
//
// Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout" (2014).
// Read next: fractional.cu.

#include "clock.cuh"
#include "philox.cuh"

KERNEL dropout(const real* x, real* y, int64 size, int64 threshold, double factor, int64 seed,
               int64 layer, const double* clock) {
    const Dropout rule = {uint32(threshold), float(factor), uint64(seed), uint32(clock[STEP]),
                          uint32(layer)};
    const int64 packs = wide(VECTOR, x, y) ? size / VECTOR : 0;
    for (int64 i = first_index(); i < packs; i += stride_of_grid()) {
        const uint4 bits = *reinterpret_cast<const uint4*>(x + i * VECTOR);
        Words words[VECTOR / 4];
#pragma unroll
        for (int four = 0; four < VECTOR / 4; ++four)
            words[four] = rule.words(i * VECTOR + 4 * four);
        Pack<VECTOR> pack = unpack(bits);
#pragma unroll
        for (int k = 0; k < VECTOR; ++k) rule.drops(words[k / 4].w[k % 4], pack.v[k]);
        store<VECTOR>(y + i * VECTOR, pack);
    }
    for (int64 i = packs * VECTOR + 4 * first_index(); i < size; i += 4 * stride_of_grid()) {
        const Words words = rule.words(i);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            if (i + k < size) {
                float value = widen(x[i + k]);
                rule.drops(words.w[k], value);
                narrow(value, y[i + k]);
            }
        }
    }
}

KERNEL channel_mask(float* mask, int64 C, int64 keep, double factor, int64 seed, int64 layer,
                    const double* clock) {
    __shared__ uint32 smem[4 * THREADS];  // word k of counter c at k * THREADS + c
    if (blockIdx.x != 0) return;
    const uint32 step = uint32(clock[STEP]);
    int64 left = keep;
    for (int64 first = 0; first < C; first += 4 * THREADS) {
        const Words words =
            philox(uint64(seed), uint64(first / 4 + threadIdx.x), step, DROPOUT, uint32(layer));
#pragma unroll
        for (int k = 0; k < 4; ++k) smem[k * THREADS + threadIdx.x] = words.w[k];
        __syncthreads();
        for (int64 i = first; threadIdx.x == 0 && i < min(first + 4 * THREADS, C); ++i) {
            const uint64 word = smem[i % 4 * THREADS + (i - first) / 4];
            const bool kept = int64(word * uint64(C - i) >> 32) < left;
            mask[i] = kept ? float(factor) : 0.0f;
            left -= kept;
        }
        __syncthreads();
    }
}
