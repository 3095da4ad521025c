#include "common.cuh"

KERNEL softmax_loss(const float* scores, const int* labels, float* prob, float* loss, int64 N,
                    int64 K) {
    const int lane = threadIdx.x % WARP;
    for (int64 n = first_index() / WARP; n < N; n += stride_of_grid() / WARP) {
        const bool is_class = lane < K;
        const float score = is_class ? scores[n * K + lane] : __uint_as_float(0xff800000u);
        float largest = score;
        for (int distance = WARP / 2; distance > 0; distance /= 2) {
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
        }
        const float own = expf(score - largest);
        float sum = own;
        for (int distance = WARP / 2; distance > 0; distance /= 2) {
            sum += __shfl_xor_sync(0xffffffffu, sum, distance);
        }
        if (is_class) prob[n * K + lane] = own / sum;
        if (lane == labels[n]) loss[n] = largest + logf(sum) - score;
    }
}
