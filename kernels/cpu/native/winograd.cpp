// Winograd's F(4x4, 3x3): a tile of 4x4 outputs from 6x6 inputs with 36 multiplications for each
// pair of channels, where the direct form takes 144.
//
//   forward          Y = A' [ (G W G') . (B' X B) ] A        summed over C
//   backward_data    the same with the filters rotated by 180 degrees and C, K exchanged
//   backward_filter  dW = G' [ (A dY A') . (B' X B) ] G      summed over all tiles
//
// The products over channels or tiles are 36 matrix products, which run at the peak of the
// multipliers. So a pass takes a quarter of a direct convolution's time, plus its transforms: 20 %
// of the whole where there are many channels, up to 50 % where there are few and memory has to be
// waited for.
//
// Everything is done in blocks of tiles whose transforms stay in the second-level cache; memory
// sees each input and output once. Vectors run over channels, LANES floats at a time: a transform
// is then plain arithmetic on registers, without a shuffle.
//
// Points. The transforms evaluate polynomials at 0, +-3/4, +-3/2 and infinity. The usual 0, +-1,
// +-2 lose three to five times as much to rounding. All constants of A and B are exact in float32.
// The largest error beside a float64 convolution is 1.3 to 3 times that of the direct float32 one.
// Transforms rounded to bf16 would allow products twice as fast, but their error is 1.2 % of the
// outputs' standard deviation where rounding the outputs to bf16 costs 0.17 %: they stay float32.
// Read next: orthonormal.cpp.
#include "winograd.h"
#include "parallel.h"

#include <algorithm>
#include <new>
#include <type_traits>

#include "amx.h"
#include "product.h"

namespace lsuv {

namespace {

using std::int64_t;

// Tiles of a block, so many that its transforms, the filters or sums at work and the next block's
// inputs, read ahead, share a second-level cache of 1 MB. From 16 to 64 the times are within 15 %.
constexpr int64_t TILES = 32;
// Many inputs make a block's transforms large: then half the tiles.
int64_t block_of(int64_t inputs) { return inputs >= 96 ? TILES / 2 : TILES; }

constexpr double P = 0.75, Q = 1.5;  // the points, with both signs
constexpr float P1 = P, P2 = P * P, P3 = P * P * P, Q1 = Q, Q2 = Q * Q, RATIO = Q / P;
constexpr float SUM = P * P + Q * Q, PRODUCT = P * P * Q * Q;
// The filter transform divides by the derivative of x (x^2 - P^2) (x^2 - Q^2) at each point.
constexpr float G_ZERO = static_cast<float>(1 / (P * P * Q * Q));
constexpr float G_P = static_cast<float>(1 / (2 * P * P * (P * P - Q * Q)));
constexpr float G_Q = static_cast<float>(1 / (2 * Q * Q * (Q * Q - P * P)));

// --- Transforms of one row or column -------------------------------------------------------------

// B' d: row by row the coefficients of x (x^2 - P^2) (x^2 - Q^2) divided by (x - point).
LSUV_INLINE void transform_x(const Floats d[6], Floats v[6]) {
    const Floats p_even = d[4] - Q2 * d[2], p_odd = d[3] - Q2 * d[1];
    const Floats q_even = d[4] - P2 * d[2], q_odd = d[3] - P2 * d[1];
    v[0] = d[4] - SUM * d[2] + PRODUCT * d[0];
    v[1] = p_even + P1 * p_odd;
    v[2] = p_even - P1 * p_odd;
    v[3] = q_even + Q1 * q_odd;
    v[4] = q_even - Q1 * q_odd;
    v[5] = d[5] - SUM * d[3] + PRODUCT * d[1];
}

// A' m: values at the points, multiplied by 1, x, x^2, x^3. No sum here has two products: of those
// the compiler may fuse either one, and results would depend on which copy of this code ran.
LSUV_INLINE void transform_y(const Floats m[6], Floats y[4]) {
    const Floats p_even = m[1] + m[2], p_odd = m[1] - m[2];
    const Floats q_even = m[3] + m[4], q_odd = m[3] - m[4];
    y[0] = m[0] + p_even + q_even;
    y[1] = P1 * (p_odd + RATIO * q_odd);
    y[2] = P2 * (p_even + RATIO * RATIO * q_even);
    y[3] = m[5] + P3 * (p_odd + RATIO * RATIO * RATIO * q_odd);
}

// A y, the adjoint of transform_y.
LSUV_INLINE void transform_dy(const Floats y[4], Floats m[6]) {
    const Floats p_even = y[0] + P2 * y[2], p_odd = y[1] + P2 * y[3];
    const Floats q_even = y[0] + Q2 * y[2], q_odd = y[1] + Q2 * y[3];
    m[0] = y[0];
    m[1] = p_even + P1 * p_odd;
    m[2] = p_even - P1 * p_odd;
    m[3] = q_even + Q1 * q_odd;
    m[4] = q_even - Q1 * q_odd;
    m[5] = y[3];
}

// G g: the filter's polynomial at the points.
LSUV_INLINE void transform_w(const Floats g[3], Floats u[6]) {
    const Floats p_even = G_P * (g[0] + P2 * g[2]), p_odd = (G_P * P1) * g[1];
    const Floats q_even = G_Q * (g[0] + Q2 * g[2]), q_odd = (G_Q * Q1) * g[1];
    u[0] = G_ZERO * g[0];
    u[1] = p_even + p_odd;
    u[2] = p_even - p_odd;
    u[3] = q_even + q_odd;
    u[4] = q_even - q_odd;
    u[5] = g[2];
}

// G' u, the adjoint of transform_w.
LSUV_INLINE void transform_dw(const Floats u[6], Floats g[3]) {
    const Floats p_even = G_P * (u[1] + u[2]), p_odd = u[1] - u[2];
    const Floats q_even = G_Q * (u[3] + u[4]), q_odd = u[3] - u[4];
    g[0] = G_ZERO * u[0] + p_even + q_even;
    g[1] = (G_P * P1) * p_odd + (G_Q * Q1) * q_odd;
    g[2] = u[5] + P2 * p_even + Q2 * q_even;
}

// --- Tiles ---------------------------------------------------------------------------------------

// The tiles of N images (H,W), image by image, row by row; those at the right and lower edge may
// reach beyond the image.
struct Tiles {
    int64_t H, W, down, across, count;

    Tiles(int64_t N, int64_t H, int64_t W)
        : H(H), W(W), down((H + 3) / 4), across((W + 3) / 4), count(N * down * across) {}

    int64_t image(int64_t tile) const { return tile / (down * across); }
    int64_t top(int64_t tile) const { return tile / across % down * 4; }
    int64_t left(int64_t tile) const { return tile % across * 4; }

    // The first position of the row `below` rows below a tile's top, or of the next image.
    int64_t line(int64_t tile, int64_t below) const {
        return (image(tile) * H + std::min(top(tile) + below, H)) * W;
    }
};

// One tile of an array of C channels: SIZE rows of SIZE columns, `border` rows and columns of which
// lie before the tile's outputs. Rows outside the image point to zeros, columns outside have no
// lanes, so the arithmetic knows nothing of edges.
template <class T, int SIZE>
struct Window {
    const T* rows[SIZE];
    bool inside[SIZE];

    Window(const T* x, const Tiles& tiles, int64_t C, int64_t tile, int64_t border,
           const T* outside) {
        const int64_t top = tiles.top(tile) - border, left = tiles.left(tile) - border;
        const int64_t first = tiles.image(tile) * tiles.H;
        for (int i = 0; i < SIZE; ++i) {
            const bool exists = top + i >= 0 && top + i < tiles.H;
            rows[i] = exists ? x + ((first + top + i) * tiles.W + left) * C : outside;
            inside[i] = left + i >= 0 && left + i < tiles.W;
        }
    }
};

// The memory of a block of tiles, read ahead into the second-level cache while the block before it
// is multiplied: a part at each of `steps` matrix products.
class ReadAhead {
public:
    template <class T>
    ReadAhead(const T* x, const Tiles& tiles, int64_t C, int64_t first, int64_t end, int64_t steps)
        : steps_(steps) {
        if (first >= end) return;
        const int64_t begin = tiles.line(first, 0);
        begin_ = reinterpret_cast<const char*>(x + begin * C);
        bytes_ = sizeof(T) * C * (tiles.line(end - 1, 5) - begin);
    }

    void step() {
        const int64_t end = bytes_ * ++step_ / steps_;
        for (; done_ < end; done_ += 64) __builtin_prefetch(begin_ + done_, 0, 2);
    }

private:
    const char* begin_ = nullptr;
    int64_t bytes_ = 0, steps_, step_ = 0, done_ = 0;
};

// The same for the lines that a panel of outputs is written to, which the processor reads before it
// overwrites them in part: channels k .. k + columns - 1 at every position of a block of tiles.
class WriteAhead {
public:
    template <class T>
    WriteAhead(T* y, const Tiles& tiles, int64_t K, int64_t first, int64_t end, int64_t k,
               int64_t columns) {
        const int64_t begin = tiles.line(first, 0);
        begin_ = reinterpret_cast<const char*>(y + begin * K + k);
        stride_ = sizeof(T) * K;
        bytes_ = sizeof(T) * std::min(columns, K - k);
        positions_ = tiles.line(end - 1, 4) - begin;
    }

    void step() {
        const int64_t end = positions_ * ++step_ / 36;
        for (; done_ < end; ++done_) {
            const char* position = begin_ + done_ * stride_;
            for (int64_t byte = 0; byte < bytes_; byte += 64) {
                __builtin_prefetch(position + byte, 1, 2);
            }
        }
    }

private:
    const char* begin_;
    int64_t stride_, bytes_, positions_, step_ = 0, done_ = 0;
};

// --- Two-dimensional transforms ------------------------------------------------------------------

// The 6x6 results of a transform are made two rows at a time: rows 0 and 5, 1 and 2, 3 and 4 share
// their arithmetic. So 12 vectors are in registers, where all 36 would be spilled; and the filter
// gradient's buffers hold a third of the results at a time.
constexpr int upper_row(int pair) { return pair == 0 ? 0 : 2 * pair - 1; }
constexpr int lower_row(int pair) { return pair == 0 ? 5 : 2 * pair; }

// Two rows of B' X for one column of x.
template <int PAIR, class T>
LSUV_INLINE void pair_of_x(const T* const rows[6], int64_t at, Mask mask, Floats& upper,
                           Floats& lower) {
    const Floats d1 = load(rows[1] + at, mask), d2 = load(rows[2] + at, mask);
    const Floats d3 = load(rows[3] + at, mask), d4 = load(rows[4] + at, mask);
    if (PAIR == 0) {
        const Floats d0 = load(rows[0] + at, mask), d5 = load(rows[5] + at, mask);
        upper = d4 - SUM * d2 + PRODUCT * d0;
        lower = d5 - SUM * d3 + PRODUCT * d1;
    } else {
        constexpr float POINT = PAIR == 1 ? P1 : Q1, OTHER = PAIR == 1 ? Q2 : P2;
        const Floats even = d4 - OTHER * d2, odd = d3 - OTHER * d1;
        upper = even + POINT * odd;
        lower = even - POINT * odd;
    }
}

// Window of x, channels c .. c+15 -> two rows of six, `plane` floats apart.
template <int PAIR, class T>
LSUV_INLINE void transform_window(const Window<T, 6>& x, int64_t C, int64_t c, Mask lanes,
                                  float* upper, float* lower, int64_t plane) {
    Floats up[6], low[6], v[6];
    LSUV_UNROLL
    for (int j = 0; j < 6; ++j) {
        const Mask mask = x.inside[j] ? lanes : 0;
        pair_of_x<PAIR>(x.rows, j * C + c, mask, up[j], low[j]);
    }
    transform_x(up, v);
    LSUV_UNROLL
    for (int j = 0; j < 6; ++j) put(upper + j * plane, v[j]);
    transform_x(low, v);
    LSUV_UNROLL
    for (int j = 0; j < 6; ++j) put(lower + j * plane, v[j]);
}

// x (N,H,W,C), tiles first .. end-1 -> V (36, tiles, C rounded up), planes `plane` floats apart.
template <class T>
void transform_inputs(const T* x, const Tiles& tiles, int64_t C, int64_t first, int64_t end,
                      const T* outside, float* V, int64_t plane) {
    for (int64_t tile = first; tile < end; ++tile, V += round_up(C)) {
        const Window<T, 6> window(x, tiles, C, tile, 1, outside);
        for (int64_t c = 0; c < C; c += LANES) {
            const Mask lanes = first_lanes(C - c);
            float* v = V + c;
            transform_window<0>(window, C, c, lanes, v, v + 30 * plane, plane);
            transform_window<1>(window, C, c, lanes, v + 6 * plane, v + 12 * plane, plane);
            transform_window<2>(window, C, c, lanes, v + 18 * plane, v + 24 * plane, plane);
        }
    }
}

// M (36, tiles, 16 vectors) -> channels k .. k + 16 vectors - 1 of y (N,H,W,K), plus b.
template <bool STREAM, class T>
void transform_outputs(const float* M, int64_t plane, const float* b, T* y, const Tiles& tiles,
                       int64_t K, int64_t k, int64_t vectors, int64_t first, int64_t end) {
    for (int64_t tile = first; tile < end; ++tile) {
        const int64_t top = tiles.top(tile), left = tiles.left(tile);
        const int64_t height = std::min<int64_t>(4, tiles.H - top);
        const int64_t width = std::min<int64_t>(4, tiles.W - left);
        T* corner = y + ((tiles.image(tile) * tiles.H + top) * tiles.W + left) * K;
        for (int64_t vector = 0; vector < vectors; ++vector, M += LANES) {
            const int64_t channel = k + vector * LANES;
            const Mask lanes = first_lanes(K - channel);
            const Floats bias = b ? load(b + channel, lanes) : Floats{};
            Floats half[4][6];
            LSUV_UNROLL
            for (int j = 0; j < 6; ++j) {
                Floats m[6], column[4];
                LSUV_UNROLL
                for (int i = 0; i < 6; ++i) m[i] = get(M + (6 * i + j) * plane);
                transform_y(m, column);
                LSUV_UNROLL
                for (int i = 0; i < 4; ++i) half[i][j] = column[i];
            }
            LSUV_UNROLL
            for (int i = 0; i < 4; ++i) {
                if (i >= height) break;
                Floats row[4];
                transform_y(half[i], row);
                T* out = corner + i * tiles.W * K + channel;
                LSUV_UNROLL
                for (int j = 0; j < 4; ++j) {
                    if (j >= width) break;
                    if constexpr (STREAM) {
                        stream(out + j * K, row[j] + bias);
                    } else {
                        store_rounded(out + j * K, row[j] + bias, lanes);
                    }
                }
            }
        }
    }
}

// --- Matrix products -----------------------------------------------------------------------------

// m (R, 16 V), rows m_row apart = sum over depth of a (R, depth) and b (depth, 16 V).
//
// The R * V sums stay in registers; a step of the depth loads V vectors and broadcasts R floats for
// R * V multiplications, so with 8 x 3 the loads take less than half of their ports. In the filter
// gradient `a` is stored by depth (a_row is then the distance of its depths) and m is added to.
template <int R, int V, bool GRADIENT>
void multiply(const float* __restrict__ a, int64_t a_row, const float* __restrict__ b,
              int64_t b_row, int64_t depth, float* __restrict__ m, int64_t m_row) {
    Floats sum[R][V];
    LSUV_UNROLL
    for (int i = 0; i < R; ++i) {
        LSUV_UNROLL
        for (int j = 0; j < V; ++j) sum[i][j] = Floats{};
    }
    for (int64_t d = 0; d < depth; ++d) {
        Floats right[V];
        LSUV_UNROLL
        for (int j = 0; j < V; ++j) right[j] = get(b + d * b_row + j * LANES);
        LSUV_UNROLL
        for (int i = 0; i < R; ++i) {
            const float left = GRADIENT ? a[d * a_row + i] : a[i * a_row + d];
            LSUV_UNROLL
            for (int j = 0; j < V; ++j) sum[i][j] += left * right[j];
        }
    }
    LSUV_UNROLL
    for (int i = 0; i < R; ++i) {
        LSUV_UNROLL
        for (int j = 0; j < V; ++j) {
            float* out = m + i * m_row + j * LANES;
            put(out, GRADIENT ? get(out) + sum[i][j] : sum[i][j]);
        }
    }
}

template <bool GRADIENT>
struct Product {
    template <int R, int V>
    static constexpr auto of() {
        return multiply<R, V, GRADIENT>;
    }
};

// --- Forward, backward_data ----------------------------------------------------------------------

// Where the transformed filters U lie: panel by panel (36, depth, 16 width). A cache line lies
// between two planes: else the 36 stores of a transform, a power of two apart, would fight for one
// cache set.
struct Filters {
    int64_t depth;
    Panels panels;

    int64_t plane(int64_t panel) const { return depth * panels.width(panel) * LANES + LANES; }
    int64_t begin(int64_t panel) const {
        return 36 * (depth * panels.begin(panel) * LANES + panel * LANES);
    }
    int64_t size() const { return begin(panels.count); }
};

// The nine taps of 16 inputs c.. and 16 outputs k.. as vectors of outputs, from W (K,3,3,C),
// rounded to T.
template <class T>
void taps_forward(const float* W, int64_t C, int64_t K, int64_t c, int64_t k,
                  float taps[LANES][9][LANES]) {
    const int64_t inputs = std::min(LANES, C - c), outputs = std::min(LANES, K - k);
    for (int64_t o = 0; o < LANES; ++o) {
        for (int64_t tap = 0; tap < 9; ++tap) {
            const float* w = W + ((k + o) * 9 + tap) * C + c;
            for (int64_t i = 0; i < inputs; ++i) {
                taps[i][tap][o] = o < outputs ? static_cast<float>(rounded<T>(w[i])) : 0.0f;
            }
        }
    }
}

// The same for the data gradient, whose inputs are the K filters of W (K,3,3,C), rotated.
template <class T>
void taps_backward(const float* W, int64_t K, int64_t C, int64_t k, int64_t c,
                   float taps[LANES][9][LANES]) {
    const int64_t inputs = std::min(LANES, K - k);
    const Mask lanes = first_lanes(C - c);
    for (int64_t i = 0; i < inputs; ++i) {
        for (int64_t tap = 0; tap < 9; ++tap) {
            Floats w = load(W + ((k + i) * 9 + 8 - tap) * C + c, lanes);
            for (int lane = 0; lane < LANES; ++lane) w[lane] = rounded<T>(w[lane]);
            put(taps[i][tap], w);
        }
    }
}

// W -> U: 36 floats for every 9; one thread computes 16 x 16 filters at a time.
template <class T>
void transform_filters(const float* W, int64_t inputs, int64_t outputs, bool backward,
                       const Filters& filters, float* U) {
    const int64_t groups = round_up(inputs) / LANES;
#pragma omp parallel for schedule(static) collapse(2)
    for (int64_t panel = 0; panel < filters.panels.count; ++panel) {
        for (int64_t group = 0; group < groups; ++group) {
            const int64_t width = filters.panels.width(panel) * LANES, first = group * LANES;
            const int64_t plane = filters.plane(panel);
            for (int64_t vector = 0; vector < width; vector += LANES) {
                const int64_t output = filters.panels.begin(panel) * LANES + vector;
                alignas(64) float taps[LANES][9][LANES];
                const auto taps_of = backward ? taps_backward<T> : taps_forward<T>;
                taps_of(W, inputs, outputs, first, output, taps);
                const int64_t count = std::min(LANES, inputs - first);
                for (int64_t i = 0; i < count; ++i) {
                    float* u = U + filters.begin(panel) + (first + i) * width + vector;
                    Floats half[6][3];
                    for (int s = 0; s < 3; ++s) {
                        const Floats column[3] = {get(taps[i][s]), get(taps[i][3 + s]),
                                                  get(taps[i][6 + s])};
                        Floats result[6];
                        transform_w(column, result);
                        for (int r = 0; r < 6; ++r) half[r][s] = result[r];
                    }
                    for (int r = 0; r < 6; ++r) {
                        Floats result[6];
                        transform_w(half[r], result);
                        for (int s = 0; s < 6; ++s) put(u + (6 * r + s) * plane, result[s]);
                    }
                }
            }
        }
    }
}

// Outputs of this many bytes, most of a last-level cache, are written past the caches where that is
// whole lines (a bf16 vector is half a line). 32 -> 64 on 32x32 images, batch 128, one thread: 6.6
// instead of 9.0 ms. FitNet-4's step takes 241 ms with this limit, 245 with 16 MiB, 249 with none.
constexpr int64_t STREAMED = 24 << 20;

// `count` zeros.
template <class T>
const T* zeros(Buffer& buffer, int64_t count) {
    float* data = buffer.reserve(count);
    std::fill_n(data, count, 0.0f);
    return reinterpret_cast<const T*>(data);
}

// x (N,H,W,inputs) -> y (N,H,W,outputs). One thread computes a run of blocks of tiles.
template <class T>
void convolve(const T* x, const float* W, const float* b, T* y, int64_t N, int64_t H, int64_t width,
              int64_t inputs, int64_t outputs, bool backward, WinogradWorkspace& workspace) {
    const Tiles tiles(N, H, width);
    const Filters filters{inputs, Panels(outputs)};
    const Panels& panels = filters.panels;
    float* U = workspace.filters.reserve(filters.size());
    transform_filters<T>(W, inputs, outputs, backward, filters, U);

    const int64_t row = round_up(inputs), size = block_of(inputs);
    const int64_t v_plane = size * row + LANES, m_plane = size * VECTORS * LANES + LANES;
    const int64_t share = 36 * (v_plane + m_plane);
    float* shares = workspace.blocks.reserve(share * omp_get_max_threads());
    const T* outside = zeros<T>(workspace.outside, 6 * row);
    const bool streamed = std::is_same_v<T, float> && outputs % LANES == 0 &&
                          4 * N * H * width * outputs >= STREAMED &&
                          reinterpret_cast<std::uintptr_t>(y) % (4 * LANES) == 0;
    auto outputs_of = transform_outputs<false, T>;
    if constexpr (std::is_same_v<T, float>) {
        if (streamed) outputs_of = transform_outputs<true, T>;
    }
    const int64_t blocks = (tiles.count + size - 1) / size;
#pragma omp parallel
    {
        float* V = shares + share * omp_get_thread_num();
        float* M = V + 36 * v_plane;
#pragma omp for schedule(static)
        for (int64_t block = 0; block < blocks; ++block) {
            const int64_t first = block * size, end = std::min(first + size, tiles.count);
            transform_inputs(x, tiles, inputs, first, end, outside, V, v_plane);
            ReadAhead next(x, tiles, inputs, end, std::min(end + size, tiles.count),
                           36 * panels.count);
            for (int64_t panel = 0; panel < panels.count; ++panel) {
                const int64_t vectors = panels.width(panel), columns = vectors * LANES;
                const float* u = U + filters.begin(panel);
                WriteAhead lines(y, tiles, outputs, first, end, panels.begin(panel) * LANES,
                                 columns);
                for (int64_t point = 0; point < 36; ++point, u += filters.plane(panel)) {
                    const float* v = V + point * v_plane;
                    float* m = M + point * m_plane;
                    for (int64_t t = 0; t < end - first; t += ROWS) {
                        const int64_t rows = std::min(ROWS, end - first - t);
                        tile_function<Product<false>>(rows, vectors)(
                            v + t * row, row, u, columns, inputs, m + t * columns, columns);
                    }
                    next.step();
                    if (!streamed) lines.step();
                }
                outputs_of(M, m_plane, b, y, tiles, outputs, panels.begin(panel) * LANES, vectors,
                           first, end);
            }
        }
        if (streamed) finish_streams();
    }
}

// --- backward_filter -----------------------------------------------------------------------------

// A block of tiles of x (N,H,W,C) -> two rows of B' X B: V (12, tiles, row).
template <int PAIR, class T>
void transform_inputs_of(const T* x, const Tiles& tiles, int64_t C, int64_t first, int64_t end,
                         const T* outside, float* V, int64_t row, int64_t plane) {
    for (int64_t tile = first; tile < end; ++tile, V += row) {
        const Window<T, 6> window(x, tiles, C, tile, 1, outside);
        for (int64_t c = 0; c < C; c += LANES) {
            transform_window<PAIR>(window, C, c, first_lanes(C - c), V + c, V + 6 * plane + c,
                                   plane);
        }
    }
}

// A block of tiles of dy (N,H,W,K) -> two rows of A dY A': D (12, tiles, row). Pair 1 also adds the
// block's dy to sums (K rounded up,).
template <int PAIR, class T>
void transform_gradients_of(const T* dy, const Tiles& tiles, int64_t K, int64_t first, int64_t end,
                            const T* outside, float* D, int64_t row, int64_t plane, float* sums) {
    for (int64_t tile = first; tile < end; ++tile, D += row) {
        const Window<T, 4> window(dy, tiles, K, tile, 0, outside);
        for (int64_t k = 0; k < K; k += LANES) {
            const Mask lanes = first_lanes(K - k);
            Floats up[4], low[4], m[6], sum = {};
            LSUV_UNROLL
            for (int j = 0; j < 4; ++j) {
                const Mask mask = window.inside[j] ? lanes : 0;
                const int64_t at = j * K + k;
                const Floats y0 = load(window.rows[0] + at, mask);
                const Floats y3 = load(window.rows[3] + at, mask);
                if (PAIR == 0) {
                    up[j] = y0;
                    low[j] = y3;
                } else {
                    constexpr float X1 = PAIR == 1 ? P1 : Q1, X2 = X1 * X1;
                    const Floats y1 = load(window.rows[1] + at, mask);
                    const Floats y2 = load(window.rows[2] + at, mask);
                    const Floats even = y0 + X2 * y2, odd = y1 + X2 * y3;
                    up[j] = even + X1 * odd;
                    low[j] = even - X1 * odd;
                    if (PAIR == 1) sum += (y0 + y1) + (y2 + y3);
                }
            }
            if (PAIR == 1) put(sums + k, get(sums + k) + sum);
            transform_dy(up, m);
            LSUV_UNROLL
            for (int j = 0; j < 6; ++j) put(D + j * plane + k, m[j]);
            transform_dy(low, m);
            LSUV_UNROLL
            for (int j = 0; j < 6; ++j) put(D + (6 + j) * plane + k, m[j]);
        }
    }
}

// Rows of a block's transforms are an odd number of lines long: a product walks down a column of
// them, and at a power of two that column would lie in few cache sets.
int64_t odd_lines(int64_t channels) {
    return round_up(channels) / LANES % 2 ? round_up(channels) : round_up(channels) + LANES;
}

// The tiles are cut into parts, each with sums S (36, K, C) of its own that are added at the end:
// the threads have something to share out and results do not depend on them. Many channels make the
// sums large and their addition costly, and get fewer parts.
int64_t parts_of(const Tiles& tiles, int64_t sums) {
    constexpr int64_t LARGE = 8 << 20;  // bytes
    const int64_t parts = std::clamp<int64_t>(LARGE / (4 * sums), 2, 8);
    return std::min(parts, (tiles.count + TILES - 1) / TILES);
}

template <class T>
struct FilterGradient {
    const T *x, *dy;
    const Tiles& tiles;
    int64_t C, K;
    const T* outside;
    Panels panels{C};
    int64_t columns = round_up(C), rows = round_up(K);
    int64_t v_row = odd_lines(C), d_row = odd_lines(K);
    int64_t v_plane = TILES * v_row + LANES, d_plane = TILES * d_row + LANES;
    int64_t share = 12 * (v_plane + d_plane);
    int64_t sums = 36 * rows * columns;

    // Adds tiles first .. end-1, two rows of points at a time, to S and to the bias sums.
    template <int PAIR>
    void add(int64_t first, int64_t end, ReadAhead& next_x, ReadAhead& next_dy, float* V, float* D,
             float* S, float* bias) const {
        transform_inputs_of<PAIR>(x, tiles, C, first, end, outside, V, v_row, v_plane);
        transform_gradients_of<PAIR>(dy, tiles, K, first, end, outside, D, d_row, d_plane, bias);
        for (int64_t i = 0; i < 12; ++i) {
            const int64_t point = 6 * (i < 6 ? upper_row(PAIR) : lower_row(PAIR)) + i % 6;
            float* s = S + point * rows * columns;
            for (int64_t panel = 0; panel < panels.count; ++panel) {
                const int64_t vectors = panels.width(panel), c = panels.begin(panel) * LANES;
                for (int64_t k = 0; k < K; k += ROWS) {
                    tile_function<Product<true>>(std::min(ROWS, K - k), vectors)(
                        D + i * d_plane + k, d_row, V + i * v_plane + c, v_row, end - first,
                        s + k * columns + c, columns);
                }
            }
            next_x.step();
            next_dy.step();
        }
    }

    // One part: tiles begin .. end-1 -> S (36, K, C) and bias (K,). `block_bias` is scratch: sums
    // over a block are added to those over the part, so rounding does not grow with the batch.
    void part(int64_t begin, int64_t end, float* V, float* S, float* bias,
              float* block_bias) const {
        float* D = V + 12 * v_plane;
        std::fill_n(S, sums, 0.0f);
        std::fill_n(bias, rows, 0.0f);
        for (int64_t first = begin; first < end; first += TILES) {
            const int64_t last = std::min(first + TILES, end);
            const int64_t after = std::min(last + TILES, end);
            ReadAhead next_x(x, tiles, C, last, after, 36), next_dy(dy, tiles, K, last, after, 36);
            std::fill_n(block_bias, rows, 0.0f);
            add<0>(first, last, next_x, next_dy, V, D, S, block_bias);
            add<1>(first, last, next_x, next_dy, V, D, S, block_bias);
            add<2>(first, last, next_x, next_dy, V, D, S, block_bias);
            for (int64_t k = 0; k < rows; ++k) bias[k] += block_bias[k];
        }
    }

    // The parts' sums -> row k of dW (K,3,3,C).
    void finish(const float* S, int64_t parts, T* dW, int64_t k) const {
        for (int64_t c = 0; c < C; c += LANES) {
            Floats half[3][6];
            for (int j = 0; j < 6; ++j) {
                Floats u[6], g[3];
                for (int i = 0; i < 6; ++i) {
                    const float* s = S + ((6 * i + j) * rows + k) * columns + c;
                    u[i] = get(s);
                    for (int64_t part = 1; part < parts; ++part) u[i] += get(s + part * sums);
                }
                transform_dw(u, g);
                for (int i = 0; i < 3; ++i) half[i][j] = g[i];
            }
            for (int i = 0; i < 3; ++i) {
                Floats g[3];
                transform_dw(half[i], g);
                for (int j = 0; j < 3; ++j) {
                    store_rounded(dW + ((k * 3 + i) * 3 + j) * C + c, g[j], first_lanes(C - c));
                }
            }
        }
    }
};

}  // namespace

template <class T>
bool winograd_pays(const WinogradShape& s, bool filter_gradient) {
    // Measured on two cores against oneDNN's direct convolution, which runs at 90 % of their peak,
    // on 32x32 to 8x8 images: in float 1.5 to 1.8 times as fast with 16 channels, 1.8 to 3.2 with
    // more; in bf16, where the direct one has products twice as fast, 0.8 to 1.0 with 16 (the
    // filter gradient 1.0 to 1.7), 1.1 to 1.5 with more (1.4 to 1.9). Beyond 256 x 256 filters the
    // sums of the filter gradient no longer fit the caches. A tile at the edge costs as much as a
    // whole one: 13x13 images, 0.66 of whose tiles are image, gain 1.0 to 1.1 in float, 6x6
    // nothing. Each of two threads wants a block.
    constexpr bool FLOAT = std::is_same_v<T, float>;
#if LSUV_AMX
    // On one core FitNet-4's convolutions in bf16 take 602 ms by these and 240 by AMX.
    if (!FLOAT && Amx::permitted()) return false;
#endif
    const int64_t fewest = FLOAT || filter_gradient ? 16 : 32;
    const Tiles tiles(s.N, s.H, s.W);
    return s.C >= fewest && s.K >= fewest && s.C * s.K <= 256 * 256 && tiles.count >= 2 * TILES &&
           20 * s.N * s.H * s.W > (FLOAT ? 12 : 15) * 16 * tiles.count;  // 0.6 and 0.75
}

template <class T>
void winograd_forward(const T* x, const float* W, const float* b, T* y, const WinogradShape& s,
                      WinogradWorkspace& workspace) {
    convolve(x, W, b, y, s.N, s.H, s.W, s.C, s.K, false, workspace);
}

template <class T>
void winograd_backward_data(const T* dy, const float* W, T* dx, const WinogradShape& s,
                            WinogradWorkspace& workspace) {
    convolve(dy, W, nullptr, dx, s.N, s.H, s.W, s.K, s.C, true, workspace);
}

template <class T>
void winograd_backward_filter(const T* x, const T* dy, T* dW, T* db, const WinogradShape& s,
                              WinogradWorkspace& workspace) {
    const Tiles tiles(s.N, s.H, s.W);
    const T* outside = zeros<T>(workspace.outside, 6 * round_up(std::max(s.C, s.K)));
    const FilterGradient<T> gradient{x, dy, tiles, s.C, s.K, outside};
    const int64_t parts = parts_of(tiles, gradient.sums), rows = gradient.rows;
    float* S = workspace.filters.reserve(parts * gradient.sums);
    float* shares = workspace.blocks.reserve(gradient.share * omp_get_max_threads());
    float* bias = workspace.sums.reserve(2 * parts * rows);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 1)
        for (int64_t part = 0; part < parts; ++part) {
            gradient.part(tiles.count * part / parts, tiles.count * (part + 1) / parts,
                          shares + gradient.share * omp_get_thread_num(), S + part * gradient.sums,
                          bias + 2 * part * rows, bias + (2 * part + 1) * rows);
        }
#pragma omp for schedule(static)
        for (int64_t k = 0; k < s.K; ++k) gradient.finish(S, parts, dW, k);
    }
    for (int64_t k = 0; db && k < s.K; ++k) {
        double sum = 0;
        for (int64_t part = 0; part < parts; ++part) sum += bias[2 * part * rows + k];
        db[k] = rounded<T>(static_cast<float>(sum));
    }
}

#define LSUV_WINOGRAD_OF(T)                                                                        \
    template bool winograd_pays<T>(const WinogradShape&, bool);                                    \
    template void winograd_forward(const T*, const float*, const float*, T*, const WinogradShape&, \
                                   WinogradWorkspace&);                                            \
    template void winograd_backward_data(const T*, const float*, T*, const WinogradShape&,         \
                                         WinogradWorkspace&);                                      \
    template void winograd_backward_filter(const T*, const T*, T*, T*, const WinogradShape&,       \
                                           WinogradWorkspace&)
LSUV_WINOGRAD_OF(float);
LSUV_WINOGRAD_OF(bf16);

}  // namespace lsuv
