// Norm, rotary embedding, activation, and the way of keys and values into their cache. Sums are kept in float.

#pragma once

#include <algorithm>
#include <cmath>

#include "pool.h"
#include "simd.h"

namespace autellix {

constexpr int MAX_NORM_WIDTH = 8192;

// Rows for one chunk of an operation on `width` elements a row.
inline int rows_at_a_time(int width) { return std::max(1, 8192 / width); }

template <class Body>
void each_row(int rows, int width, const Body& body) {
    each_chunk(rows, rows_at_a_time(width), [&](int first, int end) {
        for (int row = first; row < end; ++row) body(row);
    });
}

// out = x / rms(x) * weight; with a residual, x is x + residual, which the residual becomes. `out` may be `x`.
template <class T>
void rms_norm(const T* x, int64_t x_stride, T* residual, const T* weight, float epsilon, T* out, int rows, int width) {
    each_row(rows, width, [=](int row) {
        const T* in = x + row * x_stride;
        T* rest = residual ? residual + int64_t(row) * width : nullptr;
        T* to = out + int64_t(row) * width;
        float sum[MAX_NORM_WIDTH];
        floats squares{};
        for (int i = 0; i < width; i += LANES) {
            floats v = load(in + i);
            if (rest) {
                v += load(rest + i);
                store(rest + i, v);
            }
            store(sum + i, v);
            squares += v * v;
        }
        float scale = 1 / std::sqrt(add_up(squares) / width + epsilon);
        for (int i = 0; i < width; i += LANES) store(to + i, load(sum + i) * scale * load(weight + i));
    });
}

inline floats silu(floats x) { return x * reciprocal(1.0f + exponential(-x)); }

// out[rows, width] = silu(x[:, :width]) * x[:, width:].
template <class T>
void silu_and_mul(const T* x, int64_t x_stride, T* out, int rows, int width) {
    each_row(rows, 2 * width, [=](int row) {
        const T* gate = x + row * x_stride;
        const T* up = gate + width;
        T* to = out + int64_t(row) * width;
        for (int i = 0; i < width; i += LANES) store(to + i, silu(load(gate + i)) * load(up + i));
    });
}

// Turns the first `rotary` elements of each head, in place. A row of `cache` holds rotary / 2 cosines, then the sines.
template <class T, class C>
void rotate(const int64_t* positions, T* x, int64_t x_stride, int heads, int head_size, const C* cache, int rotary,
            int halves_apart, int rows) {
    int half = rotary / 2;
    each_row(rows, heads * head_size, [=](int row) {
        const C* cosines = cache + positions[row] * rotary;
        const C* sines = cosines + half;
        for (int head = 0; head < heads; ++head) {
            T* at = x + row * x_stride + head * head_size;
            if (halves_apart && half % LANES == 0) {
                for (int i = 0; i < half; i += LANES) {
                    floats a = load(at + i), b = load(at + half + i), c = load(cosines + i), s = load(sines + i);
                    store(at + i, a * c - b * s);
                    store(at + half + i, b * c + a * s);
                }
                continue;
            }
            for (int i = 0; i < half; ++i) {
                T* first = halves_apart ? at + i : at + 2 * i;
                T* second = halves_apart ? at + half + i : first + 1;
                float a = load_one(first), b = load_one(second), c = load_one(cosines + i), s = load_one(sines + i);
                store_one(first, a * c - b * s);
                store_one(second, b * c + a * s);
            }
        }
    });
}

// cache[slots[row]] = x[row], `bytes` each.
inline void scatter(const char* x, int64_t x_stride_bytes, const int64_t* slots, char* cache, int64_t bytes, int rows) {
    each_row(rows, int(bytes), [=](int row) { std::memcpy(cache + slots[row] * bytes, x + row * x_stride_bytes, bytes); });
}

}  // namespace autellix
