// Work in numbered items, which threads take as they become free.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace simd {

// Calls work() in up to `threads` threads, this one included. They share items by a counter of their own.
template <class Work>
void run_in_threads(int threads, std::int64_t items, const Work& work) {
    const auto helpers = static_cast<std::size_t>(std::clamp<std::int64_t>(items, 1, std::max(threads, 1)) - 1);
    std::vector<std::thread> pool;
    pool.reserve(helpers);
    try {
        for (std::size_t i = 0; i < helpers; ++i) pool.emplace_back(work);
    } catch (const std::system_error&) {
        // No more threads can be started: the existing ones do the work.
    }
    work();
    for (std::thread& helper : pool) helper.join();
}

}  // namespace simd
