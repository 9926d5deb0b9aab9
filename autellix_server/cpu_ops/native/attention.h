// Causal attention over a paged KV cache, for any mix of prompts and decodes.
//
// A chunk is a block of queries of one sequence with all the query heads that share one KV head, so grouped queries
// read their keys and values once and where they lie. The softmax runs along the keys in blocks of KEYS, from the first
// key on: what a query gets does not depend on what else is in the batch, nor on how its prompt was cut into chunks.

#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "pool.h"
#include "simd.h"
#include "tile.h"

namespace autellix {

constexpr int KEYS = 64;         // keys at a time
constexpr int MAX_ROWS = 96;     // queries of a chunk, counting every head
constexpr int ROWS_WANTED = 96;  // of a chunk of a prompt
constexpr int MAX_HEAD = 256;    // elements of a head
constexpr float SLACK = 8;       // weights go up to 2^SLACK before all are taken relative to a higher score

static_assert(KEYS % TILE_COLUMNS == 0 && MAX_HEAD % TILE_COLUMNS == 0);
static_assert(KEYS % BLOCK == 0 && MAX_HEAD % BLOCK == 0 && MAX_ROWS % BLOCK == 0);  // what units for matrices take

struct Batch {
    const int32_t* slots;     // [requests, slot_stride]: where the KV of each position lies
    int64_t slot_stride;
    const int64_t* requests;  // [sequences]: their rows of `slots`
    const int64_t* lengths;   // [sequences]: tokens with KV, the new ones included
    const int64_t* fresh;     // [sequences]: new tokens, which are the queries; null: 1 each
    int sequences;
};

struct Heads {
    int query, kv, size;
    float scale;
};

template <class T>
struct Tensors {
    const T* query;         // [tokens, query heads, size], rows query_stride apart
    int64_t query_stride;
    const T* keys;          // [slots, kv heads, size]
    const T* values;        // [slots, kv heads, size]
    T* out;                 // [tokens, query heads, size]
};

// The queries of one chunk, from their scores with a block of keys to their outputs.
template <class T>
struct Rows {
    int count, size, width;  // `width` is the size to the next tile
    alignas(64) T query[MAX_ROWS * MAX_HEAD];
    int64_t limit[MAX_ROWS];           // keys that a query sees
    alignas(64) uint32_t keys[MAX_HEAD * KEYS];    // the block's keys, turned
    alignas(64) uint32_t values[KEYS * MAX_HEAD];  // the block's values, a word for each element of one key, or of two in bfloat16
    alignas(64) float scores[MAX_ROWS * KEYS];     // products of queries and keys
    alignas(64) T weights[MAX_ROWS * KEYS];
    float best[MAX_ROWS];              // what weights are relative to
    alignas(64) float sum[MAX_ROWS * LANES];       // of weights, in each lane
    alignas(64) float out[MAX_ROWS * MAX_HEAD];
};

// Lays out the values of a block as a panel; from the last key to the next block's there are zeros.
inline void lay_out(uint32_t* panel, int width, const float* const* values, int count, int size) {
    for (int key = 0; key < count; ++key) std::memcpy(panel + key * width, values[key], size * sizeof(float));
}

inline void lay_out(uint32_t* panel, int width, const bf16* const* values, int count, int size) {
    for (int key = 0; key < count; key += 2)
        for (int i = 0; i < size; i += LANES) {
            words pair = load_bits(values[key] + i) | load_bits(values[std::min(key + 1, count - 1)] + i) << 16;
            std::memcpy(panel + key / 2 * width + i, &pair, sizeof pair);
        }
    for (int word = (count + 1) / 2; word % BLOCK_WORDS != 0; ++word)
        std::memset(panel + word * width, 0, width * sizeof(uint32_t));
}

// Turns a row's scores, of which it sees `seen`, into weights. A weight is added up as it is rounded.
template <class T>
inline void soften(Rows<T>& rows, int row, int seen, float scale) {
    float *scores = rows.scores + row * KEYS, *sum = rows.sum + row * LANES;
    floats scaled[KEYS / LANES];
    for (int i = 0; i < KEYS / LANES; ++i) scaled[i] = load(scores + i * LANES) * scale;
    if (seen < KEYS)
        for (int i = 0; i < KEYS / LANES; ++i)
            scaled[i] = numbers(i * LANES) < seen ? scaled[i] : all(-std::numeric_limits<float>::infinity());
    floats top = scaled[0];
    for (int i = 1; i < KEYS / LANES; ++i) top = higher(scaled[i], top);
    float best = highest(top);
    if (best > rows.best[row] + SLACK) {
        floats shrink = power_of_two(all(rows.best[row] - best));
        rows.best[row] = best;
        store(sum, load(sum) * shrink);
        float* out = rows.out + row * rows.width;
        for (int i = 0; i < rows.size; i += LANES) store(out + i, load(out + i) * shrink);
    }
    T* weights = rows.weights + row * KEYS;
    floats total = load(sum);
    for (int i = 0; i < KEYS / LANES; ++i) {
        store(weights + i * LANES, power_of_two(scaled[i] - rows.best[row]));
        total += load(weights + i * LANES);
    }
    store(sum, total);
}

// Takes the keys from `start` on, `count` of them, into account.
template <class T>
inline void take(Matrices& units, Rows<T>& rows, const T* const* keys, const T* const* values, int64_t start, int count,
                 float scale) {
    int size = rows.size;
    turn(rows.keys, KEYS, keys, count, size / PER_WORD<T>);
    multiply(units, rows.count, rows.query, size, rows.keys, KEYS, count, size / PER_WORD<T>, rows.scores, KEYS, false);
    for (int row = 0; row < rows.count; ++row) {
        int seen = int(std::clamp<int64_t>(rows.limit[row] - start, 0, KEYS));
        if (seen) soften(rows, row, seen, scale);
        else std::memset(rows.weights + row * KEYS, 0, KEYS * sizeof(T));
    }
    lay_out(rows.values, rows.width, values, count, size);
    multiply(units, rows.count, rows.weights, KEYS, rows.values, rows.width, size, (count + PER_WORD<T> - 1) / PER_WORD<T>,
             rows.out, rows.width, true);
}

// Not inlined, since a compiler that knows `rows` to be a thread's own looks it up again in every loop.
template <class T>
[[gnu::noinline]] void attend(Rows<T>& rows, const Tensors<T>& tensors, const Batch& batch, const Heads& heads,
                              int sequence, int64_t first_token, int first_query, int queries, int kv_head) {
    int group = heads.query / heads.kv, size = heads.size;
    int64_t fresh = batch.fresh ? batch.fresh[sequence] : 1;
    rows.count = queries * group;
    rows.size = size;
    rows.width = (size + TILE_COLUMNS - 1) / TILE_COLUMNS * TILE_COLUMNS;
    for (int q = 0; q < queries; ++q)
        for (int g = 0; g < group; ++g) {
            int row = q * group + g;
            const T* from = tensors.query + (first_token + first_query + q) * tensors.query_stride;
            std::memcpy(rows.query + row * size, from + (kv_head * group + g) * size, size * sizeof(T));
            rows.limit[row] = batch.lengths[sequence] - fresh + first_query + q + 1;
            rows.best[row] = -std::numeric_limits<float>::max();
            store(rows.sum + row * LANES, floats{});
            std::fill_n(rows.out + row * rows.width, size, 0.0f);
        }
    Matrices units;
    const int32_t* slots = batch.slots + batch.requests[sequence] * batch.slot_stride;
    int64_t width = int64_t(heads.kv) * size, last = rows.limit[rows.count - 1];
    for (int64_t start = 0; start < last; start += KEYS) {
        int count = int(std::min<int64_t>(KEYS, last - start));
        const T* keys[KEYS];
        const T* values[KEYS];
        for (int key = 0; key < count; ++key) {
            int64_t at = slots[start + key] * width + kv_head * size;
            keys[key] = tensors.keys + at;
            values[key] = tensors.values + at;
        }
        take(units, rows, keys, values, start, count, heads.scale * LOG2_E);
    }
    for (int row = 0; row < rows.count; ++row) {
        int64_t token = first_token + first_query + row / group;
        T* to = tensors.out + (token * heads.query + kv_head * group + row % group) * size;
        float sum = add_up(load(rows.sum + row * LANES));
        for (int i = 0; i < size; i += LANES) store(to + i, load(rows.out + row * rows.width + i) / sum);
    }
}

template <class T>
void attention(const Tensors<T>& tensors, const Batch& batch, const Heads& heads) {
    int block = std::max(1, ROWS_WANTED / (heads.query / heads.kv));
    struct Part { int sequence, first_query, queries; int64_t first_token; };
    thread_local std::vector<Part> parts;
    parts.clear();
    int64_t token = 0;
    for (int sequence = 0; sequence < batch.sequences; ++sequence) {
        int64_t fresh = batch.fresh ? batch.fresh[sequence] : 1;
        for (int64_t at = 0; at < fresh; at += block)
            parts.push_back({sequence, int(at), int(std::min<int64_t>(block, fresh - at)), token});
        token += fresh;
    }
    int count = int(parts.size()) * heads.kv;
    for (int done = 0; done < count; done += Pool::MAX_CHUNKS)
        Pool::instance().run(std::min(Pool::MAX_CHUNKS, count - done), [&, mine = parts.data()](int chunk) {
            // The last parts of a prompt see the most keys; begun first, they are not what everybody waits for.
            const Part& part = mine[(count - 1 - done - chunk) / heads.kv];
            thread_local Rows<T> rows;
            attend(rows, tensors, batch, heads, part.sequence, part.first_token, part.first_query, part.queries,
                   (count - 1 - done - chunk) % heads.kv);
        });
}

}  // namespace autellix
