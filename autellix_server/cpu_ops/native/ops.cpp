// The operations as Python calls them (autellix_server.cpu_ops.library): plain C, one function for each element type.

#include "attention.h"
#include "elementwise.h"
#include "layer.h"
#include "linear.h"
#include "sample.h"

using namespace autellix;

extern "C" {

int autellix_lanes() { return LANES; }

int autellix_has_matrices() { return has_matrices(); }

int autellix_max_norm_width() { return MAX_NORM_WIDTH; }

int autellix_max_head_size() { return MAX_HEAD; }

int autellix_max_group() { return MAX_ROWS; }

void autellix_threads(int count) { Pool::instance().grow(count); }

#define FOR(T, NAME)                                                                                                  \
    int autellix_max_linear_rows_##NAME() { return MAX_LINEAR_ROWS<T>; }                                              \
    void autellix_linear_##NAME(const T* x, int64_t x_stride, const T* weight, const T* bias, T* y, int rows,         \
                                int outputs, int inputs) {                                                            \
        linear(x, x_stride, weight, bias, y, rows, outputs, inputs, rows);                                            \
    }                                                                                                                 \
    void autellix_rms_norm_##NAME(const T* x, int64_t x_stride, T* residual, const T* weight, float epsilon, T* out,  \
                                  int rows, int width) {                                                              \
        rms_norm(x, x_stride, residual, weight, epsilon, out, rows, width);                                           \
    }                                                                                                                 \
    void autellix_silu_and_mul_##NAME(const T* x, int64_t x_stride, T* out, int rows, int width) {                    \
        silu_and_mul(x, x_stride, out, rows, width);                                                                  \
    }                                                                                                                 \
    void autellix_rotate_##NAME(const int64_t* positions, T* x, int64_t x_stride, int heads, int head_size,           \
                                const void* cache, int cache_is_float, int rotary, int halves_apart, int rows) {      \
        if (cache_is_float)                                                                                           \
            rotate(positions, x, x_stride, heads, head_size, (const float*)cache, rotary, halves_apart, rows);        \
        else                                                                                                          \
            rotate(positions, x, x_stride, heads, head_size, (const T*)cache, rotary, halves_apart, rows);            \
    }                                                                                                                 \
    void autellix_attention_##NAME(const T* query, int64_t query_stride, const T* keys, const T* values, T* out,      \
                                   const int32_t* slots, int64_t slot_stride, const int64_t* requests,                \
                                   const int64_t* lengths, const int64_t* fresh, int sequences, int query_heads,      \
                                   int kv_heads, int head_size, float scale) {                                        \
        attention(Tensors<T>{query, query_stride, keys, values, out},                                                 \
                  Batch{slots, slot_stride, requests, lengths, fresh, sequences},                                     \
                  Heads{query_heads, kv_heads, head_size, scale});                                                    \
    }                                                                                                                 \
    void autellix_layer_##NAME(const Shape* shape, const Weights<T>* weights, const Step<T>* step, T* keys,           \
                               T* values) {                                                                           \
        layer(*shape, *weights, *step, keys, values);                                                                 \
    }

FOR(float, float32)
FOR(bf16, bfloat16)

void autellix_scatter(const char* x, int64_t x_stride_bytes, const int64_t* slots, char* cache, int64_t bytes, int rows) {
    scatter(x, x_stride_bytes, slots, cache, bytes, rows);
}

void autellix_sample(const float* probs, int64_t stride, const float* uniforms, const int32_t* most, const float* mass,
                     const float* least, int32_t* tokens, int rows, int count) {
    sample(probs, stride, uniforms, most, mass, least, tokens, rows, count);
}
}
