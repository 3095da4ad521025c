// What every kernel file includes: the types, 128-bit accesses, grid-stride loops, and how a kernel
// reports a value that it cannot use.
//
// A file is compiled once for each element type of activations: -DREAL=float or -DREAL=bfloat16.
// Kernels compute in float32 (sums across blocks in float64) and round once, in `store`. CuPy has
// NVRTC flush what is too small for a normal number to zero (-ftz), below 2^-126 in either type.
//
// The conventions of all kernels:
// * A kernel has the name of its operation; one of several, the name of its operation and what it
//   does of it (variance_moments, clip_sums). Parameters are pointers, int64 and double, no others,
//   and every number of elements is an int64.
// * THREADS threads a block, loops with a grid's stride: any grid gives the right result.
// * Kernels that stream activations access 128 bits at a time where `wide` says that they can, and
//   single elements elsewhere. Any shape is correct.
// * The floor of a kernel is every byte once. A line "Moved:" at the head of a file says of which
//   arrays whole sectors of 32 bytes, summed over the requests of warps, are more than that, how
//   many times as many on a small aligned shape; tests/cuda/test_traffic.py traces every kernel.
// * No atomics in sums: partial sums lie in a workspace and are merged in order, so that the bits
//   are the same in every run.
//
// Read next: maxout.cu.
#pragma once

typedef long long int64;
typedef unsigned long long uint64;
typedef unsigned int uint32;
typedef unsigned char uint8;

#define THREADS 256
#define WARP 32
// Left to itself, ptxas may give a kernel fewer registers than its loads in flight need, and spill
// some, so that more threads fit. A file that begins with `#define BLOCKS 4` leaves each thread 64.
#ifdef BLOCKS
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS)
#else
#define KERNEL extern "C" __global__ void __launch_bounds__(THREADS)
#endif

// -- element types --------------------------------------------------------------------------------

// The upper half of a float32. The conversions round to nearest, ties to even, as ml_dtypes does.
struct bfloat16 {
    unsigned short bits;
};

__device__ inline float widen(float value) { return value; }

__device__ inline float widen(bfloat16 value) { return __uint_as_float(uint32(value.bits) << 16); }

__device__ inline void narrow(float value, float& to) { to = value; }

__device__ inline void narrow(float value, bfloat16& to) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
#else
    uint32 bits = __float_as_uint(value);
    bits = value != value ? bits | 0x400000u : bits + 0x7fffu + (bits >> 16 & 1u);
    to.bits = static_cast<unsigned short>(bits >> 16);
#endif
}

typedef REAL real;
[[maybe_unused]] constexpr int VECTOR = 16 / sizeof(real);  // elements of a 128-bit access

// N elements as one access: VECTOR of them at an address that `wide` accepts, or one.
template <int N>
struct Pack {
    float v[N];
};

__device__ inline Pack<VECTOR> unpack(uint4 bits) {
    const real* elements = reinterpret_cast<const real*>(&bits);
    Pack<VECTOR> pack;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) pack.v[i] = widen(elements[i]);
    return pack;
}

__device__ inline uint4 packed(const Pack<VECTOR>& pack) {
    uint4 bits;
    real* elements = reinterpret_cast<real*>(&bits);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) narrow(pack.v[i], elements[i]);
    return bits;
}

template <int N>
__device__ inline Pack<N> load(const real* from) {
    if constexpr (N == 1) {
        return {{widen(*from)}};
    } else {
        static_assert(N == VECTOR, "an access is one element or 128 bits");
        return unpack(*reinterpret_cast<const uint4*>(from));
    }
}

template <int N>
__device__ inline void store(real* to, const Pack<N>& pack) {
    if constexpr (N == 1) {
        narrow(pack.v[0], *to);
    } else {
        static_assert(N == VECTOR, "an access is one element or 128 bits");
        *reinterpret_cast<uint4*>(to) = packed(pack);
    }
}

// N bytes, those beside a Pack<N> of activations: one access of 1, 4 or 8 bytes.
template <int N>
struct alignas(N) Bytes {
    uint8 v[N];
};

template <int N>
__device__ inline Bytes<N> load_bytes(const uint8* from) {
    Bytes<N> bytes;
    if constexpr (N == 1) {
        bytes.v[0] = *from;
    } else if constexpr (N == 4) {
        *reinterpret_cast<uint32*>(bytes.v) = *reinterpret_cast<const uint32*>(from);
    } else {
        static_assert(N == 8, "1, 4 or 8 bytes");
        *reinterpret_cast<uint2*>(bytes.v) = *reinterpret_cast<const uint2*>(from);
    }
    return bytes;
}

template <int N>
__device__ inline void store_bytes(uint8* to, const Bytes<N>& bytes) {
    if constexpr (N == 1) {
        *to = bytes.v[0];
    } else if constexpr (N == 4) {
        *reinterpret_cast<uint32*>(to) = *reinterpret_cast<const uint32*>(bytes.v);
    } else {
        static_assert(N == 8, "1, 4 or 8 bytes");
        *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(bytes.v);
    }
}

// Whether VECTOR elements at a time can be read from these addresses in runs of `run` elements.
template <class... Pointers>
__device__ inline bool wide(int64 run, Pointers... pointers) {
    const uint64 bits = (... | reinterpret_cast<uint64>(pointers));
    return run % VECTOR == 0 && bits % 16 == 0;
}

// -- threads --------------------------------------------------------------------------------------

__device__ inline int64 first_index() { return int64(blockIdx.x) * THREADS + threadIdx.x; }
__device__ inline int64 stride_of_grid() { return int64(gridDim.x) * THREADS; }

// index / by and index % by; a 64-bit division costs many times a 32-bit one.
struct Split {
    int64 quotient, rest;
};

__device__ inline Split split(int64 index, int64 by) {
    if (((index | by) >> 32) == 0) {
        const uint32 quotient = uint32(index) / uint32(by);
        return {int64(quotient), int64(uint32(index) - quotient * uint32(by))};
    }
    return {index / by, index % by};
}

// Where `value` takes the place of `old` as the largest: never on a tie, and NaN stays.
__device__ inline bool beats(float value, float old) { return !(old >= value) && old == old; }

template <class Value>
__device__ inline bool is_finite(Value value) {
    return value - value == 0;  // NaN for NaN and for infinity
}

// -- faults ---------------------------------------------------------------------------------------

// A value that a kernel cannot use, such as a label beyond the classes. A kernel can't raise an
// error; it notes it here, goes on without touching memory that isn't there, and the host raises
// the error when it next reads a result (ops.py has the words for each code). Of several such
// values one of them is named, the one whose thread came first, which may differ from run to run.
struct Fault {
    int64 code, value, bound, step;
};

enum FaultCode : int64 { NO_FAULT, LABEL, NO_ROW, NO_IMAGE, SEGMENT, BEFORE_TABLE, NO_STATISTICS };

__device__ inline void report(Fault* fault, FaultCode code, int64 value, int64 bound,
                              int64 step = 0) {
    uint64* first = reinterpret_cast<uint64*>(&fault->code);
    if (atomicCAS(first, 0ull, uint64(code)) == 0ull) {
        fault->value = value;
        fault->bound = bound;
        fault->step = step;
    }
}
