// Convolutions by matrix products, without a matrix of all windows.
//
//   forward          y[place, k] = sum over r, s, c of x[place + (r, s), c] W[k, r, s, c]
//   backward_data    the same over dy with turned filters, once for each remainder of the stride
//   backward_filter  dW[k, r, s, c] = sum over places of dy[place, k] x[place + (r, s), c]
//
// All are done in blocks of about 128 places. A block's inputs are copied, with zeros around the
// image, into memory that stays in the second-level cache: then nothing knows of edges, and as a
// place's channels lie beside the next place's, the S C inputs under a row of a filter are one run
// of memory. So a window is R runs, each read where it lies, and also three channels fill a run.
// The copy costs an element or two where the product has R S K / 16 multiplications of vectors.
//
// Filters are turned into panels of up to three vectors of outputs. A panel longer than a part of
// the second-level cache is worked off in pieces. Where there are one or two blocks only, as in the
// fully connected layer, every thread turns the pieces that it is about to use.
//
// On a Zen 5 core the loop of product.h alone does 132 thousand million multiplications a second in
// float. Convolutions of 96 and more inputs and outputs reach 115 to 135 of them (taps above and
// below the image are left out), 1x1 ones 80 to 115, a first layer of three channels 50 to 90. In
// bf16 it is twice as many. Beside oneDNN that is 0.85 to 1.05, of first layers 0.5 to 0.9.
// By AMX it is 0.4 to 0.7 million million: the filter gradient 1.02 to 1.8 times oneDNN, the others
// 0.65 to 1.05.
// Read next: onednn_linear.h.
#include "direct.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <type_traits>
#include <utility>

#include "amx.h"
#include "parallel.h"
#include "product.h"

namespace lsuv {

namespace {

using std::int64_t;

constexpr int64_t PLACES = 128;   // of a block
constexpr int64_t PIECE = 1536;   // depth of a panel's piece: 288 KB with three vectors of AVX-512
constexpr int64_t SHORT = 16;     // a run of inputs that is over before it has paid for its start
constexpr int64_t UNFOLDED = 96;  // inputs of a window that is copied as a whole
constexpr int64_t FEW = 1 << 20;  // multiplications for which no other thread is woken

// What is read and written: y[i, j] of (Ho,Wo,K) reads R x S places of x (H,W,C) from row
// i step - top and column j step - left on. Elements lie x_place or y_place apart from place to
// place, y's also y_row and y_image from row to row and image to image.
struct Correlation {
    int64_t N, H, W, C, x_place;
    int64_t R, S, step, top, left;
    int64_t Ho, Wo, K, y_image, y_row, y_place;

    // Windows of few inputs are copied one by one, each as one place.
    bool unfolded() const { return R * S > 1 && S * C <= SHORT && R * S * C <= UNFOLDED; }

    bool unit() const {
        return R == 1 && S == 1 && step == 1 && !top && !left && Ho == H && Wo == W;
    }
};

// A view of weights: of output k and input c in row r and column s of the filter.
struct Weights {
    const float* data;
    int64_t output, row, column, input;

    const float* at(int64_t k, int64_t r, int64_t s, int64_t c) const {
        return data + k * output + r * row + s * column + c * input;
    }
};

// --- Blocks of places ----------------------------------------------------------------------------

// Images first .. + images - 1, rows row .. + rows - 1 and columns column .. + columns - 1 of y.
struct Block {
    int64_t image, images, row, rows, column, columns;

    int64_t places() const { return images * rows * columns; }
};

// y's places cut into blocks of about PLACES: of several images, of some rows of one, or, where
// rows mean nothing, of a piece of one row.
struct Blocks {
    int64_t N, Ho, Wo, images, rows, columns, down, across, count;

    explicit Blocks(const Correlation& s, int64_t most = PLACES) : N(s.N), Ho(s.Ho), Wo(s.Wo) {
        columns = s.unit() && Ho == 1 ? std::min(Wo, most) : Wo;
        rows = std::clamp<int64_t>((most + columns / 2) / columns, 1, Ho);
        rows = ceil_div(Ho, ceil_div(Ho, rows));
        images =
            rows == Ho && columns == Wo ? std::clamp<int64_t>(most / (rows * columns), 1, N) : 1;
        down = ceil_div(Ho, rows);
        across = ceil_div(Wo, columns);
        count = ceil_div(N, images) * down * across;
    }

    Block at(int64_t block) const {
        const int64_t column = block % across * columns, row = block / across % down * rows;
        const int64_t image = block / (across * down) * images;
        return {image,  std::min(images, N - image),   row, std::min(rows, Ho - row),
                column, std::min(columns, Wo - column)};
    }
};

// Where N images of one place, or places that are read alone, lie one after the other, they are one
// row.
Correlation as_one_row(Correlation s) {
    if (!s.unit() || s.y_row != s.W * s.y_place || s.y_image != s.H * s.y_row) return s;
    s.W = s.Wo = s.N * s.H * s.W;
    s.N = s.H = s.Ho = 1;
    s.y_row = s.y_image = s.W * s.y_place;
    return s;
}

// Elements of T in one of E.
template <class T, class E>
constexpr int64_t HELD = std::is_same_v<T, bf16> && std::is_same_v<E, std::uint32_t> ? 2 : 1;

// `count` elements of x, and zeros up to a whole number of packed ones.
template <class T, class E>
LSUV_INLINE void pack_place(const T* x, int64_t count, E* out) {
    if constexpr (std::is_same_v<T, bf16> && std::is_same_v<E, float>) {
        for (int64_t c = 0; c < count; ++c) out[c] = x[c];
    } else {
        if (count % HELD<T, E>) out[count / 2] = E{};
        std::memcpy(static_cast<void*>(out), x, count * sizeof(T));
    }
}

// Row i, columns j .. + columns - 1 of image x (H,W,C) -> out, `place` packed elements a place.
template <class T, class E>
void pack_row(const T* x, const Correlation& s, int64_t i, int64_t j, int64_t columns,
              int64_t place, E* out) {
    if (i < 0 || i >= s.H) {
        std::fill_n(out, columns * place, E{});
        return;
    }
    const int64_t begin = std::clamp<int64_t>(-j, 0, columns);
    const int64_t end = std::clamp<int64_t>(s.W - j, begin, columns);
    std::fill_n(out, begin * place, E{});
    const T* from = x + (i * s.W + j + begin) * s.x_place;
    if (s.x_place == place * HELD<T, E> && s.C == s.x_place) {
        pack_place(from, (end - begin) * s.C, out + begin * place);
    } else {
        for (int64_t p = begin; p < end; ++p, from += s.x_place) {
            pack_place(from, s.C, out + p * place);
        }
    }
    std::fill_n(out + end * place, (columns - end) * place, E{});
}

// A row of windows: R rows of x, `line` elements apart -> out, `place` elements a window.
template <class T, class U>
void unfold_row(const T* x, const Correlation& s, int64_t line, int64_t columns, int64_t place,
                U* out) {
    const int64_t run = s.S * s.C;
    for (int64_t j = 0; j < columns; ++j, x += s.step * s.C, out += place) {
        for (int64_t r = 0; r < s.R; ++r) {  // each writes zeros, or the next run, behind its run
            for (int64_t c = 0; c < run; c += LANES) {
                store_exactly(out + r * run + c, load(x + r * line + c, first_lanes(run - c)),
                              first_lanes(LANES));
            }
        }
    }
}

// --- Filters in panels ---------------------------------------------------------------------------

// Taps tap .. + taps - 1, of each columns column .. + columns - 1, of each inputs input .. +
// inputs - 1, in packed elements: those of a window that one call multiplies.
struct Piece {
    int64_t tap, taps, column, columns, input, inputs;
    int64_t run;  // the depth of a tap: columns * inputs, and zeros
};

// A window of R x S places of `inputs` packed elements, cut into pieces. The depth of a tap is a
// multiple of `unit`, which divides PIECE.
struct Pieces {
    int64_t R, S, inputs, unit, taps, columns, part, count;

    Pieces(int64_t R, int64_t S, int64_t inputs, int64_t unit)
        : R(R), S(S), inputs(inputs), unit(unit) {
        const auto whole = [](int64_t most, int64_t of) {
            return std::clamp<int64_t>(most, 1, of);
        };
        part = whole(PIECE, inputs);
        columns = part < inputs ? 1 : whole(PIECE / inputs, std::max<int64_t>(S, 1));
        taps =
            columns < S ? 1 : whole(PIECE / whole_units(columns * inputs), std::max<int64_t>(R, 1));
        count = ceil_div(R, taps) * ceil_div(S, columns) * ceil_div(inputs, part);
    }

    Piece at(int64_t piece) const {
        const int64_t parts = ceil_div(inputs, part);
        const int64_t across = std::max<int64_t>(ceil_div(S, columns), 1);
        const int64_t input = piece % parts * part, column = piece / parts % across * columns;
        const int64_t tap = piece / (parts * across) * taps;
        Piece p{tap,   std::min(taps, R - tap),        column, std::min(columns, S - column),
                input, std::min(part, inputs - input), 0};
        p.run = whole_units(p.columns * p.inputs);
        return p;
    }

    // Depth of all pieces before this one; of all.
    int64_t before(int64_t piece) const {
        int64_t depth = 0;
        for (int64_t p = 0; p < piece; ++p) depth += at(p).taps * at(p).run;
        return depth;
    }
    int64_t depth() const { return before(count); }

private:
    int64_t whole_units(int64_t depth) const { return ceil_div(depth, unit) * unit; }
};

// The nearest T, as a float.
template <class T>
LSUV_INLINE Floats nearest(Floats values) {
    if constexpr (std::is_same_v<T, float>) return values;
    Unsigned wide = reinterpret_cast<Unsigned>(values);
    wide = values == values ? wide + 0x7FFFu + (wide >> 16 & 1u) : wide | 0x400000u;
    return reinterpret_cast<Floats>(wide & 0xFFFF0000u);
}

// Exchanges the blocks of H x H lanes beside the diagonal of each block of 2 H x 2 H.
template <std::size_t H, std::size_t... LANE>
LSUV_INLINE void exchange(Floats& a, Floats& b, std::index_sequence<LANE...>) {
    const Floats upper = __builtin_shufflevector(a, b, (LANE & H ? LANES + LANE - H : LANE)...);
    b = __builtin_shufflevector(a, b, (LANE & H ? LANES + LANE : LANE + H)...);
    a = upper;
}

// rows (LANES, LANES) -> its columns.
template <std::size_t H = LANES / 2>
LSUV_INLINE void transpose(Floats rows[LANES]) {
    LSUV_UNROLL
    for (std::size_t i = 0; i < LANES; ++i) {
        if (!(i & H)) exchange<H>(rows[i], rows[i + H], std::make_index_sequence<LANES>());
    }
    if constexpr (H > 1) transpose<H / 2>(rows);
}

// Filters of place (r, s): inputs c .. + LANES - 1 of LANES outputs k .. -> vectors of outputs,
// rounded to T; zeros for inputs and outputs that do not exist. What the next call but a few wants
// is read ahead: rows of weights are far apart, and the processor would not guess them.
template <class T>
void turn(const Weights& W, int64_t K, int64_t C, int64_t k, int64_t c, int64_t r, int64_t s,
          Floats rows[LANES]) {
    const bool turned = W.output == 1;
    const int64_t outputs = std::min(LANES, K - k), inputs = std::min(LANES, C - c);
    const int64_t count = turned ? inputs : outputs;
    const int64_t ahead = turned ? VECTORS * LANES : 4 * LANES;
    const Mask lanes = first_lanes(turned ? outputs : inputs);
    for (int64_t i = 0; i < LANES; ++i) {
        rows[i] = Floats{};
        if (i >= count) continue;
        const float* from = turned ? W.at(k, r, s, c + i) : W.at(k + i, r, s, c);
        __builtin_prefetch(from + ahead);
        rows[i] = nearest<T>(load(from, lanes));
    }
    if (!turned) transpose(rows);
}

// A piece of the filters of panel outputs first .. + width - 1 -> out (depth, width).
template <class T>
void pack_piece(const Weights& W, int64_t K, int64_t C, const Piece& piece, int64_t first,
                int64_t width, typename Operand<T>::Packed* out) {
    constexpr int64_t DEPTH = Operand<T>::DEPTH;
    for (int64_t r = piece.tap; r < piece.tap + piece.taps; ++r) {
        for (int64_t s = piece.column; s < piece.column + piece.columns; ++s) {
            for (int64_t d = 0; d < piece.inputs; d += LANES / DEPTH) {
                const int64_t count = std::min(LANES / DEPTH, piece.inputs - d);
                for (int64_t o = 0; o < width; o += LANES) {
                    Floats rows[LANES];
                    turn<T>(W, K, C, first + o, (piece.input + d) * DEPTH, r, s, rows);
                    for (int64_t i = 0; i < count; ++i) {
                        auto* to = out + (d + i) * width + o;
                        if constexpr (DEPTH == 1) {
                            put(to, rows[i]);
                        } else {
                            *reinterpret_cast<Unsigned*>(to) =
                                reinterpret_cast<Unsigned>(rows[2 * i]) >> 16 |
                                reinterpret_cast<Unsigned>(rows[2 * i + 1]);
                        }
                    }
                }
            }
            out += piece.inputs * width;
        }
        const int64_t none = (piece.run - piece.columns * piece.inputs) * width;
        std::fill_n(out, none, typename Operand<T>::Packed{});
        out += none;
    }
}

// --- Forward, backward_data ----------------------------------------------------------------------

template <class E>
struct RowsProduct {
    template <int R, int V>
    static constexpr auto of() {
        return multiply_rows<R, V, E>;
    }
};

// Outputs of this many bytes, most of a last-level cache, are written past the caches where that is
// whole lines.
constexpr int64_t STREAMED = 16 << 20;

// sums (count, vectors) -> channels k .. of y's places `at`, plus b; a place below 0 is none.
template <bool STREAM, class T>
void write_tile(const float* sums, int64_t count, int64_t vectors, const float* b, T* y,
                const int64_t* at, int64_t k, int64_t K) {
    for (int64_t i = 0; i < count; ++i) {
        if (at[i] < 0) {
            sums += vectors * LANES;
            continue;
        }
        for (int64_t v = 0; v < vectors; ++v, sums += LANES) {
            const int64_t channel = k + v * LANES;
            const Mask lanes = first_lanes(K - channel);
            const Floats bias = b ? load(b + channel, lanes) : Floats{};
            if constexpr (STREAM) {
                stream(y + at[i] + channel, get(sums) + bias);
            } else {
                store_rounded(y + at[i] + channel, get(sums) + bias, lanes);
            }
        }
    }
}

// Elements from place to place of a block: as the inputs of a run lie side by side, none lies
// between them. Where a run is of one place, an odd number of lines keeps places in different sets
// of the caches.
int64_t place_of(int64_t S, int64_t inputs) {
    if (S > 1) return inputs;
    const int64_t line = 16, lines = ceil_div(inputs, line);
    return lines % 2 ? lines * line : (lines + 1) * line;
}

// Up to ROWS places of a block, which a product makes together: where their windows begin in the
// block's copy, where their outputs lie from the first one's on, and their first and last row.
template <int64_t ROWS>
struct Tile {
    int64_t from[ROWS], to[ROWS], count, top, bottom;
};

// The tiles of a block -> their number. Blocks of one shape have the same.
int64_t tiles_of(const Correlation& s, const Block& block, int64_t place, bool unfolded,
                 Tile<ROWS>* tiles) {
    const int64_t rows = (block.rows - 1) * s.step + s.R;
    const int64_t line = ((block.columns - 1) * s.step + s.S) * place;
    Tile<ROWS>* tile = tiles;
    *tile = {};
    int64_t number = 0;
    for (int64_t n = 0; n < block.images; ++n) {
        for (int64_t i = 0; i < block.rows; ++i) {
            for (int64_t j = 0; j < block.columns; ++j) {
                if (tile->count == ROWS) *++tile = {};
                if (!tile->count) tile->top = tile->bottom = i;
                tile->top = std::min(tile->top, i);
                tile->bottom = std::max(tile->bottom, i);
                const int64_t from = (n * rows + i * s.step) * line + j * s.step * place;
                tile->from[tile->count] = unfolded ? number++ * place : from;
                tile->to[tile->count++] = n * s.y_image + i * s.y_row + j * s.y_place;
            }
        }
    }
    return tile + 1 - tiles;
}

#if LSUV_AMX
// The same for AMX, whose tiles are two runs of 16 places at equal distances: of a row, or, where
// fewer do and windows lie beside each other, on into the next row, over places that are none.
int64_t tiles_of(const Correlation& s, const Block& block, int64_t place, bool unfolded,
                 Tile<32>* tiles) {
    const int64_t step = unfolded ? 1 : s.step, S = unfolded ? 1 : s.S, R = unfolded ? 1 : s.R;
    const int64_t across = (block.columns - 1) * step + S, rows = (block.rows - 1) * step + R;
    const bool on = step == 1 && ceil_div((block.rows - 1) * across + block.columns, 16) <
                                     block.rows * ceil_div(block.columns, 16);
    const int64_t lines = on ? 1 : block.rows;
    const int64_t length = on ? (block.rows - 1) * across + block.columns : block.columns;
    int64_t runs = 0;
    for (int64_t n = 0; n < block.images; ++n) {
        for (int64_t line = 0; line < lines; ++line) {
            for (int64_t begin = 0; begin < length; begin += 16, ++runs) {
                Tile<32>& tile = tiles[runs / 2];
                const int64_t half = runs % 2 * 16;
                if (!half) {
                    tile.top = block.rows, tile.bottom = 0;
                    std::fill_n(tile.to, 32, -1);
                }
                tile.count = half + 16;
                tile.from[half] = ((n * rows + line * step) * across + begin * step) * place;
                for (int64_t p = begin; p < std::min(begin + 16, length); ++p) {
                    const int64_t i = on ? p / across : line, j = on ? p % across : p;
                    if (j >= block.columns) continue;
                    tile.top = std::min(tile.top, i);
                    tile.bottom = std::max(tile.bottom, i);
                    tile.to[half + p - begin] = n * s.y_image + i * s.y_row + j * s.y_place;
                }
            }
        }
    }
    return ceil_div(runs, 2);
}
#endif

// The inputs of a block -> copy (images, rows, columns, place), and its end; unfolded, its windows,
// by way of the memory `plain`.
template <class T, class E>
E* copy_block(const T* x, const Correlation& s, const Block& block, int64_t place, E* copy,
              T* plain) {
    const int64_t rows = (block.rows - 1) * s.step + s.R;
    const int64_t columns = (block.columns - 1) * s.step + s.S;
    for (int64_t n = block.image; n < block.image + block.images; ++n) {
        const T* image = x + n * s.H * s.W * s.x_place;
        for (int64_t i = 0; i < rows; ++i) {
            const int64_t row = block.row * s.step - s.top + i;
            const int64_t column = block.column * s.step - s.left;
            if (plain) {
                pack_row(image, s, row, column, columns, s.C, plain + i * columns * s.C);
            } else {
                pack_row(image, s, row, column, columns, place, copy);
                copy += columns * place;
            }
        }
        for (int64_t i = 0; plain && i < block.rows; ++i, copy += block.columns * place) {
            using Element = std::conditional_t<HELD<T, E> == 2, T, E>;
            unfold_row(plain + i * s.step * columns * s.C, s, columns * s.C, block.columns,
                       place * HELD<T, E>, reinterpret_cast<Element*>(copy));
        }
    }
    return copy;
}

// TILES: by AMX.
template <class T, bool TILES>
void correlate_by(const T* x, const Weights& W, const float* b, T* y, const Correlation& given,
                  bool may_unfold, DirectWorkspace& workspace) {
    using E = typename Operand<T>::Packed;
    constexpr int64_t ROWS = TILES ? 32 : lsuv::ROWS, VECTORS = TILES ? 2 : lsuv::VECTORS;
    const Correlation s = as_one_row(given);
    if (!s.N || !s.Ho || !s.Wo) return;
    const Blocks blocks(s);
    const Panels panels(s.K, VECTORS);
    // The window as the products see it: R x S places of C inputs, or one place of all of them.
    const bool unfolded = may_unfold && s.unfolded();
    const int64_t R = unfolded ? 1 : s.R, S = unfolded ? 1 : s.S;
    const int64_t C = unfolded ? s.R * s.S * s.C : s.C;
    const int64_t inputs = ceil_div(C, Operand<T>::DEPTH), place = place_of(S, inputs);
    const Pieces pieces(R, S, inputs, TILES ? 16 : 1);
    const int64_t window = pieces.depth();
    const bool own = blocks.count <= 2;  // every thread turns the filters that it needs
    const int team = s.N * s.Ho * s.Wo * s.K * window < FEW ? 1 : omp_get_max_threads();
    const int64_t ranges = team == 1 || blocks.count >= 4 * team
                               ? 1
                               : std::min(panels.count, ceil_div(4 * team, blocks.count));
    const bool streamed = std::is_same_v<T, float> && s.y_place % LANES == 0 && s.K % LANES == 0 &&
                          4 * s.N * s.Ho * s.Wo * s.K >= STREAMED &&
                          reinterpret_cast<std::uintptr_t>(y) % (4 * LANES) == 0;
    auto write = write_tile<false, T>;
    if constexpr (std::is_same_v<T, float>) {
        if (streamed) write = write_tile<true, T>;
    }

    const int64_t most = blocks.images * blocks.rows * blocks.columns;
    const int64_t read = ((blocks.rows - 1) * s.step + s.R) * ((blocks.columns - 1) * s.step + s.S);
    // AMX reads places behind the last one, and behind its inputs, which are multiplied by zeros.
    const int64_t beyond = TILES ? 16 * s.step * place + round_up(s.S * inputs) + LANES : LANES;
    const int64_t windows = unfolded ? most * place : blocks.images * read * place;
    const int64_t copied = round_up(windows + beyond + (unfolded ? read * s.C : 0));
    const int64_t most_tiles =
        TILES ? ceil_div(blocks.images * blocks.rows * ceil_div(blocks.columns, 16), 2)
              : ceil_div(most, ROWS);
    const int64_t summed = most_tiles * ROWS * VECTORS * LANES;
    const int64_t turned = own ? PIECE * VECTORS * LANES : 0;
    const int64_t share = copied + summed + turned;
    E* filters = workspace.filters.reserve<E>(own ? 0 : window * panels.vectors * LANES);
    E* shares = workspace.blocks.reserve<E>(share * team);
    Tile<ROWS>* all_tiles = workspace.tiles.reserve<Tile<ROWS>>(most_tiles * team);
    const auto panel_of = [&](int64_t panel) { return window * panels.begin(panel) * LANES; };
#pragma omp parallel num_threads(team)
    {
        E* copy = shares + share * omp_get_thread_num();
        float* sums = reinterpret_cast<float*>(copy + copied);
        E* own_piece = copy + copied + summed;
        T* plain = unfolded ? reinterpret_cast<T*>(copy + windows + beyond) : nullptr;
        Tile<ROWS>* tiles = all_tiles + most_tiles * omp_get_thread_num();
#if LSUV_AMX
        std::optional<Amx> registers;
        if (TILES) registers.emplace();
#endif
        if (TILES) std::fill_n(copy, windows + beyond, E{});
        int64_t count = 0;
        Block before{};
        if (!own) {
#pragma omp for schedule(dynamic) collapse(2)
            for (int64_t panel = 0; panel < panels.count; ++panel) {
                for (int64_t p = 0; p < pieces.count; ++p) {
                    const Piece piece = pieces.at(p);
                    const int64_t columns = panels.width(panel) * LANES;
                    pack_piece<T>(W, s.K, C, piece, panels.begin(panel) * LANES, columns,
                                  filters + panel_of(panel) + pieces.before(p) * columns);
                }
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < blocks.count * ranges; ++task) {
            const Block block = blocks.at(task / ranges);
            const int64_t columns = (block.columns - 1) * s.step + s.S, line = columns * place;
            E* const end = copy_block(x, s, block, place, copy, plain);
            if (TILES) std::fill_n(end, 16, E{});
            if (!count || block.images != before.images || block.rows != before.rows ||
                block.columns != before.columns) {
                count = tiles_of(s, block, place, unfolded, tiles);
            }
            before = block;
            const int64_t top = s.top - block.row * s.step;
            T* corner =
                y + block.image * s.y_image + block.row * s.y_row + block.column * s.y_place;
            const int64_t range = task % ranges, last = panels.count * (range + 1) / ranges;
            for (int64_t panel = panels.count * range / ranges; panel < last; ++panel) {
                const int64_t vectors = panels.width(panel), across = vectors * LANES;
                const int64_t k = panels.begin(panel) * LANES;
                std::fill_n(sums, pieces.count == 1 ? 0 : count * ROWS * across, 0.0f);
                for (int64_t p = 0; p < std::max<int64_t>(pieces.count, 1); ++p) {
                    const Piece piece = pieces.at(p);
                    const int64_t depth = piece.columns * piece.inputs;
                    const E* right = filters + panel_of(panel) + pieces.before(p) * across;
                    if (own) {
                        pack_piece<T>(W, s.K, C, piece, k, across, own_piece);
                        right = own_piece;
                    }
                    const E* from = copy + piece.column * place + piece.input;
                    for (int64_t t = 0; t < count; ++t) {
                        // Taps above or below the image find zeros.
                        const Tile<ROWS>& tile = tiles[t];
                        int64_t tap = piece.tap, end = piece.tap + piece.taps;
                        if (!unfolded) {
                            tap = std::max(tap, top - tile.bottom * s.step);
                            end = std::max(tap, std::min(end, s.H + top - tile.top * s.step));
                        }
                        float* own_sums = sums + t * ROWS * across;
                        if constexpr (TILES) {
#if LSUV_AMX
                            constexpr decltype(&multiply_amx_rows<1, 1>) of[2][2] = {
                                {multiply_amx_rows<1, 1>, multiply_amx_rows<1, 2>},
                                {multiply_amx_rows<2, 1>, multiply_amx_rows<2, 2>}};
                            const E* left[2] = {from + tap * line + tile.from[0],
                                                from + tap * line + tile.from[16]};
                            of[tile.count / 16 - 1][vectors - 1](
                                left, (unfolded ? 1 : s.step) * place, end - tap, line,
                                piece.run / 16, right + (tap - piece.tap) * piece.run * across,
                                own_sums, pieces.count == 1);
#endif
                        } else {
                            const E* left[ROWS];
                            LSUV_UNROLL
                            for (int64_t i = 0; i < ROWS; ++i)
                                left[i] = from + tap * line + tile.from[i];
                            for (int64_t i = 0; t + 1 < count && !streamed && i < ROWS; ++i) {
                                const T* next = corner + tiles[t + 1].to[i] + k;
                                for (int64_t c = 0; c < across; c += 64 / sizeof(T)) {
                                    __builtin_prefetch(next + c, 1);
                                }
                            }
                            tile_function<RowsProduct<E>>(tile.count, vectors)(
                                left, end - tap, line, depth,
                                right + (tap - piece.tap) * piece.run * across, own_sums,
                                pieces.count == 1);
                        }
                        if (p + 1 >= pieces.count) {
                            write(own_sums, tile.count, vectors, b, corner, tile.to, k, s.K);
                        }
                    }
                }
            }
        }
        if (streamed) finish_streams();
    }
}

template <class T>
void correlate(const T* x, const Weights& W, const float* b, T* y, const Correlation& s,
               bool may_unfold, DirectWorkspace& workspace) {
#if LSUV_AMX
    if constexpr (std::is_same_v<T, bf16>) {
        if (Amx::permitted()) return correlate_by<T, true>(x, W, b, y, s, may_unfold, workspace);
    }
#endif
    correlate_by<T, false>(x, W, b, y, s, may_unfold, workspace);
}

// --- backward_filter -----------------------------------------------------------------------------

template <class E>
struct ColumnsProduct {
    template <int R, int V>
    static constexpr auto of() {
        return multiply_columns<R, V, E>;
    }
};

// One group's gradient. Here the depth is the places: of x a row of the block is copied once for
// each column of the filter, so that the S C inputs under a row of it are the columns of a product;
// its rows are the filters. TILES: by AMX.
template <class T, bool TILES>
struct FilterGradient {
    using E = typename Operand<T>::Packed;
    static constexpr int64_t DEPTH = Operand<T>::DEPTH;
    static constexpr int64_t ROWS = TILES ? 16 : lsuv::ROWS;

    const T *x, *dy;
    T *dW, *db;  // db may be null
    Correlation s;
    int64_t dW_row;  // elements from filter to filter
    Blocks blocks{s, TILES ? 2 * PLACES : PLACES};
    bool unfolded = s.unfolded();
    int64_t R = unfolded ? 1 : s.R;  // rows of a filter, as the products see it
    int64_t inputs = unfolded ? s.R * s.S * s.C : s.S * s.C;  // under each
    Panels panels{inputs};
    int64_t columns = panels.vectors * LANES, tiles = ceil_div(s.K, ROWS);
    int64_t steps = ceil_div(blocks.columns, DEPTH);  // of the depth in a row
    bool joined = unfolded || s.step == 1;  // rows of x that are read lie one after the other
    int64_t height = (blocks.rows - 1) * s.step + s.R;
    int64_t width = (blocks.columns - 1) * s.step + s.S;
    int64_t sums = R * tiles * ROWS * columns;
    bool streamed = inputs % LANES == 0 && 4 * s.K * R * inputs >= STREAMED &&
                    reinterpret_cast<std::uintptr_t>(dW) % (4 * LANES) == 0;
    // A thread's memory: x, dy, a row of x and a tile of sums.
    int64_t of_x = blocks.images * height * steps * columns + (TILES ? BEYOND : LANES);
    int64_t of_dy = round_up(of_tile(blocks.images, blocks.rows, steps)) * tiles;
    int64_t of_row =
        round_up(std::max((unfolded ? height : 1) * width * s.C, blocks.columns* inputs) +
                 VECTORS * LANES + LANES);
    int64_t share = of_x + of_dy + 2 * of_row + ROWS * VECTORS * LANES;

    static constexpr int64_t BEYOND = 16 * VECTORS * LANES;  // read by AMX behind x, times zeros

    // With AMX an image's depth is cut into runs of whole steps of 16: all rows, or one.
    int64_t runs(int64_t rows) const { return joined ? 1 : rows; }
    int64_t run_steps(int64_t rows, int64_t line) const {
        return ceil_div(joined ? rows * line : line, 16);
    }

    // Elements of dy that are packed for a tile.
    int64_t of_tile(int64_t images, int64_t rows, int64_t line) const {
        return images * ROWS * (TILES ? runs(rows) * run_steps(rows, line) * 16 : rows * line);
    }

    // The inputs under a row of the filter at every place of a row: `row` (width, C) ->
    // out (steps, LANES vectors).
    void spread(const T* row, int64_t places, int64_t first, int64_t vectors, E* out) const {
        const int64_t next = unfolded ? inputs : s.step * s.C;
        for (int64_t j = 0; j < places; j += DEPTH) {
            const T* from = row + j * next + first;
            for (int64_t v = 0; v < vectors; ++v, out += LANES, from += LANES) {
                const Floats value = load(from, first_lanes(LANES));
                if constexpr (DEPTH == 1) {
                    put(out, value);
                } else {
                    const Floats after =
                        j + 1 < places ? load(from + next, first_lanes(LANES)) : Floats{};
                    *reinterpret_cast<Unsigned*>(out) =
                        reinterpret_cast<Unsigned>(value) >> 16 | reinterpret_cast<Unsigned>(after);
                }
            }
        }
    }

    // A block of x -> out (panels, images, rows, steps, panel's vectors), rows of x or of windows.
    void pack_x(const Block& block, T* row, E* out) const {
        const int64_t read = (block.rows - 1) * s.step + s.R, rows = unfolded ? block.rows : read;
        const int64_t across = (block.columns - 1) * s.step + s.S, plain_line = across * s.C;
        const int64_t line = ceil_div(block.columns, DEPTH);
        for (int64_t n = 0; n < block.images; ++n) {
            const T* image = x + (block.image + n) * s.H * s.W * s.x_place;
            const auto copy_row = [&](int64_t i, T* to) {
                pack_row(image, s, block.row * s.step - s.top + i, block.column * s.step - s.left,
                         across, s.C, to);
            };
            T* plain = row + of_row;
            for (int64_t i = 0; unfolded && i < read; ++i) copy_row(i, plain + i * plain_line);
            for (int64_t i = 0; i < rows; ++i) {
                if constexpr (std::is_same_v<T, E>) {
                    if (unfolded && panels.count == 1) {
                        unfold_row(plain + i * s.step * plain_line, s, plain_line, block.columns,
                                   columns, out + (n * rows + i) * line * columns);
                        continue;
                    }
                }
                if (unfolded) {
                    unfold_row(plain + i * s.step * plain_line, s, plain_line, block.columns,
                               inputs, row);
                } else {
                    copy_row(i, row);
                }
                for (int64_t panel = 0; panel < panels.count; ++panel) {
                    const int64_t vectors = panels.width(panel);
                    const int64_t first = panels.begin(panel) * LANES;
                    spread(row, block.columns, first, vectors,
                           out + block.images * rows * line * first +
                               (n * rows + i) * line * vectors * LANES);
                }
            }
        }
        if (TILES) std::fill_n(out + block.images * rows * line * columns, BEYOND, E{});
    }

    // Filters ROWS tile .. of a block of dy -> out (images, rows, steps, ROWS); their sums over the
    // places are added to `bias`.
    template <bool WHOLE>
    void pack_dy(const Block& block, int64_t tile, E* out, float* bias) const {
        const int64_t k = tile * ROWS, count = WHOLE ? ROWS : std::min(ROWS, s.K - k);
        const int64_t ahead = block.places() * s.y_place;
        float sums[ROWS] = {};
        for (int64_t n = block.image; n < block.image + block.images; ++n) {
            for (int64_t i = block.row; i < block.row + block.rows; ++i) {
                const T* from = dy + n * s.y_image + i * s.y_row + block.column * s.y_place + k;
                for (int64_t j = 0; j < block.columns; j += DEPTH, out += ROWS) {
                    __builtin_prefetch(from + ahead);  // of the next block
                    for (int64_t r = 0; r < count; ++r) sums[r] += from[r];
                    if constexpr (DEPTH == 1) {
                        for (int64_t r = 0; r < count; ++r) out[r] = from[r];
                        from += s.y_place;
                    } else {
                        const T* after = from + s.y_place;
                        const bool two = j + 1 < block.columns;
                        for (int64_t r = 0; r < count; ++r) out[r] = from[r].bits;
                        for (int64_t r = 0; two && r < count; ++r) {
                            sums[r] += after[r];
                            out[r] |= static_cast<std::uint32_t>(after[r].bits) << 16;
                        }
                        from = after + s.y_place;
                    }
                }
            }
        }
        for (int64_t r = 0; r < count; ++r) bias[k + r] += sums[r];
    }

    // The same for AMX: out (images, runs, steps, ROWS, 16).
    void pack_dy_tiles(const Block& block, int64_t tile, E* out, float* bias) const {
        const int64_t k = tile * ROWS, line = ceil_div(block.columns, DEPTH);
        const int64_t rows = joined ? block.rows : 1;  // of a run
        const Mask lanes = first_lanes(s.K - k);
        Floats sum = {};
        for (int64_t n = block.image; n < block.image + block.images; ++n) {
            for (int64_t i = block.row; i < block.row + block.rows; i += rows) {
                const T* row = dy + n * s.y_image + i * s.y_row + block.column * s.y_place + k;
                int64_t j = 0, left = rows * line;
                for (int64_t step = run_steps(block.rows, line); step; --step, out += 16 * ROWS) {
                    Floats pairs[16] = {};
                    for (int64_t p = 0; p < std::min<int64_t>(16, left); ++p, j += 2) {
                        if (j >= block.columns) j = 0, row += s.y_row;
                        const T* from = row + j * s.y_place;
                        const Floats one = load(from, lanes);
                        const Floats two =
                            load(from + s.y_place, j + 1 < block.columns ? lanes : 0);
                        sum += one + two;
                        pairs[p] = reinterpret_cast<Floats>(reinterpret_cast<Unsigned>(one) >> 16 |
                                                            reinterpret_cast<Unsigned>(two));
                    }
                    left -= 16;
                    transpose(pairs);
                    for (int64_t r = 0; r < ROWS; ++r) {
                        put(reinterpret_cast<float*>(out + 16 * r), pairs[r]);
                    }
                }
            }
        }
        put(bias + k, get(bias + k) + sum);
    }

    // Blocks begin .. end - 1 are added to S (R, filters, columns) and bias (filters), for tiles
    // first .. last - 1 of the filters; where these are all blocks there are, straight into dW.
    void add(int64_t begin, int64_t end, int64_t first, int64_t last, E* memory, float* S,
             float* bias) const {
        E *packed_x = memory, *packed_dy = packed_x + of_x;
        T* row = reinterpret_cast<T*>(packed_dy + of_dy);
        float* tile_sums = reinterpret_cast<float*>(packed_dy + of_dy + 2 * of_row);
        for (int64_t number = begin; number < end; ++number) {
            const Block block = blocks.at(number);
            const int64_t step = unfolded ? 1 : s.step, rows = (block.rows - 1) * step + R;
            const int64_t line = ceil_div(block.columns, DEPTH);
            const int64_t dy_tile = of_tile(block.images, block.rows, line);
            pack_x(block, row, packed_x);
            for (int64_t tile = first; tile < last; ++tile) {
                E* to = packed_dy + (tile - first) * dy_tile;
                if constexpr (TILES) {
                    pack_dy_tiles(block, tile, to, bias);
                } else if ((tile + 1) * ROWS <= s.K) {
                    pack_dy<true>(block, tile, to, bias);
                } else {
                    pack_dy<false>(block, tile, to, bias);
                }
            }
            const auto multiply = [&](int64_t panel, int64_t r, int64_t tile) {
                const int64_t vectors = panels.width(panel), wide = vectors * LANES;
                const int64_t q = panels.begin(panel) * LANES;
                // The block's rows that read a row of the image here.
                const int64_t above = s.top - block.row * step - r, below = s.H + above;
                const int64_t skipped = unfolded ? 0 : ceil_div(std::max<int64_t>(above, 0), step);
                const int64_t begin_row = std::min(skipped, block.rows);
                const int64_t end_row =
                    unfolded ? block.rows
                             : std::clamp<int64_t>(ceil_div(std::max<int64_t>(below, 0), step),
                                                   begin_row, block.rows);
                const int64_t count = std::min(ROWS, s.K - tile * ROWS);
                float* to = S ? S + (r * tiles + tile) * ROWS * columns + q : tile_sums;
                if (!S) std::fill_n(tile_sums, ROWS * wide, 0.0f);
#if LSUV_AMX
                if constexpr (TILES) {
                    constexpr decltype(&multiply_amx<1>) of[] = {multiply_amx<1>, multiply_amx<2>,
                                                                 multiply_amx<3>};
                    of[vectors - 1](packed_dy + (tile - first) * dy_tile, block.images,
                                    runs(block.rows), run_steps(block.rows, line),
                                    packed_x + block.images * rows * line * q + r * line * wide,
                                    rows * line * wide, step * line * wide, to, S ? columns : wide);
                    if (!S) write(tile, r, q, tile_sums, wide, 1, 0, wide, bias);
                    return;
                }
#endif
                for (int64_t n = 0; n < block.images; ++n) {
                    tile_function<ColumnsProduct<E>>(count, vectors)(
                        packed_dy + (tile - first) * dy_tile +
                            (n * block.rows + begin_row) * line * ROWS,
                        end_row - begin_row, line,
                        packed_x + block.images * rows * line * q +
                            (n * rows + begin_row * step + r) * line * wide,
                        step * line * wide, to, S ? columns : wide);
                }
                if (!S) write(tile, r, q, tile_sums, wide, 1, 0, wide, bias);
            };
            if (S) {  // a panel of x stays in the first-level cache
                for (int64_t panel = 0; panel < panels.count; ++panel) {
                    for (int64_t r = 0; r < R; ++r) {
                        for (int64_t tile = first; tile < last; ++tile) multiply(panel, r, tile);
                    }
                }
            } else {  // dW is written in the order of its memory
                for (int64_t tile = first; tile < last; ++tile) {
                    for (int64_t r = 0; r < R; ++r) {
                        for (int64_t panel = 0; panel < panels.count; ++panel) {
                            multiply(panel, r, tile);
                        }
                    }
                }
            }
        }
    }

    // Sums of a tile's filters, `parts` of them `part` apart -> row r of dW, from input q on. Rows
    // above and below the image are left out, so what isn't finite in dy beside them is seen by way
    // of `bias`, the parts' sums of dy: nothing times that is not a number.
    void write(int64_t tile, int64_t r, int64_t q, const float* from, int64_t apart, int64_t parts,
               int64_t part, int64_t wide, const float* bias) const {
        for (int64_t i = 0; i < std::min(ROWS, s.K - tile * ROWS); ++i) {
            const int64_t k = tile * ROWS + i;
            float seen = 0;
            for (int64_t p = 0; p < parts; ++p) seen += 0.0f * bias[p * round_up(s.K) + k];
            T* out = dW + k * dW_row + r * inputs + q;
            for (int64_t c = 0; c < std::min(wide, inputs - q); c += LANES) {
                Floats sum = get(from + i * apart + c);
                for (int64_t p = 1; p < parts; ++p) sum += get(from + p * part + i * apart + c);
                sum += seen;
                if constexpr (std::is_same_v<T, float>) {
                    if (streamed) {
                        stream(out + c, sum);
                        continue;
                    }
                }
                store_rounded(out + c, sum, first_lanes(inputs - q - c));
            }
        }
    }

    void run(DirectWorkspace& workspace) const {
        // Parts of the places, each with sums of its own, and ranges of the filters: something to
        // share out, whatever the number of threads. Large sums get few parts.
        constexpr int64_t LARGE = 8 << 20, TASKS = 8;
        const bool single = blocks.count == 1;
        const int64_t parts =
            std::min(std::clamp<int64_t>(LARGE / (4 * sums), 1, TASKS), blocks.count);
        const int64_t ranges = std::min(ceil_div(single ? 2 * TASKS : TASKS, parts), tiles);
        const int64_t work = s.N * s.Ho * s.Wo * s.K * R * inputs;
        const int team = work < FEW ? 1 : omp_get_max_threads();
        float* bias = workspace.sums.reserve(parts * (sums + round_up(s.K)));
        float* S = single ? nullptr : bias + parts * round_up(s.K);
        E* memory = workspace.blocks.reserve<E>(share * team);
#pragma omp parallel num_threads(team)
        {
            E* own = memory + share * omp_get_thread_num();
#if LSUV_AMX
            std::optional<Amx> registers;
            if (TILES) registers.emplace();
#endif
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < parts * ranges; ++task) {
                const int64_t part = task / ranges, range = task % ranges;
                const int64_t first = tiles * range / ranges, last = tiles * (range + 1) / ranges;
                float* to = S ? S + part * sums : nullptr;
                for (int64_t r = 0; S && r < R; ++r) {
                    std::fill_n(to + (r * tiles + first) * ROWS * columns,
                                (last - first) * ROWS * columns, 0.0f);
                }
                float* own_bias = bias + part * round_up(s.K);
                std::fill(own_bias + first * ROWS, own_bias + std::min(last * ROWS, round_up(s.K)),
                          0.0f);
                add(blocks.count * part / parts, blocks.count * (part + 1) / parts, first, last,
                    own, to, own_bias);
            }
            if (S) {
#pragma omp for schedule(static)
                for (int64_t tile = 0; tile < tiles; ++tile) {
                    for (int64_t r = 0; r < R; ++r) {
                        write(tile, r, 0, S + (r * tiles + tile) * ROWS * columns, columns, parts,
                              sums, columns, bias);
                    }
                }
            }
            if (streamed) finish_streams();
        }
        for (int64_t k = 0; db && k < s.K; ++k) {
            double sum = 0;
            for (int64_t part = 0; part < parts; ++part) sum += bias[part * round_up(s.K) + k];
            db[k] = rounded<T>(static_cast<float>(sum));
        }
    }
};

}  // namespace

template <class T>
void direct_forward(const T* x, const float* W, const float* b, T* y, const ConvShape& s,
                    DirectWorkspace& workspace) {
    const int64_t C = s.C / s.groups, K = s.K / s.groups;
    for (int64_t g = 0; g < s.groups; ++g) {
        const Weights filters{W + g * K * s.R * s.S * C, s.R * s.S * C, s.S * C, C, 1};
        const Correlation window{s.N,        s.H,   s.W,   C,    s.C,  s.R, s.S,
                                 s.stride,   s.pad, s.pad, s.Ho, s.Wo, K,   s.Ho * s.Wo * s.K,
                                 s.Wo * s.K, s.K};
        correlate(x + g * C, filters, b ? b + g * K : nullptr, y + g * K, window, true, workspace);
    }
}

template <class T>
void direct_backward_data(const T* dy, const float* W, T* dx, const ConvShape& s,
                          DirectWorkspace& workspace) {
    // Of the rows of x with one remainder of row + pad by the stride, row number i reads those of
    // dy from i - first on, with every stride-th row of the filters, the last one first.
    struct Remainder {
        int64_t taps, begin, count, first;

        Remainder(int64_t rest, int64_t size, int64_t R, int64_t stride, int64_t pad) {
            taps = R > rest ? ceil_div(R - rest, stride) : 0;
            const int64_t skipped = pad > rest ? ceil_div(pad - rest, stride) : 0;
            begin = rest - pad + skipped * stride;
            count = begin < size ? ceil_div(size - begin, stride) : 0;
            first = taps - 1 - skipped;
        }
    };
    const int64_t C = s.C / s.groups, K = s.K / s.groups;
    for (int64_t g = 0; g < s.groups; ++g) {
        for (int64_t i = 0; i < s.stride; ++i) {
            const Remainder down(i, s.H, s.R, s.stride, s.pad);
            for (int64_t j = 0; down.count && j < s.stride; ++j) {
                const Remainder across(j, s.W, s.S, s.stride, s.pad);
                const int64_t r = i + (down.taps - 1) * s.stride;
                const int64_t c = j + (across.taps - 1) * s.stride;
                const Weights filters{W + ((g * K * s.R + r) * s.S + c) * C, 1, -s.stride * s.S * C,
                                      -s.stride * C, s.R * s.S * C};
                const Correlation window{s.N,
                                         s.Ho,
                                         s.Wo,
                                         K,
                                         s.K,
                                         down.taps,
                                         across.taps,
                                         1,
                                         down.first,
                                         across.first,
                                         down.count,
                                         across.count,
                                         C,
                                         s.H * s.W * s.C,
                                         s.stride * s.W * s.C,
                                         s.stride * s.C};
                correlate(dy + g * K, filters, nullptr,
                          dx + (down.begin * s.W + across.begin) * s.C + g * C, window, false,
                          workspace);
            }
        }
    }
}

template <class T>
void direct_backward_filter(const T* x, const T* dy, T* dW, T* db, const ConvShape& s,
                            DirectWorkspace& workspace) {
    const int64_t C = s.C / s.groups, K = s.K / s.groups;
    for (int64_t g = 0; g < s.groups; ++g) {
        const Correlation window{s.N,        s.H,   s.W,   C,    s.C,  s.R, s.S,
                                 s.stride,   s.pad, s.pad, s.Ho, s.Wo, K,   s.Ho * s.Wo * s.K,
                                 s.Wo * s.K, s.K};
        const int64_t row = s.R * s.S * C;
        const auto run = [&](auto tiles) {
            FilterGradient<T, decltype(tiles)::value>{x + g * C,          dy + g * K,
                                                      dW + g * K * row,   db ? db + g * K : nullptr,
                                                      as_one_row(window), row}
                .run(workspace);
        };
#if LSUV_AMX
        if constexpr (std::is_same_v<T, bf16>) {
            if (Amx::permitted()) {
                run(std::true_type{});
                continue;
            }
        }
#endif
        run(std::false_type{});
    }
}

#define LSUV_DIRECT_OF(T)                                                                    \
    template void direct_forward(const T*, const float*, const float*, T*, const ConvShape&, \
                                 DirectWorkspace&);                                          \
    template void direct_backward_data(const T*, const float*, T*, const ConvShape&,         \
                                       DirectWorkspace&);                                    \
    template void direct_backward_filter(const T*, const T*, T*, T*, const ConvShape&,       \
                                         DirectWorkspace&)
LSUV_DIRECT_OF(float);
LSUV_DIRECT_OF(bf16);

}  // namespace lsuv
