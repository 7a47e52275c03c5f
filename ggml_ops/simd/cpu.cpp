#include "cpu.h"

#if defined(_MSC_VER) && defined(SIMD_X86)
#include <intrin.h>
#endif

namespace simd {
namespace {

#if defined(_MSC_VER) && defined(SIMD_X86)
// Bits of CPUID leaf 7 (EBX) and leaf 1 (ECX), and of XCR0: what the operating system saves.
bool cpu_has(unsigned leaf7, unsigned leaf1, unsigned saved) {
    int r[4];
    __cpuidex(r, 1, 0);
    const unsigned osxsave = 1U << 27;
    if ((static_cast<unsigned>(r[2]) & (leaf1 | osxsave)) != (leaf1 | osxsave)) return false;
    __cpuidex(r, 7, 0);
    return (static_cast<unsigned>(r[1]) & leaf7) == leaf7 && (_xgetbv(0) & saved) == saved;
}
#endif

}  // namespace

#if defined(_MSC_VER) && defined(SIMD_X86)
bool cpu_has_avx512() { return cpu_has(1U << 16 | 1U << 17 | 1U << 30 | 1U << 31, 1U << 29, 0xE6); }
bool cpu_has_avx2() { return cpu_has(1U << 5, 1U << 29 | 1U << 12, 0x6); }
#elif defined(SIMD_X86)
bool cpu_has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
// Every processor with AVX2 has F16C, which compilers do not all know by name.
bool cpu_has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
bool cpu_is_any() { return true; }

}  // namespace simd
