// Kernels with one planted defect each, and the sound one they are made from: what the double and
// the emulator must find (test_emulator.py). A block has THREADS threads.
//
// Read next: kernels/emulated/emulator.h.

#include "common.cuh"

// y[i] = x[i] + the sum of its block's x, a sum through shared memory.
__shared__ float smem[THREADS];

KERNEL sound(const real* x, real* y, int64 size) {
    const int64 i = first_index();
    smem[threadIdx.x] = i < size ? widen(x[i]) : 0.0f;
    __syncthreads();
    float sum = 0;
    for (int k = 0; k < THREADS; ++k) sum += smem[k];
    if (i < size) narrow(widen(x[i]) + sum, y[i]);
}

KERNEL missing_barrier(const real* x, real* y, int64 size) {
    const int64 i = first_index();
    smem[threadIdx.x] = i < size ? widen(x[i]) : 0.0f;
    float sum = 0;
    for (int k = 0; k < THREADS; ++k) sum += smem[k];
    if (i < size) narrow(widen(x[i]) + sum, y[i]);
}

KERNEL barrier_in_a_conditional(const real* x, real* y, int64 size) {
    const int64 i = first_index();
    if (i >= size) return;
    smem[threadIdx.x] = widen(x[i]);
    __syncthreads();
    narrow(smem[0], y[i]);
}

KERNEL two_barriers(const real* x, real* y, int64 size) {
    const int64 i = first_index();
    smem[threadIdx.x] = 1.0f;
    if (threadIdx.x % 2) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    if (i < size) narrow(widen(x[i]), y[i]);
}

KERNEL lost_lane(const real* x, real* y, int64 size) {
    const int64 i = first_index();
    if (threadIdx.x % WARP == 3) return;
    const float other = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
    if (i < size) narrow(widen(x[i]) + other, y[i]);
}

KERNEL writes_behind(const real* x, real* y, int64 size) {
    for (int64 i = first_index(); i <= size; i += stride_of_grid()) narrow(widen(x[0]), y[i]);
}

KERNEL writes_before(const real* x, real* y, int64 size) {
    for (int64 i = first_index() - 1; i < size; i += stride_of_grid()) narrow(widen(x[0]), y[i]);
}

KERNEL leaves_one_unwritten(const real* x, real* y, int64 size) {
    for (int64 i = first_index(); i < size - 1; i += stride_of_grid()) narrow(widen(x[i]), y[i]);
}

KERNEL order_decides(const real* x, real* y, int64 size) {
    if (first_index() < size) narrow(widen(x[first_index()]), y[0]);
}

// Found by the sanitizers alone.
KERNEL reads_behind(const real* x, real* y, int64 size) {
    for (int64 i = first_index(); i < size; i += stride_of_grid()) narrow(widen(x[i + 1]), y[i]);
}

KERNEL misaligned(const real* x, real* y, int64 size) {
    if (first_index() == 0 && size > VECTOR) store<VECTOR>(y, load<VECTOR>(x + 1));
}

KERNEL overflows(const real* x, real* y, int64 size) {
    int count = 2147483647;
    if (first_index() == 0) narrow(widen(x[0]) + float(count + int(size)), y[0]);
}
