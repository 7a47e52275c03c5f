// What the mask of a row is in a range of positions, without a branch for each element.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../simd/vector.h"
#include "attention.h"
#include "cache_rows.h"
#include "state.h"

namespace attention::SIMD_TARGET {
namespace {

using namespace simd;

enum class Seen : std::uint8_t { all, some, none };  // some: or there is something to add to the scores

inline Seen seen_of(const std::uint16_t* mask, std::int64_t count) {
    constexpr std::uint16_t minus_infinity = 0xFC00;
    std::uint16_t not_zero = 0, not_infinite = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        not_zero = static_cast<std::uint16_t>(not_zero | mask[i]);
        not_infinite = static_cast<std::uint16_t>(not_infinite | (mask[i] ^ minus_infinity));
    }
    if (not_zero == 0) return Seen::all;
    return not_infinite == 0 ? Seen::none : Seen::some;
}

inline const std::uint16_t* mask_of(const Queries& queries, std::int64_t row) {
    return queries.mask + row / queries.heads * queries.mask_token_step + row % queries.heads * queries.mask_head_step;
}

// Of every row of the block; whether any row sees any position.
inline bool find_seen(const Queries& queries, std::int64_t first, std::int64_t count, Seen* seen) {
    if (queries.mask == nullptr) {
        std::fill(seen, seen + queries.rows(), Seen::all);
        return true;
    }
    bool any = false;
    const std::uint16_t* last = nullptr;
    for (std::int64_t row = 0; row < queries.rows(); ++row) {
        const std::uint16_t* const mask = mask_of(queries, row);
        seen[row] = mask == last ? seen[row - 1] : seen_of(mask + first, count);
        any = any || seen[row] != Seen::none;
        last = mask;
    }
    return any;
}

// What is added to the scores of a row: its mask, and minus infinity for the positions from `count` to `width`.
inline void fill_bias(const std::uint16_t* mask, std::int64_t count, std::int64_t width, float* bias) {
    const std::int64_t whole = count / lanes * lanes;
    std::int64_t i = 0;
    if (mask == nullptr) {
        std::fill(bias, bias + count, 0.F);
        i = count;
    } else {
        for (; i < whole; i += lanes) store(bias + i, load(reinterpret_cast<const Float16*>(mask) + i));
        for (; i < count; ++i) bias[i] = fp16_to_float(mask[i]);
    }
    std::fill(bias + i, bias + width, -infinity);
}

// What is added to the scores of a row, times a slope; null if there is nothing.
struct Bias {
    const float* values;
    float slope;
};

// Written to `buffer`, of `width` positions.
inline Bias bias_of(const Queries& queries, std::int64_t row, Seen seen, std::int64_t first, std::int64_t count,
                    std::int64_t width, float* buffer) {
    if (seen != Seen::some && count == width) return {nullptr, 1.F};
    fill_bias(seen == Seen::some ? mask_of(queries, row) + first : nullptr, count, width, buffer);
    return {buffer, queries.slopes != nullptr ? queries.slopes[row % queries.heads] : 1.F};
}

}  // namespace
}  // namespace attention::SIMD_TARGET
