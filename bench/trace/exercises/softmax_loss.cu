// Exercise 5: the softmax of each row of scores, and its loss, -log prob[label].
//
//   scores (N, K)   labels (N) int   prob (N, K)   loss (N)       K is 32 at most
//
// Launched with a warp for every row, and 256 threads a block.
//
// What follows is right. But a thread takes a whole row: neighbouring threads read K floats apart,
// so each request of a warp touches 32 sectors; and every score is read three times.
//
// Reach: 2.3 times the bytes that must move. Let a warp take a row and a lane one class: it reads
// its score once and keeps it. The largest, and the sum, come from the other lanes by
// __shfl_xor_sync, without memory. With ten classes 22 lanes are idle, and it pays all the same.
// What is left above 1 are sectors of which a row of 40 bytes needs a part.
//
// Read next: ../pictures.py.

#include "common.cuh"

KERNEL softmax_loss(const float* scores, const int* labels, float* prob, float* loss, int64 N,
                    int64 K) {
    for (int64 n = first_index(); n < N; n += stride_of_grid()) {
        const float* row = scores + n * K;
        float largest = row[0];
        for (int64 k = 1; k < K; ++k) largest = fmaxf(largest, row[k]);
        float sum = 0;
        for (int64 k = 0; k < K; ++k) sum += expf(row[k] - largest);
        for (int64 k = 0; k < K; ++k) prob[n * K + k] = expf(row[k] - largest) / sum;
        loss[n] = largest + logf(sum) - row[labels[n]];
    }
}
