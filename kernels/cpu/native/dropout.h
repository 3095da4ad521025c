// The mask of dropout: dropout.cpp applies it to an array, pool.cpp to maxima in their registers.
//
// Element i is dropped if word i % 4 of the Philox counter (index i / 4, step, DROPOUT << 16 |
// layer) is below floor(drop * 2^32). Words come in blocks of 64, 16 counters as vector lanes:
// about two instructions an element.
//
// Read next: philox.h.
#pragma once

#include <cmath>
#include <cstring>
#include <string>

#include "clock.h"
#include "philox.h"

namespace lsuv {

constexpr std::int64_t DROP_BLOCK = 64;

struct Dropout {
    float scale;  // of what is kept
    std::uint32_t threshold;
    Stream stream;
};

// 1 / (1 - drop), checked.
inline float kept_scale(const std::string& op, double drop) {
    if (!(drop >= 0 && drop < 1)) {
        fail(op + ": " + std::to_string(drop) + " is not a probability of dropping in [0, 1)");
    }
    return static_cast<float>(1 / (1 - drop));
}

// What a step's mask is made from, checked.
inline Dropout dropout_of(const std::string& op, double drop, const py::object& seed,
                          std::int64_t layer, const py::array& clock) {
    const float scale = kept_scale(op, drop);
    return {scale, static_cast<std::uint32_t>(std::floor(drop * 4294967296.0)),
            stream_of(op, DROPOUT, seed, layer, clock)};
}

// The words of elements 4 * first to 4 * first + 63.
inline __attribute__((always_inline)) void drop_words(const Dropout& dropout, std::uint64_t first,
                                                      std::uint32_t* __restrict__ words) {
    const Stream stream = dropout.stream;
#pragma omp simd
    for (std::uint64_t lane = 0; lane < DROP_BLOCK / 4; ++lane) {
        const Words w = philox(stream.seed, first + lane, stream.step, stream.number);
        words[4 * lane] = static_cast<std::uint32_t>(w.w0);
        words[4 * lane + 1] = static_cast<std::uint32_t>(w.w1);
        words[4 * lane + 2] = static_cast<std::uint32_t>(w.w2);
        words[4 * lane + 3] = static_cast<std::uint32_t>(w.w3);
    }
}

// The words of elements that are asked for in rising order, a few at a time.
class DropWords {
public:
    explicit DropWords(const Dropout* dropout) : dropout_(dropout) {}

    // Those of elements first .. first + count - 1, count <= 64; valid until the next call.
    const std::uint32_t* at(std::int64_t first, std::int64_t count) {
        if (first < begin_ || first >= end_) begin_ = end_ = first - first % DROP_BLOCK;
        while (end_ < first + count) {
            if (end_ - begin_ == 2 * DROP_BLOCK) {
                std::memcpy(words_, words_ + DROP_BLOCK, sizeof words_ / 2);
                begin_ += DROP_BLOCK;
            }
            drop_words(*dropout_, static_cast<std::uint64_t>(end_) / 4, words_ + (end_ - begin_));
            end_ += DROP_BLOCK;
        }
        return words_ + (first - begin_);
    }

private:
    const Dropout* dropout_;
    std::int64_t begin_ = 0, end_ = 0;  // the elements whose words are there
    std::uint32_t words_[2 * DROP_BLOCK];
};

}  // namespace lsuv
