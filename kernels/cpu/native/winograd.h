// Convolution 3x3, stride 1, pad 1 by Winograd's minimal filtering F(4x4, 3x3).
//
// Arrays are plain and C-ordered: x, dx (N,H,W,C); y, dy (N,H,W,K); W, dW (K,3,3,C); b, db (K,).
// x, y and all gradients are T, float or bf16; W and b are float. Arithmetic is float32 in both: a
// bf16 is widened where it is read, W is rounded to T first, and a result is rounded once, where it
// is written.
// Any N, H, W, C, K >= 1; nothing is read or written beyond an array's end. A result depends
// neither on the number of threads nor on what the workspace held before.
// Read next: winograd.cpp.
#pragma once

#include <cstdint>

#include "buffer.h"
#include "element.h"

namespace lsuv {

struct WinogradShape {
    std::int64_t N, H, W, C, K;
};

struct WinogradWorkspace {
    Buffer filters;  // 36 C K floats; in the filter gradient 2 to 8 times as many
    Buffer blocks;   // about 1 MB for each thread and 128 channels
    Buffer outside;  // zeros, which stand for the rows above and below an image
    Buffer sums;     // the bias gradient's parts
};

// Whether a pass of these beats a direct convolution; T: the elements of x and y.
template <class T>
bool winograd_pays(const WinogradShape& s, bool filter_gradient);

// y = x * W + b; b may be null.
template <class T>
void winograd_forward(const T* x, const float* W, const float* b, T* y, const WinogradShape& s,
                      WinogradWorkspace& workspace);
template <class T>
void winograd_backward_data(const T* dy, const float* W, T* dx, const WinogradShape& s,
                            WinogradWorkspace& workspace);
// db may be null; it costs next to nothing, as dy is in the registers anyway.
template <class T>
void winograd_backward_filter(const T* x, const T* dy, T* dW, T* db, const WinogradShape& s,
                              WinogradWorkspace& workspace);

}  // namespace lsuv
