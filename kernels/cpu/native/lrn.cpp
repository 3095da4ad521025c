// Local response normalisation across channels (Krizhevsky et al. 2012, as in Caffe):
// y = x / S^beta, S = k + alpha / size * (sum of x^2 over `size` channels around its own).
//
//   forward    x (rows, C) -> y (rows, C)         reads 4, writes 4 bytes an element
//   backward   dy, x (rows, C) -> dx (rows, C)    reads 8, writes 4       (bf16: half of all)
//
// One thread computes a run of rows. A row's squares are written into a strip with zeros on both
// sides, so that every channel finds all its neighbours, channels a vector; backward has a
// second strip of dy x / S^(beta + 1). S is computed again in backward: keeping it would move more
// bytes than that costs. S^-0.75 takes two square roots and a division, another power std::pow.
//
// Read next: batchnorm.cpp.
#include <algorithm>
#include <cmath>
#include <vector>

#include "binding.h"
#include "lanes.h"
#include "parallel.h"
#include "shapes.h"

using namespace lsuv;

namespace {

struct Window {
    std::int64_t size;
    float alpha, beta, k;  // alpha: divided by the size
};

// x^-beta.
inline Floats inverse_power(Floats x, float beta) {
    if (beta == 0.75f) {
        const Floats root = square_root(x);
        return 1.0f / (root * square_root(root));
    }
    for (int lane = 0; lane < LANES; ++lane) x[lane] = std::pow(x[lane], -beta);
    return x;
}

// A row with zeros on both sides: from where a window of channel 0 begins to past the last vector.
class Strip {
public:
    Strip(std::int64_t C, std::int64_t size)
        : values_(ceil_div(C, LANES) * LANES + size - 1), half_(size / 2), size_(size) {}

    void set(std::int64_t c, Floats values, Mask lanes) {
        store_rounded(values_.data() + half_ + c, values, lanes);
    }

    Floats around(std::int64_t c) const {
        Floats sum = {};
        for (std::int64_t d = 0; d < size_; ++d) {
            sum += load(values_.data() + c + d, first_lanes(LANES));
        }
        return sum;
    }

private:
    std::vector<float> values_;
    std::int64_t half_, size_;
};

// For each thread `each` strips, made before the threads start: in one of them, memory that is not
// to be had would end the process.
std::vector<Strip> strips(std::int64_t team, std::int64_t each, std::int64_t C,
                          const Window& window) {
    return std::vector<Strip>(static_cast<std::size_t>(team * each), Strip(C, window.size));
}

std::int64_t team_for(std::int64_t elements) {
    return elements > SERIAL ? omp_get_max_threads() : 1;
}

template <class T>
void square(const T* x, Strip& squares, std::int64_t C) {
    for (std::int64_t c = 0; c < C; c += LANES) {
        const Mask lanes = first_lanes(C - c);
        const Floats value = load(x + c, lanes);
        squares.set(c, value * value, lanes);
    }
}

inline Floats scale(const Strip& squares, std::int64_t c, const Window& window) {
    return window.k + window.alpha * squares.around(c);
}

template <class T>
void forward(const T* x, T* y, std::int64_t rows, std::int64_t C, const Window& window) {
    const std::int64_t team = team_for(rows * C);
    std::vector<Strip> shares = strips(team, 1, C, window);
#pragma omp parallel num_threads(team)
    {
        Strip& squares = shares[omp_get_thread_num()];
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < rows; ++row) {
            const T* source = x + row * C;
            square(source, squares, C);
            for (std::int64_t c = 0; c < C; c += LANES) {
                const Mask lanes = first_lanes(C - c);
                const Floats power = inverse_power(scale(squares, c, window), window.beta);
                store_rounded(y + row * C + c, load(source + c, lanes) * power, lanes);
            }
        }
    }
}

template <class T>
void backward(const T* dy, const T* x, T* dx, std::int64_t rows, std::int64_t C,
              const Window& window) {
    const float factor = 2 * window.alpha * window.beta;
    const std::int64_t team = team_for(rows * C), width = ceil_div(C, LANES) * LANES;
    std::vector<Strip> shares = strips(team, 2, C, window);
    std::vector<float> every(team * width);
#pragma omp parallel num_threads(team)
    {
        const std::int64_t thread = omp_get_thread_num();
        Strip &squares = shares[2 * thread], &ratios = shares[2 * thread + 1];
        float* const powers = every.data() + thread * width;
#pragma omp for schedule(static)
        for (std::int64_t row = 0; row < rows; ++row) {
            const T *gradient = dy + row * C, *source = x + row * C;
            square(source, squares, C);
            for (std::int64_t c = 0; c < C; c += LANES) {
                const Mask lanes = first_lanes(C - c);
                const Floats sum = scale(squares, c, window);
                const Floats power = inverse_power(sum, window.beta);
                store_rounded(powers + c, power, first_lanes(LANES));
                ratios.set(c, load(gradient + c, lanes) * load(source + c, lanes) * power / sum,
                           lanes);
            }
            for (std::int64_t c = 0; c < C; c += LANES) {
                const Mask lanes = first_lanes(C - c);
                const Floats own = load(gradient + c, lanes) * load(powers + c, first_lanes(LANES));
                const Floats others = factor * load(source + c, lanes) * ratios.around(c);
                store_rounded(dx + row * C + c, own - others, lanes);
            }
        }
    }
}

// The window, checked, of an `x` that has channels.
Window checked(const std::string& op, const py::array& x, std::int64_t size, double alpha,
               double beta, double k) {
    if (size < 1 || size % 2 == 0) {
        fail(op + ": size " + std::to_string(size) + "; the channels around one are an odd number");
    }
    if (!(alpha >= 0 && k > 0 && std::isfinite(alpha) && std::isfinite(k))) {
        fail(op + ": alpha " + std::to_string(alpha) + ", k " + std::to_string(k) +
             "; alpha must be 0 or more and k above 0, or the sum could be 0");
    }
    number(op.c_str(), "beta", beta);
    if (x.ndim() < 1) fail(op + ": x () has no channels");
    // Beyond all channels a window finds zeros only.
    const std::int64_t widest = 2 * x.shape(x.ndim() - 1) + 1;
    return {std::min(size, widest), static_cast<float>(alpha / static_cast<double>(size)),
            static_cast<float>(beta), static_cast<float>(k)};
}

template <class T>
void lrn_forward(const py::array& x, const py::array& y, std::int64_t size, double alpha,
                 double beta, double k) {
    const Window window = checked("lrn_forward", x, size, alpha, beta, k);
    same_shape(x, "lrn_forward: x", y, "y");
    const auto* source = input<T>(x, "lrn_forward: x");
    auto* result = output<T>(y, "lrn_forward: y");
    apart({{y, "lrn_forward: y"}}, {{x, "x"}});
    if (x.size() == 0) return;
    const std::int64_t C = x.shape(x.ndim() - 1);
    forward(source, result, x.size() / C, C, window);
}

template <class T>
void lrn_backward(const py::array& dy, const py::array& x, const py::array& dx, std::int64_t size,
                  double alpha, double beta, double k) {
    const Window window = checked("lrn_backward", x, size, alpha, beta, k);
    same_shape(dy, "lrn_backward: dy", x, "x");
    same_shape(x, "lrn_backward: x", dx, "dx");
    const auto* gradient = input<T>(dy, "lrn_backward: dy");
    const auto* source = input<T>(x, "lrn_backward: x");
    auto* result = output<T>(dx, "lrn_backward: dx");
    apart({{dx, "lrn_backward: dx"}}, {{dy, "dy"}, {x, "x"}});
    if (x.size() == 0) return;
    const std::int64_t C = x.shape(x.ndim() - 1);
    backward(gradient, source, result, x.size() / C, C, window);
}

}  // namespace

void bind_lrn(py::module_& m) {
    define(m, "lrn_forward", &lrn_forward<float>, &lrn_forward<bf16>);
    define(m, "lrn_backward", &lrn_backward<float>, &lrn_backward<bf16>);
}
