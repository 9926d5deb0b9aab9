// Threads that share the chunks of one operation.
//
// The caller computes too and never waits for a thread to wake up: chunks are claimed one by one, and a worker that the
// machine keeps from running leaves them to the others. The caller waits only for chunks that a worker has begun.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <system_error>
#include <thread>

namespace autellix {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

class Pool {
public:
    static constexpr int MAX_CHUNKS = 0xffff;

    static Pool& instance() {
        static Pool* pool = new Pool;  // never destroyed: workers may still sleep in it when the process ends
        return *pool;
    }

    // Starts workers until `threads` compute, the caller included, or the system allows no more.
    void grow(int threads) {
        try {
            for (; workers_ < threads - 1; ++workers_) std::thread([this] { work(); }).detach();
        } catch (const std::system_error&) {
        }
    }

    // Calls body(chunk) for every chunk from 0 to count - 1, at most MAX_CHUNKS, on any of the threads.
    template <class Body>
    void run(int count, const Body& body) {
        std::unique_lock<std::mutex> mine(busy_, std::defer_lock);
        if (count <= 1 || count > MAX_CHUNKS || workers_ == 0 || !mine.try_lock()) {
            for (int chunk = 0; chunk < count; ++chunk) body(chunk);
            return;
        }
        call_ = [](const void* context, int chunk) { (*static_cast<const Body*>(context))(chunk); };
        context_ = &body;
        finished_.store(0, std::memory_order_relaxed);
        uint32_t job = job_.load(std::memory_order_relaxed) + 1;
        ticket_.store(pack(job, count), std::memory_order_release);
        job_.store(job, std::memory_order_seq_cst);
        if (asleep_.load(std::memory_order_seq_cst) > 0) job_.notify_all();
        help(job);
        for (int spins = 0; finished_.load(std::memory_order_acquire) < count; ++spins)
            spins < SPINS_FOR_A_CHUNK ? relax() : std::this_thread::yield();
    }

private:
    static constexpr int SPINS_FOR_A_CHUNK = 2000;
    static constexpr int SPINS_FOR_A_JOB = 2000;  // some 50 microseconds, what Python takes from one operation to the next

    // A ticket is the job's number, the chunks it has, and how many are claimed: a late worker cannot mistake the job.
    static uint64_t pack(uint32_t job, int count) { return uint64_t(job) << 32 | uint64_t(count) << 16; }

    void help(uint32_t job) {
        uint64_t ticket = ticket_.load(std::memory_order_acquire);
        while (uint32_t(ticket >> 32) == job && (ticket & 0xffff) < (ticket >> 16 & 0xffff)) {
            if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
            call_(context_, int(ticket & 0xffff));
            finished_.fetch_add(1, std::memory_order_release);
            ticket = ticket_.load(std::memory_order_acquire);
        }
    }

    void work() {
        uint32_t seen = 0;
        for (;;) {
            uint32_t job = job_.load(std::memory_order_acquire);
            for (int spins = 0; job == seen && spins < SPINS_FOR_A_JOB; ++spins) {
                relax();
                job = job_.load(std::memory_order_acquire);
            }
            if (job == seen) {
                asleep_.fetch_add(1, std::memory_order_seq_cst);
                job_.wait(seen, std::memory_order_seq_cst);
                asleep_.fetch_sub(1, std::memory_order_relaxed);
                continue;
            }
            seen = job;
            help(job);
        }
    }

    alignas(64) std::atomic<uint64_t> ticket_{0};
    alignas(64) std::atomic<uint32_t> job_{0};
    alignas(64) std::atomic<int> finished_{0};
    alignas(64) std::atomic<int> asleep_{0};
    void (*call_)(const void*, int) = nullptr;
    const void* context_ = nullptr;
    int workers_ = 0;
    std::mutex busy_;  // a second caller computes alone
};

// Calls body(first, end) for pieces of `count` things, `span` of them at a time or more, on any of the threads.
template <class Body>
void each_chunk(int count, int span, const Body& body) {
    span = std::max(span, (count + Pool::MAX_CHUNKS - 1) / Pool::MAX_CHUNKS);
    Pool::instance().run((count + span - 1) / span,
                         [&](int chunk) { body(chunk * span, std::min(count, (chunk + 1) * span)); });
}

}  // namespace autellix
