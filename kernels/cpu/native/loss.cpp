// The two losses and softmax. A label of -1 marks a padding row, which counts nowhere.
//
//   softmax                  scores (N,K) -> prob (N,K)
//   softmax_loss_forward     scores (N,K), labels (N,) int32 -> prob (N,K), clock
//   softmax_loss_backward    prob (N,K), labels -> dscores (N,K)
//   hinge_loss_forward       scores (N,K), labels -> prob (N,K), the margins' losses; clock
//   hinge_loss_backward      scores (N,K), labels -> dscores (N,K)
//              each reads 4 and writes 4 bytes an element
// scores and dscores are float or bf16, prob is float.
//
// One thread computes a run of rows. A row's loss is summed in double, column by column, and the
// rows are added in their order by the calling thread, so the loss has the same bits for any number
// of threads.
//
// Read next: gather.cpp.
#include <algorithm>
#include <cmath>
#include <vector>

#include "binding.h"
#include "clock.h"
#include "exponential.h"
#include "parallel.h"

using namespace lsuv;

namespace {

struct Batch {
    std::int64_t N, K;
};

Batch batch(const py::array& scores, const py::array& result, const char* op) {
    dimensions(scores, op, 2);
    const Batch size = {scores.shape(0), scores.shape(1)};
    if (size.K < 1) fail(std::string(op) + ": scores " + shape_text(scores) + " have no classes");
    shaped(result, op, {size.N, size.K});
    return size;
}

const std::int32_t* classes(const py::array& labels, const Batch& size, const char* op) {
    shaped(labels, "labels", {size.N});
    const auto* label = input<std::int32_t>(labels, "labels");
    for (std::int64_t n = 0; n < size.N; ++n) {
        if (label[n] >= size.K) {
            fail(std::string(op) + ": label " + std::to_string(label[n]) + " of row " +
                 std::to_string(n) + ", but there are " + std::to_string(size.K) + " classes");
        }
    }
    return label;
}

// The number of rows with a label, at least 1: what a mean over them divides by.
std::int64_t labelled(const std::int32_t* label, std::int64_t N) {
    const auto seen = std::count_if(label, label + N, [](std::int32_t n) { return n >= 0; });
    return std::max<std::int64_t>(seen, 1);
}

// Memory for the losses of N rows, kept from call to call.
double* row_losses(std::int64_t N) {
    static thread_local std::vector<double> losses;
    losses.resize(N);
    return losses.data();
}

// Writes the loss of the batch and, while it and all scores are finite, adds to the sums. An
// infinite score of another class can leave the loss finite, but not the weights.
template <class T>
void record(const T* scores, const std::int32_t* label, const double* losses,
            const Batch& size, double* clock) {
    double total = 0;
    std::int64_t seen = 0, correct = 0;
    bool finite = true;
    for (std::int64_t n = 0; n < size.N; ++n) {
        if (label[n] < 0) continue;
        const T *row = scores + n * size.K, *end = row + size.K;
        total += losses[n];
        correct += std::max_element(row, end) - row == label[n];  // the first largest
        finite = finite && std::all_of(row, end, [](float score) { return std::isfinite(score); });
        ++seen;
    }
    clock[LOSS] = total / static_cast<double>(std::max<std::int64_t>(seen, 1));
    if (!finite || !std::isfinite(total)) {
        clock[FINITE] = 0;
        return;
    }
    clock[LOSS_SUM] += total;
    clock[CORRECT_SUM] += static_cast<double>(correct);
    clock[SEEN] += static_cast<double>(seen);
}

// prob = exp(row - its largest) / the sum of those. Returns the logarithm of the sum before the
// shift.
template <class T>
double softmax_row(const T* __restrict__ row, float* __restrict__ prob, std::int64_t K) {
    float largest = row[0];
    for (std::int64_t k = 1; k < K; ++k) largest = std::max<float>(largest, row[k]);
#pragma omp simd
    for (std::int64_t k = 0; k < K; ++k) prob[k] = exponential(row[k] - largest);
    double sum = 0;
    for (std::int64_t k = 0; k < K; ++k) sum += prob[k];
    const auto inverse = static_cast<float>(1 / sum);
    for (std::int64_t k = 0; k < K; ++k) prob[k] *= inverse;
    return std::log(sum) + largest;
}

template <class T>
void softmax(const py::array& scores, const py::array& prob) {
    const Batch size = batch(scores, prob, "softmax");
    const auto* values = input<T>(scores, "softmax: scores");
    auto* result = output<float>(prob, "softmax: prob");
    apart({{prob, "softmax: prob"}}, {{scores, "scores"}});
    const auto [N, K] = size;
#pragma omp parallel for schedule(static) if (N * K > SERIAL / 4)
    for (std::int64_t n = 0; n < N; ++n) softmax_row(values + n * K, result + n * K, K);
}

template <class T>
void softmax_loss_forward(const py::array& scores, const py::array& labels, const py::array& prob,
                          const py::array& clock) {
    const Batch size = batch(scores, prob, "softmax_loss_forward");
    const auto* label = classes(labels, size, "softmax_loss_forward");
    const auto* values = input<T>(scores, "softmax_loss_forward: scores");
    auto* result = output<float>(prob, "softmax_loss_forward: prob");
    auto* sums = write_clock(clock);
    apart({{prob, "softmax_loss_forward: prob"}, {clock, "softmax_loss_forward: clock"}},
          {{scores, "scores"}, {labels, "labels"}});
    const auto [N, K] = size;
    double* const losses = row_losses(N);
#pragma omp parallel for schedule(static) if (N * K > SERIAL / 4)
    for (std::int64_t n = 0; n < N; ++n) {
        const T* row = values + n * K;
        const double normaliser = softmax_row(row, result + n * K, K);
        losses[n] = label[n] < 0 ? 0 : normaliser - row[label[n]];
    }
    record(values, label, losses, size, sums);
}

template <class T>
void softmax_loss_backward(const py::array& prob, const py::array& labels,
                           const py::array& dscores, double weight) {
    number("softmax_loss_backward", "weight", weight);
    const Batch size = batch(prob, dscores, "softmax_loss_backward");
    const auto* label = classes(labels, size, "softmax_loss_backward");
    const auto* values = input<float>(prob, "softmax_loss_backward: prob");
    auto* result = output<T>(dscores, "softmax_loss_backward: dscores");
    apart({{dscores, "softmax_loss_backward: dscores"}}, {{prob, "prob"}, {labels, "labels"}});
    const auto [N, K] = size;
    const auto count = static_cast<float>(labelled(label, N)), part = static_cast<float>(weight);
#pragma omp parallel for schedule(static) if (N * K > SERIAL)
    for (std::int64_t n = 0; n < N; ++n) {
        const float* row = values + n * K;
        T* out = result + n * K;
        for (std::int64_t k = 0; k < K; ++k) {
            const float difference = k == label[n] ? row[k] - 1.0f : row[k];
            out[k] = rounded<T>(label[n] < 0 ? 0.0f : part * difference / count);
        }
    }
}

template <class T>
void hinge_loss_forward(const py::array& scores, const py::array& labels, const py::array& prob,
                        const py::array& clock) {
    const Batch size = batch(scores, prob, "hinge_loss_forward");
    const auto* label = classes(labels, size, "hinge_loss_forward");
    const auto* values = input<T>(scores, "hinge_loss_forward: scores");
    auto* result = output<float>(prob, "hinge_loss_forward: prob");
    auto* sums = write_clock(clock);
    apart({{prob, "hinge_loss_forward: prob"}, {clock, "hinge_loss_forward: clock"}},
          {{scores, "scores"}, {labels, "labels"}});
    const auto [N, K] = size;
    double* const losses = row_losses(N);
#pragma omp parallel for schedule(static) if (N * K > SERIAL)
    for (std::int64_t n = 0; n < N; ++n) {
        const T* row = values + n * K;
        float* out = result + n * K;
        double sum = 0;
        for (std::int64_t k = 0; k < K; ++k) {
            const float margin = k == label[n] ? 1.0f - row[k] : 1.0f + row[k];
            out[k] = margin < 0.0f ? 0.0f : margin;  // keeps NaN, for the loss to show it
            sum += out[k];
        }
        losses[n] = sum;
    }
    record(values, label, losses, size, sums);
}

template <class T>
void hinge_loss_backward(const py::array& scores, const py::array& labels,
                         const py::array& dscores, double weight) {
    number("hinge_loss_backward", "weight", weight);
    const Batch size = batch(scores, dscores, "hinge_loss_backward");
    const auto* label = classes(labels, size, "hinge_loss_backward");
    const auto* values = input<T>(scores, "hinge_loss_backward: scores");
    auto* result = output<T>(dscores, "hinge_loss_backward: dscores");
    apart({{dscores, "hinge_loss_backward: dscores"}}, {{scores, "scores"}, {labels, "labels"}});
    const auto [N, K] = size;
    const float step = static_cast<float>(weight) / static_cast<float>(labelled(label, N));
#pragma omp parallel for schedule(static) if (N * K > SERIAL)
    for (std::int64_t n = 0; n < N; ++n) {
        const T* row = values + n * K;
        T* out = result + n * K;
        for (std::int64_t k = 0; k < K; ++k) {
            const bool own = k == label[n];
            const bool violated = (own ? 1.0f - row[k] : 1.0f + row[k]) > 0.0f && label[n] >= 0;
            out[k] = rounded<T>(violated ? (own ? -step : step) : 0.0f);
        }
    }
}

}  // namespace

void bind_loss(py::module_& m) {
    define(m, "softmax", &softmax<float>, &softmax<bf16>);
    define(m, "softmax_loss_forward", &softmax_loss_forward<float>, &softmax_loss_forward<bf16>);
    define(m, "softmax_loss_backward",
           +[](const py::array& prob, const py::array& labels, const py::array& dscores,
               double weight) {
               by_type(dscores, [&](auto t) {
                   softmax_loss_backward<decltype(t)>(prob, labels, dscores, weight);
               });
           });
    define(m, "hinge_loss_forward", &hinge_loss_forward<float>, &hinge_loss_forward<bf16>);
    define(m, "hinge_loss_backward", &hinge_loss_backward<float>, &hinge_loss_backward<bf16>);
}
