// Linear layers: the weights lie as they are in the checkpoint. For few rows they are read once, for many turned first; on
// units for matrices it is the rows that are turned.

#pragma once

#include <algorithm>
#include <atomic>
#include <limits>

#include "elementwise.h"
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
constexpr int PANEL_WORDS = 1024;       // of each column at a time: what stays in the cache

// On units for matrices.
constexpr int TURNED_ROWS = 1024;    // at a time, which bounds the memory that they take
constexpr int BLOCKS_AT_A_TIME = 8;  // of rows, for a chunk
constexpr int PART_WORDS = 320;      // of each output at a time: what stays in the nearest cache

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
// `panel` has the weights already if they are `turned`, which only those of one panel can be.
template <class T>
[[gnu::noinline]] void tiled(uint32_t* panel, bool turned, float* sums, const T* x, int64_t x_stride, const T* weight,
                             const T* bias, T* y, int rows, int n, int columns, int outputs, int inputs) {
    int depth = inputs / PER_WORD<T>;
    for (int first = 0; first < depth; first += PANEL_WORDS) {
        int words = std::min(PANEL_WORDS, depth - first);
        bool last = first + words == depth;
        const T* weights[TILE_COLUMNS];
        for (int c = 0; c < columns; ++c) weights[c] = weight + int64_t(n + c) * inputs + first * PER_WORD<T>;
        if (!turned || words < depth) turn(panel, TILE_COLUMNS, weights, columns, words);
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
    static std::atomic<uint64_t> calls{0};
    const uint64_t call = ++calls;
    int panels = (outputs + TILE_COLUMNS - 1) / TILE_COLUMNS, blocks = (rows + TILED_ROWS - 1) / TILED_ROWS;
    for (int done = 0; done < panels * blocks; done += Pool::MAX_CHUNKS)
        Pool::instance().run(std::min(Pool::MAX_CHUNKS, panels * blocks - done), [=](int chunk) {
            struct Kept {
                Scratch<uint32_t> panel;
                Scratch<float> sums;
                uint64_t call = 0;
                int n = 0;
            };
            thread_local Kept kept;
            uint32_t* panel = kept.panel.get(PANEL_WORDS * TILE_COLUMNS);
            int n = (done + chunk) / blocks * TILE_COLUMNS;
            int64_t start = (done + chunk) % blocks * TILED_ROWS;
            // A thread mostly gets chunks that are neighbours, which have the weights in common.
            bool turned = kept.call == call && kept.n == n;
            tiled(panel, turned, kept.sums.get(TILED_ROWS * TILE_COLUMNS), x + start * x_stride, x_stride, weight, bias,
                  y + start * outputs, std::min(TILED_ROWS, int(rows - start)), n, std::min(TILE_COLUMNS, outputs - n),
                  outputs, inputs);
            kept.call = call;
            kept.n = n;
        });
}

// What products on units for matrices are of, and where they go: y[rows, outputs] = x[rows, inputs] . weight^T + bias.
// Weights are read as they lie; the rows of x are turned, and so the sums of an output with several rows are side by side.
struct Product {
    static constexpr int SPAN = BLOCK;  // outputs of a block
    const bf16 *weight, *bias;
    bf16* y;
    int outputs, inputs;

    // Of the block from output n on: the even ones above, the odd ones below.
    const bf16* above(int n) const { return weight + int64_t(n) * inputs; }
    const bf16* below(int n) const { return above(n + 1); }
    int stride() const { return 2 * inputs; }

    // Writes a block's sums with up to 32 rows, `row` the first.
    void write(const float* sums, int n, int64_t row, int rows) const {
        for (int first = 0; first < rows; first += QUARTER) {
            const float *even = sums + first, *odd = even + QUARTER * BLOCK;
            words square[QUARTER];
            for (int i = 0; i < QUARTER; ++i) {
                floats a = load(even + i * BLOCK), b = load(odd + i * BLOCK);
                if (bias) a += load_one(bias + n + 2 * i), b += load_one(bias + n + 2 * i + 1);
                square[i] = pair(a, b);
            }
            transpose(square);
            bf16* to = y + (row + first) * outputs + n;
            for (int r = 0; r < std::min(QUARTER, rows - first); ++r, to += outputs)
                std::memcpy(to, &square[r], sizeof square[r]);
        }
    }
};

// The same with a weight of twice the outputs, gates first: y = silu(z[:, :outputs]) * z[:, outputs:], z as above.
struct GatedProduct : Product {
    static constexpr int SPAN = QUARTER;

    // Gates above, what they let pass below.
    const bf16* below(int n) const { return above(outputs + n); }
    int stride() const { return inputs; }

    void write(const float* sums, int n, int64_t row, int rows) const {
        words square[QUARTER] = {};  // two outputs of 16 rows each: 8 times of the first rows, 8 times of the others
        for (int first = 0; first < rows; first += QUARTER)
            for (int i = 0; i < QUARTER; i += 2)
                square[(first + i) / 2] = pair(gated(sums, n, i, first), gated(sums, n, i + 1, first));
        transpose(square);
        for (int r = 0; r < rows; ++r) {
            const char* from = (const char*)&square[r % QUARTER] + r / QUARTER * QUARTER * sizeof(bf16);
            std::memcpy(y + (row + r) * outputs + n, from, QUARTER * sizeof(bf16));
        }
    }

    floats gated(const float* sums, int n, int i, int first) const {
        floats gate = load(sums + i * BLOCK + first), passing = load(sums + (QUARTER + i) * BLOCK + first);
        if (bias) gate += load_one(bias + n + i), passing += load_one(bias + outputs + n + i);
        return silu(as_stored(gate)) * as_stored(passing);
    }
};

// On units for matrices, WIDTH rows at a time. All threads turn rows, then all multiply.
template <int WIDTH, class Kind>
void on_units(const bf16* x, int64_t x_stride, int rows, const Kind& kind) {
    const int outputs = kind.outputs, inputs = kind.inputs;
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
    // Rows in few parts, one behind the other, so that a thread mostly meets rows that it has in its cache. Chunks have
    // whole cache lines of outputs.
    int span = std::max<int>(1, CHUNK_BYTES / (BLOCK * inputs * sizeof(bf16)) / std::min(blocks, BLOCKS_AT_A_TIME)) * BLOCK;
    int some = (blocks + BLOCKS_AT_A_TIME - 1) / BLOCKS_AT_A_TIME, across = (outputs + span - 1) / span;
    Pool::instance().run(some * across, [=](int chunk) {
        Matrices units;
        thread_local Scratch<float> room_for_sums;
        float* sums = room_for_sums.get(BLOCKS_AT_A_TIME * BLOCK * BLOCK);
        int start = chunk / across * BLOCKS_AT_A_TIME, end = std::min(blocks, start + BLOCKS_AT_A_TIME);
        int last = std::min(outputs, (chunk % across + 1) * span);
        for (int n = chunk % across * span; n < last; n += Kind::SPAN)
            for (int first = 0; first < depth; first += part)
                for (int block = start; block < end; ++block) {
                    float* mine = sums + (block - start) * BLOCK * BLOCK;
                    const uint32_t* columns = turned + (int64_t(block) * depth + first) * WIDTH;
                    units.multiply<BLOCK, WIDTH>(kind.above(n) + 2 * first, kind.below(n) + 2 * first, kind.stride(), columns,
                                                 WIDTH, std::min(part, depth - first), mine, BLOCK, first > 0);
                    if (first + part < depth) continue;
                    kind.write(mine, n, int64_t(block) * WIDTH, std::min(WIDTH, rows - block * WIDTH));
                }
    });
}

// Any number of rows, some at a time.
template <class Kind>
void on_units(const bf16* x, int64_t x_stride, int rows, Kind kind) {
    for (; rows > 0; rows -= TURNED_ROWS, x += TURNED_ROWS * x_stride, kind.y += int64_t(TURNED_ROWS) * kind.outputs) {
        int now = std::min(TURNED_ROWS, rows);
        now > QUARTER ? on_units<BLOCK>(x, x_stride, now, kind) : on_units<QUARTER>(x, x_stride, now, kind);
    }
}

// y[rows, outputs] = x[rows, inputs] . weight[outputs, inputs]^T + bias[outputs], where there is a bias. Rows are computed
// as they would be in a company of that many.
template <class T>
void linear(const T* x, int64_t x_stride, const T* weight, const T* bias, T* y, int rows, int outputs, int inputs,
            int company) {
    if constexpr (sizeof(T) == sizeof(bf16))
        if (has_matrices() && outputs % BLOCK == 0)
            return on_units(x, x_stride, rows, Product{weight, bias, y, outputs, inputs});
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

// out[rows, inner] = silu(z[:, :inner]) * z[:, inner:], where z[rows, 2 * inner] = x . weight^T + bias; `z` is room for it.
template <class T>
void gated_linear(const T* x, int64_t x_stride, const T* weight, const T* bias, T* z, T* out, int rows, int inner, int inputs,
                  int company) {
    if constexpr (sizeof(T) == sizeof(bf16))
        if (has_matrices() && inner % BLOCK == 0)
            return on_units(x, x_stride, rows, GatedProduct{{weight, bias, out, inner, inputs}});
    linear(x, x_stride, weight, bias, z, rows, 2 * inner, inputs, company);
    silu_and_mul(z, 2 * inner, out, rows, inner);
}

}  // namespace autellix
