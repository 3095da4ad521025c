// The sizes of a pooling, and how many windows it has.
//
// Read next: avgpool.cpp.
#pragma once

#include "common.h"
#include "parallel.h"

namespace lsuv {

struct Pooling {
    std::int64_t N, H, W, C, Ho, Wo, size, stride, pad;  // C: of one piece
};

// Windows along an axis: Caffe's ceiling, less a last one that would start beyond the image.
inline std::int64_t windows(std::int64_t length, std::int64_t size, std::int64_t stride,
                            std::int64_t pad) {
    const std::int64_t count = ceil_div(length + 2 * pad - size, stride) + 1;
    return (count - 1) * stride >= length + pad ? count - 1 : count;
}

// The sizes of `x` (N,H,W,P*C) and `y` (N,Ho,Wo,C), checked. With an image of at least one place,
// stride <= size, pad < size and no window beyond the image every window has a place inside.
inline Pooling pooled(const std::string& op, const py::array& x, const py::array& y, std::int64_t P,
                      std::int64_t size, std::int64_t stride, std::int64_t pad) {
    dimensions(x, (op + ": x").c_str(), 4);
    const std::int64_t N = x.shape(0), H = x.shape(1), W = x.shape(2), channels = x.shape(3);
    if (H < 1 || W < 1 || H + 2 * pad < size || W + 2 * pad < size) {
        fail(op + ": a window of " + std::to_string(size) + " does not fit into " +
             std::to_string(H) + " x " + std::to_string(W) + " with pad " + std::to_string(pad));
    }
    if (channels % P) {
        fail(op + ": " + std::to_string(channels) + " channels do not split into " +
             std::to_string(P) + " pieces");
    }
    const Pooling shape = {N,
                           H,
                           W,
                           channels / P,
                           windows(H, size, stride, pad),
                           windows(W, size, stride, pad),
                           size,
                           stride,
                           pad};
    shaped(y, (op + ": y").c_str(), {N, shape.Ho, shape.Wo, shape.C});
    return shape;
}

// The sizes of `x` (N,H,W,C) and `y` (N,C), checked, as those of one window over an image of a
// single row, which is the same memory: so a place's number is h * W + w. It fits an int32.
inline Pooling whole_image(const std::string& op, const py::array& x, const py::array& y) {
    dimensions(x, (op + ": x").c_str(), 4);
    const std::int64_t N = x.shape(0), places = x.shape(1) * x.shape(2), C = x.shape(3);
    if (places < 1 || places > std::numeric_limits<std::int32_t>::max()) {
        fail(op + ": an image of " + std::to_string(x.shape(1)) + " x " +
             std::to_string(x.shape(2)) + " has no place, or 2^31 or more");
    }
    shaped(y, (op + ": y").c_str(), {N, C});
    return {N, 1, places, C, 1, 1, places, places, 0};
}

}  // namespace lsuv
