// The next batch of the resident data set: cropped, mirrored and normalised in one pass.
//
//   gather   images (M,H,W,C) uint8 or float, labels (M,) int32, shift (M,), scale (M,),
//            mean_image (H+2pad,W+2pad,C), order (S,N) int32 -> x (N,H,W,C), y (N,) int32
//            reads 1 byte (float: 4) an element (and the mean image, from the cache), writes 4
//            (bf16: 2)
//
// One thread computes a run of images. A row of the crop is at most three runs: border, image,
// border; the border is 0 before the mean image is subtracted. A mirrored row is reversed where
// it lies.
//
// Read next: distort.cpp.
#include <algorithm>

#include "binding.h"
#include "clock.h"
#include "parallel.h"
#include "philox.h"

using namespace lsuv;

namespace {

// `mirror`, and what is added to an image's number in the order where that tells it to be mirrored.
constexpr std::int64_t DRAWN = 1, TOLD = 2, MIRRORED = 1 << 30;

struct Crop {
    std::int64_t top, left;
    bool flip;
};

struct Image {
    std::int64_t H, W, C, pad;
};

Crop draw(std::uint64_t seed, std::uint64_t n, std::int64_t pad, std::int64_t move, bool mirror) {
    const Words w = philox(seed, n, 0, AUGMENT << 16);
    const std::uint64_t span = static_cast<std::uint64_t>(2 * move + 1);
    const std::int64_t first = pad - move;
    return {first + static_cast<std::int64_t>(w.w0 * span >> 32),
            first + static_cast<std::int64_t>(w.w1 * span >> 32), mirror && w.w2 >> 31};
}

// One image (H,W,C) with its shift and scale -> x (H,W,C).
template <class T, class Pixel>
void crop_image(const Pixel* __restrict__ image, const float* __restrict__ mean_image,
                T* __restrict__ x, float shift, float scale, float input_scale, const Crop& crop,
                const Image& shape) {
    const auto [H, W, C, pad] = shape;
    const std::int64_t width = W + 2 * pad;
    const std::int64_t begin = std::clamp<std::int64_t>(pad - crop.left, 0, W) * C;
    const std::int64_t end = std::clamp<std::int64_t>(pad + W - crop.left, 0, W) * C;
    for (std::int64_t r = 0; r < H; ++r) {
        const std::int64_t row = crop.top + r - pad;
        const bool inside = row >= 0 && row < H;
        const float* mean = mean_image + ((crop.top + r) * width + crop.left) * C;
        // Position i of the crop is byte i + offset of the image's row.
        const std::int64_t offset = (row * W + crop.left - pad) * C;
        const std::int64_t from = inside ? begin : W * C, to = inside ? end : W * C;
        T* out = x + r * W * C;
        for (std::int64_t i = 0; i < from; ++i) {
            out[i] = rounded<T>((0.0f - mean[i]) * input_scale);
        }
#pragma omp simd
        for (std::int64_t i = from; i < to; ++i) {
            const auto value = static_cast<float>(image[offset + i]);
            out[i] = rounded<T>(((value - shift) * scale - mean[i]) * input_scale);
        }
        for (std::int64_t i = to; i < W * C; ++i) {
            out[i] = rounded<T>((0.0f - mean[i]) * input_scale);
        }
        if (crop.flip) {
            for (std::int64_t a = 0, b = W - 1; a < b; ++a, --b) {
                std::swap_ranges(out + a * C, out + (a + 1) * C, out + b * C);
            }
        }
    }
}

// The row of `order` that belongs to this step; its indices are checked.
const std::int32_t* batch_order(const py::array& order, std::int64_t M, const double* clock,
                                std::int64_t mirror) {
    dimensions(order, "gather: order", 2);
    const auto* table = input<std::int32_t>(order, "gather: order");
    const std::int64_t step = steps_of("gather", clock[STEP]);
    const std::int64_t first = steps_of("gather", clock[FIRST]);
    const std::int64_t row = step - first;
    if (row < 0 || row >= order.shape(0)) {
        fail("gather: step " + std::to_string(step) + " has no row in the order, which has " +
             std::to_string(order.shape(0)) + " from step " + std::to_string(first) +
             "; upload the next one");
    }
    const std::int64_t N = order.shape(1);
    for (std::int64_t i = 0; i < N; ++i) {
        const std::int64_t index = table[row * N + i];
        if (index - (mirror == TOLD && index >= MIRRORED) * MIRRORED >= M) {
            fail("gather: image " + std::to_string(index) + " of step " + std::to_string(step) +
                 ", but there are " + std::to_string(M));
        }
    }
    return table + row * N;
}

template <class T, class Pixel>
void gather(const py::array& images, const py::array& labels, const py::array& shift,
            const py::array& scale, const py::array& mean_image, const py::array& order,
            const py::array& x, const py::array& y, const py::array& clock, const py::object& seed,
            std::int64_t pad, std::int64_t move, std::int64_t mirror, float input_scale,
            bool augment) {
    const std::uint64_t key = seed_of(seed);
    number("gather", "input_scale", input_scale);
    dimensions(images, "gather: images", 4);
    const std::int64_t M = images.shape(0);
    const Image shape = {images.shape(1), images.shape(2), images.shape(3), pad};
    if (move < 0 || move > pad) {
        fail("gather: move " + std::to_string(move) +
             " must lie in 0 .. pad = " + std::to_string(pad));
    }
    if (mirror < 0 || mirror > TOLD) {
        fail("gather: mirror " + std::to_string(mirror) +
             "; it is 0 never, 1 at random or 2 as the order says");
    }
    shaped(labels, "gather: labels", {M});
    shaped(shift, "gather: shift", {M});
    shaped(scale, "gather: scale", {M});
    dimensions(mean_image, "gather: mean_image", 3);
    if (pad > mean_image.shape(0)) {  // so that 2 pad is a number
        fail("gather: mean_image: shape " + shape_text(mean_image) + " has no border of " +
             std::to_string(pad));
    }
    shaped(mean_image, "gather: mean_image", {shape.H + 2 * pad, shape.W + 2 * pad, shape.C});
    const auto* now = read_clock(clock);
    const auto* rows = batch_order(order, M, now, mirror);
    const std::int64_t N = order.shape(1), size = shape.H * shape.W * shape.C;
    shaped(x, "gather: x", {N, shape.H, shape.W, shape.C});
    shaped(y, "gather: y", {N});
    const auto* pixels = input<Pixel>(images, "gather: images");
    const auto* label = input<std::int32_t>(labels, "gather: labels");
    const auto* shifts = input<float>(shift, "gather: shift");
    const auto* scales = input<float>(scale, "gather: scale");
    const auto* mean = input<float>(mean_image, "gather: mean_image");
    auto* result = output<T>(x, "gather: x");
    auto* classes = output<std::int32_t>(y, "gather: y");
    apart({{x, "gather: x"}, {y, "gather: y"}}, {{images, "images"},
                                                 {labels, "labels"},
                                                 {shift, "shift"},
                                                 {scale, "scale"},
                                                 {mean_image, "mean_image"},
                                                 {order, "order"},
                                                 {clock, "clock"}});
    const auto first = static_cast<std::uint64_t>(now[STEP]) * static_cast<std::uint64_t>(N);
#pragma omp parallel for schedule(static) if (N * size > SERIAL)
    for (std::int64_t i = 0; i < N; ++i) {
        const bool told = mirror == TOLD && rows[i] >= MIRRORED;
        const std::int64_t index = rows[i] - told * MIRRORED;
        T* image = result + i * size;
        if (index < 0) {
            std::fill(image, image + size, T{});
            classes[i] = -1;
            continue;
        }
        const std::uint64_t n = first + static_cast<std::uint64_t>(i);
        Crop crop = augment ? draw(key, n, pad, move, mirror == DRAWN) : Crop{pad, pad, false};
        crop.flip |= told && augment;
        if (size) {
            crop_image(pixels + index * size, mean, image, shifts[index], scales[index],
                       input_scale, crop, shape);
        }
        classes[i] = label[index];
    }
}

}  // namespace

void bind_gather(py::module_& m) {
    using Array = const py::array&;
    using Whole = std::int64_t;
    define(
        m, "gather",
        +[](Array images, Array labels, Array shift, Array scale, Array mean_image, Array order,
            Array x, Array y, Array clock, const py::object& seed, Whole pad, Whole move,
            Whole mirror, float input_scale, bool augment) {
            by_type(x, [&](auto t) {
                const auto call = images.dtype().kind() == 'f' ? gather<decltype(t), float>
                                                               : gather<decltype(t), std::uint8_t>;
                call(images, labels, shift, scale, mean_image, order, x, y, clock, seed, pad, move,
                     mirror, input_scale, augment);
            });
        });
}
