// The fully connected layer: three matrix products, by oneDNN or our own, as conv.cpp.
//
// x, y and their gradients are float, or bf16; W and b are float; dW and db have the type of dy.
// Read next: columns.h.

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <string>

#include "binding.h"

#if LSUV_ONEDNN
#include "onednn_linear.h"
#else
#include "direct.h"
#endif

namespace {

using namespace lsuv;

#if LSUV_ONEDNN
using Products = OneDnnLinear;
#else
using Products = DirectConvolutions;  // of one place
#endif

// Checks the shapes against each other; in a backward pass x, W or y is a gradient of that shape.
ConvShape shape_of(const Argument& x, const Argument& W, const Argument& y) {
    dimensions(x.array, x.name, 2);
    dimensions(W.array, W.name, 2);
    const ConvShape s = linear_shape(x.array.shape(0), x.array.shape(1), W.array.shape(0));
    if (s.C < 1 || s.K < 1) {
        fail(std::string(W.name) + ": " + std::to_string(s.C) + " inputs and " +
             std::to_string(s.K) + " outputs; both must be at least 1");
    }
    shaped(W.array, W.name, {s.K, s.C});
    shaped(y.array, y.name, {s.N, s.K});
    return s;
}

// With memory kept from call to call, under cpu_lock.
Products& products() {
    static Products& made = *new Products;
    return made;
}

// y (N,K) = x (N,F) W' + b, which may be None
template <class T>
void linear_forward(const py::array& x, const py::array& W, const Optional& b, const py::array& y) {
    const ConvShape s =
        shape_of({x, "linear_forward: x"}, {W, "linear_forward: W"}, {y, "linear_forward: y"});
    if (b) shaped(*b, "linear_forward: b", {s.K});
    const T* x_data = input<T>(x, "linear_forward: x");
    const float* W_data = input<float>(W, "linear_forward: W");
    const float* b_data = b ? input<float>(*b, "linear_forward: b") : nullptr;
    T* y_data = output<T>(y, "linear_forward: y");
    apart({{y, "linear_forward: y"}}, {{x, "x"}, {W, "W"}, {or_empty(b), "b"}});
    py::gil_scoped_release release;
    if (s.N == 0) return;
    std::lock_guard<std::mutex> guard(cpu_lock());
    products().forward(x_data, W_data, b_data, y_data, s);
}

// dx (N,F) = dy (N,K) W
template <class T>
void linear_backward_data(const py::array& dy, const py::array& W, const py::array& dx) {
    const ConvShape s = shape_of({dx, "linear_backward_data: dx"}, {W, "linear_backward_data: W"},
                                 {dy, "linear_backward_data: dy"});
    const T* dy_data = input<T>(dy, "linear_backward_data: dy");
    const float* W_data = input<float>(W, "linear_backward_data: W");
    T* dx_data = output<T>(dx, "linear_backward_data: dx");
    apart({{dx, "linear_backward_data: dx"}}, {{dy, "dy"}, {W, "W"}});
    py::gil_scoped_release release;
    if (s.N == 0) return;
    std::lock_guard<std::mutex> guard(cpu_lock());
    products().backward_data(dy_data, W_data, dx_data, s);
}

// dW (K,F) = dy' x and db (K,), which may be None, = the column sums of dy
template <class T>
void linear_backward_filter(const py::array& x, const py::array& dy, const py::array& dW,
                            const Optional& db) {
    const ConvShape s =
        shape_of({x, "linear_backward_filter: x"}, {dW, "linear_backward_filter: dW"},
                 {dy, "linear_backward_filter: dy"});
    if (db) shaped(*db, "linear_backward_filter: db", {s.K});
    const T* x_data = input<T>(x, "linear_backward_filter: x");
    const T* dy_data = input<T>(dy, "linear_backward_filter: dy");
    T* dW_data = output<T>(dW, "linear_backward_filter: dW");
    T* db_data = db ? output<T>(*db, "linear_backward_filter: db") : nullptr;
    apart({{dW, "linear_backward_filter: dW"}, {or_empty(db), "linear_backward_filter: db"}},
          {{x, "x"}, {dy, "dy"}});
    py::gil_scoped_release release;
    if (s.N == 0) {  // of which a product would write nothing
        std::fill_n(dW_data, s.K * s.C, T{});
        if (db_data) std::fill_n(db_data, s.K, T{});
        return;
    }
    std::lock_guard<std::mutex> guard(cpu_lock());
    products().backward_filter(x_data, dy_data, dW_data, db_data, s);
}

}  // namespace

void bind_linear(py::module_& m) {
    define(m, "linear_forward", &linear_forward<float>, &linear_forward<bf16>);
    define(m, "linear_backward_data", &linear_backward_data<float>, &linear_backward_data<bf16>);
    define(m, "linear_backward_filter", &linear_backward_filter<float>,
           &linear_backward_filter<bf16>);
}
