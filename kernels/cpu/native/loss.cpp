// The losses and softmax. A label of -1, or a first value that is NaN, marks a padding row, which
// counts nowhere.
//
//   softmax                  scores (N,K) -> prob (N,K)
//   softmax_loss_forward     scores (N,K), labels (N,) int32 -> prob (N,K), clock
//   softmax_loss_backward    prob (N,K), labels -> dscores (N,K)
//   distillation_loss_forward        scores, labels, values (N,K), a teacher's scores -> prob,
//                            (N,K), what softmax_loss_backward takes; clock
//   [squared_]hinge_loss_forward     scores (N,K), labels -> prob (N,K), the margins' losses; clock
//   [squared_]hinge_loss_backward    scores (N,K), labels -> dscores (N,K)
//   squared_error_forward, absolute_error_forward, binary_cross_entropy_forward
//                            scores (N,...), values (N,...) -> clock; a row is an image
//   ..._backward             scores, values -> dscores
//              each reads 4 and writes 4 bytes an element, those of values read 4 more
// scores and dscores are float or bf16, prob, values and the classes' weights are float.
//
// One thread computes a run of rows. A row's loss is summed in double, column by column, and the
// rows are added in their order by the calling thread, so the loss has the same bits for any number
// of threads.
//
// Read next: gather.cpp.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "binding.h"
#include "clock.h"
#include "exponential.h"
#include "parallel.h"
#include "shapes.h"

using namespace lsuv;

namespace {

struct Batch {
    std::int64_t N, K;
};

Batch batch(const py::array& scores, const py::array& result, const std::string& op) {
    dimensions(scores, op.c_str(), 2);
    const Batch size = {scores.shape(0), scores.shape(1)};
    if (size.K < 1) fail(op + ": scores " + shape_text(scores) + " have no classes");
    shaped(result, op.c_str(), {size.N, size.K});
    return size;
}

const std::int32_t* classes(const py::array& labels, const Batch& size, const std::string& op) {
    shaped(labels, "labels", {size.N});
    const auto* label = input<std::int32_t>(labels, "labels");
    for (std::int64_t n = 0; n < size.N; ++n) {
        if (label[n] >= size.K) {
            fail(op + ": label " + std::to_string(label[n]) + " of row " + std::to_string(n) +
                 ", but there are " + std::to_string(size.K) + " classes");
        }
    }
    return label;
}

// The weight of each class, or null where all are 1.
const float* class_weights(const Optional& weights, const Batch& size) {
    if (!weights) return nullptr;
    shaped(*weights, "weights", {size.K});
    return input<float>(*weights, "weights");
}

// What a mean over the rows with a label divides by: their number or the sum of their weights, and
// 1 where that is 0.
double divisor(const std::int32_t* label, const float* weight, std::int64_t N) {
    double sum = 0;
    for (std::int64_t n = 0; n < N; ++n) {
        if (label[n] >= 0) sum += weight ? weight[label[n]] : 1;
    }
    return sum > 0 ? sum : 1;
}

// Memory for the losses of N rows, kept from call to call.
double* row_losses(std::int64_t N) {
    static thread_local std::vector<double> losses;
    losses.resize(N);
    return losses.data();
}

// Writes the loss of the batch and, while it is finite, adds to the sums.
void add(double total, std::int64_t seen, std::int64_t correct, double by, bool finite,
         double* clock) {
    clock[LOSS] = total / by;
    if (!finite || !std::isfinite(total)) {
        clock[FINITE] = 0;
        return;
    }
    clock[LOSS_SUM] += total * (static_cast<double>(seen) / by);
    clock[CORRECT_SUM] += static_cast<double>(correct);
    clock[SEEN] += static_cast<double>(seen);
}

// An infinite score of another class can leave the loss finite, but not the weights.
template <class T>
void record(const T* scores, const std::int32_t* label, const float* weight, const double* losses,
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
    add(total, seen, correct, divisor(label, weight, size.N), finite, clock);
}

// prob = exp(colder * (row - its largest)) / the sum of those. Returns the logarithm of the sum
// before the shift.
template <class T>
double softmax_row(const T* __restrict__ row, float* __restrict__ prob, std::int64_t K,
                   float colder = 1) {
    float largest = row[0];
    for (std::int64_t k = 1; k < K; ++k) largest = std::max<float>(largest, row[k]);
#pragma omp simd
    for (std::int64_t k = 0; k < K; ++k) prob[k] = exponential(colder * (row[k] - largest));
    double sum = 0;
    for (std::int64_t k = 0; k < K; ++k) sum += prob[k];
    const auto inverse = static_cast<float>(1 / sum);
    for (std::int64_t k = 0; k < K; ++k) prob[k] *= inverse;
    return std::log(sum) + colder * largest;
}

template <class T>
void softmax(const py::array& scores, const py::array& prob) {
    const Batch size = batch(scores, prob, "softmax");
    const auto* values = input<T>(scores, "softmax: scores");
    auto* result = output<float>(prob, "softmax: prob");
    apart({{prob, "softmax: prob"}}, {{scores, "scores"}});
    const std::int64_t N = size.N, K = size.K;
#pragma omp parallel for schedule(static) if (N * K > SERIAL / 4)
    for (std::int64_t n = 0; n < N; ++n) softmax_row(values + n * K, result + n * K, K);
}

// row(scores, prob, K, label) computes a row: its loss, which is not looked at in a padding row.
template <class T, class Row>
void forward(const std::string& op, const py::array& scores, const py::array& labels,
             const py::array& prob, const py::array& clock, Row row, const Optional& weights = {}) {
    const std::string prob_name = op + ": prob", clock_name = op + ": clock";
    const Batch size = batch(scores, prob, op);
    const auto* label = classes(labels, size, op);
    const auto* values = input<T>(scores, (op + ": scores").c_str());
    auto* result = output<float>(prob, prob_name.c_str());
    auto* sums = write_clock(clock);
    const float* const weight = class_weights(weights, size);
    apart({{prob, prob_name.c_str()}, {clock, clock_name.c_str()}},
          {{scores, "scores"}, {labels, "labels"}, {or_empty(weights), "weights"}});
    const std::int64_t N = size.N, K = size.K;
    double* const losses = row_losses(N);
#pragma omp parallel for schedule(static) if (N * K > SERIAL / 4)
    for (std::int64_t n = 0; n < N; ++n) {
        losses[n] = row(values + n * K, result + n * K, K, label[n]);
    }
    record(values, label, weight, losses, size, sums);
}

// slope(value, k, label, count): the derivative of a mean that divides by `count`, for the value in
// column k of `from`, which is the prob or the scores of type S.
template <class S, class T, class Slope>
void backward(const std::string& op, const char* from_name, const py::array& from,
              const py::array& labels, const py::array& dscores, double weight, Slope slope,
              const Optional& weights = {}) {
    number(op.c_str(), "weight", weight);
    const std::string result_name = op + ": dscores";
    const Batch size = batch(from, dscores, op);
    const auto* label = classes(labels, size, op);
    const auto* values = input<S>(from, (op + ": " + from_name).c_str());
    auto* result = output<T>(dscores, result_name.c_str());
    apart({{dscores, result_name.c_str()}},
          {{from, from_name}, {labels, "labels"}, {or_empty(weights), "weights"}});
    const std::int64_t N = size.N, K = size.K;
    const auto count = static_cast<float>(divisor(label, class_weights(weights, size), N));
#pragma omp parallel for schedule(static) if (N * K > SERIAL)
    for (std::int64_t n = 0; n < N; ++n) {
        const S* row = values + n * K;
        T* out = result + n * K;
        for (std::int64_t k = 0; k < K; ++k) {
            out[k] = rounded<T>(label[n] < 0 ? 0.0f : slope(row[k], k, label[n], count));
        }
    }
}

void check_smoothing(const char* op, double smoothing) {
    if (smoothing >= 0 && smoothing < 1) return;
    fail(std::string(op) + ": smoothing " + py::str(py::float_(smoothing)).cast<std::string>() +
         " is not a share in [0, 1)");
}

template <class T>
void softmax_loss_forward(const py::array& scores, const py::array& labels, const py::array& prob,
                          const py::array& clock, double smoothing, const Optional& weights) {
    check_smoothing("softmax_loss_forward", smoothing);
    const float* const weight = class_weights(weights, batch(scores, prob, "softmax_loss_forward"));
    const auto loss = [=](const T* row, float* out, std::int64_t K, std::int32_t label) {
        const double normaliser = softmax_row(row, out, K);
        if (label < 0) return 0.0;
        if (smoothing == 0) return (weight ? weight[label] : 1) * (normaliser - row[label]);
        double sum = 0;
        if (weight) {
            for (std::int64_t k = 0; k < K; ++k) sum += weight[k] * (normaliser - row[k]);
            return (1 - smoothing) * weight[label] * (normaliser - row[label]) +
                   smoothing * (sum / static_cast<double>(K));
        }
        for (std::int64_t k = 0; k < K; ++k) sum += row[k];
        const double mean = sum / static_cast<double>(K);
        return normaliser - (1 - smoothing) * row[label] - smoothing * mean;
    };
    forward<T>("softmax_loss_forward", scores, labels, prob, clock, loss, weights);
}

template <class T>
void softmax_loss_backward(const py::array& prob, const py::array& labels, const py::array& dscores,
                           double weight, double smoothing, const Optional& weights) {
    const char* const op = "softmax_loss_backward";
    check_smoothing(op, smoothing);
    const Batch size = batch(prob, dscores, op);
    const double spread = smoothing / static_cast<double>(size.K);
    const auto others = static_cast<float>(spread), part = static_cast<float>(weight);
    const auto truth = static_cast<float>(1 - smoothing + spread);
    if (const float* const of = class_weights(weights, size)) {
        const auto all = static_cast<float>(spread * std::accumulate(of, of + size.K, 0.0));
        const auto kept = static_cast<float>(1 - smoothing);
        const auto slope = [=](float value, std::int64_t k, std::int32_t label, float count) {
            const float own = kept * of[label], target = others * of[k] + (k == label ? own : 0);
            return part * ((own + all) * value - target) / count;
        };
        return backward<float, T>(op, "prob", prob, labels, dscores, weight, slope, weights);
    }
    backward<float, T>(op, "prob", prob, labels, dscores, weight,
                       [=](float value, std::int64_t k, std::int32_t label, float count) {
                           return part * (value - (k == label ? truth : others)) / count;
                       });
}

template <class T>
void distillation_loss_forward(const py::array& scores, const py::array& labels,
                               const py::array& prob, const py::array& clock,
                               const py::array& values, double share, double temperature,
                               double student_temperature) {
    const char* const op = "distillation_loss_forward";
    number(op, "share", share, 0);
    for (const double one : {temperature, student_temperature}) {
        number(op, "temperature", one, 0);
        if (one == 0) fail(std::string(op) + ": temperature 0.0 is no number above 0");
    }
    const Batch size = batch(scores, prob, op);
    shaped(values, "values", {size.N, size.K});
    const T* const from = input<T>(scores, "distillation_loss_forward: scores");
    const float* const taught = input<float>(values, "distillation_loss_forward: values");
    apart({{prob, "prob"}, {clock, "clock"}}, {{values, "values"}});
    const auto colder = static_cast<float>(1 / student_temperature);
    const auto teachers = static_cast<float>(1 / temperature);
    const auto slope = static_cast<float>(share / student_temperature);
    forward<T>(op, scores, labels, prob, clock,
               [=](const T* row, float* out, std::int64_t K, std::int32_t label) {
                   static thread_local std::vector<float> memory;  // kept from row to row
                   memory.resize(2 * K);
                   float *const p = memory.data(), *const q = p + K;
                   const double hard = softmax_row(row, out, K);
                   const double soft = softmax_row(row, p, K, colder);
                   softmax_row(taught + (row - from), q, K, teachers);
                   double sum = 0;
                   for (std::int64_t k = 0; k < K; ++k) {
                       sum += q[k] * (soft - colder * row[k]);
                       out[k] += slope * (p[k] - q[k]);
                   }
                   return label < 0 ? 0.0 : hard - row[label] + share * sum;
               });
}

// max(0, 1 - t s), with t = 1 in the label's column and -1 in the others; keeps NaN, for the loss
// to show it.
inline float margin_of(float score, bool own) {
    const float margin = own ? 1.0f - score : 1.0f + score;
    return margin < 0.0f ? 0.0f : margin;
}

// NORM: the power of a margin that is its loss.
template <int NORM>
constexpr const char* HINGE[2] = {
    NORM == 1 ? "hinge_loss_forward" : "squared_hinge_loss_forward",
    NORM == 1 ? "hinge_loss_backward" : "squared_hinge_loss_backward"};

template <int NORM, class T>
void hinge_loss_forward(const py::array& scores, const py::array& labels, const py::array& prob,
                        const py::array& clock) {
    forward<T>(HINGE<NORM>[0], scores, labels, prob, clock,
               [](const T* row, float* out, std::int64_t K, std::int32_t label) {
                   double sum = 0;
                   for (std::int64_t k = 0; k < K; ++k) {
                       const float margin = margin_of(row[k], k == label);
                       out[k] = NORM == 1 ? margin : margin * margin;
                       sum += out[k];
                   }
                   return sum;
               });
}

template <int NORM, class T>
void hinge_loss_backward(const py::array& scores, const py::array& labels, const py::array& dscores,
                         double weight) {
    const auto part = static_cast<float>(weight);
    backward<T, T>(HINGE<NORM>[1], "scores", scores, labels, dscores, weight,
                   [part](float score, std::int64_t k, std::int32_t label, float count) {
                       const bool own = k == label;
                       const float step = part / count, margin = margin_of(score, own);
                       const float slope =
                           NORM == 1 ? (margin > 0.0f ? step : 0.0f) : 2.0f * margin * step;
                       return own ? 0.0f - slope : slope;
                   });
}

// -- losses of values -----------------------------------------------------------------------------
// Each has the loss of an element, its derivative, and whether the value is met.

struct SquaredError {
    static constexpr const char* OPS[2] = {"squared_error_forward", "squared_error_backward"};
    static float loss(float score, float value) { return (score - value) * (score - value); }
    static float slope(float score, float value) { return 2 * (score - value); }
    static bool right(float, float) { return false; }
};

struct AbsoluteError {
    static constexpr const char* OPS[2] = {"absolute_error_forward", "absolute_error_backward"};
    static float loss(float score, float value) { return std::fabs(score - value); }
    static float slope(float score, float value) {
        const float error = score - value;
        return error > 0 ? 1 : error < 0 ? -1 : error;  // NaN stays one
    }
    static bool right(float, float) { return false; }
};

// log(1 + x) for x in [0, 1], within 2 ulp, as plain arithmetic: 2 atanh(z) by its series, where
// z = x / (2 + x) is at most 1/3.
inline __attribute__((always_inline)) float log_of_1_and(float x) {
    const float z = x / (2 + x), square = z * z;
    float sum = 1.0f / 13;
    sum = sum * square + 1.0f / 11;
    sum = sum * square + 1.0f / 9;
    sum = sum * square + 1.0f / 7;
    sum = sum * square + 1.0f / 5;
    sum = sum * square + 1.0f / 3;
    sum = sum * square + 1.0f;
    return 2 * z * sum;
}

struct BinaryCrossEntropy {
    static constexpr const char* OPS[2] = {"binary_cross_entropy_forward",
                                           "binary_cross_entropy_backward"};
    static float loss(float score, float value) {
        const float above = score < 0 ? 0 : score;
        return above - score * value + log_of_1_and(exponential(-std::fabs(score)));
    }
    static float slope(float score, float value) {
        const float small = exponential(-std::fabs(score));
        const float p = small / (1 + small);  // of the less likely
        return score > 0 ? (1 - value) - p : p - value;
    }
    static bool right(float score, float value) { return (score > 0) == (value > 0.5f); }
};

Batch images(const py::array& scores, const py::array& values, const std::string& op) {
    same_shape(scores, (op + ": scores").c_str(), values, "values");
    Batch size = {scores.ndim() ? scores.shape(0) : 0, 1};
    for (py::ssize_t axis = 1; axis < scores.ndim(); ++axis) size.K *= scores.shape(axis);
    if (size.K < 1 || !scores.ndim()) {
        fail(op + ": scores " + shape_text(scores) + " have no elements of an image");
    }
    return size;
}

constexpr std::int64_t RUN = 64;  // elements whose losses are computed as vectors, and then added

template <class Loss, class T>
void value_forward(const py::array& scores, const py::array& values, const py::array& clock) {
    const std::string op = Loss::OPS[0];
    const Batch size = images(scores, values, op);
    const std::int64_t N = size.N, K = size.K;
    const auto* score = input<T>(scores, (op + ": scores").c_str());
    const auto* value = input<float>(values, (op + ": values").c_str());
    auto* sums = write_clock(clock);
    apart({{clock, "clock"}}, {{scores, "scores"}, {values, "values"}});
    double *const losses = row_losses(2 * N), *const right = losses + N;
#pragma omp parallel for schedule(static) if (N * K > SERIAL / 4)
    for (std::int64_t n = 0; n < N; ++n) {
        const T* row = score + n * K;
        const float* wanted = value + n * K;
        float part[RUN];
        double sum = 0;
        std::int64_t met = 0;
        for (std::int64_t k = 0; k < K; k += RUN) {
            const std::int64_t count = std::min(RUN, K - k);
#pragma omp simd
            for (std::int64_t i = 0; i < count; ++i) {
                part[i] = Loss::loss(row[k + i], wanted[k + i]);
            }
            sum = std::accumulate(part, part + count, sum);
            for (std::int64_t i = k; i < k + count; ++i) met += Loss::right(row[i], wanted[i]);
        }
        losses[n] = sum / static_cast<double>(K);
        right[n] = met == K;
    }
    double total = 0;
    std::int64_t seen = 0, correct = 0;
    for (std::int64_t n = 0; n < N; ++n) {
        if (std::isnan(value[n * K])) continue;
        total += losses[n];
        correct += right[n] != 0;
        ++seen;
    }
    add(total, seen, correct, static_cast<double>(std::max<std::int64_t>(seen, 1)), true, sums);
}

template <class Loss, class T>
void value_backward(const py::array& scores, const py::array& values, const py::array& dscores,
                    double weight) {
    const std::string op = Loss::OPS[1];
    number(op.c_str(), "weight", weight);
    const Batch size = images(scores, values, op);
    const std::int64_t N = size.N, K = size.K;
    same_shape(dscores, (op + ": dscores").c_str(), scores, "scores");
    const auto* score = input<T>(scores, (op + ": scores").c_str());
    const auto* value = input<float>(values, (op + ": values").c_str());
    auto* result = output<T>(dscores, (op + ": dscores").c_str());
    apart({{dscores, (op + ": dscores").c_str()}}, {{scores, "scores"}, {values, "values"}});
    std::int64_t seen = 0;
    for (std::int64_t n = 0; n < N; ++n) seen += !std::isnan(value[n * K]);
    const auto count = static_cast<double>(std::max<std::int64_t>(seen, 1) * K);
    const auto part = static_cast<float>(weight / count);
#pragma omp parallel for schedule(static) if (N * K > SERIAL)
    for (std::int64_t n = 0; n < N; ++n) {
        const bool kept = !std::isnan(value[n * K]);
        for (std::int64_t i = n * K; i < (n + 1) * K; ++i) {
            result[i] = rounded<T>(kept ? part * Loss::slope(score[i], value[i]) : 0);
        }
    }
}

template <class Loss>
void define_value_loss(py::module_& m) {
    define(m, Loss::OPS[0], &value_forward<Loss, float>, &value_forward<Loss, bf16>);
    define(m, Loss::OPS[1], &value_backward<Loss, float>, &value_backward<Loss, bf16>);
}

}  // namespace

void bind_loss(py::module_& m) {
    define(m, "softmax", &softmax<float>, &softmax<bf16>);
    define(m, "softmax_loss_forward", &softmax_loss_forward<float>, &softmax_loss_forward<bf16>);
    define<2>(m, "softmax_loss_backward", &softmax_loss_backward<float>,
              &softmax_loss_backward<bf16>);
    define(m, "distillation_loss_forward", &distillation_loss_forward<float>,
           &distillation_loss_forward<bf16>);
    define(m, "hinge_loss_forward", &hinge_loss_forward<1, float>, &hinge_loss_forward<1, bf16>);
    define(m, "hinge_loss_backward", &hinge_loss_backward<1, float>, &hinge_loss_backward<1, bf16>);
    define(m, "squared_hinge_loss_forward", &hinge_loss_forward<2, float>,
           &hinge_loss_forward<2, bf16>);
    define(m, "squared_hinge_loss_backward", &hinge_loss_backward<2, float>,
           &hinge_loss_backward<2, bf16>);
    define_value_loss<SquaredError>(m);
    define_value_loss<AbsoluteError>(m);
    define_value_loss<BinaryCrossEntropy>(m);
}
