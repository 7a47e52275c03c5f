// Matmul of floating-point weights with a small batch (GEMV) or a large batch (GEMM) of activation columns, on plain
// pointers. No threads, no allocation and no exceptions here: callers split the rows and provide scratch memory.
//
//   out[c][r] = sum over i < k of weight(r, i) * column(c, i)
//
// Weights keep the layout of the file. Columns are first rounded to the type of the weights, as ggml does, and summed
// in float32, so that the result differs from ggml's only by the order of the sums.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../simd/span.h"

namespace float_matmul {

enum class Format { f32, f16, bf16 };

inline constexpr std::int64_t convert_values = 64;  // columns are converted in pieces of this many values

// Rows of weights times a batch of columns, which `convert` has written.
struct Job {
    Format format;
    std::int64_t k;
    const std::uint8_t* weights;  // the first row
    std::size_t row_step;         // bytes from one row to the next
    std::int64_t rows;
    const std::uint8_t* columns;  // the first column, at a multiple of 64 bytes; `column_bytes` from one to the next
    float* const* out;            // for each column, `rows` floats
    std::int64_t batch_size;
    std::uint8_t* scratch;  // `scratch_bytes`, at a multiple of 64 bytes
};

// A part of a column of a result, which is changed in place: a bias is added (null: none), GELU is applied, and a
// summand is added (null: none).
struct Finish {
    float* out;
    const float* bias;
    const float* summand;
    bool gelu;
    std::int64_t rows;
};

// Bytes of a weight.
std::size_t weight_bytes(Format format);

struct Target {
    const char* name;
    bool (*supported)();
    std::size_t scratch_bytes;
    std::int64_t row_granularity;     // rows that GEMM keeps side by side
    std::int64_t column_granularity;  // columns that GEMM multiplies at a time
    // Bytes of a converted column.
    std::size_t (*column_bytes)(Format format, std::int64_t k);
    // Pieces first <= p < last, of `convert_values` values, of the column x with k values. The last one may be shorter.
    void (*convert)(Format format, std::int64_t k, const float* x, std::int64_t first, std::int64_t last,
                    std::uint8_t* column);
    void (*multiply)(const Job&);
    void (*finish)(const Finish&);
};

// The targets compiled in, best first.
simd::Span<const Target* const> targets();

}  // namespace float_matmul
