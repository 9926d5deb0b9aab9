// Linear layers: the weights lie as they are in the checkpoint. For few rows they are read once, for many turned first.

#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "matrix.h"
#include "pool.h"
#include "scratch.h"
#include "simd.h"
#include "tile.h"

namespace autellix {

constexpr int CHUNK_BYTES = 96 * 1024;  // of weights: some microseconds' work, so that nobody waits long for anybody
constexpr int ROW_BLOCK = 64;           // rows that stay in the cache while a chunk's weights pass by
constexpr int FEW_ROWS = 48;            // from more rows on, turning the weights pays
constexpr int TILED_ROWS = 256;         // of a chunk of many rows
constexpr int PART_WORDS = 320;
constexpr int BLOCKS_AT_A_TIME = 16;
constexpr int PANEL_WORDS = 1024;       // of each column at a time: what stays in the cache

// Rows up to which this is faster than PyTorch's product. Many rows in float32 are computed as few are, to the bit.
#if defined(__AVX512BF16__)
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

// Writes sums of 32 outputs, the even ones and then the odd ones, with up to 32 rows.
inline void turn_back(const float* sums, const bf16* bias, bf16* y, int rows, int outputs) {
    for (int first = 0; first < rows; first += QUARTER) {
        const float *even = sums + first, *odd = even + QUARTER * BLOCK;
        words square[QUARTER];
        for (int i = 0; i < QUARTER; ++i) {
            floats a = load(even + i * BLOCK), b = load(odd + i * BLOCK);
            square[i] = bias ? pair(a + load_one(bias + 2 * i), b + load_one(bias + 2 * i + 1)) : pair(a, b);
        }
        transpose(square);
        bf16* to = y + int64_t(first) * outputs;
        for (int r = 0; r < std::min(QUARTER, rows - first); ++r, to += outputs) std::memcpy(to, &square[r], sizeof square[r]);
    }
}

// Any number of rows, WIDTH at a time, on units for matrices. All threads turn rows, then all multiply: weights are read as
// they lie, and sums are turned back.
template <int WIDTH>
void linear_on_units(const bf16* x, int64_t x_stride, const bf16* weight, const bf16* bias, bf16* y, int rows, int outputs,
                     int inputs) {
    const int blocks = (rows + WIDTH - 1) / WIDTH, depth = inputs / 2;
    const int parts = (depth + PART_WORDS - 1) / PART_WORDS;
    const int part = (depth / parts + BLOCK_WORDS - 1) / BLOCK_WORDS * BLOCK_WORDS;
    thread_local Scratch<uint32_t> room;
    uint32_t* turned = room.get(size_t(blocks) * depth * WIDTH);
    each_chunk(blocks, 1, [=](int first, int end) {
        for (int block = first; block < end; ++block) {
            const bf16* columns[WIDTH];
            int count = std::min(WIDTH, rows - block * WIDTH);
            for (int c = 0; c < count; ++c) columns[c] = x + (int64_t(block) * WIDTH + c) * x_stride;
            turn(turned + int64_t(block) * depth * WIDTH, WIDTH, columns, count, depth);
        }
    });
    int span = std::max(1, int(CHUNK_BYTES / (BLOCK * inputs * sizeof(bf16))) / blocks);
    each_chunk(outputs / BLOCK, span, [=](int begin, int end) {
        Matrices units;
        thread_local Scratch<float> room_for_sums;
        float* sums = room_for_sums.get(BLOCKS_AT_A_TIME * BLOCK * BLOCK);
        for (int n = begin * BLOCK; n < end * BLOCK; n += BLOCK)
            for (int some = 0; some < blocks; some += BLOCKS_AT_A_TIME)
                for (int first = 0; first < depth; first += part)
                    for (int block = some; block < std::min(blocks, some + BLOCKS_AT_A_TIME); ++block) {
                        float* mine = sums + (block - some) * BLOCK * BLOCK;
                        const bf16* even = weight + int64_t(n) * inputs + 2 * first;
                        const uint32_t* columns = turned + (int64_t(block) * depth + first) * WIDTH;
                        units.multiply<BLOCK, WIDTH>(even, even + inputs, 2 * inputs, columns, WIDTH,
                                                     std::min(part, depth - first), mine, BLOCK, first > 0);
                        if (first + part < depth) continue;
                        turn_back(mine, bias ? bias + n : nullptr, y + int64_t(block) * WIDTH * outputs + n,
                                  std::min(WIDTH, rows - block * WIDTH), outputs);
                    }
    });
}

// y[rows, outputs] = x[rows, inputs] . weight[outputs, inputs]^T + bias[outputs], where there is a bias. Rows are computed
// as they would be in a company of that many.
template <class T>
void linear(const T* x, int64_t x_stride, const T* weight, const T* bias, T* y, int rows, int outputs, int inputs,
            int company) {
    if constexpr (sizeof(T) == sizeof(bf16))
        if (has_matrices() && outputs % BLOCK == 0)
            return rows > QUARTER ? linear_on_units<BLOCK>(x, x_stride, weight, bias, y, rows, outputs, inputs)
                                  : linear_on_units<QUARTER>(x, x_stride, weight, bias, y, rows, outputs, inputs);
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
