// The fully connected layer's products by oneDNN, with the interface of direct.h.
//
// On the heads of the paper's nets (128 images, 128 inputs, 10 to 100 outputs) sgemm takes 2 to 12
// microseconds, as oneDNN's matmul primitive does. At 128 x 4096 x 4096 it is faster backward
// (9.8 and 8.1 ms against 11.3 and 9.8) and slower forward (19 ms against 10). sgemm allocates its
// own work memory; nothing else here allocates after the first call.
//
// Left to itself sgemm also cuts the sum over F, if there are threads enough for that, and its bits
// then depend on their number. In `forward`, on which LSUV's weights depend, it may not: see
// `product_in_tiles`. (The bf16 product never cuts that sum.)
// Read next: conv_plan.h.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "columns.h"
#include "onednn.h"
#include "parallel.h"

namespace lsuv {

using dnnl::memory;

// C (M,N) = op(A) B, row-major; transpose_a 'T' transposes A. a_row: floats from row to row.
inline void product(char transpose_a, std::int64_t M, std::int64_t N, std::int64_t K,
                    const float* A, std::int64_t a_row, const float* B, std::int64_t b_row,
                    float* C, std::int64_t c_row) {
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
inline void product_in_tiles(const ConvShape& s, const float* x, const float* W, float* y) {
    constexpr std::int64_t ROWS = 128, COLUMNS = 256;
    const std::int64_t across = ceil_div(s.K, COLUMNS), tiles = ceil_div(s.N, ROWS) * across;
    const int threads = omp_get_max_threads();
    if (tiles == 1) omp_set_num_threads(1);
    bool failed = false;  // an exception may not leave a parallel region
#pragma omp parallel for schedule(static) reduction(|| : failed)
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
        const std::int64_t n = tile / across * ROWS, k = tile % across * COLUMNS;
        const std::int64_t rows = std::min(ROWS, s.N - n), columns = std::min(COLUMNS, s.K - k);
        failed = dnnl_sgemm('N', 'T', rows, columns, s.C, 1.0f, x + n * s.C, s.C, W + k * s.C, s.C,
                            1.0f, y + n * s.K + k, s.K) != dnnl_success ||
                 failed;
    }
    omp_set_num_threads(threads);
    if (failed) throw std::runtime_error("oneDNN's sgemm failed in linear_forward");
}

// The three products in bf16, which sgemm does not have: oneDNN's matmul, a plan for each shape as
// in conv_plan.h. The operand that is W comes in floats, and is rounded on its way into oneDNN's
// format.
struct LinearPlan {
    dnnl::matmul primitive;
    memory left, right, bias, result;  // views of the caller's arrays
    memory weights, copy;              // W of floats, a view, and bf16 in oneDNN's format
    dnnl::reorder reorder;
    Arguments arguments, reorder_arguments;
};

inline LinearPlan linear_plan(Pass pass, const ConvShape& s) {
    constexpr auto NARROW = memory::data_type::bf16, WIDE = memory::data_type::f32;
    const std::int64_t N = s.N, F = s.C, K = s.K;
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
    LinearPlan plan;
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
inline void multiply(Pass pass, const ConvShape& s, const bf16* left, const void* right,
                     const float* bias, bf16* result) {
    static std::map<std::array<std::int64_t, 5>, LinearPlan> plans;
    const std::array<std::int64_t, 5> key{static_cast<std::int64_t>(pass), s.N, s.C, s.K,
                                          omp_get_max_threads()};
    auto entry = plans.find(key);
    if (entry == plans.end()) entry = plans.emplace(key, linear_plan(pass, s)).first;
    LinearPlan& plan = entry->second;
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

// One call uses it at a time.
class OneDnnLinear {
public:
    template <class T>
    void forward(const T* x, const float* W, const float* b, T* y, const ConvShape& s) {
        if constexpr (std::is_same_v<T, bf16>) {
            multiply(Pass::forward, s, x, W, b, y);
        } else {
            if (!b) std::fill_n(y, s.N * s.K, 0.0f);
            for (std::int64_t n = 0; b && n < s.N; ++n) std::copy_n(b, s.K, y + n * s.K);
            product_in_tiles(s, x, W, y);
        }
    }

    template <class T>
    void backward_data(const T* dy, const float* W, T* dx, const ConvShape& s) {
        if constexpr (std::is_same_v<T, bf16>) {
            multiply(Pass::backward_data, s, dy, W, nullptr, dx);
        } else {
            product('N', s.N, s.C, s.K, dy, s.K, W, s.C, dx, s.C);
        }
    }

    template <class T>
    void backward_filter(const T* x, const T* dy, T* dW, T* db, const ConvShape& s) {
        if constexpr (std::is_same_v<T, bf16>) {
            multiply(Pass::backward_filter, s, dy, x, nullptr, dW);
        } else {
            product('T', s.K, s.C, s.N, dy, s.K, x, s.C, dW, s.C);
        }
        if (!db) return;
        sums_.start(s.K);
        sums_.add(dy, s.N);
        sums_.finish(db);
    }

private:
    ColumnSums sums_;
};

}  // namespace lsuv
