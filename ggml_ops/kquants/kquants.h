// Quantizing rows of weights to ggml's block formats, bit for bit as ggml_quantize_chunk does, with one block
// in every SIMD lane. The kernels are compiled once for each target; the best that the processor runs is chosen
// at run time. No threads, no allocation, no exceptions here: callers split the rows.
#pragma once

#include <cstdint>

#include "../simd/span.h"

namespace kquants {

enum class Source { f32, bf16, f16 };

// Rows of weights, contiguous, and the blocks to write.
struct Rows {
    const void* x;  // rows x columns values of the source type
    Source source;
    std::int64_t rows;
    std::int64_t columns;     // a multiple of the format's block
    const float* importance;  // one value per column, or null
    std::uint8_t* blocks;     // rows x (columns / block) x block_bytes
};

// Quantizes the rows. Returns false if a scale is beyond the range of FP16: the blocks then contain an infinity or NaN.
using Kernel = bool (*)(const Rows&);

struct Format {
    const char* name;  // as ggml spells it: Q4_K
    int block;         // weights
    int block_bytes;
    Kernel quantize;
};

struct NonFinite {
    std::int64_t count;
    std::int64_t first;  // index in x, -1 if there is none
};

struct Target {
    const char* name;
    bool (*supported)();
    simd::Span<const Format> formats;
    NonFinite (*find_non_finite)(const Rows&);
};

// The targets compiled in, best first; the last one runs anywhere.
simd::Span<const Target* const> targets();

// The format of a target by name, or null.
const Format* find_format(const Target& target, const char* name);

}  // namespace kquants
