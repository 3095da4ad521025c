// Column sums, the gradient of a bias: beside oneDNN, in onednn_conv.h and onednn_linear.h.
//
// Read next: conv.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "element.h"
#include "parallel.h"

namespace lsuv {

// Sums over the rows of a (rows, K) array, added up call by call.
//
// Each thread takes one run of rows. Blocks of 256 rows are summed in float32, 64 columns at a time
// in registers, and blocks in float64, so the error does not grow with the batch. The order depends
// on the number of threads alone.
class ColumnSums {
public:
    void start(std::int64_t K) {
        K_ = K;
        threads_ = omp_get_max_threads();
        stride_ = (K + 7) / 8 * 8;  // a cache line is one thread's
        if (static_cast<std::int64_t>(sums_.size()) < threads_ * stride_) {
            sums_.resize(threads_ * stride_);
        }
        std::fill(sums_.begin(), sums_.end(), 0.0);
    }

    // x (rows, K) of floats or bf16: reads each element once.
    template <class T>
    void add(const T* x, std::int64_t rows) {
#pragma omp parallel num_threads(threads_)
        {
            // The runtime may grant fewer threads than asked for: the shares follow what is there.
            const std::int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
            const std::int64_t begin = rows * thread / threads, end = rows * (thread + 1) / threads;
            double* sums = sums_.data() + thread * stride_;
            for (std::int64_t block = begin; block < end; block += ROWS) {
                const std::int64_t last = std::min(end, block + ROWS);
                for (std::int64_t k = 0; k < K_; k += COLUMNS) {
                    if (K_ - k >= COLUMNS) {
                        add_block(x + block * K_ + k, last - block, COLUMNS, sums + k);
                    } else {
                        add_block(x + block * K_ + k, last - block, K_ - k, sums + k);
                    }
                }
            }
        }
    }

    // out (K,) = the sums.
    template <class T>
    void finish(T* out) const {
        for (std::int64_t k = 0; k < K_; ++k) {
            double sum = 0;
            for (std::int64_t thread = 0; thread < threads_; ++thread) {
                sum += sums_[thread * stride_ + k];
            }
            out[k] = rounded<T>(static_cast<float>(sum));
        }
    }

private:
    static constexpr std::int64_t ROWS = 256, COLUMNS = 64;

    // Inlined with columns == COLUMNS, the inner loops are unrolled and `sum` lives in registers.
    template <class T>
    inline __attribute__((always_inline)) void add_block(const T* x, std::int64_t rows,
                                                         std::int64_t columns, double* sums) const {
        float sum[COLUMNS] = {};
        for (std::int64_t row = 0; row < rows; ++row) {
            for (std::int64_t k = 0; k < columns; ++k) sum[k] += x[row * K_ + k];
        }
        for (std::int64_t k = 0; k < columns; ++k) sums[k] += sum[k];
    }

    std::int64_t K_ = 0, threads_ = 1, stride_ = 0;
    std::vector<double> sums_;
};

}  // namespace lsuv
