// How a kernel becomes a function of the module: what pybind11 would convert silently is refused,
// and every array is countable before the kernel sees it.
//
// A whole number must be one, or of a type that stands for one as NumPy's do (`__index__`): 2.7 as
// a numpy.float32 would lose its fraction. A truth is True or False: None would be taken for one.
//
// Read next: common.h.
#pragma once

#include <pybind11/stl.h>

#include <tuple>
#include <type_traits>

#include "common.h"

namespace lsuv {

inline void countable(const Optional& a) { countable(or_empty(a)); }

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

// Binds a function that is a template over the elements of argument TYPED.
template <std::size_t TYPED = 0, class... Args>
void define(py::module_& m, const char* name, void (*of_floats)(Args...),
            void (*of_bf16)(Args...)) {
    m.def(
        name,
        [of_floats, of_bf16](Args... args) {
            (countable(args), ...);
            (is_bf16(std::get<TYPED>(std::tie(args...))) ? of_bf16 : of_floats)(args...);
        },
        exactly<Args>()...);
}

}  // namespace lsuv
