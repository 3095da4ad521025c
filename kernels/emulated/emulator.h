// CUDA's language on a CPU: what a kernel file of kernels/cuda/ uses of it as ordinary C++, so that
// the very same file is compiled by g++ and runs here. Given to the compiler with -include.
//
// A block's threads are fibers of one operating-system thread. They run in a shuffled order, each
// until it waits: at a barrier for the whole block, at a shuffle for its warp. Blocks run one after
// another, also shuffled. So a missing barrier gives a wrong result for almost every order, shared
// memory holds garbage when a block begins, and a barrier that not all threads reach, or at which
// they wait in different places, is an error with both places.
//
// It is strict where a GPU is lenient, and knows only what the kernels use; a name that is missing
// is a compile error. What it cannot show is in tests/cuda/README.md.
//
// With -DEMULATOR_TRACE what threads do is written down besides: trace.cpp.
//
// Read next: emulator.cpp.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#define __global__
#if defined(EMULATOR_TRACE)
#define __device__ __attribute__((always_inline))  // else an access is a call away from its line
#else
#define __device__
#endif
#define __launch_bounds__(...)
#if defined(__SANITIZE_ADDRESS__)
#define __shared__ static  // AddressSanitizer puts red zones around it
#elif defined(__APPLE__)
#define __shared__ static __attribute__((section("__DATA,shared_memory")))
#else
#define __shared__ static __attribute__((section("shared_memory")))
#endif

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};

namespace emulator {

constexpr int WARP_THREADS = 32;

extern dim3 block, thread, grid_size;

// Waits until every thread of the block is at the barrier of this place.
void barrier(const char* place);

// Gives a value to the warp and takes everybody's: 32 values, of which `mask` says who gives one.
const uint64_t* exchange(unsigned mask, uint64_t value, const char* place);

int lane();

template <class Value>
uint64_t packed(Value value) {
    static_assert(sizeof value <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    return bits;
}

template <class Value>
Value unpacked(uint64_t bits) {
    Value value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// A lane that is not in the mask or beyond the warp keeps its own value, as on a GPU.
template <class Value>
Value shuffle(unsigned mask, Value value, int from, const char* place) {
    const uint64_t* all = exchange(mask, packed(value), place);
    return from >= 0 && from < WARP_THREADS && (mask >> from & 1u) ? unpacked<Value>(all[from])
                                                                   : value;
}

inline unsigned ballot(unsigned mask, bool value, const char* place) {
    const uint64_t* all = exchange(mask, value, place);
    unsigned bits = 0;
    for (int i = 0; i < WARP_THREADS; ++i) bits |= (mask >> i & 1u) && all[i] ? 1u << i : 0u;
    return bits;
}

// One launch: `types` has a letter for each argument, p pointer, i int64, d double.
struct Launch {
    dim3 grid, block;
    uint64_t order;  // seeds the order of blocks and threads
    const char* types;
    const uint64_t* arguments;
    unsigned char *shared, *shared_end;  // of this file, filled with garbage before each block
};

using Body = void (*)(const void* kernel, const uint64_t* arguments);

// Runs a kernel -> nullptr, or what went wrong.
const char* run(const Launch& launch, Body body, const void* kernel);

template <class Parameter>
constexpr char type_of() {
    if (std::is_pointer_v<Parameter>) return 'p';
    if (std::is_same_v<Parameter, long long>) return 'i';
    return std::is_same_v<Parameter, double> ? 'd' : '?';
}

template <class... Parameters, size_t... I>
void call(void (*kernel)(Parameters...), const uint64_t* arguments, std::index_sequence<I...>) {
    kernel(unpacked<Parameters>(arguments[I])...);
}

template <class... Parameters>
const char* launch(const Launch& given, void (*kernel)(Parameters...)) {
    static const char wanted[] = {type_of<Parameters>()..., 0};
    if (std::strcmp(wanted, given.types)) return wanted;
    Body body = [](const void* pointer, const uint64_t* arguments) {
        auto function = reinterpret_cast<void (*)(Parameters...)>(const_cast<void*>(pointer));
        call(function, arguments, std::index_sequence_for<Parameters...>());
    };
    return run(given, body, reinterpret_cast<const void*>(kernel));
}

#if defined(EMULATOR_TRACE)
enum Kind : unsigned short { LOAD, STORE, BARRIER, EXCHANGE, BLOCK };

// In trace.cpp: a launch begins, a thread goes on, and the running thread waits at `from`.
void trace_launch(const Launch& launch);
void trace_enter(size_t block, int thread);
void trace_wait(Kind kind, const void* from);

// For trace.cpp: whether memory is the running thread's own: its stack, its arguments, what its
// warp exchanges. And the thread goes no further, as it `does` what nobody may.
bool is_own(uint64_t address);
void stop(const char* does);
#endif

}  // namespace emulator

#define blockIdx emulator::block
#define threadIdx emulator::thread
#define gridDim emulator::grid_size
// "kernels/cuda/reduce.cuh:18": files have equal line numbers.
#define EMULATOR_TEXT(token) #token
#define EMULATOR_LINE(number) EMULATOR_TEXT(number)
#define EMULATOR_PLACE __FILE__ ":" EMULATOR_LINE(__LINE__)
#define __syncthreads() emulator::barrier(EMULATOR_PLACE)
#define __shfl_xor_sync(mask, value, distance) \
    emulator::shuffle(mask, value, emulator::lane() ^ (distance), EMULATOR_PLACE)
#define __shfl_down_sync(mask, value, distance) \
    emulator::shuffle(mask, value, emulator::lane() + int(distance), EMULATOR_PLACE)
#define __any_sync(mask, value) (emulator::ballot(mask, value, EMULATOR_PLACE) != 0)

inline unsigned __float_as_uint(float value) {
    return emulator::unpacked<unsigned>(emulator::packed(value));
}
inline float __uint_as_float(unsigned bits) { return emulator::unpacked<float>(bits); }

template <class Value>
Value atomicCAS(Value* to, Value expected, Value value) {
    const Value old = *to;
    if (old == expected) *to = value;
    return old;
}

template <class Value>
Value min(Value a, Value b) {
    return b < a ? b : a;
}
template <class Value>
Value max(Value a, Value b) {
    return a < b ? b : a;
}

inline float __fmul_rn(float a, float b) { return a * b; }  // never part of a fused operation
inline float rsqrtf(float value) { return 1.0f / sqrtf(value); }
inline void sincospi(double x, double* s, double* c) { *s = sin(M_PI * x), *c = cos(M_PI * x); }
