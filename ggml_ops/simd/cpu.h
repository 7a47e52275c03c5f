// What the processor has to offer. Compiled for any processor.
#pragma once

namespace simd {

bool cpu_has_avx512();  // F, BW, DQ, VL
bool cpu_has_avx2();    // with FMA and F16C
bool cpu_is_any();

}  // namespace simd
