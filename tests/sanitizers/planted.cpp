// Faults for the sanitizers to find, built only beside the extension that they check: each function
// does nothing wrong on fitting arguments, and what its name says on others.
//
// Read next: test_planted.py.
#include <pybind11/numpy.h>

#include <cstdint>

namespace py = pybind11;

namespace {

// Writes element `place` of `values`, whether it has one or not.
void store(const py::array_t<float>& values, std::int64_t place) {
    const_cast<float*>(values.data())[place] = 1;
}

std::int32_t add(std::int32_t a, std::int32_t b) { return a + b; }

// Without a lock and without Python's: two threads that call it race.
std::int64_t count(std::int64_t times) {
    static volatile std::int64_t counter = 0;  // in memory, not in a register
    py::gil_scoped_release release;
    for (std::int64_t i = 0; i < times; ++i) counter = counter + 1;
    return counter;
}

const char* sanitizer() {
#if defined(__SANITIZE_ADDRESS__)
    return "address";
#elif defined(__SANITIZE_THREAD__)
    return "thread";
#else
    return "none";
#endif
}

}  // namespace

PYBIND11_MODULE(planted, m) {
    m.def("write", &store);
    m.def("add", &add);
    m.def("count", &count);
    m.def("sanitizer", &sanitizer);
}
