// The gate of a highway unit: y = t h + (1 - t) x, of h = max(zH, 0) and t = 1 / (1 + exp(-zT)).
//
//   forward    x (rows, C), z (rows, 2C) = zH | zT -> h, t, y (rows, C)     reads 12, writes 12
//   backward   dy, x, h, t (rows, C) -> dz (rows, 2C), dx (rows, C)         reads 16, writes 12
// bytes an element of x (bf16: half). dx is what the carry, 1 - t, hands on; what comes through z
// is the convolution's to add. One thread computes a run of rows, one vector lane an element.
//
// Srivastava, Greff and Schmidhuber, "Highway networks" (2015).
// Read next: exponential.h.
#include "binding.h"
#include "exponential.h"
#include "parallel.h"
#include "shapes.h"

using namespace lsuv;

namespace {

// Rows and channels of x, whose row has twice as many in z. An error names both.
struct Size {
    std::int64_t rows, C;
};

Size size_of(const std::string& op, const py::array& x, const py::array& z, const char* name) {
    bool twice = x.ndim() > 0 && z.ndim() == x.ndim();
    for (py::ssize_t axis = 0; twice && axis < x.ndim(); ++axis) {
        twice = z.shape(axis) == x.shape(axis) * (axis == x.ndim() - 1 ? 2 : 1);
    }
    if (!twice) {
        fail(op + ": " + name + " " + shape_text(z) + " has not two channels for each of x " +
             shape_text(x));
    }
    const std::int64_t C = x.shape(x.ndim() - 1);
    return {C ? x.size() / C : 0, C};
}

template <class T>
void highway_forward(const py::array& x, const py::array& z, const py::array& h, const py::array& t,
                     const py::array& y) {
    const auto [rows, C] = size_of("highway_forward", x, z, "z");
    same_shape(x, "highway_forward: x", h, "h");
    same_shape(x, "highway_forward: x", t, "t");
    same_shape(x, "highway_forward: x", y, "y");
    const T* const carried = input<T>(x, "highway_forward: x");
    const T* const linear = input<T>(z, "highway_forward: z");
    T* const hidden = output<T>(h, "highway_forward: h");
    T* const gate = output<T>(t, "highway_forward: t");
    T* const result = output<T>(y, "highway_forward: y");
    apart({{h, "highway_forward: h"}, {t, "highway_forward: t"}, {y, "highway_forward: y"}},
          {{x, "x"}, {z, "z"}});
    const std::int64_t count = rows, channels = C;
#pragma omp parallel for schedule(static) if (count * channels > SERIAL / 8)
    for (std::int64_t row = 0; row < count; ++row) {
        const T *from = carried + row * channels, *both = linear + 2 * row * channels;
        T *to_h = hidden + row * channels, *to_t = gate + row * channels;
        T* to_y = result + row * channels;
#pragma omp simd
        for (std::int64_t c = 0; c < channels; ++c) {
            const float above = both[c];
            const float value = above < 0.0f ? 0.0f : above;  // and a NaN stays one
            const float open = 1.0f / (1.0f + exponential(-both[channels + c]));
            to_h[c] = rounded<T>(value);
            to_t[c] = rounded<T>(open);
            to_y[c] = rounded<T>(open * value + (1.0f - open) * from[c]);
        }
    }
}

template <class T>
void highway_backward(const py::array& dy, const py::array& x, const py::array& h,
                      const py::array& t, const py::array& dz, const Optional& dx) {
    const auto [rows, C] = size_of("highway_backward", x, dz, "dz");
    same_shape(x, "highway_backward: x", dy, "dy");
    same_shape(x, "highway_backward: x", h, "h");
    same_shape(x, "highway_backward: x", t, "t");
    if (dx) same_shape(x, "highway_backward: x", *dx, "dx");
    const T* const gradient = input<T>(dy, "highway_backward: dy");
    const T* const carried = input<T>(x, "highway_backward: x");
    const T* const hidden = input<T>(h, "highway_backward: h");
    const T* const gate = input<T>(t, "highway_backward: t");
    T* const linear = output<T>(dz, "highway_backward: dz");
    T* const result = dx ? output<T>(*dx, "highway_backward: dx") : nullptr;
    apart({{dz, "highway_backward: dz"}, {or_empty(dx), "highway_backward: dx"}},
          {{dy, "dy"}, {x, "x"}, {h, "h"}, {t, "t"}});
    const std::int64_t count = rows, channels = C;
#pragma omp parallel for schedule(static) if (count * channels > SERIAL / 2)
    for (std::int64_t row = 0; row < count; ++row) {
        const std::int64_t at = row * channels;
        T* both = linear + 2 * at;
#pragma omp simd
        for (std::int64_t c = 0; c < channels; ++c) {
            const float g = gradient[at + c], value = hidden[at + c], open = gate[at + c];
            const float through = g * open;
            both[c] = rounded<T>(value > 0.0f ? through : 0.0f);
            both[channels + c] = rounded<T>(through * (value - carried[at + c]) * (1.0f - open));
        }
        if (!result) continue;
#pragma omp simd
        for (std::int64_t c = 0; c < channels; ++c) {
            result[at + c] = rounded<T>(gradient[at + c] * (1.0f - gate[at + c]));
        }
    }
}

}  // namespace

void bind_highway(py::module_& m) {
    define(m, "highway_forward", &highway_forward<float>, &highway_forward<bf16>);
    define(m, "highway_backward", &highway_backward<float>, &highway_backward<bf16>);
}
