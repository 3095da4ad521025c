// The global norm, the updates and the end of a step, on flat arenas; and the latch of an auxiliary
// classifier's clock.
//
//   clip           g (size,) -> clock                 reads 4 bytes an element
//   sgd_step       w, g, v (size,), segments (S,4)    reads 12, writes 8
//   nesterov_step, and rmsprop_step on s              likewise
//   adam_step      w, g, mean, s (size,), segments    reads 16, writes 12
//   average        w, mean (size,), clock             reads 8, writes 4
//   accumulate     g, total (size,), clock            reads 8, writes 4; with the last part 8
// g is float, or bf16 in half its bytes; all else is float.
//   max_norm       W (rows, F), clock                 reads 4; of a row above the limit 4 and 4
//   more advance        clock, rates (S+1,) float64 latch          own, clock
//
// A segment is (start, stop, rate multiplier, decay multiplier); one thread computes a run of a
// segment. The norm is summed in double over tiles of a fixed length, added in their order, so it
// has the same bits for any number of threads.
//
// Read next: linear.cpp.
#include <algorithm>
#include <cmath>
#include <vector>

#include "binding.h"
#include "clock.h"
#include "parallel.h"

using namespace lsuv;

namespace {

template <class T>
double tile_squares(const T* g, std::int64_t size) {
    constexpr int LANES = 16;
    double squares[LANES] = {};
    std::int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
#pragma omp simd
        for (int lane = 0; lane < LANES; ++lane) {
            const double value = static_cast<float>(g[i + lane]);
            squares[lane] += value * value;
        }
    }
    for (int lane = 0; i < size; ++i, ++lane) {
        const double value = static_cast<float>(g[i]);
        squares[lane] += value * value;
    }
    for (int lane = 1; lane < LANES; ++lane) squares[0] += squares[lane];
    return squares[0];
}

template <class T>
void clip(const py::array& g, double limit, const py::array& clock) {
    number("clip", "limit", limit, 0);
    dimensions(g, "clip: g", 1);
    const auto* gradient = input<T>(g, "clip: g");
    auto* now = write_clock(clock);
    apart({{clock, "clip: clock"}}, {{g, "g"}});
    const std::int64_t size = g.size(), tiles = ceil_div(size, TILE);
    static thread_local std::vector<double> memory;  // kept from call to call
    memory.resize(tiles);
    double* const squares = memory.data();
#pragma omp parallel for schedule(static) if (size > SERIAL)
    for (std::int64_t tile = 0; tile < tiles; ++tile) {
        squares[tile] = tile_squares(gradient + tile * TILE, std::min(TILE, size - tile * TILE));
    }
    double total = 0;
    for (std::int64_t tile = 0; tile < tiles; ++tile) total += squares[tile];
    const double norm = std::sqrt(total);
    const bool finite = std::isfinite(norm);
    now[NORM] = norm;
    now[CLIP] = finite && limit > 0 && norm > limit ? limit / norm : 1;
    if (!finite) now[FINITE] = 0;
}

struct Update {
    std::int64_t start, stop;
    float rate, decay, factor;
};

// The segments with this step's rates; none while the clock is latched. Their memory is kept from
// call to call.
const std::vector<Update>& updates(const py::array& w, const py::array& g, const py::array& state,
                                   const py::array& segments, const py::array& clock,
                                   double decay) {
    dimensions(w, "w", 1);
    shaped(g, "g", {w.size()});
    shaped(state, "the optimizer's state", {w.size()});
    dimensions(segments, "segments", 2);
    shaped(segments, "segments", {segments.shape(0), 4});
    const auto* table = input<double>(segments, "segments");
    const auto* now = read_clock(clock);
    apart({{w, "w"}, {state, "the optimizer's state"}},
          {{g, "g"}, {segments, "segments"}, {clock, "clock"}});
    static thread_local std::vector<Update> result;
    result.clear();
    for (std::int64_t s = 0; s < segments.shape(0); ++s) {
        const double *row = table + 4 * s, start = row[0], stop = row[1];
        if (!(0 <= start && start <= stop && stop <= static_cast<double>(w.size()))) {
            fail("segments: row " + std::to_string(s) + " runs from " + std::to_string(start) +
                 " to " + std::to_string(stop) + " in an arena of " + std::to_string(w.size()));
        }
        result.push_back({static_cast<std::int64_t>(start), static_cast<std::int64_t>(stop),
                          static_cast<float>(now[RATE] * row[2]),
                          static_cast<float>(decay * row[3]), static_cast<float>(now[CLIP])});
    }
    if (now[FINITE] == 0) result.clear();
    return result;
}

// rule(weight, state, step, rate) changes a weight and its state; step: its gradient, clipped and
// with weight decay. named: the optimizer's state.
template <class T, class Rule>
void update(const std::string& op, const py::array& w, const py::array& g, const Argument& named,
            const py::array& segments, const py::array& clock, double decay, Rule rule) {
    number(op.c_str(), "decay", decay);
    auto* const weight = output<float>(w, (op + ": w").c_str());
    const auto* const gradient = input<T>(g, (op + ": g").c_str());
    auto* const state = output<float>(named.array, named.name);
    for (const Update& part : updates(w, g, named.array, segments, clock, decay)) {
        const std::int64_t start = part.start, stop = part.stop;
        const float rate = part.rate, share = part.decay, factor = part.factor;
#pragma omp parallel for simd schedule(static) if (stop - start > SERIAL)
        for (std::int64_t i = start; i < stop; ++i) {
            rule(weight[i], state[i], factor * gradient[i] + share * weight[i], rate);
        }
    }
}

template <class T>
void sgd_step(const py::array& w, const py::array& g, const py::array& v, const py::array& segments,
              const py::array& clock, float momentum, double decay) {
    number("sgd_step", "momentum", momentum);
    update<T>("sgd_step", w, g, {v, "sgd_step: v"}, segments, clock, decay,
              [momentum](float& weight, float& velocity, float step, float rate) {
                  velocity = momentum * velocity + rate * step;
                  weight -= velocity;
              });
}

template <class T>
void nesterov_step(const py::array& w, const py::array& g, const py::array& v,
                   const py::array& segments, const py::array& clock, float momentum,
                   double decay) {
    number("nesterov_step", "momentum", momentum);
    update<T>("nesterov_step", w, g, {v, "nesterov_step: v"}, segments, clock, decay,
              [momentum](float& weight, float& velocity, float step, float rate) {
                  const float before = velocity;
                  velocity = momentum * before + rate * step;
                  // Of a difference of products the compiler may fuse either one, and a loop's
                  // last elements would differ from the others.
                  weight -= velocity + momentum * (velocity - before);
              });
}

template <class T>
void rmsprop_step(const py::array& w, const py::array& g, const py::array& s,
                  const py::array& segments, const py::array& clock, double rho, float delta,
                  double decay, float floor) {
    number("rmsprop_step", "rho", rho, 0);
    number("rmsprop_step", "delta", delta, 0);
    number("rmsprop_step", "floor", floor, 0);
    const auto kept = static_cast<float>(rho);
    const auto rest = static_cast<float>(1 - rho);  // 1 - rho in float32 loses digits
    update<T>("rmsprop_step", w, g, {s, "rmsprop_step: s"}, segments, clock, decay,
              [=](float& weight, float& square, float step, float rate) {
                  square = kept * square + rest * (step * step);
                  const float root = std::sqrt(square);
                  weight -= rate * step / ((root < floor ? floor : root) + delta);
              });
}

template <class T>
void adam_step(const py::array& w, const py::array& g, const py::array& mean, const py::array& s,
               const py::array& segments, const py::array& clock, double beta1, double beta2,
               float delta, double decay, bool decoupled, std::int64_t begun, std::int64_t every) {
    number("adam_step", "beta1", beta1, 0);
    number("adam_step", "beta2", beta2, 0);
    number("adam_step", "delta", delta, 0);
    number("adam_step", "decay", decay);
    auto* const weight = output<float>(w, "adam_step: w");
    const auto* const gradient = input<T>(g, "adam_step: g");
    auto* const first = output<float>(mean, "adam_step: mean");
    auto* const second = output<float>(s, "adam_step: s");
    const auto& parts = updates(w, g, mean, segments, clock, decay);
    shaped(s, "adam_step: s", {w.size()});
    apart({{s, "adam_step: s"}},
          {{w, "w"}, {g, "g"}, {mean, "mean"}, {segments, "segments"}, {clock, "clock"}});
    const auto t = static_cast<double>(update_number("adam_step", read_clock(clock), begun, every));
    const double bias = 1 - std::pow(beta1, t);
    const auto root = static_cast<float>(1 / std::sqrt(1 - std::pow(beta2, t)));
    const auto kept1 = static_cast<float>(beta1), rest1 = static_cast<float>(1 - beta1);
    const auto kept2 = static_cast<float>(beta2), rest2 = static_cast<float>(1 - beta2);
    for (const Update& part : parts) {
        const std::int64_t start = part.start, stop = part.stop;
        const float rate = part.rate, share = part.decay, factor = part.factor;
        const float within = decoupled ? 0 : share, shrink = decoupled ? rate * share : 0;
        const auto pace = static_cast<float>(rate / bias);
#pragma omp parallel for simd schedule(static) if (stop - start > SERIAL)
        for (std::int64_t i = start; i < stop; ++i) {
            const float step = factor * gradient[i] + within * weight[i];
            first[i] = kept1 * first[i] + rest1 * step;
            second[i] = kept2 * second[i] + rest2 * (step * step);
            const float stretched = root * std::sqrt(second[i]) + delta;
            weight[i] -= shrink * weight[i] + pace * first[i] / stretched;
        }
    }
}

void average(const py::array& w, const py::array& mean, const py::array& clock, double decay,
             std::int64_t begun, std::int64_t every) {
    number("average", "decay", decay);
    dimensions(w, "average: w", 1);
    const auto* const weight = input<float>(w, "average: w");
    shaped(mean, "average: mean", {w.size()});
    auto* const result = output<float>(mean, "average: mean");
    const auto* const now = read_clock(clock);
    apart({{mean, "average: mean"}}, {{w, "w"}, {clock, "clock"}});
    const auto t = static_cast<double>(update_number("average", now, begun, every));
    if (now[FINITE] == 0) return;
    const auto share = static_cast<float>(t == 1 ? 1 : std::max(1 - decay, 9 / (10 + t)));
    const std::int64_t size = w.size();
#pragma omp parallel for simd schedule(static) if (size > SERIAL)
    for (std::int64_t i = 0; i < size; ++i) result[i] += share * (weight[i] - result[i]);
}

template <class T>
void accumulate(const py::array& g, const py::array& total, float share, bool last,
                const py::array& clock) {
    number("accumulate", "share", share, 0);
    dimensions(g, "accumulate: g", 1);
    auto* const gradient = output<T>(g, "accumulate: g");
    shaped(total, "accumulate: total", {g.size()});
    auto* const sums = output<float>(total, "accumulate: total");
    apart({{g, "accumulate: g"}, {total, "accumulate: total"}}, {{clock, "clock"}});
    if (read_clock(clock)[FINITE] == 0) return;
    const std::int64_t size = g.size();
    if (!last) {
#pragma omp parallel for simd schedule(static) if (size > SERIAL)
        for (std::int64_t i = 0; i < size; ++i) sums[i] += share * gradient[i];
        return;
    }
#pragma omp parallel for simd schedule(static) if (size > SERIAL)
    for (std::int64_t i = 0; i < size; ++i) {
        gradient[i] = rounded<T>(sums[i] + share * gradient[i]);
        sums[i] = 0;
    }
}

void max_norm(const py::array& W, double limit, const py::array& clock) {
    dimensions(W, "max_norm: W", 2);
    if (!(limit > 0 && std::isfinite(limit))) {
        fail("max_norm: limit " + py::str(py::float_(limit)).cast<std::string>() +
             " is no norm above 0");
    }
    auto* const weights = output<float>(W, "max_norm: W");
    apart({{W, "max_norm: W"}}, {{clock, "clock"}});
    if (read_clock(clock)[FINITE] == 0) return;
    const std::int64_t rows = W.shape(0), F = W.shape(1);
#pragma omp parallel for schedule(static) if (rows * F > SERIAL)
    for (std::int64_t row = 0; row < rows; ++row) {
        float* const w = weights + row * F;
        const double norm = std::sqrt(tile_squares(w, F));
        if (!(norm > limit)) continue;
        const auto factor = static_cast<float>(limit / norm);
#pragma omp simd
        for (std::int64_t i = 0; i < F; ++i) w[i] *= factor;
    }
}

void advance(const py::array& clock, const py::array& rates) {
    dimensions(rates, "advance: rates", 1);
    if (rates.size() == 0) fail("advance: the table of rates is empty");
    const auto* table = input<double>(rates, "advance: rates");
    auto* now = write_clock(clock);
    apart({{clock, "advance: clock"}}, {{rates, "rates"}});
    if (now[FINITE] == 0) return;
    const std::int64_t step = steps_of("advance", now[STEP]) + 1;
    const std::int64_t first = steps_of("advance", now[FIRST]);
    if (step < first) {
        fail("advance: step " + std::to_string(step) + " lies before the table's first, " +
             std::to_string(first));
    }
    now[STEP] = static_cast<double>(step);
    now[RATE] = table[std::min<std::int64_t>(step - first, rates.size() - 1)];
}

void latch(const py::array& own, const py::array& clock) {
    auto* side = write_clock(own, "latch: own");
    auto* now = write_clock(clock, "latch: clock");
    apart({{own, "latch: own"}, {clock, "latch: clock"}}, {});
    now[FINITE] *= side[FINITE];
    side[FINITE] = 1;
}

}  // namespace

void bind_optimizer(py::module_& m) {
    define(m, "clip", &clip<float>, &clip<bf16>);
    define<1>(m, "sgd_step", &sgd_step<float>, &sgd_step<bf16>);
    define<1>(m, "nesterov_step", &nesterov_step<float>, &nesterov_step<bf16>);
    define<1>(m, "rmsprop_step", &rmsprop_step<float>, &rmsprop_step<bf16>);
    define<1>(m, "adam_step", &adam_step<float>, &adam_step<bf16>);
    define(m, "average", &average);
    define(m, "accumulate", &accumulate<float>, &accumulate<bf16>);
    define(m, "max_norm", &max_norm);
    define(m, "advance", &advance);
    define(m, "latch", &latch);
}
