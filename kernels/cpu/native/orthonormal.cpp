// The random orthonormal matrix of kernels/orthonormal.py, from the same reflectors.
//
//   orthonormal   (rows, cols) and a key -> Q (rows, cols) float32
//
// What differs is the order of the work. The reference applies a block of reflectors to the whole
// matrix and goes on to the block before it. Here a strip of columns of Q takes all of its blocks
// while it stays in the cache: column j of the identity is changed by reflector j and by those
// before it, and by nothing else, so no other strip is needed and no float64 Q is ever stored. In
// turn all the reflectors are kept, blocks of columns that begin at their diagonal, in less memory
// than the float64 matrix would take; a strip of 96 columns reads each of them twice.
//
// With V a block and T upper triangular, Q -= V T V' Q is three products:
//
//   W = V' Q        (block, strip)
//   change = -T W   (block, strip)
//   Q += V change   (height, strip)
//
// A thread takes reflectors, then columns of V'V, then columns of T, then whole strips; each of
// them is computed by one thread in one order, so the bits are the same for any number of threads.
//
// Read next: gaussian.h.
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "binding.h"
#include "gaussian.h"
#include "panels.h"
#include "parallel.h"

using namespace lsuv;

namespace {

constexpr std::int64_t BLOCK = 192;                   // reflectors multiplied together
constexpr std::int64_t STRIP = 96;                    // columns of Q made at a time
constexpr std::int64_t MOST = std::int64_t(1) << 40;  // elements
static_assert(BLOCK % STRIP == 0 && STRIP % WIDTH == 0);

std::int64_t rounded(std::int64_t count, std::int64_t multiple) {
    return ceil_div(count, multiple) * multiple;
}

struct Free {
    void operator()(void* memory) const { std::free(memory); }
};
template <class T>
using Memory = std::unique_ptr<T[], Free>;

// Uninitialised memory. From 16 MiB on it comes in large pages where the system has them: with
// small ones the products would wait for addresses to be translated. Less is better taken from the
// heap, which has it ready: the system clears every page that it gives.
template <class T>
Memory<T> allocate(std::int64_t count) {
    constexpr std::int64_t LARGE = 1 << 21;
    const std::int64_t bytes = count * static_cast<std::int64_t>(sizeof(T));
    const std::int64_t page = bytes >= 8 * LARGE ? LARGE : 64;
    void* memory = std::aligned_alloc(page, rounded(bytes, page));
    if (!memory) throw std::bad_alloc();
    if (page == LARGE) madvise(memory, rounded(bytes, page), MADV_HUGEPAGE);
    return Memory<T>(static_cast<T*>(memory));
}

struct Key {
    std::uint64_t seed, stream;
};

// A block of reflectors start .. start + BLOCK - 1: rows start .. of V, columns of V, V'V and T.
// What is over the number of reflectors or of rows is zero in V.
struct Block {
    std::int64_t start, height, width;
    Panels V, gram, T;
};

// Columns panel .. panel + LANES - 1 of the block's V: unit Householder vectors, and the signs that
// make Q Haar. numbers: LANES rows of `length`.
void make_reflectors(const Block& block, std::int64_t panel, std::int64_t rows, std::int64_t cols,
                     const Key& key, double* numbers, std::int64_t length, double* signs) {
    const double* x[LANES];  // x[lane][i] is element i of the lane's reflector, i >= k
    double scale[LANES];
    const std::int64_t top = block.start + panel;
    const std::int64_t count = std::min(LANES, cols - top);
    for (std::int64_t lane = 0; lane < count; ++lane) {
        const std::int64_t k = top + lane, first = k * rows + k, begin = first / 4 * 4;
        double* made = numbers + lane * length;
        for (std::int64_t i = 0; i < rows - k + first - begin; i += NORMALS) {
            normals(key.seed, key.stream, static_cast<std::uint64_t>(begin + i), made + i);
        }
        double* v = made + (first - begin);
        double squares = 0;
#pragma omp simd reduction(+ : squares)
        for (std::int64_t i = 0; i < rows - k; ++i) squares += v[i] * v[i];
        const double sign = v[0] < 0 ? -1 : 1, norm = std::sqrt(squares);
        scale[lane] = 1 / std::sqrt(2 * (squares + std::fabs(v[0]) * norm));
        v[0] += sign * norm;
        signs[k] = -sign;
        x[lane] = v - k;
    }
    double* target = block.V.at(0, panel);
    const std::int64_t full = count == LANES ? top + LANES : rows;  // from here to rows, no zeros
    for (std::int64_t i = block.start; i < block.start + block.height; ++i, target += LANES) {
        if (i >= full && i < rows) {
            for (std::int64_t lane = 0; lane < LANES; ++lane) {
                target[lane] = x[lane][i] * scale[lane];
            }
            continue;
        }
        for (std::int64_t lane = 0; lane < LANES; ++lane) {
            const bool inside = lane < count && i >= top + lane && i < rows;
            target[lane] = inside ? x[lane][i] * scale[lane] : 0;
        }
    }
}

// Columns column .. column + WIDTH - 1 of V'V, down to the diagonal.
void make_gram(const Block& block, std::int64_t column) {
    const Panels B = {block.V.at(0, column), block.V.stride};
    const Panels C = {block.gram.at(0, column), block.gram.stride};
    for (std::int64_t p = 0; p < 3; ++p) {
        std::fill_n(C.data + p * C.stride, (column + WIDTH) * LANES, 0.0);
    }
    add_transposed_product(block.V, B, C, column + WIDTH, WIDTH, block.height);
}

// Columns column .. column + LANES - 1 of -T, the inverse of U = I / 2 + the strict upper triangle
// of V'V, by substitution from the diagonal upwards, LANES columns as one vector.
void make_T(const Block& block, std::int64_t column) {
    const std::int64_t end = column + LANES;
    auto* T = reinterpret_cast<Vector*>(block.T.at(0, column));
    for (std::int64_t i = end - 1; i >= 0; --i) {
        Vector sum = {}, other = {};
        if (i >= column) sum[i - column] = 1;
        std::int64_t j = i + 1;
        for (; j + 1 < end; j += 2) {
            sum += *block.gram.at(i, j) * T[j];
            other += *block.gram.at(i, j + 1) * T[j + 1];
        }
        if (j < end) sum += *block.gram.at(i, j) * T[j];
        T[i] = -2.0 * (sum + other);
    }
}

// Columns first .. first + width - 1 of Q without their signs, in panels; W and change hold
// BLOCK x STRIP.
void make_strip(const std::vector<Block>& blocks, std::int64_t first, std::int64_t width,
                std::int64_t cols, const Panels& Q, const Panels& W, const Panels& change) {
    std::fill_n(Q.data, width / LANES * Q.stride, 0.0);
    for (std::int64_t j = first; j < std::min(first + width, cols); ++j) *Q.at(j, j - first) = 1;
    const std::int64_t own = first / BLOCK;
    for (std::int64_t b = own; b >= 0; --b) {
        const Block& block = blocks[b];
        const std::int64_t count = b == own ? first + width - block.start : BLOCK;
        for (double* data : {W.data, change.data}) {
            std::fill_n(data, width / LANES * W.stride, 0.0);
        }
        if (b == own) {  // Q is a piece of the identity, and V'Q of V'
            for (std::int64_t j = first; j < std::min(first + width, cols); ++j) {
                for (std::int64_t k = 0; k < count; ++k) {
                    *W.at(k, j - first) = *block.V.at(j - block.start, k);
                }
            }
        } else {  // Q is zero down to the block after this one
            const Panels V = {block.V.at(BLOCK, 0), block.V.stride};
            const Panels below = {Q.at(block.start + BLOCK, 0), Q.stride};
            add_transposed_product(V, below, W, BLOCK, width, block.height - BLOCK);
        }
        add_product(block.T, W, change, count, width, count, true);
        add_product(block.V, change, {Q.at(block.start, 0), Q.stride}, block.height, width, count);
    }
}

// Q's columns first .. with their signs -> the result (rows, cols), or, transposed, (cols, rows).
void write_strip(const Panels& Q, std::int64_t first, std::int64_t width, std::int64_t rows,
                 std::int64_t cols, const double* signs, bool transposed, float* result) {
    for (std::int64_t column = first; column < std::min(first + width, cols); column += LANES) {
        const double* source = Q.at(0, column - first);
        const std::int64_t count = std::min(LANES, cols - column);
        if (transposed) {
            for (std::int64_t j = 0; j < count; ++j) {
                const double sign = signs[column + j];
                float* target = result + (column + j) * rows;
                for (std::int64_t i = 0; i < rows; ++i) {
                    target[i] = static_cast<float>(sign * source[i * LANES + j]);
                }
            }
            continue;
        }
        const double* sign = signs + column;
        for (std::int64_t i = 0; i < rows; ++i) {
            float* target = result + i * cols + column;
            for (std::int64_t j = 0; j < count; ++j) {
                target[j] = static_cast<float>(sign[j] * source[i * LANES + j]);
            }
        }
    }
}

// The blocks of `cols` reflectors, and the memory that their V, V'V and T lie in.
struct Reflectors {
    std::vector<Block> blocks;
    Memory<double> V, squares;

    Reflectors(std::int64_t rows, std::int64_t cols) {
        const std::int64_t height = rounded(rows, ROWS);
        std::int64_t size = 0, square = 0;
        for (std::int64_t start = 0; start < cols; start += BLOCK) {
            const std::int64_t width = rounded(std::min(BLOCK, cols - start), WIDTH);
            blocks.push_back({start, height - start, width, {}, {}, {}});
            size += (height - start) * width;
            square += width * width;
        }
        V = allocate<double>(size);
        squares = allocate<double>(2 * square);
        double *next_V = V.get(), *next_square = squares.get();
        for (Block& block : blocks) {
            square = block.width * block.width;
            block.V = {next_V, block.height * LANES};
            block.gram = {next_square, block.width * LANES};
            block.T = {next_square + square, block.width * LANES};
            next_V += block.height * block.width;
            next_square += 2 * square;
        }
    }
};

// Q (rows, cols) with rows >= cols -> result, which is (cols, rows) if transposed.
void make(std::int64_t rows, std::int64_t cols, const Key& key, bool transposed, float* result) {
    const Reflectors reflectors(rows, cols);
    const std::vector<Block>& blocks = reflectors.blocks;
    const std::int64_t height = rounded(rows, ROWS), width = rounded(cols, WIDTH);
    const std::int64_t strips = ceil_div(cols, STRIP), strip = std::min(STRIP, width);
    const std::int64_t length = rounded(rows + 4, NORMALS);  // of one reflector's numbers
    const std::int64_t team = rows * cols > SERIAL ? omp_get_max_threads() : 1;
    const std::int64_t share = (height + 2 * BLOCK) * strip;  // of a thread: Q, W and change
    const auto numbers = allocate<double>(team * LANES * length);
    const auto work = allocate<double>(team * share);
    std::vector<double> signs(cols);
#pragma omp parallel num_threads(team)
    {
        const std::int64_t thread = omp_get_thread_num();
#pragma omp for schedule(dynamic)
        for (std::int64_t column = 0; column < width; column += LANES) {
            make_reflectors(blocks[column / BLOCK], column % BLOCK, rows, cols, key,
                            numbers.get() + thread * LANES * length, length, signs.data());
        }
#pragma omp for schedule(dynamic)
        for (std::int64_t column = 0; column < width; column += WIDTH) {
            make_gram(blocks[column / BLOCK], column % BLOCK);
        }
#pragma omp for schedule(dynamic)
        for (std::int64_t column = 0; column < width; column += LANES) {
            make_T(blocks[column / BLOCK], column % BLOCK);
        }
        const Panels Q = {work.get() + thread * share, height * LANES};
        const Panels W = {Q.data + height * strip, BLOCK * LANES};
        const Panels change = {W.data + BLOCK * strip, BLOCK * LANES};
#pragma omp for schedule(dynamic)
        for (std::int64_t task = 0; task < strips; ++task) {
            const std::int64_t first = (strips - 1 - task) * STRIP;  // the longest work first
            const std::int64_t count = std::min(STRIP, width - first);
            make_strip(blocks, first, count, cols, Q, W, change);
            write_strip(Q, first, count, rows, cols, signs.data(), transposed, result);
        }
    }
}

std::uint64_t sixteen_bits(const char* name, std::int64_t value) {
    if (value < 0 || value >= 1 << 16) {
        fail("orthonormal: " + std::string(name) + " " + std::to_string(value) +
             " must fit 16 bits");
    }
    return static_cast<std::uint64_t>(value);
}

py::array_t<float> orthonormal(std::int64_t rows, std::int64_t cols, const py::object& seed,
                               std::int64_t purpose, std::int64_t index) {
    const std::string shape = std::to_string(rows) + " x " + std::to_string(cols);
    if (rows < 1 || cols < 1) {
        fail("orthonormal: " + shape + " has no elements; both must be at least 1");
    }
    if (rows > MOST / cols) { fail("orthonormal: " + shape + " has more than 2**40 elements"); }
    const Key key = {seed_of(seed),
                     sixteen_bits("purpose", purpose) << 16 | sixteen_bits("index", index)};
    auto memory = allocate<float>(rows * cols);
    float* result = memory.get();
    const py::capsule owner(memory.release(), [](void* data) { std::free(data); });
    {
        py::gil_scoped_release release;
        make(std::max(rows, cols), std::min(rows, cols), key, rows < cols, result);
    }
    return py::array_t<float>({rows, cols}, result, owner);
}

}  // namespace

void bind_orthonormal(py::module_& m) { define(m, "orthonormal", &orthonormal); }
