#pragma once
// The places of kernels/clock.py, and the check that an array is a clock.

#include "common.h"

namespace lsuv {

enum { STEP, FIRST, RATE, CLIP, FINITE, LOSS, NORM, LOSS_SUM, CORRECT_SUM, SEEN, CLOCK_SIZE = 16 };

inline const double* read_clock(const py::array& clock) {
    shaped(clock, "clock", {CLOCK_SIZE});
    return input<double>(clock, "clock");
}

inline double* write_clock(const py::array& clock) {
    shaped(clock, "clock", {CLOCK_SIZE});
    return output<double>(clock, "clock");
}

}  // namespace lsuv
