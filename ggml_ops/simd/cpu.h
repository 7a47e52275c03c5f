// What the processor has to offer. Compiled for any processor.
#pragma once

namespace simd {

bool cpu_has_avx512();  // F, BW, DQ, VL
bool cpu_has_avx512vnni();
bool cpu_has_avx2();    // with FMA and F16C
bool cpu_has_avxvnni();  // AVX2 and dot products of bytes
bool cpu_is_any();

// Whether the target `name` is `limit` or asks for less than it does; any is, if there is no limit.
bool not_above(const char* name, const char* limit);

}  // namespace simd
