// Maxout (Goodfellow et al. 2013): the largest of P pieces, and which one it was.
//
//   forward    x (rows, P*C) -> y (rows, C), which (rows, C) uint8
//              reads 4P, writes 5 bytes an output (bf16: 2P and 3)
//   backward   dy (rows, C), which (rows, C) -> dx (rows, P*C)
//              reads 5, writes 4P bytes an output (bf16: 3 and 2P)
//
// Pieces lie side by side, so a row is P contiguous runs of C. One thread computes a run of rows,
// one vector lane an output. The lowest piece wins a tie, and the first NaN wins over everything.
// A bf16 is compared and chosen as it is, 32 at a time, where AVX-512 has whole numbers of its
// size: widened to floats, the two passes would be held up by arithmetic, not by memory.
//
// Read next: parallel.h.
#include "binding.h"
#include "lanes.h"
#include "parallel.h"
#include "shapes.h"

using namespace lsuv;

namespace {

// x is asked for this many bytes before it is read. A row's pieces in turn are not the order that
// the processor expects: without this, a maxout of 32 MiB took 2.8 ms on one core, and 1.3 with it.
constexpr std::int64_t AHEAD = 4096;

template <class T>
inline void ask(const T* x) {
    __builtin_prefetch(reinterpret_cast<const char*>(x) + AHEAD);
}

// One row: best (C,) and winner (C,) of P pieces.
template <class T>
void row_forward(const T* x, T* best, std::uint8_t* winner, std::int64_t C, std::int64_t P) {
    for (std::int64_t c = 0; c < C; c += LANES) {
        const Mask lanes = first_lanes(C - c);
        ask(x + c);
        Floats largest = load(x + c, lanes);
        Wholes which = {};
        for (std::int64_t p = 1; p < P; ++p) {
            ask(x + p * C + c);
            const Floats value = load(x + p * C + c, lanes);
            const Choice better = beats(value, largest);
            largest = choose(better, value, largest);
            which = choose(better, all(static_cast<std::int32_t>(p)), which);
        }
        store_exactly(best + c, largest, lanes);
        store(winner + c, which, lanes);
    }
}

// dx (P*C,) of one row: the piece that won receives dy.
template <class T>
void row_backward(const T* dy, const std::uint8_t* winner, T* dx, std::int64_t C, std::int64_t P) {
    for (std::int64_t c = 0; c < C; c += LANES) {
        const Mask lanes = first_lanes(C - c);
        const Floats gradient = load(dy + c, lanes);
        const Wholes which = load(winner + c, lanes);
        for (std::int64_t p = 0; p < P; ++p) {
            const Choice won = equal(which, all(static_cast<std::int32_t>(p)));
            store_exactly(dx + p * C + c, choose(won, gradient, Floats{}), lanes);
        }
    }
}

#if LSUV_AVX512

constexpr std::int64_t HALVES = 32;

inline __mmask32 first_halves(std::int64_t count) {
    return count >= HALVES ? 0xFFFFFFFFu : (1u << count) - 1;
}

inline __m512i load(const bf16* from, __mmask32 lanes) {
    return lanes == 0xFFFFFFFFu ? _mm512_loadu_si512(from)  // see lanes.h
                                : _mm512_maskz_loadu_epi16(lanes, from);
}

inline void store(bf16* to, __m512i values, __mmask32 lanes) {
    if (lanes == 0xFFFFFFFFu) {  // see lanes.h
        _mm512_storeu_si512(to, values);
    } else {
        _mm512_mask_storeu_epi16(to, lanes, values);
    }
}

// Whole numbers in the order of the bf16 numbers x: of equal ones (both zeros) equal, and of a NaN
// above all others.
inline __m512i order_of(__m512i x) {
    const __m512i magnitude = _mm512_and_si512(x, _mm512_set1_epi16(0x7FFF));
    const __mmask32 nan = _mm512_cmpgt_epi16_mask(magnitude, _mm512_set1_epi16(0x7F80));
    const __mmask32 negative = _mm512_movepi16_mask(x);
    const __m512i order =
        _mm512_mask_sub_epi16(magnitude, negative, _mm512_setzero_si512(), magnitude);
    return _mm512_mask_mov_epi16(order, nan, _mm512_set1_epi16(0x7FFF));
}

template <>
void row_forward(const bf16* x, bf16* best, std::uint8_t* winner, std::int64_t C, std::int64_t P) {
    for (std::int64_t c = 0; c < C; c += HALVES) {
        const __mmask32 lanes = first_halves(C - c);
        ask(x + c);
        __m512i largest = load(x + c, lanes), order = order_of(largest);
        __m256i which = _mm256_setzero_si256();
        for (std::int64_t p = 1; p < P; ++p) {
            ask(x + p * C + c);
            const __m512i value = load(x + p * C + c, lanes);
            const __m512i its_order = order_of(value);
            const __mmask32 better = _mm512_cmpgt_epi16_mask(its_order, order);
            largest = _mm512_mask_mov_epi16(largest, better, value);
            order = _mm512_max_epi16(order, its_order);
            which = _mm256_mask_mov_epi8(which, better, _mm256_set1_epi8(static_cast<char>(p)));
        }
        store(best + c, largest, lanes);
        if (lanes == 0xFFFFFFFFu) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(winner + c), which);
        } else {
            _mm256_mask_storeu_epi8(winner + c, lanes, which);
        }
    }
}

template <>
void row_backward(const bf16* dy, const std::uint8_t* winner, bf16* dx, std::int64_t C,
                  std::int64_t P) {
    for (std::int64_t c = 0; c < C; c += HALVES) {
        const __mmask32 lanes = first_halves(C - c);
        const __m512i gradient = load(dy + c, lanes);
        const __m256i which = _mm256_maskz_loadu_epi8(lanes, winner + c);
        for (std::int64_t p = 0; p < P; ++p) {
            const __mmask32 won =
                _mm256_cmpeq_epi8_mask(which, _mm256_set1_epi8(static_cast<char>(p)));
            store(dx + p * C + c, _mm512_maskz_mov_epi16(won, gradient), lanes);
        }
    }
}

#endif

template <class T>
void forward(const T* x, T* y, std::uint8_t* which, std::int64_t rows, std::int64_t C,
             std::int64_t P) {
#pragma omp parallel for schedule(static) if (rows * C > SERIAL)
    for (std::int64_t row = 0; row < rows; ++row) {
        row_forward(x + row * P * C, y + row * C, which + row * C, C, P);
    }
}

template <class T>
void backward(const T* dy, const std::uint8_t* which, T* dx, std::int64_t rows, std::int64_t C,
              std::int64_t P) {
#pragma omp parallel for schedule(static) if (rows * C > SERIAL)
    for (std::int64_t row = 0; row < rows; ++row) {
        row_backward(dy + row * C, which + row * C, dx + row * P * C, C, P);
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
    bool same = wide.ndim() == narrow.ndim() && narrow.shape(narrow.ndim() - 1) == channels / P;
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
    apart({{y, "maxout_forward: y"}, {which, "maxout_forward: which"}}, {{x, "x"}});
    if (y.size() == 0) return;
    forward(source, best, winner, y.size() / C, C, P);
}

template <class T>
void maxout_backward(const py::array& dy, const py::array& which, const py::array& dx,
                     std::int64_t P) {
    const std::int64_t C = split(dx, dy, P);
    same_shape(dy, "maxout: dy", which, "which");
    const auto* gradient = input<T>(dy, "maxout_backward: dy");
    const auto* winner = input<std::uint8_t>(which, "maxout_backward: which");
    auto* result = output<T>(dx, "maxout_backward: dx");
    apart({{dx, "maxout_backward: dx"}}, {{dy, "dy"}, {which, "which"}});
    if (dy.size()) backward(gradient, winner, result, dy.size() / C, C, P);
}

}  // namespace

void bind_maxout(py::module_& m) {
    define(m, "maxout_forward", &maxout_forward<float>, &maxout_forward<bf16>);
    define(m, "maxout_backward", &maxout_backward<float>, &maxout_backward<bf16>);
}
