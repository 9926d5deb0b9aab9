// Products of rows with columns that lie turned, which is what attention and long prompts consist of.
//
// A panel holds columns turned: 4 bytes of each, a word, then the next word of each. Each row of a tile meets some
// vectors of columns word by word, so sums stay in registers and need no adding up across lanes. Every sum is added up
// from its first word on, whatever else is in the tile.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "matrix.h"
#include "simd.h"

namespace autellix {

constexpr int TILE_ROWS = 6;
constexpr int TILE_VECTORS = LANES == 16 ? 4 : 2;  // with 6 rows, what the registers hold
constexpr int TILE_COLUMNS = TILE_VECTORS * LANES;

template <class T>
constexpr int PER_WORD = sizeof(uint32_t) / sizeof(T);

// Turns `depth` words of each of `count` columns into a panel of `width` columns; up to the next vector they are copies of the last.
template <class T>
inline void turn(uint32_t* panel, int width, const T* const* columns, int count, int depth) {
    for (int first = 0; first < count; first += LANES)
        for (int word = 0; word < depth; word += LANES) {
            words square[LANES];
            for (int i = 0; i < LANES; ++i)
                std::memcpy(&square[i], columns[std::min(first + i, count - 1)] + word * PER_WORD<T>, sizeof square[i]);
            transpose(square);
            for (int i = 0; i < LANES; ++i) std::memcpy(panel + (word + i) * width + first, &square[i], sizeof square[i]);
        }
}

// For up to 6 rows and one tile's columns: end(row, column, begin(row, column) + dot(x[row], columns)), LANES at a time.
template <class T, int R = TILE_ROWS, class Begin, class End>
inline void tile(int rows, const T* x, int64_t stride, const uint32_t* panel, int width, int depth, const Begin& begin,
                 const End& end) {
    if constexpr (R > 1) {
        if (rows < R) return tile<T, R - 1>(rows, x, stride, panel, width, depth, begin, end);
    }
    using Side = typename Dot<T>::Side;
    floats sums[R][TILE_VECTORS];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < TILE_VECTORS; ++v) sums[r][v] = begin(r, v * LANES);
    for (int word = 0; word < depth; ++word) {
        Side column[TILE_VECTORS];
        for (int v = 0; v < TILE_VECTORS; ++v) std::memcpy(&column[v], panel + word * width + v * LANES, sizeof(Side));
        for (int r = 0; r < R; ++r) {
            uint32_t part;
            std::memcpy(&part, x + r * stride + word * PER_WORD<T>, sizeof part);
            Side same = (Side)(words{} + part);
            for (int v = 0; v < TILE_VECTORS; ++v) sums[r][v] = Dot<T>::add(sums[r][v], same, column[v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < TILE_VECTORS; ++v) end(r, v * LANES, sums[r][v]);
}

// The same for any number of rows and of columns, to the next tile.
template <class T, class Begin, class End>
inline void tiles(int rows, const T* x, int64_t stride, const uint32_t* panel, int width, int columns, int depth,
                  const Begin& begin, const End& end) {
    for (int row = 0; row < rows; row += TILE_ROWS)
        for (int first = 0; first < columns; first += TILE_COLUMNS)
            tile<T>(std::min(TILE_ROWS, rows - row), x + row * stride, stride, panel + first, width, depth,
                    [&](int r, int column) { return begin(row + r, first + column); },
                    [&](int r, int column, floats sum) { end(row + r, first + column, sum); });
}

// sums = dot(x, columns), added to what is there with `more`, a row's side by side and those of the next `line` further on.
// On units for matrices rows, columns and words are taken to the next block: what the words beyond have there makes 0, and
// there is room for the sums.
template <class T>
inline void multiply(Matrices& units, int rows, const T* x, int64_t stride, const uint32_t* panel, int width, int columns,
                     int depth, float* sums, int line, bool more) {
    if constexpr (sizeof(T) == sizeof(bf16))
        if (has_matrices()) {
            for (int row = 0; row < rows; row += BLOCK)
                for (int first = 0; first < columns; first += BLOCK) {
                    const T *above = x + row * stride, *below = above + QUARTER * stride;
                    float* to = sums + row * line + first;
                    rows - row > QUARTER
                        ? units.multiply<BLOCK, BLOCK>(above, below, stride, panel + first, width, depth, to, line, more)
                        : units.multiply<QUARTER, BLOCK>(above, below, stride, panel + first, width, depth, to, line, more);
                }
            return;
        }
    tiles(rows, x, stride, panel, width, columns, depth,
          [&](int row, int column) { return more ? load(sums + row * line + column) : floats{}; },
          [&](int row, int column, floats sum) { store(sums + row * line + column, sum); });
}

}  // namespace autellix
