// Activations and the sum: one element in, one element out.
//
//   forward    x (size) -> y (size)                  reads 4, writes 4 bytes an element
//   backward   dy (size), y (size) -> dx (size)      reads 8, writes 4
//   add        a (size), b (size) -> y (size)        reads 8, writes 4       bfloat16: half of all
//
// One thread computes VECTOR neighbouring elements, and the grid reads one contiguous run: the
// bytes above are the floor. A result may be an operand's whole array, so no pointer is
// __restrict__: a thread has read its elements before it writes them, and nobody else touches them.
//
// Backward needs only y, so x may be overwritten by later layers.
// Read next: highway.cu.

#include "common.cuh"

// to[i] = function(elements i of `from`): 128 bits at a time, and the last few one by one.
template <class Function, class... Operands>
__device__ inline void map(Function function, int64 size, real* to, Operands... from) {
    const int64 packs = wide(VECTOR, to, from...) ? size / VECTOR : 0;
    for (int64 i = first_index(); i < packs; i += stride_of_grid()) {
        store<VECTOR>(to + i * VECTOR, function(load<VECTOR>(from + i * VECTOR)...));
    }
#pragma unroll 1
    for (int64 i = packs * VECTOR + first_index(); i < size; i += stride_of_grid()) {
        store<1>(to + i, function(load<1>(from + i)...));
    }
}

// A function of one or two numbers, applied to each element of packs.
template <class Function>
struct Each {
    Function function;

    template <int N, class... Others>
    __device__ Pack<N> operator()(const Pack<N>& first, const Others&... others) const {
        Pack<N> result;
#pragma unroll
        for (int k = 0; k < N; ++k) result.v[k] = function(first.v[k], others.v[k]...);
        return result;
    }
};

template <class Function>
__device__ inline Each<Function> each(Function function) {
    return {function};
}

KERNEL leaky_forward(const real* x, real* y, double slope, int64 size) {
    const float below = float(slope);
    map(each([below](float x) { return x > 0.0f ? x : below * x; }), size, y, x);
}

KERNEL leaky_backward(const real* dy, const real* y, real* dx, double slope, int64 size) {
    const float below = float(slope);
    map(each([below](float dy, float y) { return y > 0.0f ? dy : below * dy; }), size, dx, dy, y);
}

KERNEL tanh_forward(const real* x, real* y, int64 size) {
    map(each([](float x) { return tanhf(x); }), size, y, x);
}

KERNEL tanh_backward(const real* dy, const real* y, real* dx, int64 size) {
    map(each([](float dy, float y) { return dy * (1.0f - y * y); }), size, dx, dy, y);
}

// 1 / (1 + exp(-x)), written with exp(-|x|), which can't overflow.
KERNEL sigmoid_forward(const real* x, real* y, int64 size) {
    map(each([](float x) {
            const float small = expf(-fabsf(x));
            return (x >= 0.0f ? 1.0f : small) / (1.0f + small);
        }),
        size, y, x);
}

KERNEL sigmoid_backward(const real* dy, const real* y, real* dx, int64 size) {
    map(each([](float dy, float y) { return dy * (y * (1.0f - y)); }), size, dx, dy, y);
}

KERNEL add(const real* a, const real* b, real* y, int64 size) {
    map(each([](float a, float b) { return a + b; }), size, y, a, b);
}
