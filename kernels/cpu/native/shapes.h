// The check that most element-wise kernels open with.
//
// Read next: dropout.cpp, the shortest kernel.
#pragma once

#include "common.h"

namespace lsuv {

inline void same_shape(const py::array& a, const char* a_name, const py::array& b,
                       const char* b_name) {
    bool same = a.ndim() == b.ndim();
    for (py::ssize_t axis = 0; same && axis < a.ndim(); ++axis) {
        same = a.shape(axis) == b.shape(axis);
    }
    if (!same) {
        fail(std::string(a_name) + " " + shape_text(a) + " and " + b_name + " " + shape_text(b) +
             " differ in shape");
    }
}

}  // namespace lsuv
