// The extension kernels.cpu._native: every kernel file adds its functions to the one module.
// Read next: binding.h.
#if LSUV_ONEDNN
#include <dnnl.hpp>
#endif
#include <pybind11/pybind11.h>

#include <string>

#include "binding.h"
#include "parallel.h"

namespace py = pybind11;

void bind_conv(py::module_& m);
void bind_linear(py::module_& m);
void bind_maxout(py::module_& m);
void bind_activation(py::module_& m);
void bind_pool(py::module_& m);
void bind_avgpool(py::module_& m);
void bind_fractional(py::module_& m);
void bind_lrn(py::module_& m);
void bind_concat(py::module_& m);
void bind_dropout(py::module_& m);
void bind_highway(py::module_& m);
void bind_batchnorm(py::module_& m);
void bind_channelwise(py::module_& m);
void bind_loss(py::module_& m);
void bind_variance(py::module_& m);
void bind_gather(py::module_& m);
void bind_distort(py::module_& m);
void bind_optimizer(py::module_& m);
void bind_orthonormal(py::module_& m);

namespace {

// This file is compiled for the processor that builds it, like all others: elsewhere a kernel would
// end the process at its first unknown instruction.
void check_processor() {
    bool same = true;
#ifdef __AVX2__
    same = same && __builtin_cpu_supports("avx2");
#endif
#ifdef __AVX512F__
    same = same && __builtin_cpu_supports("avx512f");
#endif
#if defined(__AVX512BW__) && defined(__AVX512VL__)
    same = same && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#endif
#ifdef __AVX512BF16__
    same = same && __builtin_cpu_supports("avx512bf16");
#endif
    if (!same) {
        throw py::import_error(
            "built for another processor; install lsuv-engine again on this one");
    }
}

// OpenMP keeps this count per calling thread.
// At far more threads than a machine has cores OpenMP ends the process, without an error.
void set_threads(std::int64_t count) {
    constexpr std::int64_t MOST = 1024;
    if (count < 1 || count > MOST) {
        lsuv::fail("threads: " + std::to_string(count) + " is not in 1 .. " + std::to_string(MOST));
    }
    omp_set_num_threads(static_cast<int>(count));
}

// oneDNN's version, such as 3.2; empty where the extension was built without it.
std::string onednn() {
#if LSUV_ONEDNN
    const dnnl_version_t* version = dnnl_version();
    return std::to_string(version->major) + "." + std::to_string(version->minor);
#else
    return "";
#endif
}

// Our products have bf16 everywhere, oneDNN's from AVX-512 on; without AVX512_BF16's dot products
// operands are widened, and nothing is faster than in float.
bool has_bf16() {
#if LSUV_ONEDNN
    constexpr auto level = static_cast<unsigned>(dnnl::cpu_isa::avx512_core);
    return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & level) == level;
#else
    return true;
#endif
}

// The instruction set that this file was compiled for, by its common name.
constexpr const char* INSTRUCTIONS =
#if defined(__AVX512F__)
    "AVX-512";
#elif defined(__AVX2__)
    "AVX2";
#elif defined(__aarch64__)
    "NEON";
#else
    "no vectors wider than 128 bits";
#endif

}  // namespace

PYBIND11_MODULE(_native, m) {
    check_processor();
    m.doc() = "CPU kernels of lsuv-engine, and oneDNN's where it was there";
    lsuv::bf16_number();  // imported here, and not while two threads wait for each other
    m.def("set_threads", &set_threads, py::arg("count").noconvert(),
          "OpenMP threads of every later kernel that this Python thread calls");
    m.def("threads", &omp_get_max_threads, "OpenMP threads that a kernel uses");
    m.attr("INSTRUCTIONS") = INSTRUCTIONS;
    m.attr("ONEDNN") = onednn();
    m.attr("HAS_BF16") = has_bf16();
    bind_conv(m);
    bind_linear(m);
    bind_maxout(m);
    bind_activation(m);
    bind_pool(m);
    bind_avgpool(m);
    bind_fractional(m);
    bind_lrn(m);
    bind_concat(m);
    bind_dropout(m);
    bind_highway(m);
    bind_batchnorm(m);
    bind_channelwise(m);
    bind_loss(m);
    bind_variance(m);
    bind_gather(m);
    bind_distort(m);
    bind_optimizer(m);
    bind_orthonormal(m);
}
