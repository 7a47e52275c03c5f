// The kernels of one target. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h) and
// ATTENTION_PAIRS (see units.h), and includes this.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "attention.h"
#include "few_rows.h"
#include "few_rows_pairs.h"
#include "many_rows.h"
#include "state.h"
#include "units.h"

namespace attention::SIMD_TARGET {
namespace {

// Unpacking a tile into panels pays off when enough rows are multiplied with it (bench/ops.py).
constexpr std::int64_t max_few_rows = 32;

bool is_few(std::int64_t rows, std::int64_t key_size, std::int64_t value_size) {
    return rows <= max_few_rows && key_size % (key_vectors * lanes) == 0 && value_size % lanes == 0;
}

// Rows from which on pairs pay off for 16-bit floats, which are scaled and rounded first.
constexpr std::int64_t min_rows_of_pairs = 8;

bool takes_pairs(const Job& job) {
    return has_pairs && become_words(job.k.type) && become_words(job.v.type) && job.k.size % word_chunk == 0 &&
           job.v.size % word_chunk == 0 &&
           (job.queries.rows() >= min_rows_of_pairs || (are_blocks(job.k.type) && are_blocks(job.v.type)));
}

std::size_t scratch_bytes(std::int64_t rows, std::int64_t key_size, std::int64_t value_size) {
    float origin[1];
    std::int64_t floats = SmallBlock(origin, std::min(rows, max_few_rows), key_size).end - origin;
    const std::int64_t small_rows = std::min(rows, max_few_rows);
    if (has_pairs) floats = std::max(floats, SmallPairsBlock(origin, small_rows, key_size, value_size).end - origin);
    floats = std::max(floats, Panels<Floats>(origin, rows, key_size, value_size).end - origin);
    if (has_pairs) floats = std::max(floats, Panels<Pairs>(origin, rows, key_size, value_size).end - origin);
    return static_cast<std::size_t>(floats) * sizeof(float);
}

void attend(const Job& job) {
    if (is_few(job.queries.rows(), job.k.size, job.v.size)) {
        if constexpr (has_pairs) {
            if (takes_pairs(job)) return attend_few_pairs(job);
        }
        return attend_few(job);
    }
    if constexpr (has_pairs) {
        // A cache in F32 gets the precision of F32.
        if (job.k.type != Type::f32 && job.v.type != Type::f32) return attend_many<Pairs>(job);
    }
    attend_many<Floats>(job);
}

}  // namespace
}  // namespace attention::SIMD_TARGET
