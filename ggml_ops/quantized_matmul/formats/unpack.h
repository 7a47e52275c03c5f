// What the headers of the formats share: how scales and mins become vectors.
//
//   weight = scale * byte - minimum          scale, minimum: one for `values_per_scale` weights
//
// A header of a format has a struct, which is made of a pointer to a super-block (256 weights: several blocks of the
// smaller formats) and may decode the super-block's scales then. It provides:
//   format                     its name in the enumeration; the rest of format_table.h's row follows from it
//   values_per_scale           16 or 32
//   narrow                     bytes are unsigned and have at most seven bits, so that a sum of two products with a
//                              signed byte fits 16 bits (`most` is the largest); others have eight and are signed or
//                              unsigned, whichever is faster on the target (`make_wide`); if unsigned, their min
//                              corrects it
//   has_mins
//   unpack<Half>(q)            the bytes of 128 weights, in their order; Half: 0 or 1
//   scales(floats)             of all 256 / values_per_scale groups, behind eight of them zeros
//   mins(floats)               the same, if it has any
// and, unless activations have a scale of their own for 32 values:
//   factor()                   what is common to the scales, and the integers that it is multiplied by:
//   scales_of_16()             if narrow: 16 bytes, whatever values_per_scale is
//   scales_of_32()             if not narrow: eight bytes
#pragma once

#include <immintrin.h>
#include <cstdint>
#include <cstring>

#include "../bytes.h"
#include "../format_table.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline constexpr int half_block = super_block / 2;  // weights that are unpacked together
inline constexpr int vectors = half_block / width;  // of bytes

// Bytes of a super-block.
template <class Weights>
constexpr int super_block_bytes() {
    constexpr FormatRow row = row_of(Weights::format);
    return row.block_bytes * static_cast<int>(super_block) / row.block;
}

template <class Weights>
inline constexpr bool column_scale_of_32 = row_of(Weights::format).activations == Activations::q8_0;

inline float fp16_at(const std::uint8_t* p) {
    std::uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

inline __m128i load_16(const std::uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

// A vector for 16 scales or mins, or two; behind eight of them there are zeros.
inline constexpr int vectors_for(int count) { return count > lanes ? 2 : 1; }

template <int Count>
void to_floats(__m128i integers_8_bit, float factor, F (&floats)[vectors_for(Count)]) {
    for (int i = 0; i < vectors_for(Count); ++i) {
        floats[i] = to_float(integers(integers_8_bit)) * set(factor);
        integers_8_bit = _mm_srli_si128(integers_8_bit, 8);
    }
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
