#pragma once
// How many windows a pooling has.

#include <cstdint>

#include "parallel.h"

namespace lsuv {

// Along an axis of `length`: Caffe's ceiling, less a last window that would start beyond the image.
inline std::int64_t windows(std::int64_t length, std::int64_t size, std::int64_t stride,
                            std::int64_t pad = 0) {
    const std::int64_t count = ceil_div(length + 2 * pad - size, stride) + 1;
    return (count - 1) * stride >= length + pad ? count - 1 : count;
}

}  // namespace lsuv
