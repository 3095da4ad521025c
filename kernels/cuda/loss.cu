// The losses and softmax. A label of -1 marks a padding row, which counts nowhere.
//
//   scores (N,K)   labels (N,) int32   prob (N,K) float   dscores (N,K)   outcomes (N,)
//
// Forward, one warp computes a row: its lanes read 32 neighbouring scores at a time, several times,
// but only the first time from memory, and write prob once. Backward, one thread computes an
// element. Bytes of an element: 8 in float32, 6 in bfloat16, and a batch has kilobytes of them, so
// that a launch takes as long as it waits for its first bytes: wider accesses would gain nothing.
//
// The loss of a row is summed in double. `record`, one block, adds up the rows: each thread its own
// in their order, then the threads in theirs, so the bits are the same in every run.
//
// Read next: gather.cu.

#include "clock.cuh"
#include "reduce.cuh"

// What forward hands to `record` of a row. BROKEN: a score of it is not finite.
enum Kind : int64 { PADDING, WRONG, RIGHT, BROKEN };

struct alignas(16) Outcome {
    double loss;
    int64 kind;
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

// Every lane of a warp calls the next three with the same row.

// Writes prob -> log(the sum of exp(scores)).
__device__ inline double softmax_row(const real* __restrict__ row, float* __restrict__ prob,
                                     int64 K) {
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
    for (int64 k = lane(); k < K; k += WARP) sum += expf(widen(row[k]) - largest);
    sum = warp_sum(sum);
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

// loss_of(row, prob, label) computes a row: its loss, where it has a label.
template <class Loss>
__device__ inline void forward(const real* scores, const int* labels, float* prob,
                               Outcome* outcomes, int64 N, int64 K, Fault* fault,
                               const Loss& loss_of) {
    for (int64 n = first_row(); n < N; n += stride_of_rows()) {
        const int64 label = class_of(labels[n], K, fault);
        const real* row = scores + n * K;
        const double loss = loss_of(row, prob + n * K, label);
        Outcome outcome = {0, PADDING};
        if (label >= 0) outcome = {loss, judge(row, K, label)};
        if (lane() == 0) outcomes[n] = outcome;
    }
}

KERNEL softmax_loss_forward(const real* scores, const int* labels, float* prob, Outcome* outcomes,
                            int64 N, int64 K, double smoothing, Fault* fault) {
    forward(scores, labels, prob, outcomes, N, K, fault,
            [K, smoothing](const real* row, float* prob, int64 label) {
                const double normaliser = softmax_row(row, prob, K);
                if (label < 0) return 0.0;
                if (smoothing == 0) return normaliser - widen(row[label]);
                return normaliser - (1.0 - smoothing) * widen(row[label]) -
                       smoothing * mean_of_row(row, K);
            });
}

// Of both hinge losses.
KERNEL hinge_loss_forward(const real* scores, const int* labels, float* prob, Outcome* outcomes,
                          int64 N, int64 K, int64 norm, Fault* fault) {
    forward(scores, labels, prob, outcomes, N, K, fault,
            [K, norm](const real* row, float* prob, int64 label) {
                return hinge_row(row, prob, K, label, norm);
            });
}

// Writes the loss of the batch and, while it and all scores are finite, adds to the sums. An
// infinite score of another class can leave the loss finite, but not the weights.
KERNEL record(const Outcome* outcomes, int64 N, double* clock) {
    __shared__ double smem[WARP];
    double total = 0, seen = 0, right = 0, broken = 0;
    for (int64 n = threadIdx.x; n < N; n += THREADS) {
        const Outcome outcome = outcomes[n];
        total += outcome.loss;
        seen += outcome.kind != PADDING;
        right += outcome.kind == RIGHT;
        broken += outcome.kind == BROKEN;
    }
    total = block_sum(total, smem);
    seen = block_sum(seen, smem);
    right = block_sum(right, smem);
    broken = block_sum(broken, smem);
    if (first_index() != 0) return;
    clock[LOSS] = total / (seen > 1 ? seen : 1);
    if (broken > 0 || !is_finite(total)) {
        clock[FINITE] = 0;
        return;
    }
    clock[LOSS_SUM] += total;
    clock[CORRECT_SUM] += right;
    clock[SEEN] += seen;
}

// weight / the number of images with a label, in every thread. Each block counts the labels anew:
// they are fewer than its threads, or not many more.
__device__ inline float share(double weight, const int* labels, int64 N, int64 K, Fault* fault,
                              int64* smem) {
    int64 seen = 0;
    for (int64 n = threadIdx.x; n < N; n += THREADS) seen += class_of(labels[n], K, fault) >= 0;
    seen = block_sum(seen, smem);
    return static_cast<float>(weight) / static_cast<float>(seen > 1 ? seen : 1);
}

// slope(value, own): the derivative by a score of the sum over the rows, for what `from` holds of
// it; own: it is in its label's column.
template <class From, class Slope>
__device__ inline void backward(const From* from, const int* labels, real* dscores, int64 N,
                                int64 K, double weight, Fault* fault, int64* smem,
                                const Slope& slope) {
    const float part = share(weight, labels, N, K, fault, smem);
    for (int64 i = first_index(); i < N * K; i += stride_of_grid()) {
        const Split at = split(i, K);
        const int64 label = labels[at.quotient];
        const float value = slope(widen(from[i]), at.rest == label);
        narrow(label >= 0 && label < K ? part * value : 0.0f, dscores[i]);
    }
}

KERNEL softmax_loss_backward(const float* prob, const int* labels, real* dscores, int64 N, int64 K,
                             double weight, double smoothing, Fault* fault) {
    const float others = float(smoothing / double(K));
    const float truth = float(1.0 - smoothing + smoothing / double(K));
    __shared__ int64 smem[WARP];
    backward(prob, labels, dscores, N, K, weight, fault, smem,
             [others, truth](float value, bool own) { return value - (own ? truth : others); });
}

KERNEL hinge_loss_backward(const real* scores, const int* labels, real* dscores, int64 N, int64 K,
                           double weight, int64 norm, Fault* fault) {
    __shared__ int64 smem[WARP];
    backward(scores, labels, dscores, N, K, weight, fault, smem, [norm](float score, bool own) {
        const float margin = margin_of(score, own);
        const float slope = norm == 2 ? 2.0f * margin : margin > 0.0f ? 1.0f : 0.0f;
        return own ? 0.0f - slope : slope;
    });
}
