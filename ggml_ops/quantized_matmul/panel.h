// A panel: some rows of weights as bytes, four of a row beside those of the next row, so that a vector holds as many
// rows as it has lanes and a column's four bytes are the same for all of them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "bytes.h"
#include "formats/all.h"
#include "quantized_matmul.h"
#include "read_ahead.h"
#include "rows.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline constexpr int panel_rows = tile_vectors * lanes;
inline constexpr int panel_blocks = 8;  // super-blocks of each row: 64 or 32 KiB of bytes
inline constexpr int max_scales = super_block / 16;

using PanelRow = float[panel_rows];

struct Panel {
    alignas(64) std::uint8_t q[panel_blocks][super_block / 4][panel_rows][4];
    float scales[panel_blocks][max_scales][panel_rows];    // or the same word twice (`integer_scales`)
    float mins[panel_blocks][max_scales / 2][panel_rows];  // or pairs of words (`PanelOf::min_pairs`)
    float factor[panel_blocks][panel_rows];
    float min_factor[panel_blocks][panel_rows];
    // A block of each row before it is transposed. Moving bits about, floats stand for any four bytes.
    float row_q[panel_rows][super_block / 4];
    float row_scales[panel_rows][max_scales];
    float row_mins[panel_rows][max_scales];
};

constexpr std::size_t panel_bytes() { return sizeof(Panel); }

// How a format is kept in a panel. Where `dot` adds in lanes of 32 bits (VNNI), scales are floats, or if they are small
// the bytes are multiplied by them. Otherwise sums are formed in 16 bits, and scaled by integers as they are
// widened.
template <class Weights>
struct PanelOf {
    static constexpr bool one_column_scale = activations_of<Weights> == Activations::q8_k;
    static constexpr bool folded = [] {
        if constexpr (one_column_scale) return Weights::folds;
        return false;
    }();
    static constexpr bool integer_scales = one_column_scale && Weights::narrow && !sums_in_lanes;
    static constexpr int values_per_scale = folded ? super_block : Weights::values_per_scale;
    static constexpr int scales = super_block / values_per_scale;
    static constexpr int offset = [] {
        if constexpr (folded) return Weights::folded_offset;
        return Weights::offset;
    }();
    // Offsets that are corrected as mins are.
    static constexpr bool offset_is_min = one_column_scale && !sums_in_lanes && offset != 0;
    // Sums start at -offset times the sum of the column's values, of which columns have those for 128. Where bytes have
    // room they are raised until that is their offset; else it is a power of two.
    static constexpr bool starts_below = offset != 0 && !offset_is_min;
    static constexpr bool raised = starts_below && sums_in_lanes && offset != 128;
    static constexpr int start_shift = starts_below && !sums_in_lanes ? log2_of(128 / offset) : 0;
    // Of the mins and of the sums of their column, two words are multiplied by one instruction.
    static constexpr bool min_pairs = one_column_scale && (Weights::has_mins || offset_is_min);
    static constexpr int values_per_min = [] {
        if constexpr (one_column_scale && Weights::has_mins) return Weights::values_per_min;
        return Weights::values_per_scale;
    }();
    static constexpr int mins = super_block / values_per_min / (min_pairs ? 2 : 1);  // lanes of 32 bits
    static constexpr bool float_mins = !one_column_scale && Weights::has_mins;
};

// Columns of `row` become rows of `out`.
template <int Columns, std::size_t Width>
void transpose_rows(const float (&row)[panel_rows][Width], float (*out)[panel_rows]) {
    for (int v = 0; v < panel_rows; v += lanes) {
        for (int i = 0; i < Columns; i += lanes) {
            F square[lanes];
            for (int r = 0; r < lanes; ++r) square[r] = load(row[v + r] + i);
            transpose(square);
            for (int r = 0; r < std::min(lanes, Columns); ++r) store(out[i + r] + v, square[r]);
        }
    }
}

template <class Weights, int Half>
void fill_bytes(const Weights& weights, float* to) {
    using Kept = PanelOf<Weights>;
    B q[vectors];
    if constexpr (Kept::folded) weights.template unpack_folded<Half>(q);
    else weights.template unpack<Half>(q);
    for (int i = 0; i < vectors; ++i) {
        if constexpr (Kept::raised) q[i] = raised(q[i], 128 - Kept::offset);
        store_bytes(to + (Half * half_block + i * width) / 4, q[i]);
    }
}

template <class Weights>
void fill_integer_scales(const Weights& weights, Panel& panel, std::int64_t b, int r) {
    using Kept = PanelOf<Weights>;
    const __m128i scales = weights.integer_scales();
    panel.factor[b][r] = weights.factor();
    if constexpr (Kept::folded) {
        panel.factor[b][r] = weights.folded_factor();
    } else {
        I wide[vectors_for(Kept::scales)];
        to_integers<Kept::scales>(scales, wide);
        for (int i = 0; i < vectors_for(Kept::scales); ++i) {
            const F kept = Kept::integer_scales ? from_bits((wide[i] & set(0xFFFF)) | shift_left<16>(wide[i]))
                                                : to_float(wide[i]) * set(panel.factor[b][r]);
            store(panel.row_scales[r] + i * lanes, kept);
        }
    }
    if constexpr (Weights::has_mins) {
        panel.min_factor[b][r] = weights.min_factor();
        store_words(panel.row_mins[r], to_words(weights.integer_mins()));
    } else if constexpr (Kept::min_pairs) {
        panel.min_factor[b][r] = panel.factor[b][r];
        store_words(panel.row_mins[r], to_words(scales) * Weights::offset);
    }
}

template <class Weights>
void fill_float_scales(const Weights& weights, Panel& panel, int r) {
    store(panel.row_scales[r], weights.scales());
    if constexpr (Weights::has_mins) store(panel.row_mins[r], weights.mins());
}

template <class Weights>
void fill_row(const std::uint8_t* p, Panel& panel, std::int64_t b, int r) {
    const Weights weights(p);
    fill_bytes<Weights, 0>(weights, panel.row_q[r]);
    fill_bytes<Weights, 1>(weights, panel.row_q[r]);
    if constexpr (PanelOf<Weights>::one_column_scale) fill_integer_scales(weights, panel, b, r);
    else fill_float_scales(weights, panel, r);
}

// The bytes from a block to the one that the panel after this one takes in its place: of the same row, or of the row as
// far below as the panel is high.
template <class Weights>
std::int64_t next_panel_step(const Job& job, std::int64_t block) {
    if (block + panel_blocks < blocks_of(job.k)) return panel_blocks * super_block_bytes<Weights>();
    return panel_rows * static_cast<std::int64_t>(job.row_step) - block * super_block_bytes<Weights>();
}

// Missing rows repeat the last one.
template <class Weights>
void fill_panel(const Job& job, std::int64_t row, std::int64_t block, std::int64_t blocks, Panel& panel) {
    using Kept = PanelOf<Weights>;
    const std::int64_t next = next_panel_step<Weights>(job, block);
    for (std::int64_t b = 0; b < blocks; ++b) {
        for (int r = 0; r < panel_rows; ++r) {
            const std::uint8_t* const weights = job.weights + std::min(row + r, job.rows - 1) * job.row_step;
            if (may_end_early<Weights> && block + b >= job.k / super_block) {
                fill_row<Weights>(LastBlock<Weights>(weights, job.k).bytes, panel, b, r);
            } else {
                const std::uint8_t* const p = weights + (block + b) * super_block_bytes<Weights>();
                read_ahead_of_panel(p + next, super_block_bytes<Weights>());
                fill_row<Weights>(p, panel, b, r);
            }
        }
        transpose_rows<super_block / 4>(panel.row_q, reinterpret_cast<PanelRow*>(panel.q[b]));
        if constexpr (!Kept::folded) transpose_rows<Kept::scales>(panel.row_scales, panel.scales[b]);
        if constexpr (Kept::min_pairs || Kept::float_mins) transpose_rows<Kept::mins>(panel.row_mins, panel.mins[b]);
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
