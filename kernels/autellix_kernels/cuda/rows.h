// Rows between two pools: where they are, and the loop that copies them. The loop is the same on the GPU and, for tests
// without one, on the host: only who the workers are differs.

#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace autellix {

// A component of a transfer, as Python fills it in (library.Rows). All strides in bytes.
struct Rows {
    const int64_t* device_addresses;  // [layers], where each layer starts on the device
    char* host;                       // where the first layer starts on the host
    const int64_t* device_slots;      // [count]
    const int64_t* host_slots;        // [count]
    int64_t count;
    int64_t layers;
    int64_t page_size;
    int64_t row_bytes;
    int64_t device_stride;
    int64_t page_stride;
    int64_t token_stride;
    int64_t layer_stride;
};

// Words that a lane has on their way at a time. Across a link that takes microseconds it is they that fill it.
constexpr int IN_FLIGHT = 4;

template <typename Word>
__host__ __device__ inline Word load(const Word* from) {
#ifdef __CUDA_ARCH__
    return __ldcs(from);  // no row is read twice: do not keep it
#else
    return *from;
#endif
}

template <typename Word>
__host__ __device__ inline void store(Word* to, Word word) {
#ifdef __CUDA_ARCH__
    __stcs(to, word);
#else
    *to = word;
#endif
}

// Copies every `workers`th row from the `worker`th on, of these every `lanes`th word from the `lane`th on. Rows of a
// layer follow one another, so that workers side by side write side by side where slots do.
template <typename Word, bool OUT>
__host__ __device__ inline void copy_rows(const Rows& rows, int64_t worker, int64_t workers, int lane, int lanes) {
    const int64_t words = rows.row_bytes / static_cast<int64_t>(sizeof(Word));
    for (int64_t row = worker; row < rows.count * rows.layers; row += workers) {
        const int64_t layer = row / rows.count;
        const int64_t place = row % rows.count;
        const int64_t host_slot = rows.host_slots[place];
        char* device = reinterpret_cast<char*>(rows.device_addresses[layer]) +
                       rows.device_slots[place] * rows.device_stride;
        char* host = rows.host + host_slot / rows.page_size * rows.page_stride +
                     host_slot % rows.page_size * rows.token_stride + layer * rows.layer_stride;
        const Word* from = reinterpret_cast<const Word*>(OUT ? device : host);
        Word* to = reinterpret_cast<Word*>(OUT ? host : device);
        for (int64_t first = lane; first < words; first += static_cast<int64_t>(lanes) * IN_FLIGHT) {
            Word flight[IN_FLIGHT] = {};
            for (int i = 0; i < IN_FLIGHT; ++i)
                if (first + i * lanes < words) flight[i] = load(from + first + i * lanes);
            for (int i = 0; i < IN_FLIGHT; ++i)
                if (first + i * lanes < words) store(to + first + i * lanes, flight[i]);
        }
    }
}

}  // namespace autellix
