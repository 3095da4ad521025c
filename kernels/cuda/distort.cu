// Images in a field of zeros, each under an affine map and with colours of its own.
//
//   x (N,H,W,C)   table (rows, 10 + 3 C) float   ->  y (N,Fh,Fw,C)
//
// kernels/reference.py says what stands in a row of the table. One thread computes the C channels
// of a place of the field: four places of x, which its neighbours read too, and the image's row of
// the table, from the cache.
//
// A thread's C elements lie beside its neighbour's, and it asks twice, first whether any is seen:
// Moved: distort: x 19.7 (bfloat16 20.7), y 4.0
//
// Read next: clock.cuh.

#include "clock.cuh"
#include "common.cuh"

constexpr int PLACE = 10;  // numbers of a row before those of the channels

KERNEL distort(const real* __restrict__ x, const float* __restrict__ table, real* __restrict__ y,
               const double* clock, int64 N, int64 H, int64 W, int64 Fh, int64 Fw, int64 C,
               int64 rows, double background, double least) {
    const float zero = float(background), bound = float(least);
    const int64 first = (int64(clock[STEP]) - int64(clock[FIRST])) % rows * (N % rows);
    for (int64 i = first_index(); i < N * Fh * Fw; i += stride_of_grid()) {
        const Split line = split(i, Fw), image = split(line.quotient, Fh);
        const float u = float(line.rest), v = float(image.rest);
        const int64 number = ((first + image.quotient) % rows + rows) % rows;
        const float* row = table + number * (PLACE + 3 * C);
        const float sx = row[0] * u + row[1] * v + row[2], sy = row[3] * u + row[4] * v + row[5];
        const bool there = row[6] <= u && u < row[8] && row[7] <= v && v < row[9] && sx > -1.0f &&
                           sx < float(W) && sy > -1.0f && sy < float(H);
        const int64 w = there ? int64(floorf(sx)) : 0, h = there ? int64(floorf(sy)) : 0;
        const float right = sx - float(w), down = sy - float(h);
        const real* from = x + image.quotient * H * W * C;
        const auto at = [=](int64 j, int64 k, int64 c) {
            const bool inside = j >= 0 && j < H && k >= 0 && k < W;
            return inside ? widen(from[(j * W + k) * C + c]) - zero : 0.0f;
        };
        const auto value = [=](int64 c) {
            return (1 - down) * ((1 - right) * at(h, w, c) + right * at(h, w + 1, c)) +
                   down * ((1 - right) * at(h + 1, w, c) + right * at(h + 1, w + 1, c));
        };
        bool seen = false;
        for (int64 c = 0; there && !seen && c < C; ++c) seen = !(fabsf(value(c)) <= bound);
        for (int64 c = 0; c < C; ++c) {
            const float* colour = row + PLACE + 3 * c;
            const float shift = colour[0] + colour[1] * u + colour[2] * v;
            narrow(seen ? value(c) + shift : 0.0f, y[i * C + c]);
        }
    }
}
