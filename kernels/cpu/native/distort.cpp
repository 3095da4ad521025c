// Images in a field of zeros, each under an affine map and with colours of its own.
//
//   distort   x (N,H,W,C), table (rows, 10 + 3 C), clock -> y (N,Fh,Fw,C)
//             reads 16 bytes an element (neighbours from the cache), writes 4 (bf16: 8 and 2)
//
// kernels/reference.py says what stands in a row of the table. One thread computes rows of a field;
// a place outside its image costs nothing but its zeros.
//
// Read next: optimizer.cpp.
#include <algorithm>

#include "binding.h"
#include "clock.h"
#include "parallel.h"

using namespace lsuv;

namespace {

constexpr std::int64_t PLACE = 10;  // numbers of a row before those of the channels

struct Image {
    std::int64_t H, W, C;
};

// Place (u, v) of the field, C channels.
template <class T>
void place(const T* x, const float* row, T* y, float u, float v, float background, float least,
           const Image& shape) {
    const std::int64_t H = shape.H, W = shape.W, C = shape.C;
    const float sx = row[0] * u + row[1] * v + row[2], sy = row[3] * u + row[4] * v + row[5];
    std::fill(y, y + C, T{});
    if (!(row[6] <= u && u < row[8] && row[7] <= v && v < row[9])) return;
    if (!(sx > -1 && sx < static_cast<float>(W) && sy > -1 && sy < static_cast<float>(H))) return;
    const float left = std::floor(sx), top = std::floor(sy), right = sx - left, down = sy - top;
    const auto w = static_cast<std::int64_t>(left), h = static_cast<std::int64_t>(top);
    const auto value = [&](std::int64_t c) {
        const auto at = [&](std::int64_t i, std::int64_t j) {
            const bool inside = i >= 0 && i < H && j >= 0 && j < W;
            return inside ? x[(i * W + j) * C + c] - background : 0.0f;
        };
        return (1 - down) * ((1 - right) * at(h, w) + right * at(h, w + 1)) +
               down * ((1 - right) * at(h + 1, w) + right * at(h + 1, w + 1));
    };
    bool seen = false;
    for (std::int64_t c = 0; c < C && !seen; ++c) seen = !(std::fabs(value(c)) <= least);
    for (std::int64_t c = 0; c < C && seen; ++c) {
        const float* colour = row + PLACE + 3 * c;
        y[c] = rounded<T>(value(c) + (colour[0] + colour[1] * u + colour[2] * v));
    }
}

template <class T>
void distort(const py::array& x, const py::array& table, const py::array& y, const py::array& clock,
             float background, float least) {
    dimensions(x, "distort: x", 4);
    dimensions(y, "distort: y", 4);
    const std::int64_t N = x.shape(0), Fh = y.shape(1), Fw = y.shape(2);
    const Image shape = {x.shape(1), x.shape(2), x.shape(3)};
    shaped(y, "distort: y", {N, Fh, Fw, shape.C});
    dimensions(table, "distort: table", 2);
    const std::int64_t rows = table.shape(0), width = PLACE + 3 * shape.C;
    shaped(table, "distort: table", {rows, width});
    if (rows < 1) fail("distort: the table is empty");
    number("distort", "background", background);
    number("distort", "least", least, 0);
    const double* now = read_clock(clock);
    const std::int64_t first =
        (steps_of("distort", now[STEP]) - steps_of("distort", now[FIRST])) % rows * (N % rows);
    const T* const images = input<T>(x, "distort: x");
    const auto* const numbers = input<float>(table, "distort: table");
    T* const fields = output<T>(y, "distort: y");
    apart({{y, "distort: y"}}, {{x, "x"}, {table, "table"}, {clock, "clock"}});
    const std::int64_t image = shape.H * shape.W * shape.C;
#pragma omp parallel for schedule(static) if (N * Fh * Fw * shape.C > SERIAL / 8)
    for (std::int64_t line = 0; line < N * Fh; ++line) {
        const std::int64_t n = line / Fh, v = line % Fh;
        const std::int64_t number = ((first + n) % rows + rows) % rows;
        for (std::int64_t u = 0; u < Fw; ++u) {
            place(images + n * image, numbers + number * width, fields + (line * Fw + u) * shape.C,
                  static_cast<float>(u), static_cast<float>(v), background, least, shape);
        }
    }
}

}  // namespace

void bind_distort(py::module_& m) { define(m, "distort", &distort<float>, &distort<bf16>); }
