// The target of a folder of kernels that llama.cpp uses. A Target has a name and says whether it is supported.
#pragma once

#include <cstdlib>

#include "cpu.h"
#include "span.h"

namespace simd {

// The best target that this processor supports and the environment's QWEN35_CPU allows; null if there is none.
template <class Target>
const Target* best_target(Span<const Target* const> targets) {
    const char* limit = std::getenv("QWEN35_CPU");
    for (const Target* target : targets) {
        if (target->supported() && not_above(target->name, limit)) return target;
    }
    return nullptr;
}

}  // namespace simd
