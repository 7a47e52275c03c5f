// The instruction sets that the processor supports. Compiled for any processor.
#pragma once

namespace simd {

bool cpu_has_avx512();  // F, BW, DQ, VL
bool cpu_has_avx512vnni();
bool cpu_has_avx512bf16();  // AVX-512 and dot products of BF16
bool cpu_has_avx512vbmi();  // VNNI, VBMI and GFNI
bool cpu_has_avx2();        // with FMA and F16C
bool cpu_has_avxvnni();     // AVX2 and dot products of bytes
bool cpu_has_neon_dot();    // dot products of bytes
bool cpu_has_i8mm();        // and matrix products of bytes
bool cpu_is_any();

// Whether the target `name` needs no more than the target `limit`; always true without a limit (null or unknown).
bool not_above(const char* name, const char* limit);

}  // namespace simd
