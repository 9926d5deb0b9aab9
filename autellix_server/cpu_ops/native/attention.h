// Causal attention over a paged KV cache, for any mix of prompts and decodes.
//
// A chunk is a block of queries of one sequence with all the query heads that share one KV head, so grouped queries
// read their keys and values once and where they lie. The softmax runs along the keys in blocks of KEYS, from the first
// key on: what a query gets does not depend on what else is in the batch, nor on how its prompt was cut into chunks.

#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "pool.h"
#include "simd.h"

namespace autellix {

constexpr int KEYS = 64;         // keys at a time
constexpr int MAX_ROWS = 64;     // queries of a chunk, counting every head
constexpr int ROWS_WANTED = 48;  // of a chunk of a prompt
constexpr int MAX_HEAD = 256;    // elements of a head

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
    int count;
    T query[MAX_ROWS][MAX_HEAD];
    uint32_t keys[MAX_HEAD][KEYS];  // the block's keys, turned: 4 bytes of each, then the next 4 of each
    int64_t limit[MAX_ROWS];  // keys that a query sees
    float scores[MAX_ROWS][KEYS];
    float best[MAX_ROWS], sum[MAX_ROWS];
    float out[MAX_ROWS][MAX_HEAD];
};

// Turns the keys of a block; what is beyond the last one are copies of it.
template <class T>
inline void turn(uint32_t (*turned)[KEYS], const T* const* keys, int count, int size) {
    constexpr int PER_WORD = sizeof(uint32_t) / sizeof(T);
    for (int first = 0; first < count; first += LANES)
        for (int word = 0; word < size / PER_WORD; word += LANES) {
            words square[LANES];
            for (int i = 0; i < LANES; ++i)
                std::memcpy(&square[i], keys[std::min(first + i, count - 1)] + word * PER_WORD, sizeof(words));
            transpose(square);
            for (int i = 0; i < LANES; ++i) std::memcpy(turned[word + i] + first, &square[i], sizeof(words));
        }
}

// scores[r][key] = scale * dot(query[r], key), for 4 vectors of keys. Each is added up from the first element on.
template <class T, int R>
inline void score(const T (*query)[MAX_HEAD], const uint32_t (*turned)[KEYS], int first, int size, float scale,
                  float (*scores)[KEYS]) {
    constexpr int PER_WORD = sizeof(uint32_t) / sizeof(T), V = 4;
    using Side = typename Dot<T>::Side;
    floats sums[R][V] = {};
    for (int word = 0; word < size / PER_WORD; ++word) {
        Side key[V];
        for (int v = 0; v < V; ++v) std::memcpy(&key[v], turned[word] + first + v * LANES, sizeof(Side));
        for (int r = 0; r < R; ++r) {
            uint32_t part;
            std::memcpy(&part, query[r] + word * PER_WORD, sizeof part);
            Side same = (Side)(words{} + part);
            for (int v = 0; v < V; ++v) sums[r][v] = Dot<T>::add(sums[r][v], same, key[v]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(scores[r] + first + v * LANES, sums[r][v] * scale);
}

template <class T, int R = 4>
inline void score(int r, const T (*query)[MAX_HEAD], const uint32_t (*turned)[KEYS], int first, int size, float scale,
                  float (*scores)[KEYS]) {
    if constexpr (R > 1) {
        if (r < R) return score<T, R - 1>(r, query, turned, first, size, scale, scores);
    }
    score<T, R>(query, turned, first, size, scale, scores);
}

// sums[r] += scores[r][key] * values[key], for 4 * V elements of a head.
template <class T, int R, int V>
inline void add_values(float (*scores)[KEYS], const T* const* values, int keys, int offset, float (*out)[MAX_HEAD]) {
    floats sums[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sums[r][v] = load(out[r] + offset + v * LANES);
    for (int key = 0; key < keys; ++key) {
        floats value[V];
        for (int v = 0; v < V; ++v) value[v] = load(values[key] + offset + v * LANES);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) sums[r][v] += scores[r][key] * value[v];
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(out[r] + offset + v * LANES, sums[r][v]);
}

template <class T, int V, int R = 4>
inline void add_values(int r, float (*scores)[KEYS], const T* const* values, int keys, int offset, float (*out)[MAX_HEAD]) {
    if constexpr (R > 1) {
        if (r < R) return add_values<T, V, R - 1>(r, scores, values, keys, offset, out);
    }
    add_values<T, R, V>(scores, values, keys, offset, out);
}

// Turns a row's scores into weights relative to the highest so far.
template <class T>
inline void soften(Rows<T>& rows, int row, int size) {
    float* scores = rows.scores[row];
    floats top = all(rows.best[row]);
    for (int i = 0; i < KEYS; i += LANES) {
        floats s = load(scores + i);
        top = s > top ? s : top;
    }
    float best = highest(top);
    if (best > rows.best[row]) {
        float shrink = std::exp(rows.best[row] - best);
        rows.best[row] = best;
        rows.sum[row] *= shrink;
        for (int i = 0; i < size; i += LANES) store(rows.out[row] + i, load(rows.out[row] + i) * shrink);
    }
    floats sum{};
    for (int i = 0; i < KEYS; i += LANES) {
        floats s = load(scores + i);
        floats weight = s > -std::numeric_limits<float>::max() ? exponential(s - best) : floats{};
        store(scores + i, weight);
        sum += weight;
    }
    rows.sum[row] += add_up(sum);
}

template <class T>
void attend(const Tensors<T>& tensors, const Batch& batch, const Heads& heads, int sequence, int64_t first_token,
            int first_query, int queries, int kv_head) {
    thread_local Rows<T> rows;
    int group = heads.query / heads.kv;
    int64_t fresh = batch.fresh ? batch.fresh[sequence] : 1;
    rows.count = queries * group;
    for (int q = 0; q < queries; ++q)
        for (int g = 0; g < group; ++g) {
            int row = q * group + g;
            const T* from = tensors.query + (first_token + first_query + q) * tensors.query_stride;
            std::memcpy(rows.query[row], from + (kv_head * group + g) * heads.size, heads.size * sizeof(T));
            rows.limit[row] = batch.lengths[sequence] - fresh + first_query + q + 1;
            rows.best[row] = -std::numeric_limits<float>::max();
            rows.sum[row] = 0;
            std::fill_n(rows.out[row], heads.size, 0.0f);
        }
    const int32_t* slots = batch.slots + batch.requests[sequence] * batch.slot_stride;
    int64_t width = int64_t(heads.kv) * heads.size;
    for (int64_t start = 0; start < rows.limit[rows.count - 1]; start += KEYS) {
        int keys = int(std::min<int64_t>(KEYS, rows.limit[rows.count - 1] - start));
        const T* key_at[KEYS];
        const T* value_at[KEYS];
        for (int key = 0; key < keys; ++key) {
            int64_t at = slots[start + key] * width + kv_head * heads.size;
            key_at[key] = tensors.keys + at;
            value_at[key] = tensors.values + at;
        }
        turn(rows.keys, key_at, keys, heads.size);
        for (int row = 0; row < rows.count; row += 4)
            for (int key = 0; key < keys; key += 4 * LANES)
                score<T>(std::min(4, rows.count - row), rows.query + row, rows.keys, key, heads.size, heads.scale,
                         rows.scores + row);
        for (int row = 0; row < rows.count; ++row) {
            int seen = int(std::clamp<int64_t>(rows.limit[row] - start, 0, keys));
            std::fill(rows.scores[row] + seen, rows.scores[row] + KEYS, -std::numeric_limits<float>::infinity());
            if (seen) soften(rows, row, heads.size); else std::fill_n(rows.scores[row], KEYS, 0.0f);
        }
        for (int row = 0; row < rows.count; row += 4) {
            int some = std::min(4, rows.count - row);
            int offset = 0;
            for (; offset + 4 * LANES <= heads.size; offset += 4 * LANES)
                add_values<T, 4>(some, rows.scores + row, value_at, keys, offset, rows.out + row);
            for (; offset < heads.size; offset += LANES)
                add_values<T, 1>(some, rows.scores + row, value_at, keys, offset, rows.out + row);
        }
    }
    for (int row = 0; row < rows.count; ++row) {
        int64_t token = first_token + first_query + row / group;
        T* to = tensors.out + (token * heads.query + kv_head * group + row % group) * heads.size;
        for (int i = 0; i < heads.size; i += LANES) store(to + i, load(rows.out[row] + i) / rows.sum[row]);
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
            attend(tensors, batch, heads, part.sequence, part.first_token, part.first_query, part.queries,
                   (count - 1 - done - chunk) % heads.kv);
        });
}

}  // namespace autellix
