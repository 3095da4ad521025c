// Four planted bugs, one for each tool of compute-sanitizer: the command line that finds nothing in
// our kernels must find these. Each is called with an x that nobody has written, a y of zeros, and
// one block of as many threads as either has elements, 256.
//
// Read next: bench/gpu/goals.py.

#define KERNEL extern "C" __global__ void

// memcheck: an element behind the end of y.
KERNEL planted_memcheck(const float*, float* y) { y[threadIdx.x + 1] = 1.0f; }

// racecheck: what another warp writes into shared memory, without a barrier in between.
KERNEL planted_racecheck(const float*, float* y) {
    __shared__ float tile[256];
    tile[threadIdx.x] = float(threadIdx.x);
    y[threadIdx.x] = tile[(threadIdx.x + 128) % 256];
}

// initcheck: memory that has never been written.
KERNEL planted_initcheck(const float* x, float* y) { y[threadIdx.x] = x[threadIdx.x]; }

// synccheck: a barrier that half a warp passes by.
KERNEL planted_synccheck(const float*, float* y) {
    __shared__ float tile[256];
    tile[threadIdx.x] = 1.0f;
    if (threadIdx.x < 48) __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
