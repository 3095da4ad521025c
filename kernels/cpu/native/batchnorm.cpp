// Batch normalisation per channel, without scale and shift (Ioffe and Szegedy 2015).
//
//   forward     x (rows, C) -> y (rows, C), mean (C,), rstd (C,)
//               reads x twice, 8 bytes an element, writes 4
//   backward    dy (rows, C), y (rows, C), rstd (C,) -> dx (rows, C)      reads 16, writes 4
//   running     mean (C,), rstd (C,) -> added to running_mean, running_var (C,) and weight (1,)
//   inference   x (rows, C), running sums (C,) -> y (rows, C)             reads 4, writes 4
// x, y and their gradients are float, or bf16 in half the bytes; statistics are float.
//
// Read next: rows.h.
#include <algorithm>
#include <cmath>
#include <vector>

#include "binding.h"
#include "clock.h"
#include "moments.h"
#include "rows.h"
#include "shapes.h"

using namespace lsuv;

namespace {

// Rows that have statistics.
Rows filled(const py::array& x, const std::string& name) {
    if (x.ndim() && x.size() == 0) fail(name + " " + shape_text(x) + " has no elements");
    return rows_of(x, name);
}

template <class T>
void batchnorm_forward(const py::array& x, const py::array& y, const py::array& mean,
                       const py::array& rstd, double eps) {
    number("batchnorm_forward", "eps", eps, 0);
    const Rows size = filled(x, "batchnorm: x");
    const std::int64_t C = size.C;
    same_shape(x, "batchnorm: x", y, "y");
    shaped(mean, "batchnorm: mean", {C});
    shaped(rstd, "batchnorm: rstd", {C});
    const auto* values = input<T>(x, "batchnorm_forward: x");
    auto* result = output<T>(y, "batchnorm_forward: y");
    auto* centre = output<float>(mean, "batchnorm_forward: mean");
    auto* factor = output<float>(rstd, "batchnorm_forward: rstd");
    apart({{y, "batchnorm_forward: y"},
           {mean, "batchnorm_forward: mean"},
           {rstd, "batchnorm_forward: rstd"}},
          {{x, "x"}});
    const double* const sums =
        tile_sums(size, [=](std::int64_t first, std::int64_t row, double* __restrict__ sum,
                            double* __restrict__ squares) {
            const T *run = values + row * C, *pivot = values + first * C;
#pragma omp simd
            for (std::int64_t c = 0; c < C; ++c) {
                const double d = static_cast<double>(run[c]) - static_cast<double>(pivot[c]);
                sum[c] += d;
                squares[c] += d * d;
            }
        });
    for (std::int64_t c = 0; c < C; ++c) {
        Moments all;
        for (std::int64_t tile = 0; tile < size.tiles; ++tile) {
            const std::int64_t first = tile * size.height;
            const auto count = static_cast<double>(std::min(size.height, size.rows - first));
            const double* sum = sums + tile * 2 * C;
            all.merge(Moments::of_sums(count, values[first * C + c], sum[c], sum[C + c]));
        }
        centre[c] = static_cast<float>(all.mean);
        factor[c] = static_cast<float>(1 / std::sqrt(all.variance() + eps));
    }
    map_rows(size, result,
             [=](std::int64_t i, std::int64_t c) { return (values[i] - centre[c]) * factor[c]; });
}

template <class T>
void batchnorm_backward(const py::array& dy, const py::array& y, const py::array& rstd,
                        const py::array& dx) {
    const Rows size = filled(y, "batchnorm: y");
    const std::int64_t C = size.C;
    same_shape(dy, "batchnorm: dy", y, "y");
    same_shape(dx, "batchnorm: dx", y, "y");
    shaped(rstd, "batchnorm: rstd", {C});
    const auto* gradient = input<T>(dy, "batchnorm_backward: dy");
    const auto* values = input<T>(y, "batchnorm_backward: y");
    const auto* factor = input<float>(rstd, "batchnorm_backward: rstd");
    auto* result = output<T>(dx, "batchnorm_backward: dx");
    apart({{dx, "batchnorm_backward: dx"}}, {{dy, "dy"}, {y, "y"}, {rstd, "rstd"}});
    const double* const sums =
        tile_sums(size, [=](std::int64_t, std::int64_t row, double* __restrict__ level,
                            double* __restrict__ along) {
            const T *g = gradient + row * C, *v = values + row * C;
#pragma omp simd
            for (std::int64_t c = 0; c < C; ++c) {
                level[c] += g[c];
                along[c] += static_cast<double>(g[c]) * static_cast<double>(v[c]);
            }
        });
    static thread_local std::vector<float> means;
    means.resize(2 * C);  // of dy (C,), of dy * y (C,)
    for (std::int64_t c = 0; c < 2 * C; ++c) {
        means[c] = static_cast<float>(total(sums, size, c) / static_cast<double>(size.rows));
    }
    const float *level = means.data(), *along = level + C;
    map_rows(size, result, [=](std::int64_t i, std::int64_t c) {
        return factor[c] * (gradient[i] - level[c] - values[i] * along[c]);
    });
}

void batchnorm_running(const py::array& mean, const py::array& rstd, const py::array& running_mean,
                       const py::array& running_var, const py::array& weight, double count,
                       double fraction, double eps, const py::array& clock) {
    number("batchnorm_running", "count", count, 1);
    number("batchnorm_running", "fraction", fraction, 0);
    number("batchnorm_running", "eps", eps, 0);
    dimensions(mean, "batchnorm: mean", 1);
    const std::int64_t C = mean.size();
    shaped(rstd, "batchnorm: rstd", {C});
    shaped(running_mean, "batchnorm: running_mean", {C});
    shaped(running_var, "batchnorm: running_var", {C});
    shaped(weight, "batchnorm: weight", {1});
    const auto* centre = input<float>(mean, "batchnorm_running: mean");
    const auto* factor = input<float>(rstd, "batchnorm_running: rstd");
    auto* mean_sum = output<float>(running_mean, "batchnorm_running: running_mean");
    auto* var_sum = output<float>(running_var, "batchnorm_running: running_var");
    auto* batches = output<float>(weight, "batchnorm_running: weight");
    const bool finite = read_clock(clock)[FINITE] != 0;
    apart({{running_mean, "batchnorm_running: running_mean"},
           {running_var, "batchnorm_running: running_var"},
           {weight, "batchnorm_running: weight"}},
          {{mean, "mean"}, {rstd, "rstd"}, {clock, "clock"}});
    if (!finite) return;
    const double unbiased = count / std::max(count - 1, 1.0);
    for (std::int64_t c = 0; c < C; ++c) {
        const double r = factor[c], biased = std::max(1 / (r * r) - eps, 0.0);
        mean_sum[c] = static_cast<float>(fraction * mean_sum[c] + centre[c]);
        var_sum[c] = static_cast<float>(fraction * var_sum[c] + biased * unbiased);
    }
    batches[0] = static_cast<float>(fraction * batches[0] + 1);
}

template <class T>
void batchnorm_inference(const py::array& x, const py::array& y, const py::array& running_mean,
                         const py::array& running_var, const py::array& weight, double eps) {
    number("batchnorm_inference", "eps", eps, 0);
    const Rows size = rows_of(x, "batchnorm: x");
    const std::int64_t C = size.C;
    same_shape(x, "batchnorm: x", y, "y");
    shaped(running_mean, "batchnorm: running_mean", {C});
    shaped(running_var, "batchnorm: running_var", {C});
    shaped(weight, "batchnorm: weight", {1});
    const auto* values = input<T>(x, "batchnorm_inference: x");
    auto* result = output<T>(y, "batchnorm_inference: y");
    const auto* mean_sum = input<float>(running_mean, "batchnorm_inference: running_mean");
    const auto* var_sum = input<float>(running_var, "batchnorm_inference: running_var");
    const double batches = input<float>(weight, "batchnorm_inference: weight")[0];
    apart({{y, "batchnorm_inference: y"}}, {{x, "x"},
                                            {running_mean, "running_mean"},
                                            {running_var, "running_var"},
                                            {weight, "weight"}});
    if (!(batches > 0)) {
        fail("batchnorm: no running statistics yet; train at least one step first");
    }
    if (x.size() == 0) return;
    static thread_local std::vector<float> statistics;
    statistics.resize(2 * C);  // mean (C,), 1 / standard deviation (C,)
    for (std::int64_t c = 0; c < C; ++c) {
        statistics[c] = static_cast<float>(mean_sum[c] / batches);
        statistics[C + c] = static_cast<float>(1 / std::sqrt(var_sum[c] / batches + eps));
    }
    const float *centre = statistics.data(), *factor = centre + C;
    map_rows(size, result,
             [=](std::int64_t i, std::int64_t c) { return (values[i] - centre[c]) * factor[c]; });
}

}  // namespace

void bind_batchnorm(py::module_& m) {
    define(m, "batchnorm_forward", &batchnorm_forward<float>, &batchnorm_forward<bf16>);
    define(m, "batchnorm_backward", &batchnorm_backward<float>, &batchnorm_backward<bf16>);
    define(m, "batchnorm_running", &batchnorm_running);
    define(m, "batchnorm_inference", &batchnorm_inference<float>, &batchnorm_inference<bf16>);
}
