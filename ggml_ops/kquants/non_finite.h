// Looks for NaN and infinities: all exponent bits set. Plain loops, which the compiler vectorizes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../simd/vector.h"
#include "kquants.h"

namespace kquants::SIMD_TARGET {
namespace {

template <class Word>
NonFinite scan(const Word* x, std::int64_t n, Word exponent) {
    std::int64_t count = 0;
    constexpr std::int64_t step = 4096;
    for (std::int64_t start = 0; start < n; start += step) {
        const std::int64_t stop = std::min(n, start + step);
        std::int32_t here = 0;
        for (std::int64_t i = start; i < stop; ++i) here += (x[i] & exponent) == exponent;
        count += here;
    }
    std::int64_t first = -1;
    for (std::int64_t i = 0; count > 0 && first < 0; ++i) {
        if ((x[i] & exponent) == exponent) first = i;
    }
    return {count, first};
}

inline NonFinite find_non_finite(const Rows& job) {
    const std::int64_t n = job.rows * job.columns;
    switch (job.source) {
        case Source::f32: return scan(static_cast<const std::uint32_t*>(job.x), n, std::uint32_t{0x7F800000});
        case Source::bf16: return scan(static_cast<const std::uint16_t*>(job.x), n, std::uint16_t{0x7F80});
        case Source::f16: return scan(static_cast<const std::uint16_t*>(job.x), n, std::uint16_t{0x7C00});
    }
    return {0, -1};
}

}  // namespace
}  // namespace kquants::SIMD_TARGET
