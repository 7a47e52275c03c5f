// A super-block of a row, decoded once and brought into the order of the activations (see arrange), times a small batch
// of columns: every lane has one scale.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_avx512.h"
#endif
#if !defined(MATMUL_GRIDS)
#define MATMUL_GRIDS "entries_avx512.h"
#endif

#include <cstdint>

#include "activations.h"
#include "arranged_avx512.h"
#include "bytes.h"
#include "formats/all.h"
#include "rows.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// Sums of more columns do not fit in 32 registers, beside a super-block.
template <class>
inline constexpr int max_gemv_batch = 8;

template <class Weights>
struct Block {
    static constexpr bool one_column_scale = activations_of<Weights> == Activations::q8_k;
    static constexpr bool scales_of_16 = Weights::values_per_scale == 16;
    // Sums start at -offset times the sum of the column's values, of which the column has those for 128. Offsets that
    // are not powers of two are raised to that.
    static constexpr bool is_power_of_two = (Weights::offset & (Weights::offset - 1)) == 0;
    static constexpr int shift = [] {
        int bits = 0;
        while (is_power_of_two && Weights::offset << bits < 128 && bits < 7) ++bits;
        return bits;
    }();

    B q[4];
    F even, odd;  // scales of the first and the last 16 of 32 weights; of all of them
    F mins, min_factor;
    H integer_mins;

    explicit Block(const std::uint8_t* p) {
        const Weights weights(p);
        unpack_arranged(weights, q);
        if constexpr (!is_power_of_two) {
            for (B& bytes : q) bytes = raised(bytes, 128 - Weights::offset);
        }
        F scales;
        if constexpr (one_column_scale) {
            scales = to_float(integers(weights.integer_scales())) * set(weights.factor());
            if constexpr (Weights::has_mins) {
                const __m128i bytes = weights.integer_mins();
                integer_mins = to_words(Weights::values_per_min == 16 ? bytes : each_twice(bytes));
                min_factor = set(weights.min_factor());
            }
        } else {
            scales = weights.scales();
            if constexpr (Weights::has_mins) mins = weights.mins();
        }
        even = scales_of_16 ? spread_even(scales) : spread_eight(scales);
        if constexpr (scales_of_16) odd = spread_odd(scales);
    }

    template <int Columns>
    [[gnu::always_inline]] void add(const ColumnParts<activations_of<Weights>>& parts, std::int64_t block,
                                    const std::uint8_t* const (&columns)[Columns], F (&sum)[Columns]) const {
        for (int c = 0; c < Columns; ++c) {
            if constexpr (one_column_scale) {
                F scaled_sum = scales_of_16 ? sum_of_16(parts, block, columns[c])
                                            : to_float(sum_of_32(parts, block, columns[c])) * even;
                if constexpr (Weights::has_mins) {
                    const auto* const minus_sums = at<std::int16_t>(columns[c], parts.minus_sums_of_16) + 16 * block;
                    scaled_sum = fma(to_float(sums_of_products(integer_mins, minus_sums)), min_factor, scaled_sum);
                }
                sum[c] = fma(scaled_sum, set(at<float>(columns[c], parts.scales)[block]), sum[c]);
            } else {
                const F both = even * spread_eight(eight(at<float>(columns[c], parts.scales) + 8 * block));
                sum[c] = fma(to_float(sum_of_32(parts, block, columns[c])), both, sum[c]);
                if constexpr (Weights::has_mins) {
                    sum[c] = fma(mins, eight(at<float>(columns[c], parts.minus_sums) + 8 * block), sum[c]);
                }
            }
        }
    }

private:
    [[gnu::always_inline]] I dot_two(I start, int first, const std::uint8_t* x) const {
        const I one = dot_of<Weights>(start, q[first], load_bytes(x + first * width));
        return dot_of<Weights>(one, q[first + 1], load_bytes(x + (first + 1) * width));
    }

    template <class Parts>
    [[gnu::always_inline]] I sum_of_32(const Parts& parts, std::int64_t block, const std::uint8_t* column) const {
        I start = zero_sums();
        if constexpr (Weights::offset != 0) {
            start = spread_starts<shift>(at<std::int32_t>(column, parts.starts_of_32) + 8 * block);
        }
        const std::uint8_t* const x = column + block * super_block;
        return dot_two(dot_two(start, 0, x), 2, x);
    }

    template <class Parts>
    [[gnu::always_inline]] F sum_of_16(const Parts& parts, std::int64_t block, const std::uint8_t* column) const {
        I first = zero_sums(), second = zero_sums();
        if constexpr (Weights::offset != 0) {
            spread_starts<shift>(at<std::int32_t>(column, parts.starts_of_16) + 16 * block, first, second);
        }
        const std::uint8_t* const x = column + block * super_block;
        return fma(to_float(dot_two(first, 0, x)), even, to_float(dot_two(second, 2, x)) * odd);
    }
};

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
