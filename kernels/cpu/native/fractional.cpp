// Fractional max pooling: the largest of windows of at most 2 x 2 places, which begin 1 or 2 places
// apart, as each image draws it for its rows and its columns (kernels/regions.py says how).
//
//   forward    x (N,H,W,C) -> y (N,Ho,Wo,C), which (N,Ho,Wo,C) uint8
//              reads 4 bytes an input (overlapping windows again from the cache), writes 5 an
//              output (bf16: 2 and 3)
//   backward   dy, which (N,Ho,Wo,C) -> dx (N,H,W,C)
//              reads 5 bytes an output (likewise), writes 4 an input (bf16: 3 and 2)
//
// The windows are drawn before the work is shared, some hundred numbers an image. One thread
// computes rows, a vector of channels at a time. Backward gathers: a place is the r-th of at most
// one window, for r 0 and 1 along either axis, so it adds four gradients at most, in the
// reference's order.
//
// Graham, "Fractional max-pooling" (2014).
// Read next: lrn.cpp.
#include <vector>

#include "binding.h"
#include "clock.h"
#include "lanes.h"
#include "parallel.h"
#include "philox.h"
#include "shapes.h"

using namespace lsuv;

namespace {

constexpr std::int64_t LONGEST = 1 << 15;  // places of an axis: the products fit 64 bits

struct Draw {
    bool overlapping, random;
    Stream stream;
};

// Of an axis: its number, its places, its windows.
struct Axis {
    std::uint64_t number;
    std::int64_t length, count;
};

// begin(j, first, width) for each window of an axis of image n.
template <class Begin>
void each_window(const Draw& draw, const Axis& axis, std::uint64_t n, Begin begin) {
    const std::int64_t A = axis.length - 2 * draw.overlapping, B = axis.count - draw.overlapping;
    const auto word = [&](std::int64_t j) {
        const auto high = static_cast<std::uint64_t>(j / 2) << 32;
        const auto [seed, step, number] = draw.stream;
        const Words w = philox(seed, high | n, step, number);
        return j % 2 ? (axis.number ? w.w3 : w.w2) : (axis.number ? w.w1 : w.w0);
    };
    const std::uint64_t u = draw.random ? 0 : word(0);
    const auto edge = [&](std::int64_t j) {
        const auto a = static_cast<std::uint64_t>(A), whole = static_cast<std::uint64_t>(B) << 32;
        return static_cast<std::int64_t>(((static_cast<std::uint64_t>(j) << 32) + u) * a / whole -
                                         u * a / whole);
    };
    std::int64_t at = 0, twos = A - B;
    for (std::int64_t j = 0; j < axis.count; ++j) {
        std::int64_t next = at;
        if (j < B && draw.random) {
            const auto left = static_cast<std::uint64_t>(B - j);
            const bool two = static_cast<std::int64_t>(word(j) * left >> 32) < twos;
            next += 1 + two;
            twos -= two;
        } else if (j < B) {
            next = edge(j + 1);
        }
        begin(j, at, draw.overlapping ? 2 : next - at);
        at = next;
    }
}

struct Shape {
    std::int64_t N, H, W, C, Ho, Wo;
};

// The sizes of `x` (N,H,W,C) and `y` (N,Ho,Wo,C), checked.
Shape sizes_of(const std::string& op, const py::array& x, const py::array& y, bool overlapping) {
    dimensions(x, (op + ": x").c_str(), 4);
    dimensions(y, (op + ": y").c_str(), 4);
    const Shape shape = {x.shape(0), x.shape(1), x.shape(2), x.shape(3), y.shape(1), y.shape(2)};
    shaped(y, (op + ": y").c_str(), {shape.N, shape.Ho, shape.Wo, shape.C});
    const auto check = [&](std::int64_t length, std::int64_t count) {
        const std::int64_t least = ceil_div(length, 2), most = length - overlapping;
        if (least < 1 || count < least || count > most) {
            fail(op + ": " + std::to_string(length) + " places do not make " +
                 std::to_string(count) + " windows; " + std::to_string(least) + " to " +
                 std::to_string(most) + " they do");
        }
        if (length > LONGEST) {
            fail(op + ": an axis of " + std::to_string(length) + " places, and the longest has " +
                 std::to_string(LONGEST));
        }
    };
    check(shape.H, shape.Ho);
    check(shape.W, shape.Wo);
    return shape;
}

struct Window {
    std::int32_t first, width;
};

// The windows of an axis, (N, count).
std::vector<Window> windows_of(const Draw& draw, std::int64_t N, const Axis& axis) {
    std::vector<Window> windows(N * axis.count);
    for (std::int64_t n = 0; n < N; ++n) {
        each_window(draw, axis, n, [&](std::int64_t j, std::int64_t first, std::int64_t width) {
            windows[n * axis.count + j] = {static_cast<std::int32_t>(first),
                                           static_cast<std::int32_t>(width)};
        });
    }
    return windows;
}

// The window of which a place is number 0, and that of which it is number 1; -1 for none.
struct Owners {
    std::int32_t window[2] = {-1, -1};
};

// Those of an axis, (N, length).
std::vector<Owners> owners_of(const Draw& draw, std::int64_t N, const Axis& axis) {
    std::vector<Owners> owners(N * axis.length);
    for (std::int64_t n = 0; n < N; ++n) {
        each_window(draw, axis, n, [&](std::int64_t j, std::int64_t first, std::int64_t width) {
            for (std::int64_t r = 0; r < width; ++r) {
                owners[n * axis.length + first + r].window[r] = static_cast<std::int32_t>(j);
            }
        });
    }
    return owners;
}

template <class T>
void fractional_maxpool_forward(const py::array& x, const py::array& y, const py::array& which,
                                bool overlapping, bool random, const py::object& seed,
                                std::int64_t layer, const py::array& clock) {
    const std::string op = "fractional_maxpool_forward";
    const auto [N, H, W, C, Ho, Wo] = sizes_of(op, x, y, overlapping);
    same_shape(y, "fractional_maxpool_forward: y", which, "which");
    const Draw draw = {overlapping, random, stream_of(op, FRACTIONAL, seed, layer, clock)};
    const T* const values = input<T>(x, "fractional_maxpool_forward: x");
    T* const largest = output<T>(y, "fractional_maxpool_forward: y");
    auto* const winners = output<std::uint8_t>(which, "fractional_maxpool_forward: which");
    apart({{y, "fractional_maxpool_forward: y"}, {which, "fractional_maxpool_forward: which"}},
          {{x, "x"}, {clock, "clock"}});
    const auto rows = windows_of(draw, N, {0, H, Ho}), cols = windows_of(draw, N, {1, W, Wo});
    const std::int64_t count = N * Ho, height = Ho, width = Wo, places = H, line = W, channels = C;
#pragma omp parallel for schedule(static) if (count * width * channels > SERIAL / 4)
    for (std::int64_t row = 0; row < count; ++row) {
        const std::int64_t n = row / height;
        const Window down = rows[row];
        for (std::int64_t j = 0; j < width; ++j) {
            const Window across = cols[n * width + j];
            const T* from = values + ((n * places + down.first) * line + across.first) * channels;
            const std::int64_t at = (row * width + j) * channels;
            for (std::int64_t c = 0; c < channels; c += LANES) {
                const Mask lanes = first_lanes(channels - c);
                Floats best = load(from + c, lanes);
                Wholes winner = all(std::int32_t{0});
                for (std::int32_t r = 0; r < down.width; ++r) {
                    for (std::int32_t s = r ? 0 : 1; s < across.width; ++s) {
                        const Floats value = load(from + (r * line + s) * channels + c, lanes);
                        const Choice better = beats(value, best);
                        best = choose(better, value, best);
                        winner = choose(better, all(2 * r + s), winner);
                    }
                }
                store_exactly(largest + at + c, best, lanes);
                store(winners + at + c, winner, lanes);
            }
        }
    }
}

template <class T>
void fractional_maxpool_backward(const py::array& dy, const py::array& which, const py::array& dx,
                                 bool overlapping, bool random, const py::object& seed,
                                 std::int64_t layer, const py::array& clock) {
    const std::string op = "fractional_maxpool_backward";
    const auto [N, H, W, C, Ho, Wo] = sizes_of(op, dx, dy, overlapping);
    same_shape(dy, "fractional_maxpool_backward: dy", which, "which");
    const Draw draw = {overlapping, random, stream_of(op, FRACTIONAL, seed, layer, clock)};
    const T* const gradient = input<T>(dy, "fractional_maxpool_backward: dy");
    const auto* const winners = input<std::uint8_t>(which, "fractional_maxpool_backward: which");
    T* const result = output<T>(dx, "fractional_maxpool_backward: dx");
    apart({{dx, "fractional_maxpool_backward: dx"}},
          {{dy, "dy"}, {which, "which"}, {clock, "clock"}});
    const auto rows = owners_of(draw, N, {0, H, Ho}), cols = owners_of(draw, N, {1, W, Wo});
    const std::int64_t count = N * H, height = H, width = W, down = Ho, across = Wo, channels = C;
#pragma omp parallel for schedule(static) if (count * width * channels > SERIAL / 4)
    for (std::int64_t row = 0; row < count; ++row) {
        const std::int64_t n = row / height;
        for (std::int64_t w = 0; w < width; ++w) {
            for (std::int64_t c = 0; c < channels; c += LANES) {
                const Mask lanes = first_lanes(channels - c);
                Floats sum = {};
                for (std::int32_t r = 0; r < 2; ++r) {
                    const std::int64_t i = rows[row].window[r];
                    for (std::int32_t s = 0; s < 2; ++s) {
                        const std::int64_t j = cols[n * width + w].window[s];
                        if (i < 0 || j < 0) continue;
                        const std::int64_t at = ((n * down + i) * across + j) * channels + c;
                        const Choice won = equal(load(winners + at, lanes), all(2 * r + s));
                        sum += choose(won, load(gradient + at, lanes), Floats{});
                    }
                }
                store_rounded(result + (row * width + w) * channels + c, sum, lanes);
            }
        }
    }
}

}  // namespace

void bind_fractional(py::module_& m) {
    define(m, "fractional_maxpool_forward", &fractional_maxpool_forward<float>,
           &fractional_maxpool_forward<bf16>);
    define(m, "fractional_maxpool_backward", &fractional_maxpool_backward<float>,
           &fractional_maxpool_backward<bf16>);
}
