// A driver for tests without a GPU, included before the sources: memcpy copies, and CUDA has the version AS_VERSION.
// Parameters are those of CUDA's headers of that version, so that a call that they would not take is not compiled.

#pragma once

#include <cstring>

#include <cuda_runtime.h>

#undef CUDART_VERSION
#define CUDART_VERSION AS_VERSION

extern "C" {
int fake_driver = AS_VERSION;  // what the driver says it knows
int fake_batches = 0;          // calls that copied a batch
int fake_singles = 0;          // calls that copied one run
}

inline cudaError_t fake_version(int* version) {
    *version = fake_driver;
    return cudaSuccess;
}

inline cudaError_t fake_copy(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t) {
    std::memcpy(to, from, size);
    ++fake_singles;
    return cudaSuccess;
}

#if AS_VERSION >= 13000
inline cudaError_t fake_batch(void* const* to, const void* const* from, const size_t* sizes, size_t count,
                              cudaMemcpyAttributes* attributes, size_t* firsts, size_t kinds, cudaStream_t) {
#elif AS_VERSION >= 12080
inline cudaError_t fake_batch(void** to, void** from, size_t* sizes, size_t count, cudaMemcpyAttributes* attributes,
                              size_t* firsts, size_t kinds, size_t* failed, cudaStream_t) {
    if (failed == nullptr) return cudaErrorInvalidValue;
#endif
#if AS_VERSION >= 12080
    // One kind of copy, from the first on; what is read may be written by what is in the stream before.
    if (kinds != 1 || firsts[0] != 0) return cudaErrorInvalidValue;
    if (attributes[0].srcAccessOrder != cudaMemcpySrcAccessOrderStream) return cudaErrorInvalidValue;
    for (size_t i = 0; i < count; ++i) std::memcpy(to[i], from[i], sizes[i]);
    ++fake_batches;
    return cudaSuccess;
}
#endif

#define cudaDriverGetVersion fake_version
#define cudaMemcpyAsync fake_copy
#define cudaMemcpyBatchAsync fake_batch
