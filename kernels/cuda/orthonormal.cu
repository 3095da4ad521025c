// A random orthonormal matrix, around cuSOLVER's dorgqr: reflectors before it, signs behind it.
//
//   A, Q (cols,rows) double, which cuSOLVER calls (rows,cols), column by column   rows >= cols
//   tau, signs (cols,) double      result (rows,cols) float, or (cols,rows)
//
// orthonormal_reflectors: one block draws one reflector, pair by pair in float64, sums its squares,
// and scales it. That is arithmetic, log and sincospi, beside which the 24 bytes an element are
// nothing. orthonormal_columns and orthonormal_rows read 8 bytes an element and write 4. All run
// once a layer, when a net is initialised.
//
// A number is written when it is drawn, and again when the length of all is known:
// Moved: orthonormal_reflectors: A 1.88
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
        // Two numbers at a time, which half the words of a counter give by Box and Muller. They lie
        // at a multiple of 16 bytes, for any `rows`; of the first and last pair one may be outside.
        for (int64 pair = (first + k) / 2 + threadIdx.x; pair <= (first + rows - 1) / 2;
             pair += THREADS) {
            const Words words =
                philox(uint64(seed), uint64(pair / 2), 0, uint32(purpose), uint32(index));
            const double radius = sqrt(-2 * log(uniform(pair % 2 ? words.w[2] : words.w[0])));
            double2 x;
            sincospi(2 * uniform(pair % 2 ? words.w[3] : words.w[1]), &x.y, &x.x);
            x.x *= radius, x.y *= radius;
            const int64 i = 2 * pair - first;
            if (i >= k && i + 1 < rows) {
                *reinterpret_cast<double2*>(v + i) = x;
                squares += x.x * x.x + x.y * x.y;
            } else {
                const double one = i >= k ? x.x : x.y;
                v[i >= k ? i : i + 1] = one;
                squares += one * one;
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
