// When a kernel wakes the other threads, and how long work is cut for results that must not depend
// on how many there are.
//
// Read next: lanes.h.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#else  // one thread, and nothing to include
inline int omp_get_max_threads() { return 1; }
inline int omp_get_num_threads() { return 1; }
inline int omp_get_thread_num() { return 0; }
inline void omp_set_num_threads(int) {}
#endif

namespace lsuv {

// Below this many elements a loop stays on the calling thread: waking a team costs a few
// microseconds, in which one thread reads some tens of thousands of floats from its cache.
constexpr std::int64_t SERIAL = 1 << 14;

// A reduction cuts its input into tiles of this many elements (64 KiB of float32, which stays in
// the second-level cache), whatever the number of threads, and merges their results in order.
constexpr std::int64_t TILE = 1 << 14;

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace lsuv
