// Linear layers of a few rows: the weights, as they lie in the checkpoint, are read once.

#pragma once

#include <algorithm>

#include "pool.h"
#include "simd.h"

namespace autellix {

constexpr int CHUNK_BYTES = 64 * 1024;  // of weights: some microseconds' work, so that nobody waits long for anybody

// y[rows, outputs] = x[rows, inputs] . weight[outputs, inputs]^T + bias[outputs], where there is a bias.
template <class T>
void linear(const T* x, int64_t x_stride, const T* weight, const T* bias, T* y, int rows, int outputs, int inputs) {
    int span = std::max(int(CHUNK_BYTES / (inputs * sizeof(T))), (outputs + Pool::MAX_CHUNKS - 1) / Pool::MAX_CHUNKS);
    span = std::max(4, span / 4 * 4);
    Pool::instance().run((outputs + span - 1) / span, [=](int chunk) {
        int last = std::min(outputs, (chunk + 1) * span);
        for (int n = chunk * span; n < last; n += 4) {
            int columns = std::min(4, last - n);
            const T* weights[4];
            for (int c = 0; c < columns; ++c) weights[c] = weight + int64_t(n + c) * inputs;
            for (int m = 0; m < rows; m += 4) {
                int lines = std::min(4, rows - m);
                const T* inputs_of[4];
                for (int r = 0; r < lines; ++r) inputs_of[r] = x + (m + r) * x_stride;
                float sums[16];
                dots<T>(lines, columns, inputs_of, weights, inputs, sums, 4);
                for (int r = 0; r < lines; ++r)
                    for (int c = 0; c < columns; ++c)
                        store_one(y + int64_t(m + r) * outputs + n + c, sums[r * 4 + c] + (bias ? load_one(bias + n + c) : 0));
            }
        }
    });
}

}  // namespace autellix
