// Matmul of quantized weights with a small batch (GEMV) or a large batch (GEMM) of activation columns, on plain
// pointers. No threads, no allocation and no exceptions here: callers split the rows and provide scratch memory.
//
//   out[c][r] = sum over i < k of weight(r, i) * column(c, i)
//
// Weights keep the layout of the file. Columns are first quantized to 8 bits (`Activations`) as ggml does, so that the
// result differs from ggml's only by the order of the sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../simd/span.h"
#include "format_table.h"

namespace quantized_matmul {

// Rows of weights times a batch of columns, which `quantize` has written.
struct Job {
    Format format;
    std::int64_t k;               // a multiple of the format's block
    const std::uint8_t* weights;  // the first row
    std::size_t row_step;         // bytes from one row to the next
    std::int64_t rows;
    const std::uint8_t* const* columns;  // at multiples of 64 bytes
    float* const* out;                   // for each column, `rows` floats
    std::int64_t batch_size;
    std::uint8_t* scratch;  // `scratch_bytes`, at a multiple of 64 bytes
};

// Bytes of a row of weights, and of a quantized column: the 8-bit values, their sums, the scales.
std::size_t row_bytes(Format format, std::int64_t k);
std::size_t column_bytes(Format format, std::int64_t k);
// Blocks of 256 values of a column; the last one may be incomplete.
std::int64_t column_blocks(std::int64_t k);
// Whether two formats share the quantized form of the columns.
bool same_activations(Format a, Format b);

struct Target {
    const char* name;
    bool (*supported)();
    std::size_t scratch_bytes;
    std::int64_t row_granularity;  // rows that GEMM decodes together
    // Blocks first <= b < last, of 256 values, of the column x with k values.
    void (*quantize)(Format format, std::int64_t k, const float* x, std::int64_t first, std::int64_t last,
                     std::uint8_t* column);
    void (*multiply)(const Job&);
};

// The targets compiled in, best first; none on processors other than x86.
simd::Span<const Target* const> targets();

}  // namespace quantized_matmul
