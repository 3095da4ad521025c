// Checks on what Python hands over, shared by every kernel of this folder.
//
// A binding takes `const pybind11::array&`, and turns it into a pointer with input<T>() or
// output<T>(): dtype, C order, alignment and (with shaped) shape are checked once, here, then
// apart() sees that no result lies in the memory of another argument, and a mistake is one line
// that names the argument and its value. Kernels then see bare pointers and sizes.
//
// Sizes are std::int64_t from the shape to the offset. `countable` bounds every array by 2^48
// elements, so that the sums and products of a few sizes that kernels form can't overflow.
// Read next: element.h.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
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

// A number that the contract bounds: finite, and `least` or more.
inline void number(const char* op, const char* name, double value,
                   double least = -std::numeric_limits<double>::infinity()) {
    if (std::isfinite(value) && value >= least) return;
    const auto text = [](double of) { return py::str(py::float_(of)).cast<std::string>(); };
    fail(std::string(op) + ": " + name + " " + text(value) + " is not a finite number" +
         (std::isfinite(least) ? " of " + text(least) + " or more" : ""));
}

// No array has more elements than an address space, not even an empty one, whose other axes NumPy
// lets be as long as 2^63 - 1: what follows multiplies and adds lengths.
constexpr std::int64_t MOST_ELEMENTS = std::int64_t(1) << 48;

inline void countable(const py::array& a) {
    std::int64_t count = 1;
    for (py::ssize_t axis = 0; axis < a.ndim(); ++axis) {
        const std::int64_t length = a.shape(axis);
        if (length > MOST_ELEMENTS / count) {
            fail("shape " + shape_text(a) + " has an axis, or axes together, of more than 2**48");
        }
        if (length) count *= length;
    }
}

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

// An argument of a call, with the name that an error gives it: a result's begins with the
// operation, such as "conv_backward_data: dx".
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

// Whether a result may be the very array of an operand. Where each of its elements is a function of
// the same element of the operands, it may: same start, same size.
enum class Sharing { never, whole };

// Sees that no result has a byte in common with an operand or another result: a kernel would read
// what it has just overwritten, and what depends on vectors and threads. The arrays are in C order.
inline void apart(std::initializer_list<Argument> results, std::initializer_list<Argument> operands,
                  Sharing sharing = Sharing::never) {
    const auto check = [](const Argument& result, const Argument& other, bool may_be_it) {
        const auto begin = reinterpret_cast<std::uintptr_t>(result.array.data());
        const auto other_begin = reinterpret_cast<std::uintptr_t>(other.array.data());
        const auto bytes = static_cast<std::uintptr_t>(result.array.nbytes());
        const auto other_bytes = static_cast<std::uintptr_t>(other.array.nbytes());
        if (!bytes || !other_bytes) return;
        if (begin >= other_begin + other_bytes || other_begin >= begin + bytes) return;
        if (may_be_it && begin == other_begin && bytes == other_bytes) return;
        const std::string name = other.name;  // without the operation, which the result's has
        fail(std::string(result.name) + " shares memory with " + name.substr(name.rfind(' ') + 1) +
             "; give it an array of its own" + (may_be_it ? ", or all of that one" : ""));
    };
    for (const Argument* result = results.begin(); result != results.end(); ++result) {
        for (const Argument& operand : operands) check(*result, operand, sharing == Sharing::whole);
        for (const Argument* other = results.begin(); other != result; ++other) {
            check(*result, *other, false);
        }
    }
}

// An argument that may be None.
using Optional = std::optional<py::array>;

// What is left out has no elements, and so shares no memory.
inline const py::array& or_empty(const Optional& a) {
    static const py::array& empty = *new py::array();
    return a ? *a : empty;
}

// The seed of the random words: a Python integer of 64 bits.
inline std::uint64_t seed_of(const py::object& seed) {
    const auto whole = py::reinterpret_steal<py::object>(PyNumber_Index(seed.ptr()));
    if (!whole) throw py::error_already_set();  // a TypeError that names the type
    const std::uint64_t value = PyLong_AsUnsignedLongLong(whole.ptr());
    if (PyErr_Occurred()) {
        PyErr_Clear();
        fail("seed " + py::str(whole).cast<std::string>() +
             " is not a 64-bit number; choose one in 0 .. 2**64 - 1");
    }
    return value;
}

}  // namespace lsuv
