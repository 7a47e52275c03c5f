// GEMV, for small batches: each row of weights is decoded once, block by block, and multiplied with all columns.
#pragma once

#include <cstdint>

#include "activations.h"
#include "bytes.h"
#include "formats/all.h"
#include "quantized_matmul.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

// How many bytes ahead of its use a weight is prefetched. The hardware prefetcher stops at the end of a 4 KiB page,
// which is the page size of a mapped file.
inline constexpr std::int64_t read_ahead = 8192;

template <class Weights>
void prefetch_block(const std::uint8_t* p) {
    for (int i = 0; i < super_block_bytes<Weights>(); i += 64) {
        prefetch(reinterpret_cast<const float*>(p + read_ahead + i));
    }
}

// The offsets of a super-block in a column, in bytes.
struct ColumnOffsets {
    std::int64_t q, sums, scale;
};

template <class Weights>
ColumnOffsets offsets_of(std::int64_t k, std::int64_t block) {
    constexpr std::int64_t sums = super_block / Weights::values_per_scale;
    constexpr std::int64_t scales = column_scale_of_32<Weights> ? 8 : 1;
    return {block * super_block, sums_offset(k, Weights::values_per_scale) + floats_bytes(block * sums),
            scales_offset(k) + floats_bytes(block * scales)};
}

inline const float* floats_at(const std::uint8_t* column, std::int64_t offset) {
    return reinterpret_cast<const float*>(column + offset);
}

// The scales of a super-block of a row, in the form that its format needs.
template <class Weights>
struct RowScales {
    static constexpr int count = super_block / Weights::values_per_scale;

    B of_16;                       // narrow
    I of_32;                       // else, where a column has one scale for a super-block
    F floats[vectors_for(count)];  // else
    F factor;
    F mins[vectors_for(count)];

    explicit RowScales(const Weights& weights) {
        if constexpr (column_scale_of_32<Weights>) {
            weights.scales(floats);
        } else {
            factor = set(weights.factor());
            if constexpr (Weights::narrow) of_16 = make_words(weights.scales_of_16());
            else of_32 = integers(weights.scales_of_32());
        }
        if constexpr (Weights::has_mins) weights.mins(mins);
    }
};

// Half a super-block of a row times some columns: integer sums, scaled, or for Q8_0 the sums as they are.
template <class Weights, int Half, int Columns>
void add_half(const Weights& weights, const RowScales<Weights>& scales, const std::uint8_t* const (&columns)[Columns],
              const ColumnOffsets& at, I (&integer_sum)[Columns], F (&sum)[Columns]) {
    B q[vectors];
    weights.template unpack<Half>(q);
    const std::int64_t first = at.q + Half * half_block;
    if constexpr (Weights::narrow) {
        B words[vectors];
        for (int i = 0; i < vectors; ++i) words[i] = spread_words(scales.of_16, Half * vectors + i);
        for (int c = 0; c < Columns; ++c) {
            const std::uint8_t* const x = columns[c] + first;
            I a = scaled(pairs(q[0], load_bytes(x)), words[0]);
            for (int i = 1; i < vectors; ++i) a = scaled(a, pairs(q[i], load_bytes(x + width * i)), words[i]);
            integer_sum[c] = Half == 0 ? a : integer_sum[c] + a;
        }
    } else if constexpr (column_scale_of_32<Weights>) {
        for (int c = 0; c < Columns; ++c) {
            const F both = scales.floats[0] * eight(floats_at(columns[c], at.scale));
            for (int i = 0; i < vectors; ++i) {
                const I a = dot_wide(zero_sums(), q[i], load_bytes(columns[c] + first + width * i));
                sum[c] = fma(to_float(a), spread(both, Half * vectors + i), sum[c]);
            }
        }
    } else {
        I words[vectors];
        for (int i = 0; i < vectors; ++i) words[i] = spread(scales.of_32, Half * vectors + i);
        for (int c = 0; c < Columns; ++c) {
            I a = Half == 0 ? zero_sums() : integer_sum[c];
            for (int i = 0; i < vectors; ++i) {
                a = a + multiply(dot_wide(zero_sums(), q[i], load_bytes(columns[c] + first + width * i)), words[i]);
            }
            integer_sum[c] = a;
        }
    }
}

// A super-block of a row times some columns, in lanes.
template <class Weights, int Columns>
void add_block(const std::uint8_t* p, const std::uint8_t* const (&columns)[Columns], const ColumnOffsets& at,
               F (&sum)[Columns], F (&correction)[Columns]) {
    const Weights weights(p);
    const RowScales<Weights> scales(weights);
    I integer_sum[Columns];
    add_half<Weights, 0>(weights, scales, columns, at, integer_sum, sum);
    add_half<Weights, 1>(weights, scales, columns, at, integer_sum, sum);
    if constexpr (!column_scale_of_32<Weights>) {
        for (int c = 0; c < Columns; ++c) {
            sum[c] = fma(to_float(integer_sum[c]) * scales.factor, set(*floats_at(columns[c], at.scale)), sum[c]);
        }
    }
    if constexpr (Weights::has_mins) {
        constexpr int count = RowScales<Weights>::count;
        for (int c = 0; c < Columns; ++c) {
            for (int i = 0; i < vectors_for(count); ++i) {
                const float* const sums = floats_at(columns[c], at.sums) + i * lanes;
                correction[c] = fma(scales.mins[i], count < lanes ? eight(sums) : load(sums), correction[c]);
            }
        }
    }
}

template <class Weights, int Columns>
void gemv(const Job& job, std::int64_t first_column) {
    const std::uint8_t* columns[Columns];
    for (int c = 0; c < Columns; ++c) columns[c] = job.columns[first_column + c];
    const std::int64_t blocks = job.k / super_block;
    for (std::int64_t r = 0; r < job.rows; ++r) {
        const std::uint8_t* const row = job.weights + r * job.row_step;
        F sum[Columns], correction[Columns];
        for (int c = 0; c < Columns; ++c) sum[c] = correction[c] = zero();
        for (std::int64_t b = 0; b < blocks; ++b) {
            const std::uint8_t* const block = row + b * super_block_bytes<Weights>();
            prefetch_block<Weights>(block);
            add_block<Weights>(block, columns, offsets_of<Weights>(job.k, b), sum, correction);
        }
        for (int c = 0; c < Columns; ++c) job.out[first_column + c][r] = total(sum[c] - correction[c]);
    }
}

template <class Weights>
void gemv_batch(const Job& job, std::int64_t first, std::int64_t count) {
    switch (count) {
        case 1: return gemv<Weights, 1>(job, first);
        case 2: return gemv<Weights, 2>(job, first);
        case 3: return gemv<Weights, 3>(job, first);
        case 4: return gemv<Weights, 4>(job, first);
        case 5: return gemv<Weights, 5>(job, first);
        case 6: return gemv<Weights, 6>(job, first);
        case 7: return gemv<Weights, 7>(job, first);
        default: return gemv<Weights, 8>(job, first);
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
