// Kernels whose accesses can be counted by hand (test_trace.py). A block has THREADS threads.
//
// Read next: kernels/emulated/trace.cpp.

#include "common.cuh"

// Neighbours: a request of a warp is 4 sectors.
KERNEL neighbours(const real* x, real* y) { narrow(widen(x[first_index()]), y[first_index()]); }

// Every eighth element: a sector a thread, of which 4 bytes are used.
KERNEL strided(const real* x, real* y) { narrow(widen(x[8 * first_index()]), y[first_index()]); }

// 128 bits a thread: one access each, however a compiler splits it.
KERNEL packs(const real* x, real* y) {
    const int64 at = first_index() * VECTOR;
    store<VECTOR>(y + at, load<VECTOR>(x + at));
}

// Eight elements a thread, one by one: neighbours of a thread, and no single access.
KERNEL one_by_one(const real* x, real* y) {
    for (int64 k = 0; k < 8; ++k) narrow(widen(x[8 * first_index() + k]), y[8 * first_index() + k]);
}

// What a thread keeps for itself, in memory of its own, does not arrive.
KERNEL locals(const real* x, real* y) {
    float own[8];
    for (int k = 0; k < 8; ++k) own[k] = float(k);
    own[int64(widen(x[first_index()])) % 8] = 1.0f;
    float sum = 0;
    for (int k = 0; k < 8; ++k) sum += own[k];
    narrow(sum, y[first_index()]);
}

// Half of a warp each way, and together again at the store.
KERNEL branches(const real* x, real* y) {
    float value;
    if (threadIdx.x % 2) {
        value = widen(x[first_index()]);
    } else {
        value = 2 * widen(x[first_index() + 1]);
    }
    narrow(value, y[first_index()]);
}

// Even threads have nothing to do in the first of three turns.
KERNEL late(const real* x, real* y) {
    float sum = 0;
    for (int64 turn = 0; turn < 3; ++turn) {
        if (turn > 0 || threadIdx.x % 2) sum += widen(x[turn * THREADS + threadIdx.x]);
    }
    narrow(sum, y[first_index()]);
}

// A turn more for every thread of a warp.
KERNEL staircase(const real* x, real* y) {
    float sum = 0;
    for (int64 k = 0; k <= threadIdx.x % WARP; ++k) sum += widen(x[k]);
    narrow(sum, y[first_index()]);
}

// Two threads a bank, then all of a warp; then one word for all.
KERNEL banks(const real* x, real* y) {
    __shared__ float smem[THREADS * WARP];
    smem[2 * threadIdx.x] = 1.0f;
    __syncthreads();
    smem[WARP * threadIdx.x] = 2.0f;
    __syncthreads();
    const float other = __shfl_xor_sync(0xffffffffu, smem[0], 1);
    narrow(__any_sync(0xffffffffu, threadIdx.x == 0) ? other : widen(x[0]), y[first_index()]);
}

// Thread 255 reads behind x.
KERNEL strays(const real* x, real* y) {
    narrow(widen(x[threadIdx.x == 255 ? 8 * THREADS + 16 : 0]), y[first_index()]);
}
