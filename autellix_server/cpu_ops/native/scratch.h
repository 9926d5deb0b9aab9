// Memory that a thread keeps from call to call.

#pragma once

#include <cstdlib>
#include <memory>
#include <new>

namespace autellix {

template <class T>
class Scratch {
public:
    // Room for that many, aligned as vectors and caches like it; what was in it may be gone.
    T* get(size_t count) {
        if (size_ < count) {
            kept_.reset();
            kept_.reset(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 63) / 64 * 64)));
            size_ = kept_ ? count : 0;
            if (!kept_) throw std::bad_alloc();
        }
        return kept_.get();
    }

private:
    struct Free {
        void operator()(T* memory) const { std::free(memory); }
    };
    std::unique_ptr<T, Free> kept_;
    size_t size_ = 0;
};

}  // namespace autellix
