// Products on a CPU's units for matrices (AMX): blocks of 32 by 32 sums, on bfloat16.
//
// Every sum is added up from its first element on, 32 at a time, whatever else is in the block.

#pragma once

#include <cstdint>

#include "simd.h"

#if defined(__AMX_BF16__) && defined(__AVX512BF16__) && defined(__linux__)
#define AUTELLIX_MATRICES
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace autellix {

constexpr int BLOCK = 32;           // sums of a block in each direction
constexpr int QUARTER = BLOCK / 2;  // of each direction
constexpr int BLOCK_WORDS = 16;     // of each side at a time, two elements each

#if defined(AUTELLIX_MATRICES)

// Whether the kernel lets this process use the units. Their registers are large, so it wants to be asked.
inline bool has_matrices() {
    constexpr int ASK = 0x1023, TILE_DATA = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool granted = syscall(SYS_arch_prctl, ASK, TILE_DATA) == 0;
    return granted;
}

// The units of this thread, for as long as this lives. Others, PyTorch among them, set them up as they like.
class Matrices {
public:
    Matrices() {
        struct Shape {
            uint8_t palette = 1, start = 0, reserved[14] = {};
            uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        };
        static const Shape shape;  // not on the stack: the compiler takes only its first bytes to be read
        if (has_matrices()) _tile_loadconfig(&shape);
    }
    ~Matrices() {
        if (has_matrices()) _tile_release();
    }
    Matrices(const Matrices&) = delete;

    // sums = dot(rows, columns), added to what is there with `more`. 32 rows are 16 from `above` on and 16 from `below`
    // on, `stride` elements apart; 16 are those above. Of a panel (see tile.h) the first 16 or 32 columns, `width` words
    // from one word of each to the next. A row's sums lie side by side, those of the next row `line` further on.
    template <int ROWS, int COLUMNS>
    void multiply(const bf16* above, const bf16* below, int64_t stride, const uint32_t* panel, int width, int depth,
                  float* sums, int line, bool more) {
        constexpr bool LOWER = ROWS == BLOCK, RIGHT = COLUMNS == BLOCK;
        const int64_t row = stride * sizeof(bf16), word = width * sizeof(uint32_t), next = line * sizeof(float);
        float* lower = sums + QUARTER * line;
        asm volatile("" ::: "memory");  // what was stored before has to be there: GCC does not know that loads read it
        if (more) {
            _tile_loadd(0, sums, next);
            if constexpr (RIGHT) _tile_loadd(1, sums + QUARTER, next);
            if constexpr (LOWER) _tile_loadd(2, lower, next);
            if constexpr (LOWER && RIGHT) _tile_loadd(3, lower + QUARTER, next);
        } else {
            _tile_zero(0);
            if constexpr (RIGHT) _tile_zero(1);
            if constexpr (LOWER) _tile_zero(2);
            if constexpr (LOWER && RIGHT) _tile_zero(3);
        }
        for (int done = 0; done < depth; done += BLOCK_WORDS) {
            // Rows meet panel after panel and had better stay in the nearest cache, so the panels pass it by.
            _tile_loadd(4, above, row);
            _tile_stream_loadd(6, panel, word);
            _tile_dpbf16ps(0, 4, 6);
            if constexpr (LOWER) {
                _tile_loadd(5, below, row);
                _tile_dpbf16ps(2, 5, 6);
            }
            if constexpr (RIGHT) {
                _tile_stream_loadd(7, panel + QUARTER, word);
                _tile_dpbf16ps(1, 4, 7);
            }
            if constexpr (LOWER && RIGHT) _tile_dpbf16ps(3, 5, 7);
            above += 2 * BLOCK_WORDS;
            below += 2 * BLOCK_WORDS;
            panel += BLOCK_WORDS * width;
        }
        _tile_stored(0, sums, next);
        if constexpr (RIGHT) _tile_stored(1, sums + QUARTER, next);
        if constexpr (LOWER) _tile_stored(2, lower, next);
        if constexpr (LOWER && RIGHT) _tile_stored(3, lower + QUARTER, next);
    }
};

#else

inline bool has_matrices() { return false; }

class Matrices {
public:
    template <int ROWS, int COLUMNS>
    void multiply(const bf16*, const bf16*, int64_t, const uint32_t*, int, int, float*, int, bool) {}
};

#endif

}  // namespace autellix
