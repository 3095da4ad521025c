// Convolutions of any size, stride, padding and number of groups, and the fully connected layer,
// by matrix products.
//
// Arrays are plain and C-ordered: x, dx (N,H,W,C); y, dy (N,Ho,Wo,K); W, dW (K,R,S,C/groups);
// b (K,). x, y and all gradients are T, float or bf16; W and b are float. Sums are float in both; a
// weight is rounded to T first, and a result once, where it is written. Nothing is read or written
// beyond an array's end. A result depends neither on the number of threads nor on what the
// workspace held before.
// Read next: direct.cpp.
#pragma once

#include <array>
#include <cstdint>

#include "buffer.h"
#include "element.h"
#include "parallel.h"

namespace lsuv {

// A pass of a layer with weights.
enum class Pass : std::int64_t { forward, backward_data, backward_filter };

// A pass of a convolution with its shapes, bytes of an element and threads: what tells calls apart.
using ConvKey = std::array<std::int64_t, 13>;

struct ConvShape {
    std::int64_t N, H, W, C, K, R, S, Ho, Wo, stride, pad, groups;

    ConvKey key(Pass pass, std::int64_t bytes) const {
        return {static_cast<std::int64_t>(pass),
                N,
                H,
                W,
                C,
                K,
                R,
                S,
                stride,
                pad,
                groups,
                bytes,
                omp_get_max_threads()};
    }
};

// The fully connected layer: N rows of F inputs and K outputs.
inline ConvShape linear_shape(std::int64_t N, std::int64_t F, std::int64_t K) {
    return {N, 1, 1, F, K, 1, 1, 1, 1, 1, 0, 1};
}

struct DirectWorkspace {
    Buffer filters;  // the weights, turned
    Buffer blocks;   // of each thread: a block of x, or of x and dy, and sums
    Buffer tiles;    // of a block of each thread
    Buffer sums;     // of the filter gradient
};

// y = x * W + b; b may be null.
template <class T>
void direct_forward(const T* x, const float* W, const float* b, T* y, const ConvShape& s,
                    DirectWorkspace& workspace);
template <class T>
void direct_backward_data(const T* dy, const float* W, T* dx, const ConvShape& s,
                          DirectWorkspace& workspace);
// db may be null; it costs next to nothing, as dy is copied anyway.
template <class T>
void direct_backward_filter(const T* x, const T* dy, T* dW, T* db, const ConvShape& s,
                            DirectWorkspace& workspace);

// The three passes with the memory that they keep. One call uses it at a time.
class DirectConvolutions {
public:
    template <class T>
    void forward(const T* x, const float* W, const float* b, T* y, const ConvShape& s) {
        direct_forward(x, W, b, y, s, workspace_);
    }
    template <class T>
    void backward_data(const T* dy, const float* W, T* dx, const ConvShape& s) {
        direct_backward_data(dy, W, dx, s, workspace_);
    }
    template <class T>
    void backward_filter(const T* x, const T* dy, T* dW, T* db, const ConvShape& s) {
        direct_backward_filter(x, dy, dW, db, s, workspace_);
    }
    template <class T>
    const char* name(Pass, const ConvShape&) const {
        return "direct";
    }

private:
    DirectWorkspace workspace_;
};

}  // namespace lsuv
