// The next batch of the resident data set: cropped, mirrored and normalised in one pass.
//
//   images (M,H,W,C) uint8 or float   labels (M,) int32   shift, scale (M,)   order (rows,N) int32
//   mean_image (H+2pad,W+2pad,C)  ->  x (N,H,W,C)   y (N,) int32
//
// Blocks (i, part) compute image i. One thread computes VECTOR elements of it, or several times as
// many of a large image: a 128-bit write, for which it reads as many neighbouring bytes, wherever a
// crop begins, and places of the mean image, which all images share and the cache holds. It draws
// the image's three words itself, while it waits for the order. An image of 32 x 32 x 3 reads 3,072
// bytes and writes 12,288, in bfloat16 6,144.
//
// Crops begin anywhere, and every image reads the mean image anew:
// Moved: gather: mean_image 11.69 (bfloat16 19.69)
//
// Read next: distort.cu.

#include "clock.cuh"
#include "philox.cuh"

// `mirror`, and what is added to an image's number in the order where that tells it to be mirrored.
constexpr int64 DRAWN = 1, TOLD = 2, MIRRORED = 1 << 30;

struct Crop {
    int top, left;
    bool flip;
};

struct Shape {
    int H, W, C, pad;  // the mean image has at most 2^30 elements, an image no more
};

// The crop of image n of the run.
__device__ inline Crop draw(uint64 seed, uint64 n, int64 pad, int64 move, bool mirror) {
    const Words words = philox(seed, n, 0, AUGMENT, 0);
    const uint64 span = uint64(2 * move + 1), first = uint64(pad - move);
    return {int(first + (words.w[0] * span >> 32)), int(first + (words.w[1] * span >> 32)),
            mirror && words.w[2] >> 31};
}

// This block's part of x (H,W,C), a crop of an image (H,W,C).
template <int N>
__device__ inline void write_crop(const uint8* __restrict__ image, bool floats,
                                  const float* __restrict__ mean_image, real* __restrict__ x,
                                  float shift, float scale, float input_scale, Crop crop,
                                  Shape shape) {
    const auto [H, W, C, pad] = shape;
    const int width = W * C, border = pad * C;
    const int turn = crop.flip ? 1 - 2 * C : 1;  // from a pixel's last channel to the next pixel
    for (int v = blockIdx.y * THREADS + threadIdx.x; v < H * width / N; v += gridDim.y * THREADS) {
        const int down = uint32(v * N) / uint32(width), along = v * N - down * width;
        const int across = uint32(along) / uint32(C), column = crop.flip ? W - 1 - across : across;
        int channel = along - across * C;
        const int row = crop.top - pad + down;             // of the image
        int j = (crop.left - pad + column) * C + channel;  // element of that row
        const bool inside = row >= 0 && row < H;
        const float* mean = mean_image + (row + pad) * (width + 2 * border) + border;
        Pack<N> pack;
#pragma unroll
        for (int k = 0; k < N; ++k) {
            float value = 0.0f;
            if (inside && j >= 0 && j < width) {
                const int at = row * width + j;
                const float pixel = floats ? reinterpret_cast<const float*>(image)[at] : image[at];
                value = (pixel - shift) * scale;
            }
            pack.v[k] = (value - mean[j]) * input_scale;
            const bool last = ++channel == C;
            j += last ? turn : 1;
            if (last) channel = 0;
        }
        store<N>(x + int64(v) * N, pack);  // in 64 bits, or the compiler parts the access
    }
}

KERNEL gather(const uint8* images, const int* labels, const float* shift, const float* scale,
              const float* mean_image, const int* order, real* x, int* y, const double* clock,
              int64 M, int64 rows, int64 N, int64 H, int64 W, int64 C, int64 seed, int64 pad,
              int64 move, int64 mirror, double input_scale, int64 augment, int64 floats,
              Fault* fault) {
    const int64 step = static_cast<int64>(clock[STEP]), first = static_cast<int64>(clock[FIRST]);
    const int64 row = step - first, size = H * W * C;
    const bool known = row >= 0 && row < rows;
    if (!known) report(fault, NO_ROW, step, rows, first);
    const Shape shape = {int(H), int(W), int(C), int(pad)};
    const float factor = static_cast<float>(input_scale);
    for (int64 i = blockIdx.x; i < N; i += gridDim.x) {
        int64 index = known ? order[row * N + i] : -1;
        const bool told = mirror == TOLD && index >= MIRRORED;
        if (told) index -= MIRRORED;
        if (index >= M) {
            report(fault, NO_IMAGE, index, M, step);
            index = -1;
        }
        if (blockIdx.y == 0 && threadIdx.x == 0) y[i] = index < 0 ? -1 : labels[index];
        real* result = x + i * size;
        if (index < 0) {
            for (int64 e = blockIdx.y * THREADS + threadIdx.x; e < size; e += gridDim.y * THREADS) {
                narrow(0.0f, result[e]);
            }
            continue;
        }
        const uint64 n = uint64(step) * uint64(N) + uint64(i);  // of the run
        Crop crop = augment ? draw(uint64(seed), n, pad, move, mirror == DRAWN)
                            : Crop{int(pad), int(pad), false};
        crop.flip |= told && augment;
        const uint8* image = images + index * size * (floats ? sizeof(float) : 1);
        if (wide(W * C, x)) {
            write_crop<VECTOR>(image, floats, mean_image, result, shift[index], scale[index],
                               factor, crop, shape);
        } else {
            write_crop<1>(image, floats, mean_image, result, shift[index], scale[index], factor,
                          crop, shape);
        }
    }
}
