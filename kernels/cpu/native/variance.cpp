// Mean and population variance of each of G blocks of the last axis.
//
//   variance   x (rows, G*C) -> mean (G,), variance (G,) float64
//              reads 4 bytes an element, once (bf16: 2)
//
// x is cut into tiles of a fixed number of rows, whatever the number of threads. One thread
// computes the tiles of a run, each as G sums of d and d^2 (moments.h) in sixteen double lanes; the
// tiles are then merged in their order, so the result has the same bits for any number of threads.
//
// Read next: loss.cpp.
#include <algorithm>
#include <vector>

#include "binding.h"
#include "moments.h"
#include "parallel.h"

using namespace lsuv;

namespace {

constexpr int LANES = 16;

template <class T>
Moments tile_moments(const T* x, std::int64_t rows, std::int64_t C, std::int64_t row_stride) {
    const double pivot = x[0];
    double sum[LANES] = {}, squares[LANES] = {};
    for (std::int64_t row = 0; row < rows; ++row) {
        const T* run = x + row * row_stride;
        std::int64_t c = 0;
        for (; c + LANES <= C; c += LANES) {
#pragma omp simd
            for (int lane = 0; lane < LANES; ++lane) {
                const double d = run[c + lane] - pivot;
                sum[lane] += d;
                squares[lane] += d * d;
            }
        }
        for (int lane = 0; c < C; ++c, ++lane) {
            const double d = run[c] - pivot;
            sum[lane] += d;
            squares[lane] += d * d;
        }
    }
    for (int lane = 1; lane < LANES; ++lane) {
        sum[0] += sum[lane];
        squares[0] += squares[lane];
    }
    return Moments::of_sums(static_cast<double>(rows * C), pivot, sum[0], squares[0]);
}

template <class T>
py::tuple variance(const py::array& x, std::int64_t groups) {
    if (x.ndim() < 1) fail("variance: x () has no channels");
    const std::int64_t channels = x.shape(x.ndim() - 1);
    if (groups < 1 || channels % groups) {
        fail("variance: " + std::to_string(channels) + " channels do not split into " +
             std::to_string(groups) + " groups");
    }
    if (x.size() == 0) fail("variance: x " + shape_text(x) + " has no elements");
    const auto* values = input<T>(x, "variance: x");
    const std::int64_t C = channels / groups, rows = x.size() / channels;
    const std::int64_t height = std::max<std::int64_t>(1, TILE / channels);
    const std::int64_t tiles = ceil_div(rows, height);
    std::vector<Moments> moments(tiles * groups);
#pragma omp parallel for schedule(static) if (x.size() > SERIAL)
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
        const std::int64_t first = tile * height, count = std::min(height, rows - first);
        for (std::int64_t group = 0; group < groups; ++group) {
            const T* block = values + first * channels + group * C;
            // A single group is one long run: its rows have no gaps.
            moments[tile * groups + group] = groups == 1 ? tile_moments(block, 1, count * C, 0)
                                                         : tile_moments(block, count, C, channels);
        }
    }
    py::array_t<double> mean(groups), population(groups);
    for (std::int64_t group = 0; group < groups; ++group) {
        Moments all;
        for (std::int64_t tile = 0; tile < tiles; ++tile) all.merge(moments[tile * groups + group]);
        mean.mutable_at(group) = all.mean;
        population.mutable_at(group) = all.variance();
    }
    return py::make_tuple(mean, population);
}

}  // namespace

void bind_variance(py::module_& m) {
    define(
        m, "variance", +[](const py::array& x, std::int64_t groups) {
            return by_type(x, [&](auto t) { return variance<decltype(t)>(x, groups); });
        });
}
