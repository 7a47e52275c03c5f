// A super-block of a row, decoded once, times a small batch of columns.
#pragma once

#include <cstdint>
#include <type_traits>

#include "activations.h"
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

    Weights weights;
    B of_16;    // the scales, if narrow
    I of_32;    // else
    H offsets;  // times the sums of 16 values
    H mins;
    F factor, min_factor;

    explicit OneColumnScale(const std::uint8_t* p) : weights(p), factor(set(weights.factor())) {
        const __m128i scales = weights.integer_scales();
        const __m128i sixteen = scales_of_16 ? scales : each_twice(scales);
        if constexpr (Weights::narrow) of_16 = make_words(sixteen);
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
            if constexpr (Weights::narrow) {
                const B words = spread_words(of_16, Half * vectors + i);
                for (int c = 0; c < Columns; ++c) {
                    integer_sum[c] = scaled(integer_sum[c], pairs(q[i], load_bytes(columns[c] + x)), words);
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

// The same: columns with one scale for 32 values.
template <class Weights>
struct ColumnScalesOf32 {
    Weights weights;
    F scales;
    F mins;

    explicit ColumnScalesOf32(const std::uint8_t* p) : weights(p), scales(weights.scales()) {
        if constexpr (Weights::has_mins) mins = weights.mins();
    }

    template <int Columns>
    [[gnu::always_inline]] void add(const ColumnParts<activations_of<Weights>>& parts, std::int64_t block,
                                    const std::uint8_t* const (&columns)[Columns], F (&sum)[Columns]) const {
        if constexpr (Weights::has_mins) {
            for (int c = 0; c < Columns; ++c) {
                sum[c] = fma(mins, eight(at<float>(columns[c], parts.minus_sums) + 8 * block), sum[c]);
            }
        }
        F both[Columns];
        for (int c = 0; c < Columns; ++c) both[c] = scales * eight(at<float>(columns[c], parts.scales) + 8 * block);
        add_half<0>(block * super_block, both, columns, sum);
        add_half<1>(block * super_block + half_block, both, columns, sum);
    }

private:
    template <int Half, int Columns>
    [[gnu::always_inline]] void add_half(std::int64_t first, const F (&both)[Columns],
                                         const std::uint8_t* const (&columns)[Columns], F (&sum)[Columns]) const {
        B q[vectors];
        weights.template unpack<Half>(q);
        for (int i = 0; i < vectors; ++i) {
            if constexpr (Weights::offset != 0) q[i] = lowered(q[i], Weights::offset);
            for (int c = 0; c < Columns; ++c) {
                const B x = load_bytes(columns[c] + first + width * i);
                // Signed bytes: the sums of a lane are as small as those of ggml are.
                const I a =
                    Weights::offset != 0 ? dot_signed(zero_sums(), q[i], x) : dot_of<Weights>(zero_sums(), q[i], x);
                sum[c] = fma(to_float(a), spread(both[c], Half * vectors + i), sum[c]);
            }
        }
    }
};

inline constexpr int max_gemv_batch = 5;  // sums of more columns do not fit in 16 registers

template <class Weights>
using Block = std::conditional_t<activations_of<Weights> == Activations::q8_k, OneColumnScale<Weights>,
                                 ColumnScalesOf32<Weights>>;

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
