// Vectors of floats whose width is that of the target. The source file of a target defines, before it includes
// anything:
//   SIMD_TARGET   the namespace of its kernels, in which everything has internal linkage
//   SIMD_VECTOR   the header of its instruction set: "vector_avx512.h", "vector_avx2.h", "vector_neon.h" or
//                 "vector_portable.h"
// Without them, as in an editor, the portable one is taken. The headers define F (floats), I (32-bit integers) and M (a
// mask), with `lanes` elements:
//   + - * / sqrt abs      as IEEE 754 says; never contracted to a fused multiply-add (-ffp-contract=off)
//   fma                   a * b + c in one instruction where there is one
//   fused                 a * b + c rounded once, everywhere
//   min max               a < b ? a : b and a > b ? a : b, which differs from IEEE 754 for zeros of two signs
//   select(m, a, b)       m ? a : b
//   round_even            to an integer, ties to even, for |a| <= 2^22
//   truncate              to an integer as x86 does: out of range and NaN give 0x80000000
//   to_fp16 from_fp16     binary16 in the low 16 bits
//   load                  floats, BF16 and FP16 to F; signed bytes to I
//   transpose             of a square of `lanes` vectors
//   largest               element of a vector without NaN
//   sums                  over the elements of each of four vectors
#pragma once

#if !defined(SIMD_TARGET)
#define SIMD_TARGET portable
#endif
#if !defined(SIMD_VECTOR)
#define SIMD_VECTOR "vector_portable.h"
#endif

#include SIMD_VECTOR

namespace simd {
namespace {

using namespace isa;

inline F zero() { return set(0.F); }

// The sum of the elements.
inline float sum(F a) {
    float total[4];
    sums({a, zero(), zero(), zero()}, total);
    return total[0];
}

// Sums of the elements of each of `lanes` vectors.
inline F sums(F (&v)[lanes]) {
    transpose(v);
    for (int width = lanes / 2; width > 0; width /= 2) {
        for (int i = 0; i < width; ++i) v[i] = v[i] + v[i + width];
    }
    return v[0];
}

inline constexpr int floats_per_line = 64 / sizeof(float);  // of a cache line

// Ask for the cache line at p, which need not be an address that may be read.
inline void prefetch(const float* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p);
#else
    static_cast<void>(p);
#endif
}
inline void prefetch_second_level(const float* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p, 0, 2);
#else
    static_cast<void>(p);
#endif
}
inline void prefetch_to_change(const float* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p, 1);
#else
    static_cast<void>(p);
#endif
}

}  // namespace
}  // namespace simd
