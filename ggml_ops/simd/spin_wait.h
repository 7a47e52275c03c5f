// One step of a spinning wait, and how long it takes on this processor. Compiled for any processor.
#pragma once

#if defined(SIMD_X86)
#include <immintrin.h>
#elif defined(SIMD_ARM64) && defined(_MSC_VER)
#include <intrin.h>
#endif

namespace simd {

// Leaves the core's units to its other thread for a moment.
inline void pause() {
#if defined(SIMD_X86)
    _mm_pause();
#elif defined(SIMD_ARM64) && defined(_MSC_VER)
    __yield();
#elif defined(SIMD_ARM64)
    __asm__ volatile("yield" ::: "memory");
#endif
}

// Nanoseconds of one step, a load and a pause instruction, whose length differs tenfold between processors (about 10
// cycles on older Intel, 100 on Zen 4, 140 on Intel since Skylake). The median of several runs, about 0.1 ms in all.
double pause_nanoseconds();

}  // namespace simd
