// Everything that is compiled once for each target: a target's source file defines DELTA_NET_TARGET and SIMD_VECTOR (see
// vector.h) and includes this.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "delta_net.h"

namespace delta_net::DELTA_NET_TARGET {
namespace {

#include "../simd/vector.h"

#include "exponential.h"

#include "by_rows.h"
#include "by_chunks.h"
#include "convolution.h"

std::size_t scratch_floats(std::int64_t size) {
    return static_cast<std::size_t>(rows_scratch(size) + chunks_scratch(size));
}

// By chunks pays off when the transposition of the state is spread over enough tokens (bench/ops.py).
constexpr std::int64_t fewest_tokens_by_chunks = 8;

void gated_delta_rule(const Head& head) {
    // The states after the last tokens are wanted one by one.
    const std::int64_t last = head.snapshots > 1 ? std::min(head.snapshots, head.tokens) : 0;
    const std::int64_t first = head.tokens - last;
    // A chunk costs the same however many tokens it has.
    const std::int64_t rest = first % chunk <= chunk / 2 ? first % chunk : 0;
    const std::int64_t by_chunk = first - rest >= fewest_tokens_by_chunks ? first - rest : 0;
    if (by_chunk > 0) by_chunks(head, by_chunk);
    by_rows(head, by_chunk);
}

}  // namespace
}  // namespace delta_net::DELTA_NET_TARGET
