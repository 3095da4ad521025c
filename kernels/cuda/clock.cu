// The end of a step: what the host would write into the clock if it stood between two steps.
//
//   advance   clock, rates (count,) double      latch   own, clock        one thread
//
// Read next: orthonormal.py.

#include "clock.cuh"
#include "common.cuh"

KERNEL advance(double* clock, const double* rates, int64 count, Fault* fault) {
    if (first_index() != 0 || clock[FINITE] == 0.0) return;
    const int64 step = static_cast<int64>(clock[STEP]) + 1;
    const int64 first = static_cast<int64>(clock[FIRST]);
    if (step < first) {
        report(fault, BEFORE_TABLE, step, first);
        return;
    }
    clock[STEP] = static_cast<double>(step);
    clock[RATE] = rates[step - first < count ? step - first : count - 1];
}

KERNEL latch(double* own, double* clock) {
    if (first_index() != 0) return;
    clock[FINITE] *= own[FINITE];
    own[FINITE] = 1.0;
}
