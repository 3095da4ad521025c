// Products of AMX, Intel's matrix registers: one instruction multiplies 16 rows of 32 bf16 by 32
// rows of 16 and adds the products to 16 x 16 floats, 512 multiplications in each of its 16 cycles,
// eight times those of AVX512_BF16.
//
// A product has eight registers of 16 lines: of the filter gradient up to three are sums, one is
// the left operand and the others are the right one; else four are sums, of twice 16 rows and two
// vectors. A load takes 8 cycles. The operands are packed pairs of neighbours of the depth, as
// product.h's, and the depth is a multiple of 16 of them.
//
// Read next: direct.h.
#pragma once

#include "product.h"

#if defined(__AMX_BF16__) && LSUV_AVX512
#define LSUV_AMX 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define LSUV_AMX 0
#endif

namespace lsuv {

#if LSUV_AMX

// This thread's registers, for as long as the object lives: the processor asks for their shapes,
// and Linux for a permission of the process.
class Amx {
public:
    Amx() {
        static const long refused = syscall(SYS_arch_prctl, 0x1023, 18);  // ARCH_REQ_XCOMP_PERM
        struct {
            std::uint8_t palette = 1, start = 0, none[14] = {};
            std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } shapes;
        ready_ = !refused;
        if (ready_) _tile_loadconfig(&shapes);
    }
    ~Amx() {
        if (ready_) _tile_release();
    }
    Amx(const Amx&) = delete;

    // Whether this process may use them.
    static bool permitted() {
        static const bool ready = Amx().ready_;
        return ready;
    }

private:
    bool ready_;
};

// sums (16, V vectors), rows `row` floats apart, are added to. The depth lies in images, `image`
// pairs of the right operand apart, their rows, `line` apart, and in those in `steps` of 16 pairs:
// left (images, rows, steps, 16, 16 pairs), right (16 steps, V vectors) in each row.
template <int V>
void multiply_amx(const std::uint32_t* left, std::int64_t images, std::int64_t rows,
                  std::int64_t steps, const std::uint32_t* right, std::int64_t image,
                  std::int64_t line, float* sums, std::int64_t row) {
    const std::int64_t wide = V * LANES, apart = 4 * wide;
    _tile_loadd(0, sums, 4 * row);
    if constexpr (V > 1) _tile_loadd(1, sums + LANES, 4 * row);
    if constexpr (V > 2) _tile_loadd(2, sums + 2 * LANES, 4 * row);
    for (std::int64_t n = 0; n < images; ++n, right += image) {
        for (std::int64_t i = 0; i < rows; ++i) {
            const std::uint32_t* from = right + i * line;
            for (std::int64_t step = 0; step < steps; ++step, left += 256, from += 16 * wide) {
                _tile_loadd(3, left, 64);
                _tile_loadd(4, from, apart);
                _tile_dpbf16ps(0, 3, 4);
                if constexpr (V > 1) {
                    _tile_loadd(5, from + LANES, apart);
                    _tile_dpbf16ps(1, 3, 5);
                }
                if constexpr (V > 2) {
                    _tile_loadd(6, from + 2 * LANES, apart);
                    _tile_dpbf16ps(2, 3, 6);
                }
            }
        }
    }
    _tile_stored(0, sums, 4 * row);
    if constexpr (V > 1) _tile_stored(1, sums + LANES, 4 * row);
    if constexpr (V > 2) _tile_stored(2, sums + 2 * LANES, 4 * row);
}

// sums (16 R, V vectors), added to unless `first` = over `taps` runs of the depth, `steps` of 16
// pairs each. Row i of the left operand is left[i / 16] + i % 16 * apart, in pairs, then `step`
// further for the next run; the right operand (taps, 16 steps, V vectors) lies whole.
template <int R, int V>
void multiply_amx_rows(const std::uint32_t* const left[2], std::int64_t apart, std::int64_t taps,
                       std::int64_t step, std::int64_t steps, const std::uint32_t* right,
                       float* sums, bool first) {
    constexpr std::int64_t ROW = 4 * V * LANES;
    if (first) {
        _tile_zero(0);
        if constexpr (V > 1) _tile_zero(1);
        if constexpr (R > 1) _tile_zero(2);
        if constexpr (R > 1 && V > 1) _tile_zero(3);
    } else {
        _tile_loadd(0, sums, ROW);
        if constexpr (V > 1) _tile_loadd(1, sums + LANES, ROW);
        if constexpr (R > 1) _tile_loadd(2, sums + 16 * V * LANES, ROW);
        if constexpr (R > 1 && V > 1) _tile_loadd(3, sums + (16 * V + 1) * LANES, ROW);
    }
    for (std::int64_t tap = 0; tap < taps; ++tap) {
        for (std::int64_t s = 0; s < steps; ++s, right += 16 * V * LANES) {
            _tile_loadd(4, left[0] + tap * step + 16 * s, 4 * apart);
            _tile_loadd(6, right, ROW);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (V > 1) {
                _tile_loadd(7, right + LANES, ROW);
                _tile_dpbf16ps(1, 4, 7);
            }
            if constexpr (R > 1) {
                _tile_loadd(5, left[1] + tap * step + 16 * s, 4 * apart);
                _tile_dpbf16ps(2, 5, 6);
                if constexpr (V > 1) _tile_dpbf16ps(3, 5, 7);
            }
        }
    }
    _tile_stored(0, sums, ROW);
    if constexpr (V > 1) _tile_stored(1, sums + LANES, ROW);
    if constexpr (R > 1) _tile_stored(2, sums + 16 * V * LANES, ROW);
    if constexpr (R > 1 && V > 1) _tile_stored(3, sums + (16 * V + 1) * LANES, ROW);
}

#endif

}  // namespace lsuv
