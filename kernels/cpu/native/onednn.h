// What every use of oneDNN here needs: engine, stream, and memory that views or owns.
//
// Read next: winograd.h.
#pragma once

#include <dnnl.hpp>

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "direct.h"

namespace lsuv {

using Arguments = std::unordered_map<int, dnnl::memory>;

inline dnnl::engine& cpu_engine() {
    static dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    return engine;
}

inline dnnl::stream& cpu_stream() {
    static dnnl::stream stream(cpu_engine());
    return stream;
}

inline dnnl::memory::desc float_desc(const dnnl::memory::dims& shape,
                                     dnnl::memory::format_tag tag) {
    return dnnl::memory::desc(shape, dnnl::memory::data_type::f32, tag);
}

template <class T>
constexpr dnnl::memory::data_type data_type() {
    return sizeof(T) == 4 ? dnnl::memory::data_type::f32 : dnnl::memory::data_type::bf16;
}

// Memory that owns nothing, to be pointed at an array before each use; copies share the pointer.
inline dnnl::memory view_of(const dnnl::memory::desc& desc) {
    return dnnl::memory(desc, cpu_engine(), nullptr);
}

// Memory that owns its array; pointing it elsewhere would free that.
inline dnnl::memory buffer_of(const dnnl::memory::desc& desc) {
    return dnnl::memory(desc, cpu_engine());
}

inline void point(dnnl::memory& memory, const void* data) {
    memory.set_data_handle(const_cast<void*>(data));
}

// The bias of what has none: adding zeros costs nothing beside a product. Under cpu_lock.
inline const float* no_bias(std::int64_t K) {
    static std::vector<float> zeros;
    if (static_cast<std::int64_t>(zeros.size()) < K) zeros.resize(K);
    return zeros.data();
}

inline float* floats(const dnnl::memory& memory) {
    return static_cast<float*>(memory.get_data_handle());
}

}  // namespace lsuv
