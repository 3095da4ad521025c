// The fully connected layer: three matrix products by oneDNN's sgemm, on row-major arrays.
//
// On the heads of the paper's nets (128 images, 128 inputs, 10 to 100 outputs) it takes 2 to 12
// microseconds, as oneDNN's matmul primitive does. At 128 x 4096 x 4096 it is faster backward
// (9.8 and 8.1 ms against 11.3 and 9.8) and slower forward (19 ms against 10). sgemm allocates its
// own work memory; nothing else here allocates after the first call.
// Read next: maxout.cpp.

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "columns.h"
#include "common.h"
#include "onednn.h"

namespace {

using namespace lsuv;

struct Shape {
    std::int64_t N, F, K;
};

// Checks the shapes against each other; in a backward pass x, W or y is a gradient of that shape.
Shape shape_of(const Argument& x, const Argument& W, const Argument& y) {
    dimensions(x.array, x.name, 2);
    dimensions(W.array, W.name, 2);
    const Shape s{x.array.shape(0), x.array.shape(1), W.array.shape(0)};
    if (s.F < 1 || s.K < 1) {
        fail(std::string(W.name) + ": " + std::to_string(s.F) + " inputs and " +
             std::to_string(s.K) + " outputs; both must be at least 1");
    }
    shaped(W.array, W.name, {s.K, s.F});
    shaped(y.array, y.name, {s.N, s.K});
    return s;
}

// C (M,N) = op(A) op(B) + beta C, row-major; turn 'T' transposes. a_row: floats from row to row.
void product(char turn_a, char turn_b, std::int64_t M, std::int64_t N, std::int64_t K,
             const float* A, std::int64_t a_row, const float* B, std::int64_t b_row, float beta,
             float* C, std::int64_t c_row) {
    const dnnl_status_t status = dnnl_sgemm(turn_a, turn_b, M, N, K, 1.0f, A, a_row, B, b_row, beta,
                                            C, c_row);
    if (status != dnnl_success) {
        throw std::runtime_error("oneDNN's sgemm failed with status " + std::to_string(status));
    }
}

// y (N,K) = x (N,F) W' + b
void linear_forward(const py::array& x, const py::array& W, const py::array& b,
                    const py::array& y) {
    const Shape s = shape_of({x, "linear_forward: x"}, {W, "linear_forward: W"},
                             {y, "linear_forward: y"});
    shaped(b, "linear_forward: b", {s.K});
    const float* x_data = input<float>(x, "linear_forward: x");
    const float* W_data = input<float>(W, "linear_forward: W");
    const float* b_data = input<float>(b, "linear_forward: b");
    float* y_data = output<float>(y, "linear_forward: y");
    py::gil_scoped_release release;
    for (std::int64_t n = 0; n < s.N; ++n) std::copy_n(b_data, s.K, y_data + n * s.K);
    product('N', 'T', s.N, s.K, s.F, x_data, s.F, W_data, s.F, 1.0f, y_data, s.K);
}

// dx (N,F) = dy (N,K) W
void linear_backward_data(const py::array& dy, const py::array& W, const py::array& dx) {
    const Shape s = shape_of({dx, "linear_backward_data: dx"}, {W, "linear_backward_data: W"},
                             {dy, "linear_backward_data: dy"});
    const float* dy_data = input<float>(dy, "linear_backward_data: dy");
    const float* W_data = input<float>(W, "linear_backward_data: W");
    float* dx_data = output<float>(dx, "linear_backward_data: dx");
    py::gil_scoped_release release;
    product('N', 'N', s.N, s.F, s.K, dy_data, s.K, W_data, s.F, 0.0f, dx_data, s.F);
}

// dW (K,F) = dy' x and db (K,) = the column sums of dy
void linear_backward_filter(const py::array& x, const py::array& dy, const py::array& dW,
                            const py::array& db) {
    const Shape s = shape_of({x, "linear_backward_filter: x"}, {dW, "linear_backward_filter: dW"},
                             {dy, "linear_backward_filter: dy"});
    shaped(db, "linear_backward_filter: db", {s.K});
    const float* x_data = input<float>(x, "linear_backward_filter: x");
    const float* dy_data = input<float>(dy, "linear_backward_filter: dy");
    float* dW_data = output<float>(dW, "linear_backward_filter: dW");
    float* db_data = output<float>(db, "linear_backward_filter: db");
    py::gil_scoped_release release;
    if (s.N == 0) {  // of which sgemm would write nothing
        std::fill_n(dW_data, s.K * s.F, 0.0f);
    } else {
        product('T', 'N', s.K, s.F, s.N, dy_data, s.K, x_data, s.F, 0.0f, dW_data, s.F);
    }
    static thread_local ColumnSums sums;  // keeps its memory from call to call
    sums.start(s.K);
    sums.add(dy_data, s.N);
    sums.finish(db_data);
}

}  // namespace

void bind_linear(py::module_& m) {
    using namespace py::literals;
    m.def("linear_forward", &linear_forward, "x"_a, "W"_a, "b"_a, "y"_a);
    m.def("linear_backward_data", &linear_backward_data, "dy"_a, "W"_a, "dx"_a);
    m.def("linear_backward_filter", &linear_backward_filter, "x"_a, "dy"_a, "dW"_a, "db"_a);
}
