// Concatenation along the channels: parallel branches' outputs into one array, its gradient back.
//
//   forward    x (rows, C) -> y (rows, K), channels first .. first + C - 1; the others stay
//   backward   dy (rows, K), those channels -> dx (rows, C)
//              both read 4 and write 4 bytes an element of x (bf16: half)
//
// A row's channels are one run of bytes; one thread copies a run of rows.
//
// Read next: activation.cpp.
#include <cstring>

#include "binding.h"
#include "parallel.h"

using namespace lsuv;

namespace {

// Where the channels of `part` lie in `whole`, checked.
struct Place {
    std::int64_t rows, C, K;
};

Place place(const std::string& op, const py::array& part, const py::array& whole,
            std::int64_t first, const char* names) {
    bool same = part.ndim() >= 1 && part.ndim() == whole.ndim();
    for (py::ssize_t axis = 0; same && axis < part.ndim() - 1; ++axis) {
        same = part.shape(axis) == whole.shape(axis);
    }
    if (!same) {
        fail(op + ": " + names + " " + shape_text(part) + " and " + shape_text(whole) +
             " differ in more than their channels");
    }
    const std::int64_t C = part.shape(part.ndim() - 1), K = whole.shape(whole.ndim() - 1);
    if (first < 0 || C > K || first > K - C) {
        fail(op + ": " + std::to_string(C) + " channels from " + std::to_string(first) +
             " on are not among " + std::to_string(K) + "; " + names + " are " + shape_text(part) +
             " and " + shape_text(whole));
    }
    return {C ? part.size() / C : 0, C, K};
}

template <class T>
void concat_forward(const py::array& x, const py::array& y, std::int64_t first) {
    const Place at = place("concat_forward", x, y, first, "x and y");
    const std::int64_t rows = at.rows, C = at.C, K = at.K;
    const auto* source = input<T>(x, "concat_forward: x");
    auto* target = output<T>(y, "concat_forward: y");
    apart({{y, "concat_forward: y"}}, {{x, "x"}});
#pragma omp parallel for schedule(static) if (rows * C > SERIAL)
    for (std::int64_t row = 0; row < rows; ++row) {
        std::memcpy(target + row * K + first, source + row * C, C * sizeof(T));
    }
}

template <class T>
void concat_backward(const py::array& dy, const py::array& dx, std::int64_t first) {
    const Place at = place("concat_backward", dx, dy, first, "dx and dy");
    const std::int64_t rows = at.rows, C = at.C, K = at.K;
    const auto* source = input<T>(dy, "concat_backward: dy");
    auto* target = output<T>(dx, "concat_backward: dx");
    apart({{dx, "concat_backward: dx"}}, {{dy, "dy"}});
#pragma omp parallel for schedule(static) if (rows * C > SERIAL)
    for (std::int64_t row = 0; row < rows; ++row) {
        std::memcpy(target + row * C, source + row * K + first, C * sizeof(T));
    }
}

}  // namespace

void bind_concat(py::module_& m) {
    define(m, "concat_forward", &concat_forward<float>, &concat_forward<bf16>);
    define(m, "concat_backward", &concat_backward<float>, &concat_backward<bf16>);
}
