// Inverted dropout, whose mask is computed and never stored.
//
//   forward    x (size,) -> y (size,)      reads 4, writes 4 bytes an element (bf16: 2 and 2)
//   backward   dy (size,) -> dx (size,)    the same function of the same counters
// y may be x itself, and dx dy.
//
// Element i is dropped if word i % 4 of the Philox counter (index i / 4, step, DROPOUT << 16 |
// layer) is below floor(drop * 2^32). One thread computes blocks of 64 elements: the 16 counters of
// a block as vector lanes, about two instructions an element, then the elements.
//
// Read next: batchnorm.cpp.
#include <cmath>

#include "binding.h"
#include "clock.h"
#include "parallel.h"
#include "philox.h"
#include "shapes.h"

using namespace lsuv;

namespace {

constexpr std::int64_t BLOCK = 64;

void block_words(std::uint64_t seed, std::uint64_t first, std::uint64_t step, std::uint64_t stream,
                 std::uint32_t* __restrict__ words) {
#pragma omp simd
    for (std::uint64_t lane = 0; lane < BLOCK / 4; ++lane) {
        const Words w = philox(seed, first + lane, step, stream);
        words[4 * lane] = static_cast<std::uint32_t>(w.w0);
        words[4 * lane + 1] = static_cast<std::uint32_t>(w.w1);
        words[4 * lane + 2] = static_cast<std::uint32_t>(w.w2);
        words[4 * lane + 3] = static_cast<std::uint32_t>(w.w3);
    }
}

template <class T>
void apply(const T* x, T* y, std::int64_t size, float scale,
           std::uint32_t threshold, std::uint64_t seed, std::uint64_t step, std::uint64_t stream) {
#pragma omp parallel for schedule(static) if (size > SERIAL / 4)
    for (std::int64_t start = 0; start < size; start += BLOCK) {
        std::uint32_t words[BLOCK];
        block_words(seed, static_cast<std::uint64_t>(start) / 4, step, stream, words);
        const T* source = x + start;
        T* target = y + start;
        const std::int64_t count = size - start < BLOCK ? size - start : BLOCK;
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) {
            const float scaled = source[i] * scale;
            target[i] = rounded<T>(words[i] < threshold ? 0.0f : scaled);
        }
    }
}

template <class T>
void dropout_forward(const py::array& x, const py::array& y, double drop, const py::object& seed,
                     std::int64_t layer, const py::array& clock) {
    const std::uint64_t key = seed_of(seed);
    if (!(drop >= 0 && drop < 1)) {
        fail("dropout: " + std::to_string(drop) + " is not a probability of dropping in [0, 1)");
    }
    if (layer < 0 || layer >= 1 << 16) {
        fail("dropout: layer " + std::to_string(layer) + " must fit 16 bits");
    }
    same_shape(x, "dropout: x", y, "y");
    const double step = read_clock(clock)[STEP];
    if (!(step >= 0 && step < 4294967296.0)) {
        fail("dropout: step " + std::to_string(step) + " must fit 32 bits");
    }
    const T* source = input<T>(x, "dropout: x");
    T* target = output<T>(y, "dropout: y");
    apart({{y, "dropout: y"}}, {{x, "x"}}, Sharing::whole);
    apart({{y, "dropout: y"}}, {{clock, "clock"}});
    apply(source, target, x.size(), static_cast<float>(1 / (1 - drop)),
          static_cast<std::uint32_t>(std::floor(drop * 4294967296.0)), key,
          static_cast<std::uint64_t>(step), DROPOUT << 16 | static_cast<std::uint64_t>(layer));
}

template <class T>
void dropout_backward(const py::array& dy, const py::array& dx, double drop,
                      const py::object& seed, std::int64_t layer, const py::array& clock) {
    dropout_forward<T>(dy, dx, drop, seed, layer, clock);
}

}  // namespace

void bind_dropout(py::module_& m) {
    define(m, "dropout_forward", &dropout_forward<float>, &dropout_forward<bf16>);
    define(m, "dropout_backward", &dropout_backward<float>, &dropout_backward<bf16>);
}
