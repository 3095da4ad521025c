// Activations and the sum: one element in, one element out.
//
//   forward    x (size,) -> y (size,)                  reads 4, writes 4 bytes an element
//   backward   dy (size,), y (size,) -> dx (size,)     reads 8, writes 4
//   add        a (size,), b (size,) -> y (size,)       reads 8, writes 4      (bf16: half of all)
//
// One thread computes a contiguous run, one vector lane an element. Backward needs only y, so x may
// be overwritten by later layers. A result may be an operand itself. The transcendental ones are
// polynomials in float32: tanh within 1.3 ulp, sigmoid within 2.5.
//
// Read next: highway.cpp.
#include "binding.h"
#include "exponential.h"
#include "parallel.h"
#include "shapes.h"

using namespace lsuv;

namespace {

template <class T, class Function>
void map(const py::array& x, const py::array& y, const char* x_name, const char* y_name,
         Function function) {
    same_shape(x, x_name, y, y_name);
    const T* source = input<T>(x, x_name);
    T* target = output<T>(y, y_name);
    apart({{y, y_name}}, {{x, x_name}}, Sharing::whole);
    const std::int64_t size = x.size();
#pragma omp parallel for simd schedule(static) if (size > SERIAL)
    for (std::int64_t i = 0; i < size; ++i) target[i] = rounded<T>(function(source[i]));
}

template <class T, class Function>
void map(const py::array& a, const py::array& b, const py::array& y, const char* a_name,
         const char* b_name, const char* y_name, Function function) {
    same_shape(a, a_name, b, b_name);
    same_shape(b, b_name, y, y_name);
    const T* left = input<T>(a, a_name);
    const T* right = input<T>(b, b_name);
    T* target = output<T>(y, y_name);
    apart({{y, y_name}}, {{a, a_name}, {b, b_name}}, Sharing::whole);
    const std::int64_t size = a.size();
#pragma omp parallel for simd schedule(static) if (size > SERIAL)
    for (std::int64_t i = 0; i < size; ++i) target[i] = rounded<T>(function(left[i], right[i]));
}

template <class T>
void leaky_forward(const py::array& x, const py::array& y, float slope) {
    number("leaky_forward", "slope", slope, 0);
    map<T>(x, y, "leaky_forward: x", "leaky_forward: y", [slope](float value) {
        const float scaled = slope * value;
        return value > 0.0f ? value : scaled;
    });
}

template <class T>
void leaky_backward(const py::array& dy, const py::array& y, const py::array& dx, float slope) {
    number("leaky_backward", "slope", slope, 0);
    map<T>(dy, y, dx, "leaky_backward: dy", "leaky_backward: y", "leaky_backward: dx",
           [slope](float gradient, float value) {
               const float scaled = slope * gradient;
               return value > 0.0f ? gradient : scaled;
           });
}

// Below 0.625, x + x^3 q(x^2) with q minimax (relative error 4e-9), where 1 - 2 / (e^2x + 1) would
// cancel; above, that formula, which is exactly 1 from x = 9.02 on.
inline __attribute__((always_inline)) float tanh_of(float x) {
    const float size = x < 0.0f ? -x : x;
    const float t = x * x;
    float q = -0.00570497836f;
    q = q * t + 0.0206390787f;
    q = q * t - 0.0537397122f;
    q = q * t + 0.133314422f;
    q = q * t - 0.333332819f;
    const float near = x + x * t * q;
    const float far = 1.0f - 2.0f / (exponential(2.0f * size) + 1.0f);
    const float signed_far = x < 0.0f ? -far : far;
    return size < 0.625f ? near : signed_far;
}

template <class T>
void tanh_forward(const py::array& x, const py::array& y) {
    map<T>(x, y, "tanh_forward: x", "tanh_forward: y", [](float value) { return tanh_of(value); });
}

template <class T>
void tanh_backward(const py::array& dy, const py::array& y, const py::array& dx) {
    map<T>(dy, y, dx, "tanh_backward: dy", "tanh_backward: y", "tanh_backward: dx",
           [](float gradient, float value) { return gradient * (1.0f - value * value); });
}

template <class T>
void sigmoid_forward(const py::array& x, const py::array& y) {
    map<T>(x, y, "sigmoid_forward: x", "sigmoid_forward: y",
           [](float value) { return 1.0f / (1.0f + exponential(-value)); });
}

template <class T>
void sigmoid_backward(const py::array& dy, const py::array& y, const py::array& dx) {
    map<T>(dy, y, dx, "sigmoid_backward: dy", "sigmoid_backward: y", "sigmoid_backward: dx",
           [](float gradient, float value) { return gradient * (value * (1.0f - value)); });
}

template <class T>
void add(const py::array& a, const py::array& b, const py::array& y) {
    map<T>(a, b, y, "add: a", "add: b", "add: y",
           [](float left, float right) { return left + right; });
}

}  // namespace

void bind_activation(py::module_& m) {
    define(m, "leaky_forward", &leaky_forward<float>, &leaky_forward<bf16>);
    define(m, "leaky_backward", &leaky_backward<float>, &leaky_backward<bf16>);
    define(m, "tanh_forward", &tanh_forward<float>, &tanh_forward<bf16>);
    define(m, "tanh_backward", &tanh_backward<float>, &tanh_backward<bf16>);
    define(m, "sigmoid_forward", &sigmoid_forward<float>, &sigmoid_forward<bf16>);
    define(m, "sigmoid_backward", &sigmoid_backward<float>, &sigmoid_backward<bf16>);
    define(m, "add", &add<float>, &add<bf16>);
}
