#include "spin_wait.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>

namespace simd {

double pause_nanoseconds() {
    constexpr int steps = 256;
    const std::atomic<int> flag{0};
    std::array<double, 9> runs{};
    for (double& run : runs) {
        const auto start = std::chrono::steady_clock::now();
        for (int i = 0; i < steps && flag.load(std::memory_order_acquire) == 0; ++i) pause();
        run = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - start).count() / steps;
    }
    // The median: a run in which the process lost the processor counts for nothing.
    std::nth_element(runs.begin(), runs.begin() + runs.size() / 2, runs.end());
    return runs[runs.size() / 2];
}

}  // namespace simd
