// Copies as Python calls them (autellix_kernels.cuda.library): plain C. What can fail returns a cudaError_t.

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "rows.h"

using namespace autellix;

namespace {

constexpr int WARP = 32;
constexpr int THREADS = 256;

// Persistent: `gridDim` is what the link needs and not what the work would fill, so that the rest of the GPU goes on.
template <typename Word, bool OUT>
__global__ void __launch_bounds__(THREADS) swap_rows(Rows rows, int lanes) {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
    const int64_t threads = static_cast<int64_t>(gridDim.x) * THREADS;
    copy_rows<Word, OUT>(rows, thread / lanes, threads / lanes, static_cast<int>(thread % lanes), lanes);
}

// Lanes for a row: all of them have a word, and a warp has no more.
int lanes_for(const Rows& rows, int64_t word_bytes) {
    int lanes = 1;
    while (lanes < WARP && lanes * word_bytes < rows.row_bytes) lanes *= 2;
    return lanes;
}

template <typename Word, bool OUT>
cudaError_t launch(const Rows& rows, int blocks, cudaStream_t stream) {
    const int lanes = lanes_for(rows, sizeof(Word));
    const int64_t needed = (rows.count * rows.layers * lanes + THREADS - 1) / THREADS;
    swap_rows<Word, OUT><<<static_cast<unsigned>(std::min<int64_t>(blocks, needed)), THREADS, 0, stream>>>(rows, lanes);
    return cudaGetLastError();
}

// Two workers of the host in turn, so that the division of work is exercised too.
template <typename Word, bool OUT>
cudaError_t walk(const Rows& rows, int, cudaStream_t) {
    const int lanes = lanes_for(rows, sizeof(Word));
    for (int worker = 0; worker < 2; ++worker)
        for (int lane = 0; lane < lanes; ++lane) copy_rows<Word, OUT>(rows, worker, 2, lane, lanes);
    return cudaSuccess;
}

#define BY_ACCESS(FUNCTION, OUT)                                                                                      \
    switch (access) {                                                                                                 \
        case 16: return FUNCTION<uint4, OUT>(rows, blocks, stream);                                                   \
        case 8: return FUNCTION<uint2, OUT>(rows, blocks, stream);                                                    \
        case 4: return FUNCTION<unsigned int, OUT>(rows, blocks, stream);                                             \
        case 2: return FUNCTION<unsigned short, OUT>(rows, blocks, stream);                                           \
        case 1: return FUNCTION<unsigned char, OUT>(rows, blocks, stream);                                            \
        default: return cudaErrorInvalidValue;                                                                        \
    }

}  // namespace

extern "C" {

const char* autellix_swap_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

// Versions as CUDA has them, 12080 for 12.8: of the compiler that made this, and of the driver, 0 where there is none.
int autellix_compiled_version() { return CUDART_VERSION; }

int autellix_driver_version() {
    int version = 0;
    return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// Copies rows in the stream. The host's memory is given as the process sees it: pinned, or a stage on the device.
int autellix_swap_rows(const Rows* given, int access, int out, int blocks, cudaStream_t stream) {
    Rows rows = *given;
    cudaPointerAttributes host;
    if (const cudaError_t error = cudaPointerGetAttributes(&host, rows.host)) return error;
    if (host.devicePointer == nullptr) return cudaErrorInvalidHostPointer;
    rows.host = static_cast<char*>(host.devicePointer);
    if (out) BY_ACCESS(launch, true) else BY_ACCESS(launch, false)
}

// The same where all memory is the host's.
int autellix_swap_rows_on_host(const Rows* given, int access, int out) {
    const Rows& rows = *given;
    const int blocks = 0;
    const cudaStream_t stream = nullptr;
    if (out) BY_ACCESS(walk, true) else BY_ACCESS(walk, false)
}

// Copies runs of bytes in the stream, each by a call of its own.
int autellix_copy_each(void** to, const void** from, const size_t* sizes, size_t count, int out, cudaStream_t stream) {
    const cudaMemcpyKind kind = out ? cudaMemcpyDeviceToHost : cudaMemcpyHostToDevice;
    for (size_t i = 0; i < count; ++i)
        if (const cudaError_t error = cudaMemcpyAsync(to[i], from[i], sizes[i], kind, stream)) return error;
    return cudaSuccess;
}

// Copies runs of bytes in the stream, by one call where compiler and driver have one; several not in the default stream.
int autellix_copy_runs(void** to, const void** from, const size_t* sizes, size_t count, int out, cudaStream_t stream) {
#if CUDART_VERSION >= 12080
    if (count > 1 && autellix_driver_version() >= 12080) {
        cudaMemcpyAttributes attributes = {};
        attributes.srcAccessOrder = cudaMemcpySrcAccessOrderStream;
        attributes.flags = cudaMemcpyFlagPreferOverlapWithCompute;
        size_t first = 0;
#if CUDART_VERSION >= 13000
        return cudaMemcpyBatchAsync(to, from, sizes, count, &attributes, &first, 1, stream);
#else
        size_t failed;
        return cudaMemcpyBatchAsync(to, const_cast<void**>(from), const_cast<size_t*>(sizes), count, &attributes,
                                    &first, 1, &failed, stream);
#endif
    }
#endif
    return autellix_copy_each(to, from, sizes, count, out, stream);
}

// The same where all memory is the host's.
int autellix_copy_runs_on_host(void** to, const void** from, const size_t* sizes, size_t count) {
    for (size_t i = 0; i < count; ++i) std::memcpy(to[i], from[i], sizes[i]);
    return cudaSuccess;
}

}  // extern "C"
