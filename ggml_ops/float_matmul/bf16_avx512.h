// BF16 weights as pairs, for AVX-512 with dot products of BF16. See elements.h.
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET avx512bf16
#define SIMD_VECTOR "vector_avx512.h"
#endif

#include <immintrin.h>

#include "../simd/vector.h"

namespace float_matmul::SIMD_TARGET {
namespace {

using namespace simd;

struct Bf16Elements {
    using Weight = BFloat16;
    static constexpr int values = 2;
    static F load(const Weight* p) { return {_mm512_loadu_ps(p)}; }
    static F multiply(F w, F x, F sum) {
        return {_mm512_dpbf16_ps(sum.v, bit_cast<__m512bh>(w.v), bit_cast<__m512bh>(x.v))};
    }
    static F round(const float* p) {
        return {bit_cast<__m512>(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + lanes), _mm512_loadu_ps(p)))};
    }
};

}  // namespace
}  // namespace float_matmul::SIMD_TARGET
