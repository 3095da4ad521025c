// Max pooling over size x size windows, Caffe's ceil output size, windows clipped at the far edges.
//
//   forward    x (N,H,W,C) float32 -> y (N,Ho,Wo,C) float32, which (N,Ho,Wo,C) uint8
//              reads 4 bytes an input (overlapping windows again from the cache), writes 5
//              an output
//   backward   dy (N,Ho,Wo,C), which (N,Ho,Wo,C) -> dx (N,H,W,C)
//              reads 5 bytes an output (likewise), writes 4 an input
//
// which = r * size + s, the winner's place in the unclipped window; the first one wins a tie, and
// the first NaN wins over everything. One thread computes rows of one image, one vector lane a
// channel: at each place a run of C floats.
//
// Backward gathers: a place of dx looks at every window that covers it, in rising order, and adds
// dy where `which` names it. Each dx is written once, by one thread, in one order, so nothing is
// zeroed first and the sum never depends on the number of threads.
//
// Read next: philox.h.
#include <algorithm>

#include "common.h"
#include "parallel.h"
#include "select.h"
#include "shapes.h"

using namespace lsuv;

namespace {

struct Shape {
    std::int64_t N, H, W, C, Ho, Wo, size, stride;
};

// The usual window in one pass: its first row, its second row, then the better of both.
void forward_two_by_two(const float* __restrict__ x, float* __restrict__ y,
                        std::uint8_t* __restrict__ which, std::int64_t next_row, std::int64_t C) {
    const float *x0 = x, *x1 = x + C, *x2 = x + next_row, *x3 = x2 + C;
#pragma omp simd simdlen(16)
    for (std::int64_t c = 0; c < C; ++c) {
        const float v0 = x0[c], v1 = x1[c], v2 = x2[c], v3 = x3[c];
        const std::int32_t right = mask_of(beats(v1, v0)), lower_right = mask_of(beats(v3, v2));
        const float upper = choose(right, v1, v0), lower = choose(lower_right, v3, v2);
        const std::int32_t below = mask_of(beats(lower, upper));
        y[c] = choose(below, lower, upper);
        which[c] = static_cast<std::uint8_t>(choose(below, 2 + (lower_right & 1), right & 1));
    }
}

void forward_window(const float* __restrict__ x, float* __restrict__ y,
                    std::uint8_t* __restrict__ which, std::int64_t rows, std::int64_t cols,
                    const Shape& shape) {
    const std::int64_t C = shape.C;
    for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t s = 0; s < cols; ++s) {
            const float* place = x + (r * shape.W + s) * C;
            const auto index = static_cast<std::int32_t>(r * shape.size + s);
            if (index == 0) {
#pragma omp simd simdlen(16)
                for (std::int64_t c = 0; c < C; ++c) {
                    y[c] = place[c];
                    which[c] = 0;
                }
                continue;
            }
#pragma omp simd simdlen(16)
            for (std::int64_t c = 0; c < C; ++c) {
                const float value = place[c], old = y[c];
                const std::int32_t old_winner = which[c];
                const std::int32_t better = mask_of(beats(value, old));
                y[c] = choose(better, value, old);
                which[c] = static_cast<std::uint8_t>(choose(better, index, old_winner));
            }
        }
    }
}

void forward(const float* x, float* y, std::uint8_t* which, const Shape& shape) {
    const auto [N, H, W, C, Ho, Wo, size, stride] = shape;
#pragma omp parallel for schedule(static) if (N * H * W * C > SERIAL)
    for (std::int64_t row = 0; row < N * Ho; ++row) {
        const std::int64_t n = row / Ho, h = row % Ho * stride;
        const std::int64_t rows = std::min(size, H - h);
        for (std::int64_t wo = 0; wo < Wo; ++wo) {
            const std::int64_t w = wo * stride, cols = std::min(size, W - w);
            const float* window = x + ((n * H + h) * W + w) * C;
            const std::int64_t out = (row * Wo + wo) * C;
            if (size == 2 && rows == 2 && cols == 2) {
                forward_two_by_two(window, y + out, which + out, W * C, C);
            } else {
                forward_window(window, y + out, which + out, rows, cols, shape);
            }
        }
    }
}

void backward(const float* __restrict__ dy, const std::uint8_t* __restrict__ which,
              float* __restrict__ dx, const Shape& shape) {
    const auto [N, H, W, C, Ho, Wo, size, stride] = shape;
#pragma omp parallel for schedule(static) if (N * H * W * C > SERIAL)
    for (std::int64_t row = 0; row < N * H; ++row) {
        const std::int64_t n = row / H, h = row % H;
        const std::int64_t top = h < size ? 0 : (h - size) / stride + 1;  // the windows over row h
        const std::int64_t bottom = std::min(h / stride, Ho - 1);
        std::int64_t left = 0, right = 0;  // and over column w
        for (std::int64_t w = 0; w < W; ++w) {
            while (left * stride + size <= w) ++left;
            while (right + 1 < Wo && (right + 1) * stride <= w) ++right;
            float* __restrict__ result = dx + (row * W + w) * C;
            for (std::int64_t ho = top; ho <= bottom; ++ho) {
                for (std::int64_t wo = left; wo <= right; ++wo) {
                    const std::int64_t at = ((n * Ho + ho) * Wo + wo) * C;
                    const float* __restrict__ gradient = dy + at;
                    const std::uint8_t* __restrict__ winner = which + at;
                    const auto index = static_cast<std::int32_t>((h - ho * stride) * size +
                                                                 (w - wo * stride));
                    if (ho == top && wo == left) {
#pragma omp simd simdlen(16)
                        for (std::int64_t c = 0; c < C; ++c) {
                            result[c] = choose(mask_equal(winner[c], index), gradient[c], 0.0f);
                        }
                    } else {
#pragma omp simd simdlen(16)
                        for (std::int64_t c = 0; c < C; ++c) {
                            result[c] += choose(mask_equal(winner[c], index), gradient[c], 0.0f);
                        }
                    }
                }
            }
        }
    }
}

// The sizes of `x` (N,H,W,C) and `y` (N,Ho,Wo,C), checked. With stride <= size <= H, W every window
// has its first place inside and every place of x is in some window, so all of dx is written.
Shape pooled(const py::array& x, const py::array& y, std::int64_t size, std::int64_t stride) {
    if (size < 1 || size > 16 || stride < 1 || stride > size) {
        fail("maxpool: window " + std::to_string(size) + ", stride " + std::to_string(stride) +
             "; a window is 1 to 16 wide and its stride no wider, or places would be skipped");
    }
    dimensions(x, "maxpool: x", 4);
    const std::int64_t N = x.shape(0), H = x.shape(1), W = x.shape(2), C = x.shape(3);
    if (H < size || W < size) {
        fail("maxpool: a window of " + std::to_string(size) + " does not fit into " +
             std::to_string(H) + " x " + std::to_string(W));
    }
    const Shape shape = {N, H, W, C, ceil_div(H - size, stride) + 1, ceil_div(W - size, stride) + 1,
                         size, stride};
    shaped(y, "maxpool: y", {N, shape.Ho, shape.Wo, C});
    return shape;
}

void maxpool_forward(const py::array& x, const py::array& y, const py::array& which,
                     std::int64_t size, std::int64_t stride) {
    const Shape shape = pooled(x, y, size, stride);
    same_shape(y, "maxpool: y", which, "which");
    forward(input<float>(x, "maxpool_forward: x"), output<float>(y, "maxpool_forward: y"),
            output<std::uint8_t>(which, "maxpool_forward: which"), shape);
}

void maxpool_backward(const py::array& dy, const py::array& which, const py::array& dx,
                      std::int64_t size, std::int64_t stride) {
    const Shape shape = pooled(dx, dy, size, stride);
    same_shape(dy, "maxpool: dy", which, "which");
    backward(input<float>(dy, "maxpool_backward: dy"),
             input<std::uint8_t>(which, "maxpool_backward: which"),
             output<float>(dx, "maxpool_backward: dx"), shape);
}

}  // namespace

void bind_pool(py::module_& m) {
    m.def("maxpool_forward", &maxpool_forward);
    m.def("maxpool_backward", &maxpool_backward);
}
