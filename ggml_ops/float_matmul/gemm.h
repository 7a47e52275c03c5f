// GEMM, for large batches: some rows of weights become a panel in which a vector has the same element of as many rows
// as it has lanes, and an element of a column is broadcast to all of them. Panels stay in the second-level cache for
// all columns; a tile of columns stays in the first-level cache for all panels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "columns.h"
#include "elements.h"

namespace float_matmul::SIMD_TARGET {
namespace {

// 24 sums of 32 registers, or 12 of AVX2's 16.
inline constexpr int tile_vectors = lanes <= 4 ? 4 : 2;
inline constexpr int tile_columns = lanes == 16 ? 12 : 6;
inline constexpr int panel_rows = tile_vectors * lanes;
inline constexpr int panel_elements = 576;  // of each row: pairs of the 1,152 weights of a vision encoder fit
inline constexpr int max_panels = lanes == 1 ? 2 : 4;

using PanelRow = float[panel_rows];

struct Panels {
    alignas(64) PanelRow elements[max_panels][panel_elements];
    float edge[tile_columns][panel_rows];  // of a tile that reaches beyond the last row
};

constexpr std::size_t scratch_bytes() { return sizeof(Panels); }

// Elements first <= e < first + count of the rows from `row` on. Missing rows repeat the last one.
template <class Elements>
void fill_panel(const Job& job, std::int64_t row, std::int64_t first, std::int64_t count, PanelRow* out) {
    using Weight = typename Elements::Weight;
    for (int v = 0; v < panel_rows; v += lanes) {
        const Weight* rows[lanes];
        for (int r = 0; r < lanes; ++r) {
            const std::int64_t at = std::min(row + v + r, job.rows - 1);
            rows[r] = reinterpret_cast<const Weight*>(job.weights + at * job.row_step) + first * Elements::values;
        }
        const std::int64_t values = job.k - first * Elements::values;
        for (std::int64_t e = 0; e < count; e += lanes) {
            const std::int64_t i = e * Elements::values;
            F square[lanes];
            for (int r = 0; r < lanes; ++r) {
                square[r] = i + lanes * Elements::values <= values ? Elements::load(rows[r] + i)
                                                                   : load_last<Elements>(rows[r] + i, values - i);
            }
            transpose(square);
            for (int l = 0; l < std::min<std::int64_t>(lanes, count - e); ++l) store(out[e + l] + v, square[l]);
        }
    }
}

// One tile of the result: the rows of a panel times some columns. x: element `first` of the first column.
template <class Elements, int Columns>
void multiply_tile(const PanelRow* panel, std::int64_t count, const std::uint8_t* x, std::size_t column_step, bool add,
                   float* const (&out)[Columns]) {
    F sum[tile_vectors][Columns];
    for (int v = 0; v < tile_vectors; ++v) {
        for (int c = 0; c < Columns; ++c) sum[v][c] = add ? simd::load(out[c] + v * lanes) : zero();
    }
    // Few enough pointers for the registers: a column is the next or the one after the next of one of these.
    constexpr int groups = (Columns + 2) / 3;
    const std::uint8_t* group[groups];
    for (int g = 0; g < groups; ++g) group[g] = x + 3 * g * column_step;
    for (std::int64_t e = 0; e < count; ++e) {
        F w[tile_vectors];
        for (int v = 0; v < tile_vectors; ++v) w[v] = simd::load(panel[e] + v * lanes);
        for (int c = 0; c < Columns; ++c) {
            const F value = set(*reinterpret_cast<const float*>(group[c / 3] + c % 3 * column_step));
            for (int v = 0; v < tile_vectors; ++v) sum[v][c] = Elements::multiply(w[v], value, sum[v][c]);
        }
        for (int g = 0; g < groups; ++g) group[g] += sizeof(float);
    }
    for (int v = 0; v < tile_vectors; ++v) {
        for (int c = 0; c < Columns; ++c) store(out[c] + v * lanes, sum[v][c]);
    }
}

// The elements of the panels that one pass multiplies.
struct Pass {
    std::int64_t row;
    std::int64_t rows;
    std::int64_t first;  // element
    std::int64_t count;
    std::size_t column_step;
};

template <class Elements, int Columns>
void multiply_columns(const Job& job, const Pass& pass, std::int64_t column, Panels& panels) {
    const std::uint8_t* const x = job.columns + column * pass.column_step + pass.first * sizeof(float);
    for (std::int64_t r = 0; r < pass.rows; r += panel_rows) {
        const PanelRow* const panel = panels.elements[r / panel_rows];
        const std::int64_t whole = std::min<std::int64_t>(panel_rows, pass.rows - r);
        float* out[Columns];
        for (int c = 0; c < Columns; ++c) out[c] = job.out[column + c] + pass.row + r;
        if (whole == panel_rows) {
            multiply_tile<Elements, Columns>(panel, pass.count, x, pass.column_step, pass.first > 0, out);
            continue;
        }
        float* edge[Columns];
        for (int c = 0; c < Columns; ++c) {
            edge[c] = panels.edge[c];
            if (pass.first > 0) std::copy_n(out[c], whole, edge[c]);
        }
        multiply_tile<Elements, Columns>(panel, pass.count, x, pass.column_step, pass.first > 0, edge);
        for (int c = 0; c < Columns; ++c) std::copy_n(edge[c], whole, out[c]);
    }
}

// The last 0 < count < tile_columns columns.
template <class Elements, int Columns = tile_columns - 1>
void multiply_last_columns(const Job& job, const Pass& pass, std::int64_t column, int count, Panels& panels) {
    if (count == Columns) return multiply_columns<Elements, Columns>(job, pass, column, panels);
    if constexpr (Columns > 1) multiply_last_columns<Elements, Columns - 1>(job, pass, column, count, panels);
}

template <class Elements>
void gemm(const Job& job) {
    auto& panels = *reinterpret_cast<Panels*>(job.scratch);
    const std::size_t column_step = column_bytes(job.format, job.k);
    const std::int64_t elements = elements_of<Elements>(job.k);
    const std::int64_t parts = (elements + panel_elements - 1) / panel_elements;  // of about the same size each
    for (std::int64_t row = 0; row < job.rows; row += max_panels * panel_rows) {
        const std::int64_t rows = std::min<std::int64_t>(max_panels * panel_rows, job.rows - row);
        for (std::int64_t part = 0; part < parts; ++part) {
            const std::int64_t first = part * elements / parts;
            const Pass pass = {row, rows, first, (part + 1) * elements / parts - first, column_step};
            for (std::int64_t r = 0; r < rows; r += panel_rows) {
                fill_panel<Elements>(job, row + r, first, pass.count, panels.elements[r / panel_rows]);
            }
            std::int64_t c = 0;
            for (; c + tile_columns <= job.batch_size; c += tile_columns) {
                multiply_columns<Elements, tile_columns>(job, pass, c, panels);
            }
            if (c < job.batch_size) {
                multiply_last_columns<Elements>(job, pass, c, static_cast<int>(job.batch_size - c), panels);
            }
        }
    }
}

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
