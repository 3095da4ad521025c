// An array (..., C) as rows of C channels: sums of each channel, and a function of each element.
//
// Sums are taken in double over tiles of a fixed number of rows and merged in their order, so they
// have the same bits for any number of threads. One thread computes a run of rows, one vector lane
// a channel.
//
// Read next: channelwise.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "common.h"
#include "parallel.h"

namespace lsuv {

struct Rows {
    std::int64_t rows, C, height, tiles;  // height: rows of a tile
};

inline Rows rows_of(const py::array& x, const std::string& name) {
    if (x.ndim() < 1) fail(name + " () has no channels");
    const std::int64_t C = x.shape(x.ndim() - 1), rows = x.size() ? x.size() / C : 0;
    const std::int64_t height = std::max<std::int64_t>(1, C ? TILE / C : 1);
    return {rows, C, height, ceil_div(rows, height)};
}

// For each tile two sums a channel: sums[tile] = first (C,), second (C,). The memory is kept from
// call to call; inside a parallel region its name would mean another thread's, hence the pointer.
template <class Terms>
const double* tile_sums(const Rows& size, Terms terms) {
    static thread_local std::vector<double> memory;
    const std::int64_t C = size.C;
    memory.assign(size.tiles * 2 * C, 0.0);
    double* const sums = memory.data();
#pragma omp parallel for schedule(static) if (size.rows * C > SERIAL)
    for (std::int64_t tile = 0; tile < size.tiles; ++tile) {
        const std::int64_t first = tile * size.height;
        const std::int64_t stop = std::min(first + size.height, size.rows);
        double* a = sums + tile * 2 * C;
        for (std::int64_t row = first; row < stop; ++row) terms(first, row, a, a + C);
    }
    return sums;
}

// Number c of the 2 C sums, over all tiles.
inline double total(const double* sums, const Rows& size, std::int64_t c) {
    double sum = 0;
    for (std::int64_t tile = 0; tile < size.tiles; ++tile) sum += sums[tile * 2 * size.C + c];
    return sum;
}

// result[i] = function(i, the channel of element i)
template <class T, class Function>
void map_rows(const Rows& size, T* result, Function function) {
    const std::int64_t C = size.C;
#pragma omp parallel for schedule(static) if (size.rows * C > SERIAL)
    for (std::int64_t row = 0; row < size.rows; ++row) {
#pragma omp simd
        for (std::int64_t c = 0; c < C; ++c) {
            result[row * C + c] = rounded<T>(function(row * C + c, c));
        }
    }
}

}  // namespace lsuv
