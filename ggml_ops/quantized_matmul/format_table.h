// The table of formats: one row for each format that has kernels. Their numbers are those of ggml_type, in ggml as in
// GGUF files.
//
// A new format is a row here, a header in formats/ and a name in the list of formats/all.h.
#pragma once

#include <cstdint>

namespace quantized_matmul {

enum class Format : int {
    q4_0 = 2,
    q4_1 = 3,
    q5_0 = 6,
    q5_1 = 7,
    q8_0 = 8,
    q2_k = 10,
    q3_k = 11,
    q4_k = 12,
    q5_k = 13,
    q6_k = 14,
    iq2_xxs = 16,
    iq2_xs = 17,
    iq3_xxs = 18,
    iq4_nl = 20,
    iq3_s = 21,
    iq2_s = 22,
    iq4_xs = 23,
};

inline constexpr std::int64_t super_block = 256;  // weights that are unpacked together

// How columns are rounded to 8 bits: as ggml's Q8_K, with one scale for 256 values; as its Q8_0, with one for 32; or as
// its Q8_1, which is Q8_0 with rounded sums of the 32 values, for weights with a minimum.
enum class Activations { q8_k, q8_0, q8_1 };

struct FormatRow {
    Format format;
    const char* name;
    Activations activations;
    int block;        // weights
    int block_bytes;  // of these
};

// clang-format off
inline constexpr FormatRow format_table[] = {
    {Format::q4_0, "Q4_0", Activations::q8_0, 32, 18},
    {Format::q4_1, "Q4_1", Activations::q8_1, 32, 20},
    {Format::q5_0, "Q5_0", Activations::q8_0, 32, 22},
    {Format::q5_1, "Q5_1", Activations::q8_1, 32, 24},
    {Format::q8_0, "Q8_0", Activations::q8_0, 32, 34},
    {Format::q2_k, "Q2_K", Activations::q8_k, 256, 84},
    {Format::q3_k, "Q3_K", Activations::q8_k, 256, 110},
    {Format::q4_k, "Q4_K", Activations::q8_k, 256, 144},
    {Format::q5_k, "Q5_K", Activations::q8_k, 256, 176},
    {Format::q6_k, "Q6_K", Activations::q8_k, 256, 210},
    {Format::iq2_xxs, "IQ2_XXS", Activations::q8_k, 256, 66},
    {Format::iq2_xs, "IQ2_XS", Activations::q8_k, 256, 74},
    {Format::iq3_xxs, "IQ3_XXS", Activations::q8_k, 256, 98},
    {Format::iq3_s, "IQ3_S", Activations::q8_k, 256, 110},
    {Format::iq2_s, "IQ2_S", Activations::q8_k, 256, 82},
    {Format::iq4_nl, "IQ4_NL", Activations::q8_0, 32, 18},
    {Format::iq4_xs, "IQ4_XS", Activations::q8_k, 256, 136},
};
// clang-format on

// The row with a number of ggml_type; null if that type has no kernels.
constexpr const FormatRow* find_row(int type) {
    for (const FormatRow& row : format_table) {
        if (static_cast<int>(row.format) == type) return &row;
    }
    return nullptr;
}

// For formats that have kernels.
constexpr const FormatRow& row_of(Format format) { return *find_row(static_cast<int>(format)); }

}  // namespace quantized_matmul
