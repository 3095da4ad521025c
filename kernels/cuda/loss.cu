// The two losses and softmax. A label of -1 marks a padding row, which counts nowhere.
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

// Writes the margins' losses -> their sum.
__device__ inline double hinge_row(const real* __restrict__ row, float* __restrict__ prob, int64 K,
                                   int64 label) {
    double sum = 0;
#pragma unroll 4
    for (int64 k = lane(); k < K; k += WARP) {
        const float score = widen(row[k]);
        const float margin = k == label ? 1.0f - score : 1.0f + score;
        const float loss = margin < 0.0f ? 0.0f : margin;  // keeps NaN, for the loss to show it
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

KERNEL softmax_loss_forward(const real* scores, const int* labels, float* prob, Outcome* outcomes,
                            int64 N, int64 K, Fault* fault) {
    for (int64 n = first_row(); n < N; n += stride_of_rows()) {
        const int64 label = class_of(labels[n], K, fault);
        const real* row = scores + n * K;
        const double normaliser = softmax_row(row, prob + n * K, K);
        Outcome outcome = {0, PADDING};
        if (label >= 0) outcome = {normaliser - widen(row[label]), judge(row, K, label)};
        if (lane() == 0) outcomes[n] = outcome;
    }
}

KERNEL hinge_loss_forward(const real* scores, const int* labels, float* prob, Outcome* outcomes,
                          int64 N, int64 K, Fault* fault) {
    for (int64 n = first_row(); n < N; n += stride_of_rows()) {
        const int64 label = class_of(labels[n], K, fault);
        const real* row = scores + n * K;
        const double loss = hinge_row(row, prob + n * K, K, label);
        Outcome outcome = {0, PADDING};
        if (label >= 0) outcome = {loss, judge(row, K, label)};
        if (lane() == 0) outcomes[n] = outcome;
    }
}

// Writes the loss of the batch and, while it and all scores are finite, adds to the sums. An
// infinite score of another class can leave the loss finite, but not the weights.
KERNEL record(const Outcome* outcomes, int64 N, double* clock) {
    __shared__ double room[WARP];
    double total = 0, seen = 0, right = 0, broken = 0;
    for (int64 n = threadIdx.x; n < N; n += THREADS) {
        const Outcome outcome = outcomes[n];
        total += outcome.loss;
        seen += outcome.kind != PADDING;
        right += outcome.kind == RIGHT;
        broken += outcome.kind == BROKEN;
    }
    total = block_sum(total, room);
    seen = block_sum(seen, room);
    right = block_sum(right, room);
    broken = block_sum(broken, room);
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
                              int64* room) {
    int64 seen = 0;
    for (int64 n = threadIdx.x; n < N; n += THREADS) seen += class_of(labels[n], K, fault) >= 0;
    seen = block_sum(seen, room);
    return static_cast<float>(weight) / static_cast<float>(seen > 1 ? seen : 1);
}

KERNEL softmax_loss_backward(const float* prob, const int* labels, real* dscores, int64 N, int64 K,
                             double weight, Fault* fault) {
    __shared__ int64 room[WARP];
    const float part = share(weight, labels, N, K, fault, room);
    for (int64 i = first_index(); i < N * K; i += stride_of_grid()) {
        const Split at = split(i, K);
        const int64 label = labels[at.quotient];
        const float difference = at.rest == label ? prob[i] - 1.0f : prob[i];
        narrow(label >= 0 && label < K ? part * difference : 0.0f, dscores[i]);
    }
}

KERNEL hinge_loss_backward(const real* scores, const int* labels, real* dscores, int64 N, int64 K,
                           double weight, Fault* fault) {
    __shared__ int64 room[WARP];
    const float part = share(weight, labels, N, K, fault, room);
    for (int64 i = first_index(); i < N * K; i += stride_of_grid()) {
        const Split at = split(i, K);
        const int64 label = labels[at.quotient];
        const float sign = at.rest == label ? 1.0f : -1.0f;
        const bool violated = 1.0f - sign * widen(scores[i]) > 0.0f;
        narrow(violated && label >= 0 && label < K ? -sign * part : 0.0f, dscores[i]);
    }
}
