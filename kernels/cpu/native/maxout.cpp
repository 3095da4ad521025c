// Maxout (Goodfellow et al. 2013): the largest of P pieces, and which one it was.
//
//   forward    x (rows, P*C) -> y (rows, C), which (rows, C) uint8
//              reads 4P, writes 5 bytes an output (bf16: 2P and 3)
//   backward   dy (rows, C), which (rows, C) -> dx (rows, P*C)
//              reads 5, writes 4P bytes an output (bf16: 3 and 2P)
//
// Pieces lie side by side, so a row is P contiguous runs of C. One thread computes a run of rows,
// one vector lane an output. Two pieces, the paper's case, are a single pass; more are folded one
// by one into y, which is then still in the first-level cache. The lowest piece wins a tie, and the
// first NaN wins over everything.
//
// Read next: activation.cpp.
#include "common.h"
#include "parallel.h"
#include "select.h"
#include "shapes.h"

using namespace lsuv;

namespace {

template <class T>
void forward_two(const T* __restrict__ x, T* __restrict__ y,
                 std::uint8_t* __restrict__ which, std::int64_t rows, std::int64_t C) {
#pragma omp parallel for schedule(static) if (rows * C > SERIAL)
    for (std::int64_t row = 0; row < rows; ++row) {
        const T* a = x + row * 2 * C;
        const T* b = a + C;
        T* best = y + row * C;
        std::uint8_t* winner = which + row * C;
#pragma omp simd simdlen(16)
        for (std::int64_t c = 0; c < C; ++c) {
            const float first = a[c], second = b[c];
            const std::int32_t better = mask_of(beats(second, first));
            best[c] = exactly<T>(choose(better, second, first));
            winner[c] = static_cast<std::uint8_t>(better & 1);
        }
    }
}

template <class T>
void forward_many(const T* __restrict__ x, T* __restrict__ y,
                  std::uint8_t* __restrict__ which, std::int64_t rows, std::int64_t C,
                  std::int64_t P) {
#pragma omp parallel for schedule(static) if (rows * C > SERIAL)
    for (std::int64_t row = 0; row < rows; ++row) {
        const T* piece = x + row * P * C;
        T* best = y + row * C;
        std::uint8_t* winner = which + row * C;
#pragma omp simd simdlen(16)
        for (std::int64_t c = 0; c < C; ++c) {
            best[c] = piece[c];
            winner[c] = 0;
        }
        for (std::int64_t p = 1; p < P; ++p) {
            piece += C;
            const auto index = static_cast<std::int32_t>(p);
#pragma omp simd simdlen(16)
            for (std::int64_t c = 0; c < C; ++c) {
                const float value = piece[c], old = best[c];
                const std::int32_t old_winner = winner[c];
                const std::int32_t better = mask_of(beats(value, old));
                best[c] = exactly<T>(choose(better, value, old));
                winner[c] = static_cast<std::uint8_t>(choose(better, index, old_winner));
            }
        }
    }
}

template <class T>
void backward(const T* __restrict__ dy, const std::uint8_t* __restrict__ which,
              T* __restrict__ dx, std::int64_t rows, std::int64_t C, std::int64_t P) {
#pragma omp parallel for schedule(static) if (rows * C > SERIAL)
    for (std::int64_t row = 0; row < rows; ++row) {
        const T* gradient = dy + row * C;
        const std::uint8_t* winner = which + row * C;
        for (std::int64_t p = 0; p < P; ++p) {
            T* piece = dx + (row * P + p) * C;
            const auto index = static_cast<std::int32_t>(p);
#pragma omp simd simdlen(16)
            for (std::int64_t c = 0; c < C; ++c) {
                piece[c] = exactly<T>(choose(mask_equal(winner[c], index), gradient[c], 0.0f));
            }
        }
    }
}

// Checks the channels of `wide` (..., P*C) against `narrow` (..., C); returns C.
std::int64_t split(const py::array& wide, const py::array& narrow, std::int64_t P) {
    if (P < 1 || P > 256) {
        fail("maxout: " + std::to_string(P) + " pieces; from 1 to 256 are possible");
    }
    if (wide.ndim() < 1) fail("maxout: x () has no channels");
    const std::int64_t channels = wide.shape(wide.ndim() - 1);
    if (channels % P) {
        fail("maxout: " + std::to_string(channels) + " channels do not split into " +
             std::to_string(P) + " pieces");
    }
    bool same = wide.ndim() == narrow.ndim() && narrow.shape(narrow.ndim() - 1) * P == channels;
    for (py::ssize_t axis = 0; same && axis < wide.ndim() - 1; ++axis) {
        same = wide.shape(axis) == narrow.shape(axis);
    }
    if (!same) {
        fail("maxout: x " + shape_text(wide) + " of " + std::to_string(P) +
             " pieces does not fit y " + shape_text(narrow));
    }
    return channels / P;
}

template <class T>
void maxout_forward(const py::array& x, const py::array& y, const py::array& which,
                    std::int64_t P) {
    const std::int64_t C = split(x, y, P);
    same_shape(y, "maxout: y", which, "which");
    const auto* source = input<T>(x, "maxout_forward: x");
    auto* best = output<T>(y, "maxout_forward: y");
    auto* winner = output<std::uint8_t>(which, "maxout_forward: which");
    if (y.size() == 0) return;
    if (P == 2) {
        forward_two(source, best, winner, y.size() / C, C);
    } else {
        forward_many(source, best, winner, y.size() / C, C, P);
    }
}

template <class T>
void maxout_backward(const py::array& dy, const py::array& which, const py::array& dx,
                     std::int64_t P) {
    const std::int64_t C = split(dx, dy, P);
    same_shape(dy, "maxout: dy", which, "which");
    const auto* gradient = input<T>(dy, "maxout_backward: dy");
    const auto* winner = input<std::uint8_t>(which, "maxout_backward: which");
    auto* result = output<T>(dx, "maxout_backward: dx");
    if (dy.size()) backward(gradient, winner, result, dy.size() / C, C, P);
}

}  // namespace

void bind_maxout(py::module_& m) {
    define(m, "maxout_forward", &maxout_forward<float>, &maxout_forward<bf16>);
    define(m, "maxout_backward", &maxout_backward<float>, &maxout_backward<bf16>);
}
