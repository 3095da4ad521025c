// Inverted dropout, whose mask is computed and never stored: forward and backward are one kernel.
//
//   x (size) -> y (size)        reads 4, writes 4 bytes an element (bfloat16: 2 and 2), the floor
//
// Element i is dropped where word i % 4 of the Philox counter (index i / 4, step, DROPOUT << 16 |
// layer) is below floor(drop * 2^32); the kept are multiplied by `factor`, 1 / (1 - drop). One
// thread computes LANES neighbouring elements: one counter in float32, two in bfloat16, about 15
// instructions an element, which the wait for memory hides. y may be x itself.
//
// Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov, "Dropout" (2014).
// Read next: reduce.cuh.

#include "clock.cuh"
#include "philox.cuh"

KERNEL dropout(const real* x, real* y, int64 size, int64 threshold, double factor, int64 seed,
               int64 layer, const double* clock) {
    const bool aligned = wide(LANES, x, y);
    const uint32 step = uint32(clock[STEP]), below = uint32(threshold);
    const float scale = float(factor);
    for (int64 i = first_index(); i < (size + LANES - 1) / LANES; i += stride_of_grid()) {
        const int64 start = i * LANES;
        const bool whole = aligned && start + LANES <= size;
        Pack<LANES> pack = {};
        if (whole) {
            pack = load<LANES>(x + start);
        } else {
#pragma unroll
            for (int k = 0; k < LANES; ++k) {
                if (start + k < size) pack.v[k] = widen(x[start + k]);
            }
        }
#pragma unroll
        for (int four = 0; four < LANES / 4; ++four) {
            const Words words = philox(uint64(seed), uint64(start / 4 + four), step, DROPOUT,
                                       uint32(layer));
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                float& value = pack.v[4 * four + k];
                value = words.w[k] < below ? 0.0f : value * scale;
            }
        }
        if (whole) {
            store<LANES>(y + start, pack);
        } else {
#pragma unroll
            for (int k = 0; k < LANES; ++k) {
                if (start + k < size) narrow(pack.v[k], y[start + k]);
            }
        }
    }
}
