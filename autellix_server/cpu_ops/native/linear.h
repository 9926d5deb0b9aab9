// Linear layers of a few rows: the weights, as they lie in the checkpoint, are read once.

#pragma once

#include <algorithm>

#include "pool.h"
#include "simd.h"

namespace autellix {

constexpr int CHUNK_BYTES = 96 * 1024;  // of weights: some microseconds' work, so that nobody waits long for anybody
constexpr int ROW_BLOCK = 64;           // rows that stay in the cache while a chunk's weights pass by

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

// y[rows, outputs] = x[rows, inputs] . weight[outputs, inputs]^T + bias[outputs], where there is a bias.
template <class T>
void linear(const T* x, int64_t x_stride, const T* weight, const T* bias, T* y, int rows, int outputs, int inputs) {
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
