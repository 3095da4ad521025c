// What is learned for each channel: scale and shift, and the slope of PReLU.
//
//   scale_forward     x (...,C), scale, shift (C,) -> y (...,C)        reads 4 bytes an element,
//   prelu_forward     x (...,C), slope (C,) -> y (...,C)               writes 4
//   scale_backward    dy, x (...,C), scale (C,) -> dx, dscale, dshift  reads 8, writes 4
//   prelu_backward    dy, x (...,C), slope (C,) -> dx, dslope
// x, y and all gradients are float, or bf16 in half the bytes; scale, shift and slope are float.
//
// Backward makes dx and a channel's sums of one read of dy and x.
//
// Read next: moments.h.
#include "binding.h"
#include "rows.h"
#include "shapes.h"

using namespace lsuv;

namespace {

// y = function(x, a, b), with a and b (C,) those of the channel.
template <class T, class Function>
void forward(const std::string& op, const py::array& x, const Argument& a, const Argument& b,
             const py::array& y, Function function) {
    const std::string x_name = op + ": x", y_name = op + ": y";
    const Rows size = rows_of(x, x_name);
    same_shape(x, x_name.c_str(), y, "y");
    shaped(a.array, a.name, {size.C});
    shaped(b.array, b.name, {size.C});
    const auto* values = input<T>(x, x_name.c_str());
    const auto *first = input<float>(a.array, a.name), *second = input<float>(b.array, b.name);
    auto* result = output<T>(y, y_name.c_str());
    apart({{y, y_name.c_str()}}, {{x, "x"}, a, b});
    map_rows(size, result, [=](std::int64_t i, std::int64_t c) {
        return function(values[i], first[c], second[c]);
    });
}

// dx = dy * slope(x, a); da (C,) = the sums of dy * along(x), dshift (C,) = those of dy, where
// they are wanted.
template <class T, class Slope, class Along>
void backward(const std::string& op, const py::array& dy, const py::array& x, const Argument& a,
              const Optional& dx, const Argument& da, const Optional& dshift, Slope slope,
              Along along) {
    const std::string x_name = op + ": x", dx_name = op + ": dx", shift_name = op + ": dshift";
    const Rows size = rows_of(x, x_name);
    const std::int64_t C = size.C;
    same_shape(dy, (op + ": dy").c_str(), x, "x");
    if (dx) same_shape(*dx, dx_name.c_str(), x, "x");
    shaped(a.array, a.name, {C});
    shaped(da.array, da.name, {C});
    if (dshift) shaped(*dshift, shift_name.c_str(), {C});
    const auto* gradient = input<T>(dy, (op + ": dy").c_str());
    const auto* values = input<T>(x, x_name.c_str());
    const auto* parameter = input<float>(a.array, a.name);
    T* const result = dx ? output<T>(*dx, dx_name.c_str()) : nullptr;
    T* const first = output<T>(da.array, da.name);
    T* const second = dshift ? output<T>(*dshift, shift_name.c_str()) : nullptr;
    apart({{or_empty(dx), dx_name.c_str()}, da, {or_empty(dshift), shift_name.c_str()}},
          {{dy, "dy"}, {x, "x"}, a});
    const double* const sums =
        tile_sums(size, [=](std::int64_t, std::int64_t row, double* __restrict__ products,
                            double* __restrict__ level) {
            const T *g = gradient + row * C, *v = values + row * C;
#pragma omp simd
            for (std::int64_t c = 0; c < C; ++c) {
                products[c] += static_cast<double>(g[c]) * static_cast<double>(along(v[c]));
                level[c] += g[c];
            }
            if (!result) return;
            T* out = result + row * C;
#pragma omp simd
            for (std::int64_t c = 0; c < C; ++c) {
                out[c] = rounded<T>(g[c] * slope(v[c], parameter[c]));
            }
        });
    for (std::int64_t c = 0; c < C; ++c) {
        first[c] = rounded<T>(static_cast<float>(total(sums, size, c)));
        if (second) second[c] = rounded<T>(static_cast<float>(total(sums, size, C + c)));
    }
}

template <class T>
void scale_forward(const py::array& x, const py::array& scale, const py::array& shift,
                   const py::array& y) {
    forward<T>("scale_forward", x, {scale, "scale_forward: scale"}, {shift, "scale_forward: shift"},
               y, [](float value, float factor, float level) { return value * factor + level; });
}

template <class T>
void scale_backward(const py::array& dy, const py::array& x, const py::array& scale,
                    const Optional& dx, const py::array& dscale, const py::array& dshift) {
    backward<T>(
        "scale_backward", dy, x, {scale, "scale_backward: scale"}, dx,
        {dscale, "scale_backward: dscale"}, dshift, [](float, float factor) { return factor; },
        [](float value) { return value; });
}

template <class T>
void prelu_forward(const py::array& x, const py::array& slope, const py::array& y) {
    const Argument below{slope, "prelu_forward: slope"};
    forward<T>("prelu_forward", x, below, below, y, [](float value, float factor, float) {
        const float scaled = factor * value;
        return value > 0.0f ? value : scaled;
    });
}

template <class T>
void prelu_backward(const py::array& dy, const py::array& x, const py::array& slope,
                    const Optional& dx, const py::array& dslope) {
    backward<T>(
        "prelu_backward", dy, x, {slope, "prelu_backward: slope"}, dx,
        {dslope, "prelu_backward: dslope"}, std::nullopt,
        [](float value, float factor) { return value > 0.0f ? 1.0f : factor; },
        [](float value) { return value > 0.0f ? 0.0f : value; });
}

}  // namespace

void bind_channelwise(py::module_& m) {
    define(m, "scale_forward", &scale_forward<float>, &scale_forward<bf16>);
    define(m, "scale_backward", &scale_backward<float>, &scale_backward<bf16>);
    define(m, "prelu_forward", &prelu_forward<float>, &prelu_forward<bf16>);
    define(m, "prelu_backward", &prelu_backward<float>, &prelu_backward<bf16>);
}
