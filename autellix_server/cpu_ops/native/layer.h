// One decoder layer of the Llama kind: the operations above one after the other, in one call.
//
// What a layer computes it computes with the same operations, in the same order, as when they are called one by one:
// the bits are the same.

#pragma once

#include <algorithm>
#include <vector>

#include "attention.h"
#include "elementwise.h"
#include "linear.h"
#include "scratch.h"

namespace autellix {

constexpr int64_t ROWS_AT_A_TIME = 1024;  // of the second part of a layer, whose inner rows are the widest

// These three lie in memory as cpu_ops/layer.py writes them.

struct Shape {
    int hidden, heads, kv_heads, head_size, inner;
    int rotary, halves_apart, rotation_is_float;
    float epsilon, scale;
};

template <class T>
struct Weights {
    const T *input_norm, *qkv, *qkv_bias, *out, *out_bias, *post_norm, *gate_up, *gate_up_bias, *down, *down_bias;
    const void* rotation;  // a row for each position, of cosines and sines, as `rotate` takes them
};

template <class T>
struct Step {
    T* residual;               // [rows, hidden]: the sum of all before; changed
    T* branch;                 // [rows, hidden]: what the layer before leaves to add to it, and then this one
    const int64_t* positions;  // [rows]
    const int64_t* slots;      // [rows]: where their KV goes
    Batch batch;
    const int64_t* last;       // [sequences]: the last rows of each, the only ones that are wanted; null: all are
    int rows;
    int first;                 // whether this is the first layer: there is nothing to add
};

// Moves the rows `from[0]`, `from[1]`, ... to the front.
template <class T>
void keep_rows(T* x, int width, const int64_t* from, int count) {
    for (int64_t row = 0; row < count; ++row) std::memmove(x + row * width, x + from[row] * width, width * sizeof(T));
}

// Of all rows keys and values go to the pool. Where only the last row of each sequence is wanted, the rest is computed
// of these alone, and they are the first ones of `residual` and `branch` in the end.
template <class T>
void layer(const Shape& shape, const Weights<T>& weights, const Step<T>& step, T* keys, T* values) {
    const int hidden = shape.hidden, size = shape.head_size, inner = shape.inner;
    const int q = shape.heads * size, kv = shape.kv_heads * size;
    const int64_t rows = step.rows, wanted = step.last ? step.batch.sequences : rows;
    // Rows are computed as they would be among all of them.
    auto product = [&](const T* x, const T* weight, const T* bias, T* y, int64_t count, int outputs, int inputs) {
        linear(x, inputs, weight, bias, y, int(count), outputs, inputs, int(rows));
    };
    auto turn = [&](const int64_t* positions, T* x, int64_t stride, int heads, int64_t count) {
        auto with = [&](auto* table) {
            rotate(positions, x, stride, heads, size, table, shape.rotary, shape.halves_apart, int(count));
        };
        shape.rotation_is_float ? with((const float*)weights.rotation) : with((const T*)weights.rotation);
    };
    auto keep = [&](const T* x, T* cache) {
        scatter((const char*)x, 2 * kv * sizeof(T), step.slots, (char*)cache, kv * sizeof(T), int(rows));
    };

    const int64_t most = std::min(wanted, ROWS_AT_A_TIME);
    thread_local Scratch<T> room;
    T* normed = room.get(std::max(rows * (hidden + 2 * kv) + wanted * 2 * q, most * (hidden + 3 * inner)));
    T* pair = normed + rows * hidden;
    T* query = pair + rows * 2 * kv;
    T* read = query + wanted * q;
    rms_norm(step.first ? step.residual : step.branch, hidden, step.first ? nullptr : step.residual, weights.input_norm,
             shape.epsilon, normed, int(rows), hidden);
    product(normed, weights.qkv + int64_t(q) * hidden, weights.qkv_bias ? weights.qkv_bias + q : nullptr, pair, rows,
            2 * kv, hidden);
    turn(step.positions, pair, 2 * kv, shape.kv_heads, rows);
    keep(pair, keys);
    keep(pair + kv, values);

    Batch batch = step.batch;
    const int64_t* positions = step.positions;
    thread_local std::vector<int64_t> positions_kept;
    if (step.last) {
        positions_kept.assign(positions, positions + rows);
        keep_rows(positions_kept.data(), 1, step.last, int(wanted));
        keep_rows(normed, hidden, step.last, int(wanted));
        keep_rows(step.residual, hidden, step.last, int(wanted));
        positions = positions_kept.data();
        batch.fresh = nullptr;
    }
    product(normed, weights.qkv, weights.qkv_bias, query, wanted, q, hidden);
    turn(positions, query, q, shape.heads, wanted);
    attention(Tensors<T>{query, q, keys, values, read}, batch, Heads{shape.heads, shape.kv_heads, size, shape.scale});
    product(read, weights.out, weights.out_bias, step.branch, wanted, hidden, q);

    T* both = normed + most * hidden;
    T* active = both + most * 2 * inner;
    for (int64_t start = 0; start < wanted; start += most) {
        int64_t count = std::min(most, wanted - start);
        T *branch = step.branch + start * hidden, *residual = step.residual + start * hidden;
        rms_norm(branch, hidden, residual, weights.post_norm, shape.epsilon, normed, int(count), hidden);
        gated_linear(normed, hidden, weights.gate_up, weights.gate_up_bias, both, active, int(count), inner, hidden, int(rows));
        product(active, weights.down, weights.down_bias, branch, count, hidden, inner);
    }
}

}  // namespace autellix
