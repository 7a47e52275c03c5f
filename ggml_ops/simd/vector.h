// A vector of floats whose width is that of the target. A source file defines SIMD_VECTOR, the header of its instruction
// set, and includes this inside a namespace of its own and an anonymous one. What the headers give is F (floats), I (32-bit
// integers) and M (a mask), with `lanes` elements:
//   + - * / sqrt abs    as IEEE 754 says; never contracted to a fused multiply-add (-ffp-contract=off)
//   fma                 a * b + c in one instruction, where it is asked for
//   min max             a < b ? a : b and a > b ? a : b, which differs from IEEE 754 for zeros of two signs
//   select(m, a, b)     m ? a : b
//   round_even          to an integer, ties to even, for |a| <= 2^22
//   truncate            to an integer as x86 does: out of range and NaN give 0x80000000
//   to_half from_half   binary16 in the low 16 bits
//   transpose           of a square of `lanes` vectors
//   sums                over the elements of each of four vectors

#include "scalar.h"

#include SIMD_VECTOR

inline F zero() { return set(0.F); }

// Ask for the cache line at p, which need not be an address that may be read.
inline void prefetch(const float* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p);
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
