// Max pooling over size x size windows, Caffe's ceil output size, windows clipped at the far edges;
// alone, and of a maxout's pieces in the same pass.
//
//   forward    x (N,H,W,P*C) -> y (N,Ho,Wo,C), which (N,Ho,Wo,C) uint8
//              reads 4 bytes an input (overlapping windows again from the cache), writes 5
//              an output (bf16: 2 and 3)
//   backward   dy (N,Ho,Wo,C), which (N,Ho,Wo,C) -> dx (N,H,W,P*C)
//              reads 5 bytes an output (likewise), writes 4 an input (bf16: 3 and 2)
//
// P = 1 is max pooling. which = (r * size + s) * P + p: the winner's place in the unclipped window,
// and its piece; the first one wins a tie, and the first NaN wins over everything. A maxout and the
// pooling behind it, in one, neither write nor read what lies between them, twice its bytes.
//
// One thread computes rows of one image; for each output, sixteen channels go through the window in
// registers (lanes.h). Backward gathers: a place of dx looks at every window that covers it, in
// rising order, and adds dy where `which` names it, in float. Each dx is written once, by one
// thread, in one order, so nothing is zeroed first and the sum never depends on the number of
// threads.
//
// Read next: philox.h.
#include <algorithm>

#include "common.h"
#include "lanes.h"
#include "parallel.h"
#include "shapes.h"

using namespace lsuv;

namespace {

struct Shape {
    std::int64_t N, H, W, C, Ho, Wo, size, stride;  // C: of one piece
};

// PIECES: P where it is known to the compiler, else 0.
template <int PIECES, class T>
inline __attribute__((always_inline)) void window_forward(
    const T* x, T* y, std::uint8_t* which, std::int64_t rows, std::int64_t cols,
    std::int64_t pieces, const Shape& shape, std::int64_t count) {
    const std::int64_t P = PIECES ? PIECES : pieces, C = shape.C;
    Floats best = load(x, count);
    Wholes winner = {};
    for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t s = 0; s < cols; ++s) {
            const T* place = x + (r * shape.W + s) * P * C;
            const auto index = static_cast<std::int32_t>((r * shape.size + s) * P);
            for (std::int64_t p = 0; p < P; ++p) {
                const Floats value = load(place + p * C, count);
                const Wholes better = beats(value, best);
                best = better ? value : best;
                winner = better ? index + static_cast<std::int32_t>(p) + Wholes{} : winner;
            }
        }
    }
    store_exactly(y, best, count);
    store(which, winner, count);
}

template <int PIECES, class T>
void forward(const T* x, T* y, std::uint8_t* which, std::int64_t P, const Shape& shape) {
    const auto [N, H, W, C, Ho, Wo, size, stride] = shape;
#pragma omp parallel for schedule(static) if (N * H * W * P * C > SERIAL)
    for (std::int64_t row = 0; row < N * Ho; ++row) {
        const std::int64_t n = row / Ho, h = row % Ho * stride;
        const std::int64_t rows = std::min(size, H - h);
        for (std::int64_t wo = 0; wo < Wo; ++wo) {
            const std::int64_t w = wo * stride, cols = std::min(size, W - w);
            const T* window = x + ((n * H + h) * W + w) * P * C;
            T* best = y + (row * Wo + wo) * C;
            std::uint8_t* winner = which + (row * Wo + wo) * C;
            std::int64_t c = 0;
            for (; c + LANES <= C; c += LANES) {
                window_forward<PIECES>(window + c, best + c, winner + c, rows, cols, P, shape,
                                       LANES);
            }
            if (c < C) {
                window_forward<PIECES>(window + c, best + c, winner + c, rows, cols, P, shape,
                                       C - c);
            }
        }
    }
}

// The windows that cover a place, along both axes.
struct Cover {
    std::int64_t top, bottom, left, right;
};

template <class T>
inline __attribute__((always_inline)) void place_backward(
    const T* dy, const std::uint8_t* which, T* dx, std::int64_t h, std::int64_t w,
    const Cover& cover, std::int64_t P, const Shape& shape, std::int64_t count) {
    const std::int64_t C = shape.C;
    for (std::int64_t p = 0; p < P; ++p) {
        Floats sum = {};
        for (std::int64_t ho = cover.top; ho <= cover.bottom; ++ho) {
            for (std::int64_t wo = cover.left; wo <= cover.right; ++wo) {
                const std::int64_t at = (ho * shape.Wo + wo) * C;
                const std::int64_t place =
                    (h - ho * shape.stride) * shape.size + (w - wo * shape.stride);
                const auto index = static_cast<std::int32_t>(place * P + p);
                const Wholes won = load(which + at, count) == index + Wholes{};
                sum += won ? load(dy + at, count) : Floats{};
            }
        }
        store_rounded(dx + p * C, sum, count);
    }
}

template <class T>
void backward(const T* dy, const std::uint8_t* which, T* dx, std::int64_t P, const Shape& shape) {
    const auto [N, H, W, C, Ho, Wo, size, stride] = shape;
#pragma omp parallel for schedule(static) if (N * H * W * P * C > SERIAL)
    for (std::int64_t row = 0; row < N * H; ++row) {
        const std::int64_t n = row / H, h = row % H;
        const T* gradient = dy + n * Ho * Wo * C;
        const std::uint8_t* winner = which + n * Ho * Wo * C;
        Cover cover = {h < size ? 0 : (h - size) / stride + 1, std::min(h / stride, Ho - 1), 0, 0};
        for (std::int64_t w = 0; w < W; ++w) {
            while (cover.left * stride + size <= w) ++cover.left;
            while (cover.right + 1 < Wo && (cover.right + 1) * stride <= w) ++cover.right;
            T* result = dx + (row * W + w) * P * C;
            std::int64_t c = 0;
            for (; c + LANES <= C; c += LANES) {
                place_backward(gradient + c, winner + c, result + c, h, w, cover, P, shape, LANES);
            }
            if (c < C) {
                place_backward(gradient + c, winner + c, result + c, h, w, cover, P, shape, C - c);
            }
        }
    }
}

// The sizes of `x` (N,H,W,P*C) and `y` (N,Ho,Wo,C), checked. With stride <= size <= H, W every window
// has its first place inside and every place of x is in some window, so all of dx is written.
Shape pooled(const std::string& op, const py::array& x, const py::array& y, std::int64_t P,
             std::int64_t size, std::int64_t stride) {
    if (size < 1 || size > 16 || stride < 1 || stride > size) {
        fail(op + ": window " + std::to_string(size) + ", stride " + std::to_string(stride) +
             "; a window is 1 to 16 wide and its stride no wider, or places would be skipped");
    }
    if (P < 1 || P * size * size > 256) {
        fail(op + ": " + std::to_string(P) + " pieces of a window of " + std::to_string(size) +
             " x " + std::to_string(size) + "; a byte must hold the winner's number");
    }
    dimensions(x, (op + ": x").c_str(), 4);
    const std::int64_t N = x.shape(0), H = x.shape(1), W = x.shape(2), channels = x.shape(3);
    if (H < size || W < size) {
        fail(op + ": a window of " + std::to_string(size) + " does not fit into " +
             std::to_string(H) + " x " + std::to_string(W));
    }
    if (channels % P) {
        fail(op + ": " + std::to_string(channels) + " channels do not split into " +
             std::to_string(P) + " pieces");
    }
    const Shape shape = {N, H, W, channels / P, ceil_div(H - size, stride) + 1,
                         ceil_div(W - size, stride) + 1, size, stride};
    shaped(y, (op + ": y").c_str(), {N, shape.Ho, shape.Wo, shape.C});
    return shape;
}

template <class T>
void pool_forward(const std::string& op, const py::array& x, const py::array& y,
                  const py::array& which, std::int64_t P, std::int64_t size, std::int64_t stride) {
    const Shape shape = pooled(op, x, y, P, size, stride);
    same_shape(y, "y", which, "which");
    const auto* values = input<T>(x, (op + ": x").c_str());
    auto* largest = output<T>(y, (op + ": y").c_str());
    auto* winner = output<std::uint8_t>(which, (op + ": which").c_str());
    if (P == 1) forward<1>(values, largest, winner, P, shape);
    if (P == 2) forward<2>(values, largest, winner, P, shape);
    if (P > 2) forward<0>(values, largest, winner, P, shape);
}

template <class T>
void pool_backward(const std::string& op, const py::array& dy, const py::array& which,
                   const py::array& dx, std::int64_t P, std::int64_t size, std::int64_t stride) {
    const Shape shape = pooled(op, dx, dy, P, size, stride);
    same_shape(dy, "dy", which, "which");
    const auto* gradient = input<T>(dy, (op + ": dy").c_str());
    const auto* winner = input<std::uint8_t>(which, (op + ": which").c_str());
    auto* result = output<T>(dx, (op + ": dx").c_str());
    backward(gradient, winner, result, P, shape);
}

template <class T>
void maxpool_forward(const py::array& x, const py::array& y, const py::array& which,
                     std::int64_t size, std::int64_t stride) {
    pool_forward<T>("maxpool_forward", x, y, which, 1, size, stride);
}

template <class T>
void maxpool_backward(const py::array& dy, const py::array& which, const py::array& dx,
                      std::int64_t size, std::int64_t stride) {
    pool_backward<T>("maxpool_backward", dy, which, dx, 1, size, stride);
}

template <class T>
void maxout_pool_forward(const py::array& x, const py::array& y, const py::array& which,
                         std::int64_t pieces, std::int64_t size, std::int64_t stride) {
    pool_forward<T>("maxout_pool_forward", x, y, which, pieces, size, stride);
}

template <class T>
void maxout_pool_backward(const py::array& dy, const py::array& which, const py::array& dx,
                          std::int64_t pieces, std::int64_t size, std::int64_t stride) {
    pool_backward<T>("maxout_pool_backward", dy, which, dx, pieces, size, stride);
}

}  // namespace

void bind_pool(py::module_& m) {
    define(m, "maxpool_forward", &maxpool_forward<float>, &maxpool_forward<bf16>);
    define(m, "maxpool_backward", &maxpool_backward<float>, &maxpool_backward<bf16>);
    define(m, "maxout_pool_forward", &maxout_pool_forward<float>, &maxout_pool_forward<bf16>);
    define(m, "maxout_pool_backward", &maxout_pool_backward<float>, &maxout_pool_backward<bf16>);
}
