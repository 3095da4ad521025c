// Dropout, whose mask is computed and never stored.
//
//   forward    x (size,) -> y (size,)      reads 4, writes 4 bytes an element (bf16: 2 and 2)
//   backward   dy (size,) -> dx (size,)    the same function of the same counters
//   channel_mask   -> mask (C,): of channels that are dropped whole, for all images of a step
// What is kept is multiplied by `factor`; inverted dropout's is 1 / (1 - drop).
// y may be x itself, and dx dy. dropout.h has the mask. One thread computes blocks of 64 elements.
//
// Read next: dropout.h.
#include "dropout.h"

#include "binding.h"
#include "parallel.h"
#include "shapes.h"

using namespace lsuv;

namespace {

template <class T>
void dropout_forward(const py::array& x, const py::array& y, double drop, const py::object& seed,
                     std::int64_t layer, const py::array& clock, float factor) {
    const Dropout dropout = dropout_of("dropout", drop, seed, layer, clock);
    number("dropout", "factor", factor, 0);
    same_shape(x, "dropout: x", y, "y");
    const T* source = input<T>(x, "dropout: x");
    T* target = output<T>(y, "dropout: y");
    apart({{y, "dropout: y"}}, {{x, "x"}}, Sharing::whole);
    apart({{y, "dropout: y"}}, {{clock, "clock"}});
    const std::int64_t size = x.size();
    const std::uint32_t threshold = dropout.threshold;
#pragma omp parallel for schedule(static) if (size > SERIAL / 4)
    for (std::int64_t start = 0; start < size; start += DROP_BLOCK) {
        std::uint32_t words[DROP_BLOCK];
        drop_words(dropout, static_cast<std::uint64_t>(start) / 4, words);
        const T* from = source + start;
        T* to = target + start;
        const std::int64_t count = size - start < DROP_BLOCK ? size - start : DROP_BLOCK;
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) {
            const float scaled = from[i] * factor;
            to[i] = rounded<T>(words[i] < threshold ? 0.0f : scaled);
        }
    }
}

template <class T>
void dropout_backward(const py::array& dy, const py::array& dx, double drop, const py::object& seed,
                      std::int64_t layer, const py::array& clock, float factor) {
    dropout_forward<T>(dy, dx, drop, seed, layer, clock, factor);
}

void channel_mask(const py::array& mask, std::int64_t keep, float factor, const py::object& seed,
                  std::int64_t layer, const py::array& clock) {
    dimensions(mask, "channel_mask: mask", 1);
    const std::int64_t C = mask.size();
    if (keep < 0 || keep > C) {
        fail("channel_mask: " + std::to_string(keep) + " of a mask " + shape_text(mask) +
             " can't be kept");
    }
    number("channel_mask", "factor", factor, 0);
    const Dropout dropout = {factor, 0, stream_of("channel_mask", DROPOUT, seed, layer, clock)};
    auto* const factors = output<float>(mask, "channel_mask: mask");
    apart({{mask, "channel_mask: mask"}}, {{clock, "clock"}});
    DropWords words(&dropout);
    std::int64_t left = keep;
    for (std::int64_t i = 0; i < C; ++i) {
        const std::uint64_t word = *words.at(i, 1);
        const bool kept = static_cast<std::int64_t>(word * (C - i) >> 32) < left;
        factors[i] = kept ? factor : 0.0f;
        left -= kept;
    }
}

}  // namespace

void bind_dropout(py::module_& m) {
    define(m, "dropout_forward", &dropout_forward<float>, &dropout_forward<bf16>);
    define(m, "dropout_backward", &dropout_backward<float>, &dropout_backward<bf16>);
    define(m, "channel_mask", &channel_mask);
}
