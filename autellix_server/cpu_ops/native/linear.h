// Linear layers: the weights lie as they are in the checkpoint. For few rows they are read once, for many turned first.

#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "pool.h"
#include "simd.h"
#include "tile.h"

namespace autellix {

constexpr int CHUNK_BYTES = 96 * 1024;  // of weights: some microseconds' work, so that nobody waits long for anybody
constexpr int ROW_BLOCK = 64;           // rows that stay in the cache while a chunk's weights pass by
constexpr int FEW_ROWS = 48;            // from more rows on, turning the weights pays
constexpr int TILED_ROWS = 256;         // of a chunk of many rows
constexpr int PANEL_WORDS = 1024;       // of each column at a time: what stays in the cache

// Rows up to which this is faster than PyTorch's product, which has the units for matrices where a CPU has some. Many rows
// in float32 are computed as few are, to the bit.
#if defined(__AVX512BF16__) && !defined(__AMX_BF16__)
template <class T>
constexpr int MAX_LINEAR_ROWS = std::numeric_limits<int>::max();
#else
template <class T>
constexpr int MAX_LINEAR_ROWS = sizeof(T) == sizeof(float) ? std::numeric_limits<int>::max() : FEW_ROWS;
#endif

// The outputs n to n + columns, 4 at most, of the rows from `start` to `end`.
template <class T>
inline void block(const T* x, int64_t x_stride, const T* weight, const T* bias, T* y, int start, int end, int n,
                  int columns, int outputs, int inputs) {
    const T* weights[4];
    for (int c = 0; c < columns; ++c) weights[c] = weight + int64_t(n + c) * inputs;
    for (int m = start; m < end; m += 4) {
        int lines = std::min(4, end - m);
        const T* lines_of_x[4];
        for (int r = 0; r < lines; ++r) lines_of_x[r] = x + (m + r) * x_stride;
        float sums[16];
        dots<T>(lines, columns, lines_of_x, weights, inputs, sums, 4);
        for (int r = 0; r < lines; ++r)
            for (int c = 0; c < columns; ++c) {
                float offset = bias ? load_one(bias + n + c) : 0;
                store_one(y + int64_t(m + r) * outputs + n + c, sums[r * 4 + c] + offset);
            }
    }
}

// The outputs n to n + columns, TILE_COLUMNS at most, of `rows` rows. Longer sums are kept in `sums` from panel to panel.
template <class T>
[[gnu::noinline]] void tiled(uint32_t* panel, float* sums, const T* x, int64_t x_stride, const T* weight, const T* bias,
                             T* y, int rows, int n, int columns, int outputs, int inputs) {
    int depth = inputs / PER_WORD<T>;
    for (int first = 0; first < depth; first += PANEL_WORDS) {
        int words = std::min(PANEL_WORDS, depth - first);
        bool last = first + words == depth;
        const T* weights[TILE_COLUMNS];
        for (int c = 0; c < columns; ++c) weights[c] = weight + int64_t(n + c) * inputs + first * PER_WORD<T>;
        turn(panel, TILE_COLUMNS, weights, columns, words);
        tiles(rows, x + first * PER_WORD<T>, x_stride, panel, TILE_COLUMNS, columns, words,
              [&](int row, int column) { return first ? load(sums + row * TILE_COLUMNS + column) : floats{}; },
              [&](int row, int column, floats sum) {
                  T* to = y + int64_t(row) * outputs + n + column;
                  if (!last) store(sums + row * TILE_COLUMNS + column, sum);
                  else if (column + LANES <= columns) store(to, bias ? sum + load(bias + n + column) : sum);
                  else
                      for (int i = 0; i < columns - column; ++i)
                          store_one(to + i, sum[i] + (bias ? load_one(bias + n + column + i) : 0));
              });
    }
}

template <class T>
void linear_of_many(const T* x, int64_t x_stride, const T* weight, const T* bias, T* y, int rows, int outputs, int inputs) {
    int panels = (outputs + TILE_COLUMNS - 1) / TILE_COLUMNS, blocks = (rows + TILED_ROWS - 1) / TILED_ROWS;
    for (int done = 0; done < panels * blocks; done += Pool::MAX_CHUNKS)
        Pool::instance().run(std::min(Pool::MAX_CHUNKS, panels * blocks - done), [=](int chunk) {
            thread_local std::vector<uint32_t> panel(PANEL_WORDS * TILE_COLUMNS);
            thread_local std::vector<float> sums(TILED_ROWS * TILE_COLUMNS);
            int n = (done + chunk) / blocks * TILE_COLUMNS;
            int64_t start = (done + chunk) % blocks * TILED_ROWS;
            tiled(panel.data(), sums.data(), x + start * x_stride, x_stride, weight, bias, y + start * outputs,
                  std::min(TILED_ROWS, int(rows - start)), n, std::min(TILE_COLUMNS, outputs - n), outputs, inputs);
        });
}

// y[rows, outputs] = x[rows, inputs] . weight[outputs, inputs]^T + bias[outputs], where there is a bias. Rows are computed
// as they would be in a company of that many.
template <class T>
void linear(const T* x, int64_t x_stride, const T* weight, const T* bias, T* y, int rows, int outputs, int inputs,
            int company) {
    if (sizeof(T) < sizeof(float) && company > FEW_ROWS)
        return linear_of_many(x, x_stride, weight, bias, y, rows, outputs, inputs);
    int span = std::max(int(CHUNK_BYTES / (inputs * sizeof(T))), (outputs + Pool::MAX_CHUNKS - 1) / Pool::MAX_CHUNKS);
    span = (span + 3) / 4 * 4;
    Pool::instance().run((outputs + span - 1) / span, [=](int chunk) {
        int last = std::min(outputs, (chunk + 1) * span);
        for (int start = 0; start < rows; start += ROW_BLOCK)
            for (int n = chunk * span; n < last; n += 4)
                block(x, x_stride, weight, bias, y, start, std::min(rows, start + ROW_BLOCK), n, std::min(4, last - n),
                      outputs, inputs);
    });
}

}  // namespace autellix
