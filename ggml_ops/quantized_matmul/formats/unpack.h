// What the headers of the formats share.
//
// A header of a format has a struct, which is made of a pointer to a super-block (256 weights: several blocks of the
// smaller formats). All provide:
//   format             its name in the enumeration; the rest of its row in format_table.h follows
//   values_per_scale   16 or 32
//   narrow             whether the bytes are unsigned and so small that the sum of two products with a signed byte fits
//                      16 bits; others have eight bits and are signed or, where `wide_is_unsigned`, unsigned
//   most               the largest byte, if narrow
//   offset             which is to be subtracted from the bytes
//   has_mins
//   unpack<Half>(q)    the bytes of 128 weights, in their order; Half: 0 or 1
// With activations of which 256 have one scale, the integers of the file:
//   weight = factor() * integer_scales()[group] * (byte - offset) - min_factor() * integer_mins()[group]
//   values_per_min     16 or 32
//   folds              whether GEMM should multiply the bytes by their scales first, where that pays:
//   unpack_folded<Half>(q), folded_factor(), folded_offset
//                      scale times byte, as a byte; one factor is left for 256 weights
// With activations of which 32 have one scale, vectors of eight floats (behind them are zeros):
//   weight = scales()[group] * (byte - offset) - mins()[group]
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
inline constexpr Activations activations_of = row_of(Weights::format).activations;

// The offset of bytes that may have eight bits: unsigned ones are 128 above the signed ones.
inline constexpr int wide_offset = wide_is_unsigned ? 128 : 0;

inline float fp16_at(const std::uint8_t* p) {
    std::uint16_t half;
    std::memcpy(&half, p, sizeof half);
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

inline __m128i load_16(const std::uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
inline __m128i eight_bytes(std::uint64_t bytes) { return _mm_cvtsi64_si128(static_cast<long long>(bytes)); }

// Eight numbers of 16 bits, Step bytes from one to the next.
template <int Step>
F eight_fp16_at(const std::uint8_t* p) {
    std::uint16_t h[8];
    for (int i = 0; i < 8; ++i) std::memcpy(h + i, p + Step * i, sizeof h[i]);
    // Not through memory: a load waits for all smaller stores before it.
    const __m128i low = _mm_setr_epi16(static_cast<short>(h[0]), static_cast<short>(h[1]), static_cast<short>(h[2]),
                                       static_cast<short>(h[3]), static_cast<short>(h[4]), static_cast<short>(h[5]),
                                       static_cast<short>(h[6]), static_cast<short>(h[7]));
    return eight_fp16(low);
}

// A vector for 16 scales or mins, or two; behind eight of them there are zeros.
inline constexpr int vectors_for(int count) { return count > lanes ? 2 : 1; }

template <int Count>
void to_integers(__m128i integers_8_bit, I (&wide)[vectors_for(Count)]) {
    for (int i = 0; i < vectors_for(Count); ++i) {
        wide[i] = integers(integers_8_bit);
        integers_8_bit = _mm_srli_si128(integers_8_bit, 8);
    }
}

// Of eight bytes each twice.
inline __m128i each_twice(__m128i bytes) { return _mm_unpacklo_epi8(bytes, bytes); }

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
