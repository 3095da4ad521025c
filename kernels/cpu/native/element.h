// The two types of an activation: float, and bfloat16, the upper half of a float.
//
// Kernels are templates over the type: they read an element as a float, compute in float, and write
// it back rounded once. ml_dtypes gives NumPy the type; here an array of it is told by its number.
//
// Read next: shapes.h.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <cstring>

namespace lsuv {

struct bf16 {
    std::uint16_t bits;

    operator float() const {
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &wide, sizeof value);
        return value;
    }
};

// The nearest element, to even where two are equally near; a NaN stays one.
template <class T>
inline __attribute__((always_inline)) T rounded(float value) {
    if constexpr (sizeof(T) == sizeof(float)) {
        return value;
    } else {
        std::uint32_t wide;
        std::memcpy(&wide, &value, sizeof wide);
        const std::uint32_t nearest = wide + 0x7FFFu + (wide >> 16 & 1);
        const bool nan = (wide & 0x7FFFFFFFu) > 0x7F800000u;
        return T{static_cast<std::uint16_t>((nan ? wide | 0x400000u : nearest) >> 16)};
    }
}

// NumPy's number of ml_dtypes' bfloat16.
inline int bf16_number() {
    static const int number =
        pybind11::dtype::from_args(pybind11::module_::import("ml_dtypes").attr("bfloat16")).num();
    return number;
}

// In this processor's byte order: the other has the same number.
inline bool is_bf16(const pybind11::array& a) {
    return a.dtype().num() == bf16_number() && a.dtype().byteorder() == '=';
}

// work(T{}), with T the type of the array's elements; what is neither is taken for float, and
// refused where it is read.
template <class Work>
auto by_type(const pybind11::array& a, Work work) {
    return is_bf16(a) ? work(bf16{}) : work(float{});
}

}  // namespace lsuv
