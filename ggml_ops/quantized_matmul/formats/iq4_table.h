// The levels of IQ4_XS and IQ4_NL (kvalues_iq4nl in ggml-common.h), in the form that `dot_wide` takes.
#pragma once

#include "unpack.h"

namespace quantized_matmul::SIMD_TARGET {
namespace {

inline __m128i iq4_table() {
    const __m128i levels = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return wide_is_unsigned ? _mm_xor_si128(levels, _mm_set1_epi8(-128)) : levels;
}

}  // namespace
}  // namespace quantized_matmul::SIMD_TARGET
