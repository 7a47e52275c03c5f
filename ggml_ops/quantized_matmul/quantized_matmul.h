// Products of quantized weights with a few or with many columns of activations, on plain pointers. No threads, no
// allocation and no exceptions here: callers split the rows and lend scratch memory.
//
//   out[c][r] = sum over i < k of weight(r, i) * column(c, i)
//
// Weights stay as the file has them. Columns are quantized to 8 bits first, in blocks of 256 with one scale (of 32 for
// Q8_0), by the rules of ggml's Q8_K and Q8_0, so that the result is ggml's but for the order of the sums.
#pragma once

#include <cstddef>
#include <cstdint>

namespace matmul {

enum class Format { q4_k, q5_k, q6_k, q8_0, iq4_xs };

inline constexpr std::int64_t super_block = 256;  // weights; k is a multiple of it
inline constexpr std::int64_t most_columns_by_rows = 5;  // more of them are worth a panel of unpacked rows

// Columns that are quantized: `quantize` writes them.
struct Product {
    Format format;
    std::int64_t k;
    const std::uint8_t* weights;  // the first row
    std::size_t row_step;         // bytes from one row to the next
    std::int64_t rows;
    const std::uint8_t* const* columns;  // at multiples of 64 bytes
    float* const* out;                   // for each column a place for `rows` floats
    std::int64_t columns_count;
    std::uint8_t* scratch;  // `scratch_bytes`, at a multiple of 64 bytes
};

// Bytes of a row of weights, and of a quantized column: the 8-bit values, their sums, the scales.
std::size_t row_bytes(Format format, std::int64_t k);
std::size_t column_bytes(Format format, std::int64_t k);
// Whether columns that were quantized for one format serve another.
bool same_columns(Format a, Format b);

struct Target {
    const char* name;
    bool (*supported)();
    std::size_t scratch_bytes;
    std::int64_t row_granularity;  // rows that are unpacked together where there are many columns
    // Blocks first <= b < last, of 256 values, of the column x with k values.
    void (*quantize)(Format format, std::int64_t k, const float* x, std::int64_t first, std::int64_t last,
                     std::uint8_t* column);
    void (*multiply)(const Product&);
};

// The targets compiled in, best first; none where the processor is not an x86.
const Target* const* targets(std::size_t& count);

}  // namespace matmul
