// The threads of a graph meet several hundred times a token. On a quiet machine they wait for microseconds there, and
// to sleep would take longer than the wait. On a busy one a thread that computes is often without a processor, for a
// time slice of milliseconds; those that spin meanwhile use up their own time slices, and are without a processor
// themselves when it is their turn.
//
// So a wait spins for `longest_spin` at most. One of `time_slice` or more is a sign of other processes: after it,
// `first_calm` waits spin for `calm_spin` only, and twice as many each time that one of these takes as long again.

#include "ggml_wait.h"

#if defined(__linux__)

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>

#include "../simd/spin_wait.h"

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::nanoseconds longest_spin = std::chrono::microseconds(100);
constexpr std::chrono::nanoseconds calm_spin = std::chrono::microseconds(5);
constexpr std::chrono::nanoseconds time_slice = std::chrono::milliseconds(1);  // Linux's are 0.7 to 4
constexpr int first_calm = 512;
constexpr int most_calm = 2048;

std::atomic<int> sleeping{0};            // threads
std::atomic<int> calm{0};                // waits that are still calm
std::atomic<int> next_calm{first_calm};  // how many there are after the next wait of a time slice

bool changes_within(std::chrono::nanoseconds time, const std::atomic<int>& word, int old) {
    static const double steps = 1 / simd::pause_nanoseconds();
    const int most = static_cast<int>(static_cast<double>(time.count()) * steps);
    for (int i = 0; i < most; ++i) {
        if (word.load(std::memory_order_acquire) != old) return true;
        simd::pause();
    }
    return false;
}

void sleep_while(const std::atomic<int>& word, int old) {
    sleeping.fetch_add(1);
    while (word.load() == old) syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
    sleeping.fetch_sub(1);
}

const std::atomic<int>& as_atomic(const int* word) { return *reinterpret_cast<const std::atomic<int>*>(word); }

void count_wait(bool was_calm, Clock::duration slept) {
    if (slept >= time_slice) {
        const int waits = next_calm.load(std::memory_order_relaxed);
        calm.store(waits, std::memory_order_relaxed);
        if (was_calm) next_calm.store(std::min(2 * waits, most_calm), std::memory_order_relaxed);
    } else if (was_calm && calm.fetch_sub(1, std::memory_order_relaxed) == 1) {
        next_calm.store(first_calm, std::memory_order_relaxed);
    }
}

}  // namespace

void ggml_wait_while(const int* word, int old) {
    const bool is_calm = calm.load(std::memory_order_relaxed) > 0;
    Clock::duration slept{};
    if (!changes_within(is_calm ? calm_spin : longest_spin, as_atomic(word), old)) {
        const Clock::time_point start = Clock::now();
        sleep_while(as_atomic(word), old);
        slept = Clock::now() - start;
    }
    count_wait(is_calm, slept);
}

void ggml_wake_waiting(const int* word) {
    // The load comes after the change in the one order of sequentially consistent operations, and a thread counts
    // itself before it compares: one that is not counted yet finds the change instead of going to sleep.
    if (sleeping.load() == 0) return;
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

#endif
