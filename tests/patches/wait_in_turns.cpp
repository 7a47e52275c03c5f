// Threads that meet at a barrier many times, as ggml's do, and check that none is ahead. Some are late by a time slice
// now and then, so that others sleep. Arguments: threads, rounds.

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <vector>

#include "llama_cpp/ggml_wait.h"

int main(int /*count*/, char** arguments) {
    const int threads = std::atoi(arguments[1]), rounds = std::atoi(arguments[2]);
    std::atomic<int> arrived{0}, passed{0}, wrong{0};
    std::vector<std::atomic<int>> progress(static_cast<std::size_t>(threads));
    const auto* const word = reinterpret_cast<const int*>(&passed);
    const auto run = [&](int self) {
        for (int round = 0; round < rounds; ++round) {
            if (round % 97 == self) std::this_thread::sleep_for(std::chrono::milliseconds(2));
            progress[static_cast<std::size_t>(self)] = round;
            const int before = passed.load();
            if (arrived.fetch_add(1) == threads - 1) {
                arrived = 0;
                passed.fetch_add(1);
                ggml_wake_waiting(word);
            } else {
                ggml_wait_while(word, before);
            }
            for (const std::atomic<int>& other : progress) {
                if (other.load() < round) ++wrong;
            }
        }
    };
    std::vector<std::thread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(run, i);
    run(0);
    for (std::thread& other : others) other.join();
    return wrong == 0 ? 0 : 1;
}
