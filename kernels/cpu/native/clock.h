// The places of kernels/clock.py, and the check that an array is a clock.
//
// Read next: concat.cpp.
#pragma once

#include "common.h"

namespace lsuv {

enum { STEP, FIRST, RATE, CLIP, FINITE, LOSS, NORM, LOSS_SUM, CORRECT_SUM, SEEN, CLOCK_SIZE = 16 };

inline const double* read_clock(const py::array& clock) {
    shaped(clock, "clock", {CLOCK_SIZE});
    return input<double>(clock, "clock");
}

inline double* write_clock(const py::array& clock, const char* name = "clock") {
    shaped(clock, name, {CLOCK_SIZE});
    return output<double>(clock, name);
}

// Where the random words of a layer come from in a step: all of a counter but its index.
struct Stream {
    std::uint64_t seed, step, number;  // purpose << 16 | layer
};

inline Stream stream_of(const std::string& op, std::uint64_t purpose, const py::object& seed,
                        std::int64_t layer, const py::array& clock) {
    const std::uint64_t key = seed_of(seed);
    if (layer < 0 || layer >= 1 << 16) {
        fail(op + ": layer " + std::to_string(layer) + " must fit 16 bits");
    }
    const double step = read_clock(clock)[STEP];
    if (!(step >= 0 && step < 4294967296.0)) {
        fail(op + ": step " + std::to_string(step) + " must fit 32 bits");
    }
    return {key, static_cast<std::uint64_t>(step),
            purpose << 16 | static_cast<std::uint64_t>(layer)};
}

// A count of steps, the clock's STEP or FIRST: what a double holds exactly.
inline std::int64_t steps_of(const char* op, double count) {
    if (!(count >= 0 && count <= 0x1p53)) {
        fail(std::string(op) + ": clock: step " + std::to_string(count) + " is not in 0 .. 2**53");
    }
    return static_cast<std::int64_t>(count);
}

// Which update this is, from 1 on, of an optimizer that began at step `begun` and makes one in
// `every` steps.
inline std::int64_t update_number(const char* op, const double* clock, std::int64_t begun,
                                  std::int64_t every) {
    const auto check = [op](const char* name, std::int64_t value, int least) {
        if (least <= value && value < std::int64_t(1) << 31) return;
        fail(std::string(op) + ": " + name + " " + std::to_string(value) +
             " is no number of steps in [" + std::to_string(least) + ", 2^31)");
    };
    check("begun", begun, 0);
    check("every", every, 1);
    const std::int64_t steps = steps_of(op, clock[STEP]) - begun;
    return (steps > 0 ? steps / every : 0) + 1;
}

}  // namespace lsuv
