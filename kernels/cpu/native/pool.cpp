// Max pooling over size x size windows, Caffe's ceil output size, windows clipped to the image;
// alone, with padding, and of a maxout's pieces in the same pass, with or without the dropout that
// follows; and over the whole image, whose winners' numbers are int32.
//
//   forward    x (N,H,W,P*C) -> y (N,Ho,Wo,C), which (N,Ho,Wo,C) uint8
//              reads 4 bytes an input (overlapping windows again from the cache), writes 5
//              an output (bf16: 2 and 3)
//   backward   dy (N,Ho,Wo,C), which (N,Ho,Wo,C) -> dx (N,H,W,P*C)
//              reads 5 bytes an output (likewise), writes 4 an input (bf16: 3 and 2)
//
// P = 1 is max pooling. which = (r * size + s) * P + p: the winner's place in the unclipped window,
// and its piece; the first one wins a tie, and the first NaN wins over everything. Padding is never
// read: it only moves windows. A maxout and the pooling behind it, in one, neither write nor read
// what lies between them, twice its bytes. With dropout which = 255 where the element was dropped:
// that is no winner's number, so that backward needs no random words, and its gradient is lost.
//
// One thread computes rows of one image; for each output, a vector of channels goes through the
// window in registers (lanes.h), and so through dropout (dropout.h). Backward gathers: a place of
// dx looks at every window that covers it, in rising order, and adds dy, after a dropout dy / (1 -
// drop), where `which` names it, in float. Each dx is written once, by one thread, in one order, so
// nothing is zeroed first and the sum never depends on the number of threads. The windows of the
// paper's nets are compiled for themselves.
//
// Read next: windows.h.
#include <algorithm>
#include <type_traits>

#include "binding.h"
#include "dropout.h"
#include "lanes.h"
#include "parallel.h"
#include "shapes.h"
#include "windows.h"

using namespace lsuv;

namespace {

constexpr std::int32_t DROPPED = 255;  // in `which`

// One window, a vector of channels. Each row of it is searched for itself, so that the processor
// finds independent work, and the rows' winners then meet in order. PIECES, SIZE: where they are
// known to the compiler, else 0, and the window is one row after the other. skipped: how many of
// the window's numbers come before its first place inside the image. words: of dropout, or null.
template <int PIECES, int SIZE, class T, class Which>
inline __attribute__((always_inline)) void
window_forward(const T* x, T* y, Which* which, std::int64_t rows, std::int64_t cols,
               std::int64_t skipped, std::int64_t pieces, const Pooling& shape, Mask lanes,
               const Dropout* dropout, const std::uint32_t* words) {
    const std::int64_t P = PIECES ? PIECES : pieces, C = shape.C;
    constexpr int CHAINS = SIZE ? SIZE : 1;
    Floats best[CHAINS];
    Wholes winner[CHAINS];
    for (int chain = 0; chain < CHAINS; ++chain) {
        best[chain] = load(x + chain * shape.W * P * C, lanes);
        winner[chain] = all(static_cast<std::int32_t>(skipped + chain * shape.size * P));
    }
    for (std::int64_t first = 0; first < rows; first += CHAINS) {
        for (std::int64_t s = 0; s < cols; ++s) {
            for (std::int64_t p = 0; p < P; ++p) {
#pragma GCC unroll 8
                for (int chain = 0; chain < CHAINS; ++chain) {
                    const std::int64_t r = first + chain;
                    const Floats value = load(x + ((r * shape.W + s) * P + p) * C, lanes);
                    const Choice better = beats(value, best[chain]);
                    const auto index =
                        static_cast<std::int32_t>(skipped + (r * shape.size + s) * P + p);
                    best[chain] = choose(better, value, best[chain]);
                    winner[chain] = choose(better, all(index), winner[chain]);
                }
            }
        }
    }
#pragma GCC unroll 8
    for (int chain = 1; chain < CHAINS; ++chain) {
        const Choice better = beats(best[chain], best[0]);
        best[0] = choose(better, best[chain], best[0]);
        winner[0] = choose(better, winner[chain], winner[0]);
    }
    if (words) {
        const Choice dropped = below(load(words, lanes), dropout->threshold);
        store_rounded(y, choose(dropped, Floats{}, best[0] * dropout->scale), lanes);
        winner[0] = choose(dropped, all(DROPPED), winner[0]);
    } else {
        store_exactly(y, best[0], lanes);
    }
    store(which, winner[0], lanes);
}

// Asks for `rows` runs of `count` elements: of the next row of windows, what this one has not read.
// Always inlined: GCC takes a function that only prefetches for one without effect, and drops its
// calls.
template <class T>
inline __attribute__((always_inline)) void ahead(const T* from, std::int64_t count,
                                                 std::int64_t row, std::int64_t rows) {
    for (std::int64_t r = 0; r < rows; ++r) {
        const char* run = reinterpret_cast<const char*>(from + r * row);
        const char* end = reinterpret_cast<const char*>(from + r * row + count);
        for (; run < end; run += 64) __builtin_prefetch(run);
    }
}

// One row of windows. dropout: of its maxima, or null; its words are those of the calling thread.
template <int PIECES, int SIZE, class T>
inline __attribute__((always_inline)) void
row_forward(const T* x, T* y, std::uint8_t* which, std::int64_t row, std::int64_t P,
            const Pooling& shape, const Dropout* dropout, DropWords& words) {
    const std::int64_t H = shape.H, W = shape.W, C = shape.C, Ho = shape.Ho, Wo = shape.Wo,
                       size = shape.size, stride = shape.stride, pad = shape.pad;
    const std::int64_t n = row / Ho, top = row % Ho * stride - pad;
    const std::int64_t h = std::max<std::int64_t>(top, 0), rows = std::min(top + size, H) - h;
    for (std::int64_t wo = 0; wo < Wo; ++wo) {
        const std::int64_t left = wo * stride - pad, w = std::max<std::int64_t>(left, 0);
        const std::int64_t cols = std::min(left + size, W) - w;
        const std::int64_t skipped = ((h - top) * size + w - left) * P;
        const std::int64_t at = (row * Wo + wo) * C;
        const T* window = x + ((n * H + h) * W + w) * P * C;
        ahead(window + size * W * P * C, stride * P * C, W * P * C, stride);
        for (std::int64_t c = 0; c < C; c += LANES) {
            const Mask lanes = first_lanes(C - c);
            const std::uint32_t* drawn =
                dropout ? words.at(at + c, std::min(C - c, LANES)) : nullptr;
            if (SIZE && rows == SIZE && cols == SIZE) {
                window_forward<PIECES, SIZE>(window + c, y + at + c, which + at + c, SIZE, SIZE, 0,
                                             P, shape, lanes, dropout, drawn);
            } else {  // clipped, or of another size
                window_forward<PIECES, 0>(window + c, y + at + c, which + at + c, rows, cols,
                                          skipped, P, shape, lanes, dropout, drawn);
            }
        }
    }
}

template <int PIECES, int SIZE, class T>
void forward(const T* x, T* y, std::uint8_t* which, std::int64_t P, const Pooling& shape,
             const Dropout* dropout) {
    const std::int64_t rows = shape.N * shape.Ho;
#pragma omp parallel if (shape.N * shape.H * shape.W * P * shape.C > SERIAL)
    {
        DropWords words(dropout);
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < rows; ++row) {
            row_forward<PIECES, SIZE>(x, y, which, row, P, shape, dropout, words);
        }
    }
}

// Backward goes by runs of `stride` places of a row, which the same windows cover: those that begin
// at the run's own place or before it. Their gradients and winners are read once a run, and rows
// are written from end to end, as the processor expects it. Padding makes an image's first run
// shorter, and its last.
struct Run {
    std::int64_t h, w, places;              // first place, counted with the padding; how many
    std::int64_t top, bottom, left, right;  // the windows
};

// Windows over a run, each way; 16 is the most of any.
constexpr std::int64_t most(std::int64_t size, std::int64_t stride) {
    return size ? (size + stride - 1) / stride : 16;
}

// PIECES, SIZE, STRIDE: where they are known to the compiler, else 0. WHOLE: so are the numbers of
// windows and places, as everywhere but at an image's edges.
template <int PIECES, int SIZE, int STRIDE, bool WHOLE, class T, class Which>
inline __attribute__((always_inline)) void
run_backward(const T* dy, const Which* which, T* dx, float scale, const Run& run,
             std::int64_t pieces, const Pooling& shape, Mask lanes) {
    const std::int64_t P = PIECES ? PIECES : pieces, C = shape.C;
    const std::int64_t size = SIZE ? SIZE : shape.size, stride = STRIDE ? STRIDE : shape.stride;
    constexpr std::int64_t MOST = most(SIZE, STRIDE);
    Floats gradient[MOST][MOST];
    Wholes winner[MOST][MOST];
    const std::int64_t down = WHOLE ? MOST : run.bottom - run.top + 1;
    const std::int64_t across = WHOLE ? MOST : run.right - run.left + 1;
    for (std::int64_t a = 0; a < down; ++a) {
        for (std::int64_t b = 0; b < across; ++b) {
            const std::int64_t at = ((run.top + a) * shape.Wo + run.left + b) * C;
            gradient[a][b] = load(dy + at, lanes) * scale;
            winner[a][b] = load(which + at, lanes);
        }
    }
    const std::int64_t places = WHOLE ? stride : run.places;
    for (std::int64_t j = 0; j < places; ++j) {
        for (std::int64_t p = 0; p < P; ++p) {
            Floats sum = {};
            for (std::int64_t a = 0; a < down; ++a) {
                const std::int64_t r = run.h - (run.top + a) * stride;
                for (std::int64_t b = 0; b < across; ++b) {
                    const std::int64_t s = run.w + j - (run.left + b) * stride;
                    if (r >= size || s >= size) continue;  // the window ends before it
                    const auto index = static_cast<std::int32_t>((r * size + s) * P + p);
                    sum += choose(equal(winner[a][b], all(index)), gradient[a][b], Floats{});
                }
            }
            store_rounded(dx + (j * P + p) * C, sum, lanes);
        }
    }
}

// scale: of every gradient; 1 changes none.
template <int PIECES, int SIZE, int STRIDE, class T, class Which>
void backward(const T* dy, const Which* which, T* dx, float scale, std::int64_t P,
              const Pooling& shape) {
    const std::int64_t N = shape.N, H = shape.H, W = shape.W, C = shape.C, Ho = shape.Ho,
                       Wo = shape.Wo, size = shape.size, stride = shape.stride, pad = shape.pad;
    const std::int64_t reach = (size + stride - 1) / stride - 1;  // earlier windows over a run
#pragma omp parallel for schedule(static) if (N * H * W * P * C > SERIAL)
    for (std::int64_t row = 0; row < N * H; ++row) {
        const std::int64_t n = row / H, h = row % H + pad, a = h / stride;
        const T* gradient = dy + n * Ho * Wo * C;
        const Which* winner = which + n * Ho * Wo * C;
        for (std::int64_t b = pad / stride, w = pad; w < W + pad; w = ++b * stride) {
            const Run run = {h,
                             w,
                             std::min((b + 1) * stride, W + pad) - w,
                             std::max<std::int64_t>(a - reach, 0),
                             std::min(a, Ho - 1),
                             std::max<std::int64_t>(b - reach, 0),
                             std::min(b, Wo - 1)};
            T* result = dx + (row * W + w - pad) * P * C;
            constexpr std::int64_t MOST = most(SIZE, STRIDE);
            const bool whole = SIZE && run.bottom - run.top + 1 == MOST &&
                               run.right - run.left + 1 == MOST && run.places == stride;
            for (std::int64_t c = 0; c < C; c += LANES) {
                const Mask lanes = first_lanes(C - c);
                if (whole) {
                    run_backward<PIECES, SIZE, STRIDE, SIZE != 0>(
                        gradient + c, winner + c, result + c, scale, run, P, shape, lanes);
                } else {
                    run_backward<PIECES, SIZE, STRIDE, false>(gradient + c, winner + c, result + c,
                                                              scale, run, P, shape, lanes);
                }
            }
        }
    }
}

// The sizes of `x` (N,H,W,P*C) and `y` (N,Ho,Wo,C), checked. In backward `which` is only compared,
// so that a wrong one can lose a gradient and reach nothing.
// marks: the values of `which` that are no winner's number.
Pooling searched(const std::string& op, const py::array& x, const py::array& y, std::int64_t P,
                 std::int64_t size, std::int64_t stride, std::int64_t pad, std::int64_t marks) {
    if (size < 1 || size > 16 || stride < 1 || stride > size) {
        fail(op + ": window " + std::to_string(size) + ", stride " + std::to_string(stride) +
             "; a window is 1 to 16 wide and its stride no wider, or places would be skipped");
    }
    if (pad < 0 || pad >= size) {
        fail(op + ": pad " + std::to_string(pad) + " is not in 0 .. " + std::to_string(size - 1) +
             "; a window of " + std::to_string(size) + " could lie in the padding alone");
    }
    if (P < 1 || P > (256 - marks) / (size * size)) {
        fail(op + ": " + std::to_string(P) + " pieces of a window of " + std::to_string(size) +
             " x " + std::to_string(size) + "; a byte must hold the winner's number" +
             (marks ? ", and 255 marks what is dropped" : ""));
    }
    return pooled(op, x, y, P, size, stride, pad);
}

template <int VALUE>
using Constant = std::integral_constant<int, VALUE>;

// work(pieces, size, stride), as constants for the windows of the paper's nets, else zeros.
template <class Work>
void compiled(std::int64_t P, std::int64_t size, std::int64_t stride, Work work) {
    const auto is = [=](std::int64_t p, std::int64_t width, std::int64_t step) {
        return P == p && size == width && stride == step;
    };
    if (is(2, 2, 2)) return work(Constant<2>(), Constant<2>(), Constant<2>());
    if (is(2, 4, 2)) return work(Constant<2>(), Constant<4>(), Constant<2>());
    if (is(2, 8, 8)) return work(Constant<2>(), Constant<8>(), Constant<8>());
    if (is(1, 2, 2)) return work(Constant<1>(), Constant<2>(), Constant<2>());
    if (is(1, 3, 1)) return work(Constant<1>(), Constant<3>(), Constant<1>());
    if (is(1, 3, 2)) return work(Constant<1>(), Constant<3>(), Constant<2>());
    if (is(1, 4, 2)) return work(Constant<1>(), Constant<4>(), Constant<2>());
    if (is(1, 8, 8)) return work(Constant<1>(), Constant<8>(), Constant<8>());
    return work(Constant<0>(), Constant<0>(), Constant<0>());
}

template <class T>
void pool_forward(const std::string& op, const py::array& x, const py::array& y,
                  const py::array& which, std::int64_t P, std::int64_t size, std::int64_t stride,
                  std::int64_t pad, const Dropout* dropout = nullptr,
                  const py::array* clock = nullptr) {
    const Pooling shape = searched(op, x, y, P, size, stride, pad, dropout ? 1 : 0);
    same_shape(y, "y", which, "which");
    const auto* values = input<T>(x, (op + ": x").c_str());
    auto* largest = output<T>(y, (op + ": y").c_str());
    auto* winner = output<std::uint8_t>(which, (op + ": which").c_str());
    const auto separate = [&](const Argument& operand) {
        apart({{y, (op + ": y").c_str()}, {which, (op + ": which").c_str()}}, {operand});
    };
    separate({x, "x"});
    if (clock) separate({*clock, "clock"});
    if (x.size() == 0) return;
    compiled(P, size, stride, [&](auto pieces, auto width, auto) {
        forward<pieces(), width()>(values, largest, winner, P, shape, dropout);
    });
}

template <class T>
void pool_backward(const std::string& op, const py::array& dy, const py::array& which,
                   const py::array& dx, std::int64_t P, std::int64_t size, std::int64_t stride,
                   std::int64_t pad, float scale = 1, bool dropped = false) {
    const Pooling shape = searched(op, dx, dy, P, size, stride, pad, dropped);
    same_shape(dy, "dy", which, "which");
    const auto* gradient = input<T>(dy, (op + ": dy").c_str());
    const auto* winner = input<std::uint8_t>(which, (op + ": which").c_str());
    auto* result = output<T>(dx, (op + ": dx").c_str());
    apart({{dx, (op + ": dx").c_str()}}, {{dy, "dy"}, {which, "which"}});
    if (dx.size() == 0) return;
    compiled(P, size, stride, [&](auto pieces, auto width, auto step) {
        backward<pieces(), width(), step()>(gradient, winner, result, scale, P, shape);
    });
}

template <class T>
void maxpool_forward(const py::array& x, const py::array& y, const py::array& which,
                     std::int64_t size, std::int64_t stride, std::int64_t pad) {
    pool_forward<T>("maxpool_forward", x, y, which, 1, size, stride, pad);
}

template <class T>
void maxpool_backward(const py::array& dy, const py::array& which, const py::array& dx,
                      std::int64_t size, std::int64_t stride, std::int64_t pad) {
    pool_backward<T>("maxpool_backward", dy, which, dx, 1, size, stride, pad);
}

template <class T>
void maxout_pool_forward(const py::array& x, const py::array& y, const py::array& which,
                         std::int64_t pieces, std::int64_t size, std::int64_t stride) {
    pool_forward<T>("maxout_pool_forward", x, y, which, pieces, size, stride, 0);
}

template <class T>
void maxout_pool_backward(const py::array& dy, const py::array& which, const py::array& dx,
                          std::int64_t pieces, std::int64_t size, std::int64_t stride) {
    pool_backward<T>("maxout_pool_backward", dy, which, dx, pieces, size, stride, 0);
}

template <class T>
void maxout_pool_dropout_forward(const py::array& x, const py::array& y, const py::array& which,
                                 std::int64_t pieces, std::int64_t size, std::int64_t stride,
                                 double drop, const py::object& seed, std::int64_t layer,
                                 const py::array& clock) {
    const std::string op = "maxout_pool_dropout_forward";
    const Dropout dropout = dropout_of(op, drop, seed, layer, clock);
    pool_forward<T>(op, x, y, which, pieces, size, stride, 0, &dropout, &clock);
}

template <class T>
void maxout_pool_dropout_backward(const py::array& dy, const py::array& which, const py::array& dx,
                                  std::int64_t pieces, std::int64_t size, std::int64_t stride,
                                  double drop) {
    const std::string op = "maxout_pool_dropout_backward";
    pool_backward<T>(op, dy, which, dx, pieces, size, stride, 0, kept_scale(op, drop), true);
}

template <class T>
void global_maxpool_forward(const py::array& x, const py::array& y, const py::array& which) {
    const Pooling shape = whole_image("global_maxpool_forward", x, y);
    same_shape(y, "y", which, "which");
    const auto* values = input<T>(x, "global_maxpool_forward: x");
    auto* largest = output<T>(y, "global_maxpool_forward: y");
    auto* winner = output<std::int32_t>(which, "global_maxpool_forward: which");
    apart({{y, "global_maxpool_forward: y"}, {which, "global_maxpool_forward: which"}}, {{x, "x"}});
    const std::int64_t places = shape.W, C = shape.C;
#pragma omp parallel for schedule(static) if (x.size() > SERIAL)
    for (std::int64_t n = 0; n < shape.N; ++n) {
        for (std::int64_t c = 0; c < C; c += LANES) {
            const std::int64_t at = n * C + c;
            window_forward<1, 0>(values + n * places * C + c, largest + at, winner + at, 1, places,
                                 0, 1, shape, first_lanes(C - c), nullptr, nullptr);
        }
    }
}

template <class T>
void global_maxpool_backward(const py::array& dy, const py::array& which, const py::array& dx) {
    const Pooling shape = whole_image("global_maxpool_backward", dx, dy);
    same_shape(dy, "dy", which, "which");
    const auto* gradient = input<T>(dy, "global_maxpool_backward: dy");
    const auto* winner = input<std::int32_t>(which, "global_maxpool_backward: which");
    auto* result = output<T>(dx, "global_maxpool_backward: dx");
    apart({{dx, "global_maxpool_backward: dx"}}, {{dy, "dy"}, {which, "which"}});
    backward<1, 0, 0>(gradient, winner, result, 1, 1, shape);
}

}  // namespace

void bind_pool(py::module_& m) {
    define(m, "maxpool_forward", &maxpool_forward<float>, &maxpool_forward<bf16>);
    define(m, "maxpool_backward", &maxpool_backward<float>, &maxpool_backward<bf16>);
    define(m, "global_maxpool_forward", &global_maxpool_forward<float>,
           &global_maxpool_forward<bf16>);
    define(m, "global_maxpool_backward", &global_maxpool_backward<float>,
           &global_maxpool_backward<bf16>);
    define(m, "maxout_pool_forward", &maxout_pool_forward<float>, &maxout_pool_forward<bf16>);
    define(m, "maxout_pool_backward", &maxout_pool_backward<float>, &maxout_pool_backward<bf16>);
    define(m, "maxout_pool_dropout_forward", &maxout_pool_dropout_forward<float>,
           &maxout_pool_dropout_forward<bf16>);
    define(m, "maxout_pool_dropout_backward", &maxout_pool_dropout_backward<float>,
           &maxout_pool_dropout_backward<bf16>);
}
