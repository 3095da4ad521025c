// The fully connected layer: three matrix products by oneDNN's sgemm, on row-major arrays.
//
// On the heads of the paper's nets (128 images, 128 inputs, 10 to 100 outputs) it takes 2 to 12
// microseconds, as oneDNN's matmul primitive does. At 128 x 4096 x 4096 it is faster backward
// (9.8 and 8.1 ms against 11.3 and 9.8) and slower forward (19 ms against 10). sgemm allocates its
// own work memory; nothing else here allocates after the first call.
//
// Left to itself sgemm also cuts the sum over F, if there are threads enough for that, and its bits
// then depend on their number. In `linear_forward`, on which LSUV's weights depend, it may not: see
// `product_in_tiles`. (The bf16 product never cuts that sum.)
//
// x, y and their gradients are float, or bf16; W and b are float; dW and db have the type of dy.
// Read next: columns.h.

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "binding.h"
#include "columns.h"
#include "onednn.h"
#include "parallel.h"

namespace {

using namespace lsuv;
using dnnl::memory;

struct Sizes {
    std::int64_t N, F, K;
};

// Checks the shapes against each other; in a backward pass x, W or y is a gradient of that shape.
Sizes shape_of(const Argument& x, const Argument& W, const Argument& y) {
    dimensions(x.array, x.name, 2);
    dimensions(W.array, W.name, 2);
    const Sizes s{x.array.shape(0), x.array.shape(1), W.array.shape(0)};
    if (s.F < 1 || s.K < 1) {
        fail(std::string(W.name) + ": " + std::to_string(s.F) + " inputs and " +
             std::to_string(s.K) + " outputs; both must be at least 1");
    }
    shaped(W.array, W.name, {s.K, s.F});
    shaped(y.array, y.name, {s.N, s.K});
    return s;
}

// C (M,N) = op(A) B, row-major; transpose_a 'T' transposes A. a_row: floats from row to row.
void product(char transpose_a, std::int64_t M, std::int64_t N, std::int64_t K, const float* A,
             std::int64_t a_row, const float* B, std::int64_t b_row, float* C, std::int64_t c_row) {
    const dnnl_status_t status =
        dnnl_sgemm(transpose_a, 'N', M, N, K, 1.0f, A, a_row, B, b_row, 0.0f, C, c_row);
    if (status != dnnl_success) {
        throw std::runtime_error("oneDNN's sgemm failed with status " + std::to_string(status));
    }
}

// y (N,K) += x (N,F) W', a tile of y at a time: each is one sgemm by one thread, as sgemm is within
// a parallel region, so the bits are the same for any number of threads. A tile is so wide that
// packing its rows of x costs little beside multiplying them, and no wider, so that the 2500
// outputs of FitNet's maxout are ten tiles. A single tile wakes no thread.
void product_in_tiles(const Sizes& s, const float* x, const float* W, float* y) {
    constexpr std::int64_t ROWS = 128, COLUMNS = 256;
    const std::int64_t across = ceil_div(s.K, COLUMNS), tiles = ceil_div(s.N, ROWS) * across;
    const int threads = omp_get_max_threads();
    if (tiles == 1) omp_set_num_threads(1);
    bool failed = false;  // an exception may not leave a parallel region
#pragma omp parallel for schedule(static) reduction(|| : failed)
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
        const std::int64_t n = tile / across * ROWS, k = tile % across * COLUMNS;
        const std::int64_t rows = std::min(ROWS, s.N - n), columns = std::min(COLUMNS, s.K - k);
        failed = dnnl_sgemm('N', 'T', rows, columns, s.F, 1.0f, x + n * s.F, s.F, W + k * s.F, s.F,
                            1.0f, y + n * s.K + k, s.K) != dnnl_success ||
                 failed;
    }
    omp_set_num_threads(threads);
    if (failed) throw std::runtime_error("oneDNN's sgemm failed in linear_forward");
}

// The three products in bf16, which sgemm does not have: oneDNN's matmul, a plan for each shape as
// in conv_plan.h. The operand that is W comes in floats, and is rounded on its way into oneDNN's
// format.
struct Plan {
    dnnl::matmul primitive;
    memory left, right, bias, result;  // views of the caller's arrays
    memory weights, copy;              // W of floats, a view, and bf16 in oneDNN's format
    dnnl::reorder reorder;
    Arguments arguments, reorder_arguments;
};

Plan plan_of(Pass pass, const Sizes& s) {
    constexpr auto NARROW = memory::data_type::bf16, WIDE = memory::data_type::f32;
    const auto [N, F, K] = s;
    const auto matrix = [](std::int64_t rows, std::int64_t cols, memory::data_type type,
                           bool transposed) {
        const memory::dims strides = transposed ? memory::dims{1, rows} : memory::dims{cols, 1};
        return memory::desc({rows, cols}, type, strides);
    };
    const bool filter = pass == Pass::backward_filter, forward = pass == Pass::forward;
    const std::int64_t rows = filter ? K : N, inner = filter ? N : forward ? F : K;
    const std::int64_t cols = forward ? K : F;
    const memory::desc left = matrix(rows, inner, NARROW, filter);
    const memory::desc right = filter
                                   ? matrix(inner, cols, NARROW, false)
                                   : memory::desc({inner, cols}, NARROW, memory::format_tag::any);
    const memory::desc result = matrix(rows, cols, NARROW, false);
    const memory::desc bias({1, cols}, WIDE, memory::format_tag::ab);
    dnnl::primitive_attr attributes;
    attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    using Desc = dnnl::matmul::primitive_desc;
    const Desc desc = forward ? Desc(cpu_engine(), left, right, bias, result, attributes)
                              : Desc(cpu_engine(), left, right, result, attributes);
    Plan plan;
    plan.primitive = dnnl::matmul(desc);
    plan.left = view_of(left);
    plan.result = view_of(result);
    plan.right = filter ? view_of(right) : buffer_of(desc.weights_desc());
    plan.arguments = {{DNNL_ARG_SRC, plan.left},
                      {DNNL_ARG_WEIGHTS, plan.right},
                      {DNNL_ARG_DST, plan.result},
                      {DNNL_ARG_SCRATCHPAD, buffer_of(desc.scratchpad_desc())}};
    if (forward) {
        plan.bias = view_of(bias);
        plan.arguments[DNNL_ARG_BIAS] = plan.bias;
    }
    if (!filter) {
        plan.weights = view_of(matrix(inner, cols, WIDE, forward));
        plan.reorder = dnnl::reorder(plan.weights, plan.right);
        plan.reorder_arguments = {{DNNL_ARG_SRC, plan.weights}, {DNNL_ARG_DST, plan.right}};
    }
    return plan;
}

// result = left * right (+ bias, or zeros); right: W in floats, but in the filter gradient x.
void multiply(Pass pass, const Sizes& s, const bf16* left, const void* right, const float* bias,
              bf16* result) {
    static std::map<std::array<std::int64_t, 5>, Plan> plans;
    std::lock_guard<std::mutex> guard(cpu_lock());
    const std::array<std::int64_t, 5> key{static_cast<std::int64_t>(pass), s.N, s.F, s.K,
                                          omp_get_max_threads()};
    auto entry = plans.find(key);
    if (entry == plans.end()) entry = plans.emplace(key, plan_of(pass, s)).first;
    Plan& plan = entry->second;
    point(plan.left, left);
    point(plan.result, result);
    if (pass == Pass::forward) point(plan.bias, bias ? bias : no_bias(s.K));
    if (pass == Pass::backward_filter) {
        point(plan.right, right);
    } else {
        point(plan.weights, right);
        plan.reorder.execute(cpu_stream(), plan.reorder_arguments);
    }
    plan.primitive.execute(cpu_stream(), plan.arguments);
}

// y (N,K) = x (N,F) W' + b, which may be None
template <class T>
void linear_forward(const py::array& x, const py::array& W, const Optional& b, const py::array& y) {
    const Sizes s =
        shape_of({x, "linear_forward: x"}, {W, "linear_forward: W"}, {y, "linear_forward: y"});
    if (b) shaped(*b, "linear_forward: b", {s.K});
    const T* x_data = input<T>(x, "linear_forward: x");
    const float* W_data = input<float>(W, "linear_forward: W");
    const float* b_data = b ? input<float>(*b, "linear_forward: b") : nullptr;
    T* y_data = output<T>(y, "linear_forward: y");
    apart({{y, "linear_forward: y"}}, {{x, "x"}, {W, "W"}, {or_empty(b), "b"}});
    py::gil_scoped_release release;
    if (s.N == 0) return;
    if constexpr (std::is_same_v<T, bf16>) {
        multiply(Pass::forward, s, x_data, W_data, b_data, y_data);
    } else {
        if (!b_data) std::fill_n(y_data, s.N * s.K, 0.0f);
        for (std::int64_t n = 0; b_data && n < s.N; ++n) std::copy_n(b_data, s.K, y_data + n * s.K);
        product_in_tiles(s, x_data, W_data, y_data);
    }
}

// dx (N,F) = dy (N,K) W
template <class T>
void linear_backward_data(const py::array& dy, const py::array& W, const py::array& dx) {
    const Sizes s = shape_of({dx, "linear_backward_data: dx"}, {W, "linear_backward_data: W"},
                             {dy, "linear_backward_data: dy"});
    const T* dy_data = input<T>(dy, "linear_backward_data: dy");
    const float* W_data = input<float>(W, "linear_backward_data: W");
    T* dx_data = output<T>(dx, "linear_backward_data: dx");
    apart({{dx, "linear_backward_data: dx"}}, {{dy, "dy"}, {W, "W"}});
    py::gil_scoped_release release;
    if (s.N == 0) return;
    if constexpr (std::is_same_v<T, bf16>) {
        multiply(Pass::backward_data, s, dy_data, W_data, nullptr, dx_data);
    } else {
        product('N', s.N, s.F, s.K, dy_data, s.K, W_data, s.F, dx_data, s.F);
    }
}

// dW (K,F) = dy' x and db (K,), which may be None, = the column sums of dy
template <class T>
void linear_backward_filter(const py::array& x, const py::array& dy, const py::array& dW,
                            const Optional& db) {
    const Sizes s = shape_of({x, "linear_backward_filter: x"}, {dW, "linear_backward_filter: dW"},
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
        std::fill_n(dW_data, s.K * s.F, T{});
    } else if constexpr (std::is_same_v<T, bf16>) {
        multiply(Pass::backward_filter, s, dy_data, x_data, nullptr, dW_data);
    } else {
        product('T', s.K, s.F, s.N, dy_data, s.K, x_data, s.F, dW_data, s.F);
    }
    if (!db_data) return;
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
