// A super-block of a row, decoded once, times a small batch of columns.
#pragma once

#include <cstdint>
#include <type_traits>

#include "activations.h"
#include "arranged_avx2.h"
#include "bytes.h"
#include "formats/all.h"
#include "quantized_matmul.h"
#include "read_ahead.h"
#include "rows.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// A super-block of a row times some columns, in lanes: columns with one scale for 256 values.
template <class Weights>
struct OneColumnScale {
    static constexpr bool scales_of_16 = Weights::values_per_scale == 16;
    // Pairs of products, in 16 bits, times scales; else dot products, in 32.
    static constexpr bool scaled_in_words = Weights::narrow || !wide_is_unsigned;

    Weights weights;
    B of_16;    // the scales, if in words
    I of_32;    // else
    H offsets;  // times the sums of 16 values
    H mins;
    F factor, min_factor;

    explicit OneColumnScale(const std::uint8_t* p) : weights(p), factor(set(weights.factor())) {
        const __m128i scales = weights.integer_scales();
        const __m128i sixteen = scales_of_16 ? scales : each_twice(scales);
        if constexpr (scaled_in_words) of_16 = make_words(sixteen);
        else of_32 = integers(scales);
        if constexpr (Weights::offset != 0) offsets = to_words(sixteen) * Weights::offset;
        if constexpr (Weights::has_mins) {
            const __m128i integer_mins = weights.integer_mins();
            mins = to_words(Weights::values_per_min == 16 ? integer_mins : each_twice(integer_mins));
            min_factor = set(weights.min_factor());
        }
    }

    template <int Columns>
    [[gnu::always_inline]] void add(const ColumnParts<Activations::q8_k>& parts, std::int64_t block,
                                    const std::uint8_t* const (&columns)[Columns], F (&sum)[Columns]) const {
        I integer_sum[Columns];
        for (int c = 0; c < Columns; ++c) {
            integer_sum[c] = zero_sums();
            if constexpr (Weights::offset != 0) {
                integer_sum[c] =
                    sums_of_products(offsets, at<std::int16_t>(columns[c], parts.minus_sums_of_16) + 16 * block);
            }
        }
        add_half<0>(block * super_block, columns, integer_sum);
        add_half<1>(block * super_block + half_block, columns, integer_sum);
        for (int c = 0; c < Columns; ++c) {
            F scaled_sum = to_float(integer_sum[c]) * factor;
            if constexpr (Weights::has_mins) {
                const auto* const minus_sums = at<std::int16_t>(columns[c], parts.minus_sums_of_16) + 16 * block;
                scaled_sum = fma(to_float(sums_of_products(mins, minus_sums)), min_factor, scaled_sum);
            }
            sum[c] = fma(scaled_sum, set(at<float>(columns[c], parts.scales)[block]), sum[c]);
        }
    }

private:
    template <int Half, int Columns>
    [[gnu::always_inline]] void add_half(std::int64_t first, const std::uint8_t* const (&columns)[Columns],
                                         I (&integer_sum)[Columns]) const {
        B q[vectors];
        weights.template unpack<Half>(q);
        for (int i = 0; i < vectors; ++i) {
            const std::int64_t x = first + width * i;
            if constexpr (scaled_in_words) {
                const B words = spread_words(of_16, Half * vectors + i);
                const B magnitude = Weights::narrow ? q[i] : magnitudes(q[i]);
                for (int c = 0; c < Columns; ++c) {
                    const B values = load_bytes(columns[c] + x);
                    const B signed_values = Weights::narrow ? values : with_signs_of(values, q[i]);
                    integer_sum[c] = scaled(integer_sum[c], pairs(magnitude, signed_values), words);
                }
            } else {
                const I words = spread(of_32, Half * vectors + i);
                for (int c = 0; c < Columns; ++c) {
                    const I sums = dot_wide(zero_sums(), q[i], load_bytes(columns[c] + x));
                    integer_sum[c] = integer_sum[c] + multiply(sums, words);
                }
            }
        }
    }
};

// The same: columns with one scale for 32 values. Every lane has one scale.
template <class Weights>
struct ColumnScalesOf32 {
    B q[8];
    F scales;
    F mins;

    explicit ColumnScalesOf32(const std::uint8_t* p) {
        const Weights weights(p);
        unpack_arranged(weights, q);
        scales = weights.scales();
        if constexpr (Weights::has_mins) mins = weights.mins();
    }

    template <int Columns>
    [[gnu::always_inline]] void add(const ColumnParts<activations_of<Weights>>& parts, std::int64_t block,
                                    const std::uint8_t* const (&columns)[Columns], F (&sum)[Columns]) const {
        for (int c = 0; c < Columns; ++c) {
            I start = zero_sums();
            if constexpr (Weights::offset != 0) {
                const I starts = eight(at<std::int32_t>(columns[c], parts.starts_of_32) + 8 * block);
                start = shift_right_signed<log2_of(128 / Weights::offset)>(starts);
            }
            const F both = scales * eight(at<float>(columns[c], parts.scales) + 8 * block);
            sum[c] = fma(to_float(dot_groups(start, columns[c] + block * super_block)), both, sum[c]);
            if constexpr (Weights::has_mins) {
                sum[c] = fma(mins, eight(at<float>(columns[c], parts.minus_sums) + 8 * block), sum[c]);
            }
        }
    }

private:
    // Of each 32 weights with the values at x, added to `sum`.
    [[gnu::always_inline]] I dot_groups(I sum, const std::uint8_t* x) const {
        if constexpr (sums_in_lanes || !Weights::narrow) {
            for (int i = 0; i < 8; ++i) sum = dot_of<Weights>(sum, q[i], load_bytes(x + i * width));
        } else {
            constexpr int together = values_in_words<Weights>() / 4;
            for (int first = 0; first < 8; first += together) {
                B words = pairs(q[first], load_bytes(x + first * width));
                for (int i = first + 1; i < first + together; ++i) {
                    words = add_pairs(words, pairs(q[i], load_bytes(x + i * width)));
                }
                sum = sum + widen(words);
            }
        }
        return sum;
    }
};

// Of more columns GEMM is cheaper, as bench/matmul/columns.py shows. From memory GEMV hides more of the reading.
template <class Weights>
inline constexpr int max_gemv_batch = activations_of<Weights> == Activations::q8_k && sums_in_lanes ? 5 : 8;

template <class Weights>
using Block = std::conditional_t<activations_of<Weights> == Activations::q8_k, OneColumnScale<Weights>,
                                 ColumnScalesOf32<Weights>>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
