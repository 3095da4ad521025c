// Average pooling over size x size windows, Caffe's ceil output size; a window at the far edges is
// the mean of its places inside the image. Globally, it is one window.
//
//   forward    x (N,H,W,C) -> y (N,Ho,Wo,C)      reads 4 bytes an input, writes 4 an output
//   backward   dy (N,Ho,Wo,C) -> dx (N,H,W,C)    reads 4 bytes an output, writes 4 an input
//              (bf16: half of all; overlapping windows are read again from the cache)
//
// One thread computes rows of one image, a vector of channels at a time in registers, in float.
// Backward gathers, as max pooling's does: a place of dx adds up its shares of the windows that it
// is in, in rising order, so each dx is written once and no sum depends on the number of threads.
//
// Read next: fractional.cpp.
#include <algorithm>

#include "binding.h"
#include "lanes.h"
#include "parallel.h"
#include "windows.h"

using namespace lsuv;

namespace {

// The sizes of `x` (N,H,W,C) and `y` (N,Ho,Wo,C), checked.
Pooling averaged(const std::string& op, const py::array& x, const py::array& y, std::int64_t size,
                 std::int64_t stride) {
    if (stride < 1 || stride > size) {
        fail(op + ": window " + std::to_string(size) + ", stride " + std::to_string(stride) +
             "; a stride is 1 or more and no wider than its window, or places would be skipped");
    }
    return pooled(op, x, y, 1, size, stride, 0);
}

template <class T>
void forward(const T* x, T* y, const Pooling& shape) {
    const std::int64_t N = shape.N, H = shape.H, W = shape.W, C = shape.C, Ho = shape.Ho,
                       Wo = shape.Wo, size = shape.size, stride = shape.stride;
#pragma omp parallel for schedule(static) if (N * H * W * C > SERIAL)
    for (std::int64_t row = 0; row < N * Ho; ++row) {
        const std::int64_t n = row / Ho, h = row % Ho * stride, rows = std::min(size, H - h);
        for (std::int64_t wo = 0; wo < Wo; ++wo) {
            const std::int64_t w = wo * stride, cols = std::min(size, W - w);
            const T* window = x + ((n * H + h) * W + w) * C;
            const Floats count = all(static_cast<float>(rows * cols));
            for (std::int64_t c = 0; c < C; c += LANES) {
                const Mask lanes = first_lanes(C - c);
                Floats sum = {};
                for (std::int64_t r = 0; r < rows; ++r) {
                    for (std::int64_t s = 0; s < cols; ++s) {
                        sum += load(window + (r * W + s) * C + c, lanes);
                    }
                }
                store_rounded(y + (row * Wo + wo) * C + c, sum / count, lanes);
            }
        }
    }
}

// The first window along an axis that has place `at`.
inline std::int64_t earliest(std::int64_t at, std::int64_t size, std::int64_t stride) {
    return at < size ? 0 : (at - size) / stride + 1;
}

template <class T>
void backward(const T* dy, T* dx, const Pooling& shape) {
    const std::int64_t N = shape.N, H = shape.H, W = shape.W, C = shape.C, Ho = shape.Ho,
                       Wo = shape.Wo, size = shape.size, stride = shape.stride;
#pragma omp parallel for schedule(static) if (N * H * W * C > SERIAL)
    for (std::int64_t row = 0; row < N * H; ++row) {
        const std::int64_t n = row / H, h = row % H;
        const std::int64_t top = earliest(h, size, stride), bottom = std::min(h / stride, Ho - 1);
        for (std::int64_t w = 0; w < W; ++w) {
            const std::int64_t left = earliest(w, size, stride);
            const std::int64_t right = std::min(w / stride, Wo - 1);
            for (std::int64_t c = 0; c < C; c += LANES) {
                const Mask lanes = first_lanes(C - c);
                Floats sum = {};
                for (std::int64_t a = top; a <= bottom; ++a) {
                    const std::int64_t rows = std::min(size, H - a * stride);
                    for (std::int64_t b = left; b <= right; ++b) {
                        const std::int64_t cols = std::min(size, W - b * stride);
                        const Floats share = load(dy + ((n * Ho + a) * Wo + b) * C + c, lanes);
                        sum += share / all(static_cast<float>(rows * cols));
                    }
                }
                store_rounded(dx + (row * W + w) * C + c, sum, lanes);
            }
        }
    }
}

template <class T>
void forward(const std::string& op, const py::array& x, const py::array& y, const Pooling& shape) {
    const auto* values = input<T>(x, (op + ": x").c_str());
    auto* means = output<T>(y, (op + ": y").c_str());
    apart({{y, (op + ": y").c_str()}}, {{x, "x"}});
    if (x.size()) forward(values, means, shape);
}

template <class T>
void backward(const std::string& op, const py::array& dy, const py::array& dx,
              const Pooling& shape) {
    const auto* gradient = input<T>(dy, (op + ": dy").c_str());
    auto* result = output<T>(dx, (op + ": dx").c_str());
    apart({{dx, (op + ": dx").c_str()}}, {{dy, "dy"}});
    if (dx.size()) backward(gradient, result, shape);
}

template <class T>
void avgpool_forward(const py::array& x, const py::array& y, std::int64_t size,
                     std::int64_t stride) {
    const std::string op = "avgpool_forward";
    forward<T>(op, x, y, averaged(op, x, y, size, stride));
}

template <class T>
void avgpool_backward(const py::array& dy, const py::array& dx, std::int64_t size,
                      std::int64_t stride) {
    const std::string op = "avgpool_backward";
    backward<T>(op, dy, dx, averaged(op, dx, dy, size, stride));
}

template <class T>
void global_avgpool_forward(const py::array& x, const py::array& y) {
    const std::string op = "global_avgpool_forward";
    forward<T>(op, x, y, whole_image(op, x, y));
}

template <class T>
void global_avgpool_backward(const py::array& dy, const py::array& dx) {
    const std::string op = "global_avgpool_backward";
    backward<T>(op, dy, dx, whole_image(op, dx, dy));
}

}  // namespace

void bind_avgpool(py::module_& m) {
    define(m, "avgpool_forward", &avgpool_forward<float>, &avgpool_forward<bf16>);
    define(m, "avgpool_backward", &avgpool_backward<float>, &avgpool_backward<bf16>);
    define(m, "global_avgpool_forward", &global_avgpool_forward<float>,
           &global_avgpool_forward<bf16>);
    define(m, "global_avgpool_backward", &global_avgpool_backward<float>,
           &global_avgpool_backward<bf16>);
}
