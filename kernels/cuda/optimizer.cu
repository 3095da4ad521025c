// The norm of the whole gradient, and the updates, on flat arenas.
//
//   g (size,)   w, v, s (size,) float   segments (S,4) double   squares (parts,) double
//
// clip_sums: one thread squares READS * VECTOR elements of g at a time. Bytes of an element: 4, in
// bfloat16 2. The updates: one thread takes 4 elements at a time, by a 128-bit read
// of each arena (64 bits of a bfloat16 g) and two 128-bit writes. Bytes of a parameter: 20, in
// bfloat16 18. adam_step, average, accumulate: one thread an element; 28, 12 and 12 bytes.
// max_norm: one block a row of W (rows,F); 4 bytes, and of a row above the limit 8 more.
//
// A row of `segments` is (start, stop, rate multiplier, decay multiplier). Segments lie in order
// and may leave gaps; a net has two or three, one for each pair of multipliers, so that every
// thread goes through all of them.
//
// A row is read once more where it is scaled:
// Moved: max_norm: W 2.0
//
// Read next: clock.cu.

#define BLOCKS 4
#include "clock.cuh"
#include "reduce.cuh"

constexpr int READS = 4;  // 128-bit reads of a thread that are under way together

// Each block's share of the sum of squares. A short run of them is summed in float32; where they
// could have left its range, as in a run of zeros, in float64.
KERNEL clip_sums(const real* g, double* squares, int64 size) {
    __shared__ double smem[WARP];
    double total = 0;
    const int64 vectors = wide(VECTOR, g) ? size / VECTOR : 0;
    for (int64 v = first_index(); v < vectors; v += READS * stride_of_grid()) {
        Pack<VECTOR> run[READS] = {};
#pragma unroll
        for (int i = 0; i < READS; ++i) {
            const int64 at = v + i * stride_of_grid();
            if (at < vectors) run[i] = load<VECTOR>(g + at * VECTOR);
        }
        float sum = 0;
#pragma unroll
        for (int i = 0; i < READS; ++i) {
            float part = 0;
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) part += run[i].v[k] * run[i].v[k];
            sum += part;
        }
        if (sum > 1e-30f && sum < 1e30f) {
            total += sum;
            continue;
        }
#pragma unroll
        for (int i = 0; i < READS; ++i) {
#pragma unroll
            for (int k = 0; k < VECTOR; ++k) total += double(run[i].v[k]) * double(run[i].v[k]);
        }
    }
    for (int64 i = vectors * VECTOR + first_index(); i < size; i += stride_of_grid()) {
        total += double(widen(g[i])) * double(widen(g[i]));
    }
    total = block_sum(total, smem);
    if (threadIdx.x == 0) squares[blockIdx.x] = total;
}

KERNEL clip_merge(const double* squares, int64 parts, double limit, double* clock) {
    __shared__ double smem[WARP];
    const double total = sum_of(squares, parts, smem);
    if (first_index() != 0) return;
    const double norm = sqrt(total);
    const bool finite = is_finite(norm);
    clock[NORM] = norm;
    clock[CLIP] = finite && limit > 0 && norm > limit ? limit / norm : 1;
    if (!finite) clock[FINITE] = 0;
}

// -- the updates ----------------------------------------------------------------------------------

struct Segment {
    int64 start, stop;
    float rate, decay, factor;  // of this step: g' = factor * g + decay * w
};

struct alignas(4 * sizeof(real)) Four {
    real v[4];
};

// Whether every row of `segments` lies in the arena; the first that does not is noted.
__device__ inline bool inside(const double* segments, int64 S, int64 size, Fault* fault) {
    for (int64 row = 0; row < S; ++row) {
        const double start = segments[4 * row], stop = segments[4 * row + 1];
        if (!(0 <= start && start <= stop && stop <= static_cast<double>(size))) {
            report(fault, SEGMENT, row, size);
            return false;
        }
    }
    return true;
}

// One element: `rule` changes a weight and its state, from g' and the rate.
template <class Rule>
__device__ inline void update(float& w, float g, float& state, const Segment& part, Rule rule) {
    rule(w, state, part.factor * g + part.decay * w, part.rate);
}

// All elements of a segment: its middle four at a time, those before and behind it alone.
template <class Rule>
__device__ inline void update_segment(float* __restrict__ w, const real* __restrict__ g,
                                      float* __restrict__ state, const Segment& part, Rule rule) {
    const auto [start, stop, rate, decay, factor] = part;
    const bool aligned = reinterpret_cast<uint64>(g) % sizeof(Four) == 0 && wide(VECTOR, w, state);
    const int64 begin = aligned && start + 3 < stop ? (start + 3) / 4 * 4 : stop;
    const int64 end = stop - (stop - begin) % 4;
    for (int64 i = begin + 4 * first_index(); i < end; i += 4 * stride_of_grid()) {
        const Four gradient = *reinterpret_cast<const Four*>(g + i);
        float4 weight = *reinterpret_cast<const float4*>(w + i);
        float4 memory = *reinterpret_cast<const float4*>(state + i);
        update(weight.x, widen(gradient.v[0]), memory.x, part, rule);
        update(weight.y, widen(gradient.v[1]), memory.y, part, rule);
        update(weight.z, widen(gradient.v[2]), memory.z, part, rule);
        update(weight.w, widen(gradient.v[3]), memory.w, part, rule);
        *reinterpret_cast<float4*>(state + i) = memory;
        *reinterpret_cast<float4*>(w + i) = weight;
    }
    const int64 before = begin - start;
    for (int64 i = first_index(); i < before + (stop - end); i += stride_of_grid()) {
        const int64 at = i < before ? start + i : end + (i - before);
        update(w[at], widen(g[at]), state[at], part, rule);
    }
}

// each(part) for every segment; for none while the clock is latched.
template <class Each>
__device__ inline void for_segments(const double* segments, const double* clock, int64 size,
                                    int64 S, double decay, Fault* fault, const Each& each) {
    // All three before the segments are searched, so that a thread waits for them only once.
    const double finite = clock[FINITE], rate = clock[RATE];
    const float factor = static_cast<float>(clock[CLIP]);
    if (!inside(segments, S, size, fault) || finite == 0) return;
    for (int64 row = 0; row < S; ++row) {
        const double* at = segments + 4 * row;
        const Segment part = {static_cast<int64>(at[0]), static_cast<int64>(at[1]),
                              static_cast<float>(rate * at[2]), static_cast<float>(decay * at[3]),
                              factor};
        each(part);
    }
}

template <class Rule>
__device__ inline void update_arena(float* w, const real* g, float* state, const double* segments,
                                    const double* clock, int64 size, int64 S, double decay,
                                    Fault* fault, Rule rule) {
    for_segments(segments, clock, size, S, decay, fault,
                 [=](const Segment& part) { update_segment(w, g, state, part, rule); });
}

KERNEL sgd_step(float* w, const real* g, float* v, const double* segments, const double* clock,
                int64 size, int64 S, double momentum, double decay, Fault* fault) {
    const float kept = static_cast<float>(momentum);
    const auto rule = [kept](float& weight, float& velocity, float step, float rate) {
        velocity = kept * velocity + rate * step;
        weight -= velocity;
    };
    update_arena(w, g, v, segments, clock, size, S, decay, fault, rule);
}

KERNEL nesterov_step(float* w, const real* g, float* v, const double* segments, const double* clock,
                     int64 size, int64 S, double momentum, double decay, Fault* fault) {
    const float kept = static_cast<float>(momentum);
    const auto rule = [kept](float& weight, float& velocity, float step, float rate) {
        const float before = velocity;
        velocity = kept * before + rate * step;
        weight -= (1.0f + kept) * velocity - kept * before;
    };
    update_arena(w, g, v, segments, clock, size, S, decay, fault, rule);
}

KERNEL rmsprop_step(float* w, const real* g, float* s, const double* segments, const double* clock,
                    int64 size, int64 S, double rho, double delta, double decay, double floor,
                    Fault* fault) {
    const float kept = static_cast<float>(rho), more = static_cast<float>(delta);
    const float least = static_cast<float>(floor);
    const float rest = static_cast<float>(1 - rho);  // in float32 1 - rho loses digits
    const auto rule = [=](float& weight, float& square, float step, float rate) {
        square = kept * square + rest * (step * step);
        const float root = sqrtf(square);
        weight -= rate * step / ((root < least ? least : root) + more);
    };
    update_arena(w, g, s, segments, clock, size, S, decay, fault, rule);
}

// Which update this is, from 1 on, of an optimizer that began at step `begun` and makes one in
// `every` steps.
__device__ inline float update_number(const double* clock, int64 begun, int64 every) {
    const int64 steps = static_cast<int64>(clock[STEP]) - begun;
    return static_cast<float>((steps > 0 ? split(steps, every).quotient : 0) + 1);
}

// 1 - beta^t from 1 - beta, in float32 without a loss of digits.
__device__ inline float bias_of(float rest, float t) { return -expm1f(t * log1pf(-rest)); }

KERNEL adam_step(float* __restrict__ w, const real* __restrict__ g, float* __restrict__ mean,
                 float* __restrict__ s, const double* segments, const double* clock, int64 size,
                 int64 S, double beta1, double beta2, double delta, double decay, int64 decoupled,
                 int64 begun, int64 every, Fault* fault) {
    const float t = update_number(clock, begun, every), least = static_cast<float>(delta);
    const float kept1 = static_cast<float>(beta1), rest1 = static_cast<float>(1 - beta1);
    const float kept2 = static_cast<float>(beta2), rest2 = static_cast<float>(1 - beta2);
    const float bias = bias_of(rest1, t), root = 1.0f / sqrtf(bias_of(rest2, t));
    for_segments(segments, clock, size, S, decay, fault, [=](const Segment& part) {
        const auto [start, stop, rate, share, factor] = part;
        const float within = decoupled ? 0.0f : share, shrink = decoupled ? rate * share : 0.0f;
        const float pace = rate / bias;
        for (int64 i = start + first_index(); i < stop; i += stride_of_grid()) {
            const float weight = w[i], step = factor * widen(g[i]) + within * weight;
            const float first = kept1 * mean[i] + rest1 * step;
            const float second = kept2 * s[i] + rest2 * (step * step);
            mean[i] = first;
            s[i] = second;
            w[i] = weight - (shrink * weight + pace * first / (root * sqrtf(second) + least));
        }
    });
}

KERNEL average(const float* __restrict__ w, float* __restrict__ mean, const double* clock,
               int64 size, double decay, int64 begun, int64 every) {
    if (clock[FINITE] == 0) return;
    const float t = update_number(clock, begun, every);
    const float share = t == 1 ? 1.0f : fmaxf(static_cast<float>(1 - decay), 9.0f / (10.0f + t));
    for (int64 i = first_index(); i < size; i += stride_of_grid()) {
        mean[i] += share * (w[i] - mean[i]);
    }
}

KERNEL accumulate(real* __restrict__ g, float* __restrict__ total, const double* clock, int64 size,
                  double share, int64 last) {
    if (clock[FINITE] == 0) return;
    const float part = static_cast<float>(share);
    for (int64 i = first_index(); i < size; i += stride_of_grid()) {
        const float sum = total[i] + part * widen(g[i]);
        if (last) narrow(sum, g[i]);
        total[i] = last ? 0.0f : sum;
    }
}

// A block takes a row: its norm, and where that is above the limit, its elements once more.
KERNEL max_norm(float* W, int64 rows, int64 F, double limit, const double* clock) {
    __shared__ double smem[WARP];
    if (clock[FINITE] == 0) return;
    for (int64 row = blockIdx.x; row < rows; row += gridDim.x) {
        float* w = W + row * F;
        double squares = 0;
        for (int64 i = threadIdx.x; i < F; i += THREADS) squares += double(w[i]) * double(w[i]);
        const double norm = sqrt(block_sum(squares, smem));
        if (!(norm > limit)) continue;
        const float factor = static_cast<float>(limit / norm);
        for (int64 i = threadIdx.x; i < F; i += THREADS) w[i] *= factor;
    }
}
