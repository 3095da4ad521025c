#include "common.cuh"

KERNEL maxout_pool(const float* x, float* middle, float* y, int64 N, int64 H, int64 W, int64 C) {
    for (int64 i = first_index(); i < N * (H / 2) * (W / 2) * C; i += stride_of_grid()) {
        const int64 c = i % C, w = i / C % (W / 2), row = i / C / (W / 2);
        const float* above = x + (2 * row * W + 2 * w) * 2 * C + c;
        const float* below = above + W * 2 * C;
        float largest = fmaxf(above[0], below[0]);
        for (int k = 1; k < 4; ++k) { largest = fmaxf(largest, fmaxf(above[k * C], below[k * C])); }
        y[i] = largest;
    }
}
