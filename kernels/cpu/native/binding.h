// How a kernel becomes a function of the module: what pybind11 would convert silently is refused,
// and every array is countable before the kernel sees it.
//
// A whole number must be one, or of a type that stands for one as NumPy's do (`__index__`): 2.7 as
// a numpy.float32 would lose its fraction. A truth is True or False: None would be taken for one.
//
// Read next: common.h.
#pragma once

#include <type_traits>

#include "common.h"

namespace lsuv {

template <class T>
void countable(const T&) {}  // a number, or a seed

template <class T>
py::arg exactly() {
    return py::arg().noconvert(std::is_integral_v<T>);
}

// Binds a function.
template <class Result, class... Args>
void define(py::module_& m, const char* name, Result (*function)(Args...)) {
    m.def(
        name,
        [function](Args... args) {
            (countable(args), ...);
            return function(args...);
        },
        exactly<Args>()...);
}

// Binds a function that is a template over the elements of its first array.
template <class... Rest>
void define(py::module_& m, const char* name, void (*of_floats)(const py::array&, Rest...),
            void (*of_bf16)(const py::array&, Rest...)) {
    m.def(
        name,
        [of_floats, of_bf16](const py::array& first, Rest... rest) {
            countable(first);
            (countable(rest), ...);
            (is_bf16(first) ? of_bf16 : of_floats)(first, rest...);
        },
        py::arg(), exactly<Rest>()...);
}

}  // namespace lsuv
