// The losses and softmax. A label of -1, or a first value that is NaN, marks a padding row, which
// counts nowhere.
//
//   scores (N,K)   labels (N,) int32   prob (N,K) float   dscores (N,K)   outcomes (N,)
//   weights (K,) float, of the classes   values (N,K) float, where K are all elements of an image
//
// Forward, one warp computes a row: its lanes read 32 neighbouring scores at a time, several times,
// but only the first time from memory, and write prob once. Backward, one thread computes an
// element. Bytes of an element: 8 in float32, 6 in bfloat16, and a batch has kilobytes of them, so
// that a launch takes as long as it waits for its first bytes: wider accesses would gain nothing.
// Of values, which can be images, one block computes a row.
//
// The loss of a row is summed in double. `record`, one block, adds up the rows: each thread its own
// in their order, then the threads in theirs, so the bits are the same in every run.
//
// Ten scores fill a third of a warp and begin in the middle of a sector, and each value is followed
// by a look at its row's first, whether the row counts; a cache serves the rest:
// Moved: softmax: scores 5.6 (bfloat16 8.8), prob 1.6
// Moved: softmax_loss_forward: scores 8.8 (bfloat16 14.4), of_classes 1.6, outcomes 2
// Moved: distillation_loss_forward: scores 12.8 (bfloat16 20.8), values 5.6, prob 1.6, outcomes 2
// Moved: hinge_loss_forward: scores 4 (bfloat16 6.4), prob 1.6, outcomes 2
// Moved: value_loss_forward: values 1.67
// Moved: value_loss_backward: values 3.25
//
// Read next: gather.cu.

#include "clock.cuh"
#include "reduce.cuh"

// What forward hands to `record` of a row. BROKEN: a score of it is not finite.
enum Kind : int { PADDING, WRONG, RIGHT, BROKEN };

struct alignas(16) Outcome {
    double loss;
    Kind kind;
    float weight;  // of its class
};

__device__ inline int lane() { return threadIdx.x % WARP; }
__device__ inline int64 first_row() { return first_index() / WARP; }
__device__ inline int64 stride_of_rows() { return stride_of_grid() / WARP; }

// The sum over the warp, in every lane.
__device__ inline double warp_sum(double value) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// A row's class, or -1 for padding; a label that is no class is noted and taken for padding.
__device__ inline int64 class_of(int64 label, int64 K, Fault* fault) {
    if (label >= K) report(fault, LABEL, label, K);
    return label < K ? label : -1;
}

// Every lane of a warp calls the next five with the same row.

// The largest of a row, and the sum of exp(colder * (score - largest)).
struct Scale {
    float largest;
    double sum;
};

template <class Score>
__device__ inline Scale scale_of(const Score* __restrict__ row, int64 K, float colder) {
    float largest = widen(row[0]);
#pragma unroll 4
    for (int64 k = lane(); k < K; k += WARP) {
        const float score = widen(row[k]);
        if (beats(score, largest)) largest = score;
    }
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, largest, distance);
        if (beats(other, largest)) largest = other;
    }
    double sum = 0;
#pragma unroll 4
    for (int64 k = lane(); k < K; k += WARP) sum += expf(colder * (widen(row[k]) - largest));
    return {largest, warp_sum(sum)};
}

// Writes prob -> log(the sum of exp(scores)).
__device__ inline double softmax_row(const real* __restrict__ row, float* __restrict__ prob,
                                     int64 K) {
    const auto [largest, sum] = scale_of(row, K, 1.0f);
    const float inverse = 1.0f / static_cast<float>(sum);
#pragma unroll 4
    for (int64 k = lane(); k < K; k += WARP) prob[k] = expf(widen(row[k]) - largest) * inverse;
    return log(sum) + largest;
}

__device__ inline double mean_of_row(const real* __restrict__ row, int64 K) {
    double sum = 0;
#pragma unroll 4
    for (int64 k = lane(); k < K; k += WARP) sum += widen(row[k]);
    return warp_sum(sum) / double(K);
}

// max(0, 1 - t s), with t = 1 in the label's column and -1 in the others; keeps NaN, for the loss
// to show it.
__device__ inline float margin_of(float score, bool own) {
    const float margin = own ? 1.0f - score : 1.0f + score;
    return margin < 0.0f ? 0.0f : margin;
}

// Writes the margins' losses, themselves or, for norm 2, their squares -> the sum.
__device__ inline double hinge_row(const real* __restrict__ row, float* __restrict__ prob, int64 K,
                                   int64 label, int64 norm) {
    double sum = 0;
#pragma unroll 4
    for (int64 k = lane(); k < K; k += WARP) {
        const float margin = margin_of(widen(row[k]), k == label);
        const float loss = norm == 1 ? margin : margin * margin;
        prob[k] = loss;
        sum += loss;
    }
    return warp_sum(sum);
}

// RIGHT where the label's score is the first largest.
__device__ inline Kind judge(const real* __restrict__ row, int64 K, int64 label) {
    const float own = widen(row[label]);
    bool wrong = false, broken = false;
#pragma unroll 4
    for (int64 k = lane(); k < K; k += WARP) {
        const float score = widen(row[k]);
        wrong = wrong || score > own || (score == own && k < label);
        broken = broken || !is_finite(score);
    }
    if (__any_sync(0xffffffffu, broken)) return BROKEN;
    return __any_sync(0xffffffffu, wrong) ? WRONG : RIGHT;
}

KERNEL softmax(const real* scores, float* prob, int64 N, int64 K) {
    for (int64 n = first_row(); n < N; n += stride_of_rows()) {
        softmax_row(scores + n * K, prob + n * K, K);
    }
}

// loss_of(row, prob, label) computes a row: its loss, where it has a label. weights: null is 1.
template <class Loss>
__device__ inline void forward(const real* scores, const int* labels, const float* weights,
                               float* prob, Outcome* outcomes, int64 N, int64 K, Fault* fault,
                               const Loss& loss_of) {
    for (int64 n = first_row(); n < N; n += stride_of_rows()) {
        const int64 label = class_of(labels[n], K, fault);
        const real* row = scores + n * K;
        const double loss = loss_of(row, prob + n * K, label);
        Outcome outcome = {0, PADDING, 0};
        if (label >= 0) outcome = {loss, judge(row, K, label), weights ? weights[label] : 1.0f};
        if (lane() == 0) outcomes[n] = outcome;
    }
}

// The sum over the row of each class's weight times the negative logarithm of its probability.
__device__ inline double weighted_row(const real* __restrict__ row,
                                      const float* __restrict__ weights, int64 K,
                                      double normaliser) {
    double sum = 0;
#pragma unroll 4
    for (int64 k = lane(); k < K; k += WARP) sum += weights[k] * (normaliser - widen(row[k]));
    return warp_sum(sum);
}

KERNEL softmax_loss_forward(const real* scores, const int* labels, float* prob, Outcome* outcomes,
                            int64 N, int64 K, double smoothing, const float* of_classes,
                            int64 weighted, Fault* fault) {
    const float* weights = weighted ? of_classes : nullptr;
    forward(scores, labels, weights, prob, outcomes, N, K, fault,
            [=](const real* row, float* prob, int64 label) {
                const double normaliser = softmax_row(row, prob, K);
                if (label < 0) return 0.0;
                const double own = normaliser - widen(row[label]);
                if (weights) {
                    const double loss = (1.0 - smoothing) * weights[label] * own;
                    if (smoothing == 0) return loss;
                    return loss + smoothing / double(K) * weighted_row(row, weights, K, normaliser);
                }
                if (smoothing == 0) return own;
                return normaliser - (1.0 - smoothing) * widen(row[label]) -
                       smoothing * mean_of_row(row, K);
            });
}

// values: a teacher's scores, which are read as often as those.
KERNEL distillation_loss_forward(const real* scores, const int* labels, float* prob,
                                 Outcome* outcomes, int64 N, int64 K, const float* values,
                                 double share, double temperature, double student_temperature,
                                 Fault* fault) {
    const float teachers = float(1 / temperature), colder = float(1 / student_temperature);
    const float slope = float(share / student_temperature);
    forward(scores, labels, nullptr, prob, outcomes, N, K, fault,
            [=](const real* row, float* prob, int64 label) {
                const float* taught = values + (row - scores);
                const Scale hard = scale_of(row, K, 1.0f), soft = scale_of(row, K, colder);
                const Scale wanted = scale_of(taught, K, teachers);
                double sum = 0;
#pragma unroll 4
                for (int64 k = lane(); k < K; k += WARP) {
                    const float score = widen(row[k]), below = colder * (score - soft.largest);
                    const float p = expf(below) / float(soft.sum);
                    const float q =
                        expf(teachers * (taught[k] - wanted.largest)) / float(wanted.sum);
                    prob[k] = expf(score - hard.largest) / float(hard.sum) + slope * (p - q);
                    sum += q * (log(soft.sum) - below);
                }
                sum = share * warp_sum(sum);
                if (label < 0) return 0.0;
                return log(hard.sum) + hard.largest - widen(row[label]) + sum;
            });
}

// Of both hinge losses.
KERNEL hinge_loss_forward(const real* scores, const int* labels, float* prob, Outcome* outcomes,
                          int64 N, int64 K, int64 norm, Fault* fault) {
    forward(scores, labels, nullptr, prob, outcomes, N, K, fault,
            [K, norm](const real* row, float* prob, int64 label) {
                return hinge_row(row, prob, K, label, norm);
            });
}

// Writes the loss of the batch and, while it and all scores are finite, adds to the sums. An
// infinite score of another class can leave the loss finite, but not the weights.
KERNEL record(const Outcome* outcomes, int64 N, double* clock) {
    __shared__ double smem[WARP];
    double total = 0, by = 0, seen = 0, right = 0, broken = 0;
    for (int64 n = threadIdx.x; n < N; n += THREADS) {
        const Outcome outcome = outcomes[n];
        total += outcome.loss;
        by += outcome.weight;
        seen += outcome.kind != PADDING;
        right += outcome.kind == RIGHT;
        broken += outcome.kind == BROKEN;
    }
    total = block_sum(total, smem);
    by = block_sum(by, smem);
    by = by > 0 ? by : 1;
    seen = block_sum(seen, smem);
    right = block_sum(right, smem);
    broken = block_sum(broken, smem);
    if (first_index() != 0) return;
    clock[LOSS] = total / by;
    if (broken > 0 || !is_finite(total)) {
        clock[FINITE] = 0;
        return;
    }
    clock[LOSS_SUM] += total * (seen / by);
    clock[CORRECT_SUM] += right;
    clock[SEEN] += seen;
}

// weight / the sum of weight_of(row) over the rows, in every thread. Each block sums them anew:
// they are fewer than its threads, or not many more.
template <class Weight>
__device__ inline float share(double weight, int64 N, double* smem, const Weight& weight_of) {
    double by = 0;
    for (int64 n = threadIdx.x; n < N; n += THREADS) by += weight_of(n);
    by = block_sum(by, smem);
    return static_cast<float>(weight) / static_cast<float>(by > 0 ? by : 1);
}

// slope(value, k, label): the derivative by the score in column k of the sum over the rows, for
// what `from` holds of it.
template <class From, class Slope>
__device__ inline void backward(const From* from, const int* labels, const float* weights,
                                real* dscores, int64 N, int64 K, double weight, Fault* fault,
                                double* smem, const Slope& slope) {
    const float part = share(weight, N, smem, [=](int64 n) {
        const int64 label = class_of(labels[n], K, fault);
        return label < 0 ? 0.0f : weights ? weights[label] : 1.0f;
    });
    for (int64 i = first_index(); i < N * K; i += stride_of_grid()) {
        const Split at = split(i, K);
        const int64 label = labels[at.quotient];
        if (label >= 0 && label < K) {
            narrow(part * slope(widen(from[i]), at.rest, label), dscores[i]);
        } else {
            narrow(0.0f, dscores[i]);
        }
    }
}

KERNEL softmax_loss_backward(const float* prob, const int* labels, real* dscores, int64 N, int64 K,
                             double weight, double smoothing, const float* of_classes,
                             int64 weighted, Fault* fault) {
    const float* weights = weighted ? of_classes : nullptr;
    const float others = float(smoothing / double(K)), kept = float(1.0 - smoothing);
    const float truth = float(1.0 - smoothing + smoothing / double(K));
    __shared__ double smem[WARP];
    const float all = weights ? others * float(sum_of(weights, K, smem)) : 0.0f;
    backward(prob, labels, weights, dscores, N, K, weight, fault, smem,
             [=](float value, int64 k, int64 label) {
                 if (!weights) return value - (k == label ? truth : others);
                 const float own = kept * weights[label];
                 return (own + all) * value - others * weights[k] - (k == label ? own : 0.0f);
             });
}

KERNEL hinge_loss_backward(const real* scores, const int* labels, real* dscores, int64 N, int64 K,
                           double weight, int64 norm, Fault* fault) {
    __shared__ double smem[WARP];
    backward(scores, labels, nullptr, dscores, N, K, weight, fault, smem,
             [norm](float score, int64 k, int64 label) {
                 const bool own = k == label;
                 const float margin = margin_of(score, own);
                 const float slope = norm == 2 ? 2.0f * margin : margin > 0.0f ? 1.0f : 0.0f;
                 return own ? 0.0f - slope : slope;
             });
}

// -- losses of values -----------------------------------------------------------------------------

enum ValueLoss : int64 { SQUARED, ABSOLUTE, BINARY };

__device__ inline float value_loss(float score, float value, int64 kind) {
    const float error = score - value;
    if (kind == SQUARED) return error * error;
    if (kind == ABSOLUTE) return fabsf(error);
    return (score < 0.0f ? 0.0f : score) - score * value + log1pf(expf(-fabsf(score)));
}

__device__ inline float value_slope(float score, float value, int64 kind) {
    const float error = score - value;
    if (kind == SQUARED) return 2.0f * error;
    if (kind == ABSOLUTE) return error > 0.0f ? 1.0f : error < 0.0f ? -1.0f : error;
    const float small = expf(-fabsf(score)), p = small / (1.0f + small);  // of the less likely
    return score > 0.0f ? (1.0f - value) - p : p - value;
}

KERNEL value_loss_forward(const real* scores, const float* values, Outcome* outcomes, int64 N,
                          int64 K, int64 kind) {
    __shared__ double smem[WARP];
    for (int64 n = blockIdx.x; n < N; n += gridDim.x) {
        double sum = 0, wrong = 0;
        for (int64 k = threadIdx.x; k < K; k += THREADS) {
            const float score = widen(scores[n * K + k]), value = values[n * K + k];
            sum += value_loss(score, value, kind);
            wrong += kind != BINARY || (score > 0.0f) != (value > 0.5f);
        }
        sum = block_sum(sum, smem);
        wrong = block_sum(wrong, smem);
        Outcome outcome = {0, PADDING, 0};
        const float first = values[n * K];
        if (first == first) outcome = {sum / double(K), wrong > 0 ? WRONG : RIGHT, 1};
        if (threadIdx.x == 0) outcomes[n] = outcome;
    }
}

KERNEL value_loss_backward(const real* scores, const float* values, real* dscores, int64 N, int64 K,
                           double weight, int64 kind) {
    __shared__ double smem[WARP];
    const float part = share(weight / double(K), N, smem,
                             [=](int64 n) { return values[n * K] == values[n * K] ? 1.0f : 0.0f; });
    for (int64 i = first_index(); i < N * K; i += stride_of_grid()) {
        const float first = values[split(i, K).quotient * K];
        const bool kept = first == first;
        narrow(kept ? part * value_slope(widen(scores[i]), values[i], kind) : 0.0f, dscores[i]);
    }
}
