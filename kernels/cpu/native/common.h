// Checks on what Python hands over, shared by every kernel of this folder.
//
// A binding takes `const pybind11::array&`, and turns it into a pointer with input<T>() or
// output<T>(): dtype, C order, alignment and (with shaped) shape are checked once, here, and a
// mistake is one line that names the argument and its value. Kernels then see bare pointers and
// sizes.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <type_traits>

#include "element.h"

namespace lsuv {

namespace py = pybind11;

// "(128, 32, 32, 3)", as NumPy prints a shape.
inline std::string shape_text(const py::array& a) {
    return py::str(a.attr("shape")).cast<std::string>();
}

inline std::string shape_text(std::initializer_list<std::int64_t> shape) {
    std::string text = "(";
    for (std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + (shape.size() == 1 ? ",)" : ")");
}

[[noreturn]] inline void fail(const std::string& message) { throw py::value_error(message); }

template <class T>
bool holds(const py::array& a) {
    if constexpr (std::is_same_v<T, bf16>) {
        return is_bf16(a);
    } else {
        return py::isinstance<py::array_t<T>>(a);
    }
}

template <class T>
std::string type_text() {
    if constexpr (std::is_same_v<T, bf16>) {
        return "bfloat16";
    } else {
        return py::str(py::dtype::of<T>()).cast<std::string>();
    }
}

template <class T>
void check_array(const py::array& a, const char* name) {
    if (!holds<T>(a)) {
        fail(std::string(name) + ": dtype " + py::str(a.dtype()).cast<std::string>() +
             ", and device cpu takes " + type_text<T>() + " here");
    }
    if (!(a.flags() & py::array::c_style)) {
        fail(std::string(name) + ": shape " + shape_text(a) +
             " is not C-contiguous; pass numpy.ascontiguousarray of it");
    }
    if (reinterpret_cast<std::uintptr_t>(a.data()) % alignof(T)) {
        fail(std::string(name) + ": shape " + shape_text(a) + " is not aligned to " +
             std::to_string(alignof(T)) + " bytes; pass a copy of it");
    }
}

// The array's shape must be exactly `shape`.
inline void shaped(const py::array& a, const char* name,
                   std::initializer_list<std::int64_t> shape) {
    bool same = a.ndim() == static_cast<py::ssize_t>(shape.size());
    py::ssize_t axis = 0;
    for (std::int64_t size : shape) same = same && a.shape(axis++) == size;
    if (!same) {
        fail(std::string(name) + ": shape " + shape_text(a) + ", expected " + shape_text(shape));
    }
}

inline void dimensions(const py::array& a, const char* name, py::ssize_t ndim) {
    if (a.ndim() != ndim) {
        fail(std::string(name) + ": shape " + shape_text(a) + ", expected " + std::to_string(ndim) +
             " dimensions");
    }
}

// An argument of a call, with the name that an error gives it, such as "conv_backward_data: dy".
struct Argument {
    const py::array& array;
    const char* name;
};

// A pointer to read from: dtype T, C order, aligned.
template <class T>
const T* input(const py::array& a, const char* name) {
    check_array<T>(a, name);
    return static_cast<const T*>(a.data());
}

// A pointer to write to: dtype T, C order, aligned, not read-only.
template <class T>
T* output(const py::array& a, const char* name) {
    check_array<T>(a, name);
    if (!a.writeable()) fail(std::string(name) + ": the array is read-only");
    return const_cast<T*>(static_cast<const T*>(a.data()));
}

// Binds a function that is a template over the elements of its first array.
template <class... Rest>
void define(py::module_& m, const char* name, void (*of_floats)(const py::array&, Rest...),
            void (*of_bf16)(const py::array&, Rest...)) {
    m.def(name, [of_floats, of_bf16](const py::array& first, Rest... rest) {
        (is_bf16(first) ? of_bf16 : of_floats)(first, rest...);
    });
}

// The seed of the random words: a Python integer of 64 bits.
inline std::uint64_t seed_of(const py::object& seed) {
    const py::int_ whole(seed);
    const std::uint64_t value = PyLong_AsUnsignedLongLong(whole.ptr());
    if (PyErr_Occurred()) {
        PyErr_Clear();
        fail("seed " + py::str(whole).cast<std::string>() +
             " is not a 64-bit number; choose one in 0 .. 2**64 - 1");
    }
    return value;
}

}  // namespace lsuv
