// Exercise 1: maxout with two pieces. Of each channel, the larger piece, and which piece it was.
//
//   x (rows, 2*C)   y (rows, C)   which (rows, C) uint8       x[row][p*C + c] is piece p of c
//
// Launched with a thread for every four elements of y, and 256 threads a block.
//
// What follows is right. But a thread takes a whole row: neighbouring threads read 2*C floats
// apart, so each request of a warp touches 32 sectors for 32 floats, for which 4 would do.
//
// Reach: 1.0 times the bytes that must move, and 64 requests for x. First let neighbouring threads
// have neighbouring channels; then let each read four of them in one access of 128 bits, and write
// its four bytes of `which` in one: load, store and store_bytes of common.cuh. Rows of C = 7 have
// no such access, as `wide` says: keep a way for them.
//
// Read next: maxout_pool.cu.

#include "common.cuh"

KERNEL maxout(const float* x, float* y, uint8* which, int64 rows, int64 C) {
    for (int64 row = first_index(); row < rows; row += stride_of_grid()) {
        for (int64 c = 0; c < C; ++c) {
            const float first = x[row * 2 * C + c], second = x[row * 2 * C + C + c];
            const bool larger = second > first;
            y[row * C + c] = larger ? second : first;
            which[row * C + c] = larger;
        }
    }
}
