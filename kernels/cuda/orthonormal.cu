// A random orthonormal matrix, around cuSOLVER's dorgqr: reflectors before it, signs behind it.
//
//   A, Q (cols,rows) double, which cuSOLVER calls (rows,cols), column by column   rows >= cols
//   tau, signs (cols,) double      result (rows,cols) float, or (cols,rows)
//
// orthonormal_reflectors: one block draws one reflector, element by element in float64, sums its
// squares, and scales it. That is arithmetic, log and sincospi, beside which the 24 bytes an
// element are nothing. orthonormal_columns and orthonormal_rows read 8 bytes an element and write
// 4. All run once a layer, when a net is initialised.
//
// The four numbers of a thread's draw are written one by one, each time 32 bytes from the next
// thread's:
// Moved: orthonormal_reflectors: A 4.11
//
// Read next: cast.cu.

#include "philox.cuh"
#include "reduce.cuh"

constexpr int TILE = 32;  // rows and columns that a block turns round together

// A word of Philox as a number strictly inside (0, 1).
__device__ inline double uniform(uint32 word) { return (word + 0.5) * 0x1p-32; }

// Reflector k in LAPACK's form, H = 1 - tau v v' with v[k] = 1 and zeros before it, of the Gaussian
// vector x that begins at element k: x goes to -sign(x[k]) |x|, the far side, where nothing
// cancels. LAPACK neither reads v[k] nor what stands before it.
KERNEL orthonormal_reflectors(double* A, double* tau, double* signs, int64 rows, int64 cols,
                              int64 seed, int64 purpose, int64 index) {
    __shared__ double smem[WARP];
    for (int64 k = blockIdx.x; k < cols; k += gridDim.x) {
        const int64 first = k * rows;  // of the key's stream of normal numbers
        double* v = A + first;
        for (int64 i = threadIdx.x; i < k; i += THREADS) v[i] = 0;
        double squares = 0;
        // Four numbers at a time, those that a counter gives by Box and Muller.
        for (int64 counter = (first + k) / 4 + threadIdx.x; counter <= (first + rows - 1) / 4;
             counter += THREADS) {
            const Words words =
                philox(uint64(seed), uint64(counter), 0, uint32(purpose), uint32(index));
#pragma unroll
            for (int pair = 0; pair < 4; pair += 2) {
                const double radius = sqrt(-2 * log(uniform(words.w[pair])));
                double normal[2];
                sincospi(2 * uniform(words.w[pair + 1]), &normal[1], &normal[0]);
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const double value = radius * normal[half];
                    const int64 i = 4 * counter + pair + half - first;
                    if (i < k || i >= rows) continue;
                    v[i] = value;
                    squares += value * value;
                }
            }
        }
        const double norm = sqrt(block_sum(squares, smem)), head = v[k];
        const double inverse = 1 / (head < 0 ? head - norm : head + norm);
        for (int64 i = k + 1 + threadIdx.x; i < rows; i += THREADS) v[i] *= inverse;
        if (threadIdx.x == 0) {
            tau[k] = (fabs(head) + norm) / norm;
            signs[k] = head < 0 ? 1 : -1;
        }
    }
}

// result (rows,cols) = Q with the signs, transposed tile by tile, so that reads and writes are
// both of neighbours.
KERNEL orthonormal_columns(const double* Q, const double* signs, float* result, int64 rows,
                           int64 cols) {
    __shared__ float tile[TILE][TILE + 1];  // the odd width keeps a column of it in many banks
    const int across = threadIdx.x % TILE, down = threadIdx.x / TILE;
    const int64 height = (rows + TILE - 1) / TILE, width = (cols + TILE - 1) / TILE;
    for (int64 t = blockIdx.x; t < height * width; t += gridDim.x) {
        const Split at = split(t, width);
        const int64 row = at.quotient * TILE, column = at.rest * TILE;
        for (int j = down; j < TILE; j += THREADS / TILE) {
            if (column + j < cols && row + across < rows) {
                const int64 k = column + j;
                tile[j][across] = static_cast<float>(signs[k] * Q[k * rows + row + across]);
            }
        }
        __syncthreads();
        for (int i = down; i < TILE; i += THREADS / TILE) {
            if (row + i < rows && column + across < cols) {
                result[(row + i) * cols + column + across] = tile[across][i];
            }
        }
        __syncthreads();
    }
}

// result (cols,rows) = the transpose of Q with the signs, which is how it lies.
KERNEL orthonormal_rows(const double* Q, const double* signs, float* result, int64 rows,
                        int64 cols) {
    for (int64 i = first_index(); i < rows * cols; i += stride_of_grid()) {
        result[i] = static_cast<float>(signs[split(i, rows).quotient] * Q[i]);
    }
}
