// The fully connected layer: three matrix products by oneDNN's sgemm, on row-major arrays.
//
// On the heads of the paper's nets (128 images, 128 inputs, 10 to 100 outputs) it takes 2 to 12
// microseconds, as oneDNN's matmul primitive does. At 128 x 4096 x 4096 it is faster backward
// (9.8 and 8.1 ms against 11.3 and 9.8) and slower forward (19 ms against 10). sgemm allocates its
// own work memory; nothing else here allocates after the first call.
//
// x, y and their gradients are float, or bf16; W and b are float; dW and db have the type of dy. In
// bf16 the operands are copied to floats, W rounded first, and multiplied as those: on these heads
// the copies cost less than a step can show.
// Read next: maxout.cpp.

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "columns.h"
#include "common.h"
#include "onednn.h"
#include "parallel.h"

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

// `count` elements as floats that bf16 can hold: the array itself, or in bf16 a copy in `memory`,
// which is kept from call to call. Of `from` floats, the copy rounds them.
template <class T, class From>
const float* operand(const From* from, std::int64_t count, std::vector<float>& memory) {
    if constexpr (std::is_same_v<T, float>) {
        return from;
    } else {
        memory.resize(count);
        float* const copy = memory.data();
#pragma omp parallel for simd schedule(static) if (count > SERIAL)
        for (std::int64_t i = 0; i < count; ++i) copy[i] = rounded<T>(static_cast<float>(from[i]));
        return copy;
    }
}

// Where a product of floats goes: into the array itself, or in bf16 into `memory`.
template <class T>
float* product_of(T* to, std::int64_t count, std::vector<float>& memory) {
    if constexpr (std::is_same_v<T, float>) {
        return to;
    } else {
        memory.resize(count);
        return memory.data();
    }
}

// Rounds a product into its array, if it isn't there.
template <class T>
void deliver(const float* from, T* to, std::int64_t count) {
    if constexpr (!std::is_same_v<T, float>) {
#pragma omp parallel for simd schedule(static) if (count > SERIAL)
        for (std::int64_t i = 0; i < count; ++i) to[i] = rounded<T>(from[i]);
    }
}

struct Memory {
    std::vector<float> left, right, product;
};

Memory& memory() {
    static thread_local Memory kept;
    return kept;
}

// y (N,K) = x (N,F) W' + b
template <class T>
void linear_forward(const py::array& x, const py::array& W, const py::array& b,
                    const py::array& y) {
    const Shape s = shape_of({x, "linear_forward: x"}, {W, "linear_forward: W"},
                             {y, "linear_forward: y"});
    shaped(b, "linear_forward: b", {s.K});
    const T* x_data = input<T>(x, "linear_forward: x");
    const float* W_data = input<float>(W, "linear_forward: W");
    const float* b_data = input<float>(b, "linear_forward: b");
    T* y_data = output<T>(y, "linear_forward: y");
    py::gil_scoped_release release;
    const float* left = operand<T>(x_data, s.N * s.F, memory().left);
    const float* right = operand<T>(W_data, s.K * s.F, memory().right);
    float* result = product_of(y_data, s.N * s.K, memory().product);
    for (std::int64_t n = 0; n < s.N; ++n) std::copy_n(b_data, s.K, result + n * s.K);
    product('N', 'T', s.N, s.K, s.F, left, s.F, right, s.F, 1.0f, result, s.K);
    deliver(result, y_data, s.N * s.K);
}

// dx (N,F) = dy (N,K) W
template <class T>
void linear_backward_data(const py::array& dy, const py::array& W, const py::array& dx) {
    const Shape s = shape_of({dx, "linear_backward_data: dx"}, {W, "linear_backward_data: W"},
                             {dy, "linear_backward_data: dy"});
    const T* dy_data = input<T>(dy, "linear_backward_data: dy");
    const float* W_data = input<float>(W, "linear_backward_data: W");
    T* dx_data = output<T>(dx, "linear_backward_data: dx");
    py::gil_scoped_release release;
    const float* left = operand<T>(dy_data, s.N * s.K, memory().left);
    const float* right = operand<T>(W_data, s.K * s.F, memory().right);
    float* result = product_of(dx_data, s.N * s.F, memory().product);
    product('N', 'N', s.N, s.F, s.K, left, s.K, right, s.F, 0.0f, result, s.F);
    deliver(result, dx_data, s.N * s.F);
}

// dW (K,F) = dy' x and db (K,) = the column sums of dy
template <class T>
void linear_backward_filter(const py::array& x, const py::array& dy, const py::array& dW,
                            const py::array& db) {
    const Shape s = shape_of({x, "linear_backward_filter: x"}, {dW, "linear_backward_filter: dW"},
                             {dy, "linear_backward_filter: dy"});
    shaped(db, "linear_backward_filter: db", {s.K});
    const T* x_data = input<T>(x, "linear_backward_filter: x");
    const T* dy_data = input<T>(dy, "linear_backward_filter: dy");
    T* dW_data = output<T>(dW, "linear_backward_filter: dW");
    T* db_data = output<T>(db, "linear_backward_filter: db");
    py::gil_scoped_release release;
    if (s.N == 0) {  // of which sgemm would write nothing
        std::fill_n(dW_data, s.K * s.F, T{});
    } else {
        const float* left = operand<T>(dy_data, s.N * s.K, memory().left);
        const float* right = operand<T>(x_data, s.N * s.F, memory().right);
        float* result = product_of(dW_data, s.K * s.F, memory().product);
        product('T', 'N', s.K, s.F, s.N, left, s.K, right, s.F, 0.0f, result, s.F);
        deliver(result, dW_data, s.K * s.F);
    }
    static thread_local ColumnSums sums;  // keeps its memory from call to call
    sums.start(s.K);
    sums.add(dy_data, s.N);
    sums.finish(db_data);
}

}  // namespace

void bind_linear(py::module_& m) {
    define(m, "linear_forward", &linear_forward<float>, &linear_forward<bf16>);
    define(m, "linear_backward_data", &linear_backward_data<float>, &linear_backward_data<bf16>);
    define(m, "linear_backward_filter", &linear_backward_filter<float>,
           &linear_backward_filter<bf16>);
}
