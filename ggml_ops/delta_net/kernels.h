// The kernels of one target. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h) and includes this.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "chunkwise.h"
#include "convolution.h"
#include "delta_net.h"
#include "recurrent.h"

namespace delta_net::SIMD_TARGET {
namespace {

std::size_t scratch_floats(std::int64_t size) {
    return static_cast<std::size_t>(recurrent_scratch(size) + chunkwise_scratch(size));
}

// The chunkwise form pays off when the transposition of the state is spread over enough tokens (bench/ops.py).
constexpr std::int64_t min_chunkwise_tokens = 8;

void gated_delta_rule(const Head& head) {
    // With snapshots, the states after the last tokens are needed one by one.
    const std::int64_t last = head.snapshots > 1 ? std::min(head.snapshots, head.tokens) : 0;
    const std::int64_t first = head.tokens - last;
    // A chunk costs the same however many tokens it has.
    const std::int64_t rest = first % chunk <= chunk / 2 ? first % chunk : 0;
    const std::int64_t in_chunks = first - rest >= min_chunkwise_tokens ? first - rest : 0;
    if (in_chunks > 0) chunkwise(head, in_chunks);
    recurrent(head, in_chunks);
}

}  // namespace
}  // namespace delta_net::SIMD_TARGET
