#include "cpu.h"

#include <cstring>
#include <initializer_list>

#if defined(_MSC_VER) && defined(SIMD_X86)
#include <intrin.h>
#elif defined(SIMD_X86)
#include <cpuid.h>
#elif defined(SIMD_ARM64) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(SIMD_ARM64) && defined(__APPLE__)
#include <sys/sysctl.h>
#elif defined(SIMD_ARM64) && defined(_WIN32)
#include <windows.h>
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
// Leaf 7: ECX, and EAX of its second part.
unsigned leaf7_ecx() {
    int r[4];
    __cpuidex(r, 7, 0);
    return static_cast<unsigned>(r[2]);
}
unsigned leaf7_1_eax() {
    int r[4];
    __cpuidex(r, 7, 1);
    return static_cast<unsigned>(r[0]);
}
#elif defined(SIMD_X86)
unsigned leaf7_1_eax() {
    unsigned r[4] = {};
    return __get_cpuid_count(7, 1, r, r + 1, r + 2, r + 3) != 0 ? r[0] : 0;
}
#elif defined(SIMD_ARM64) && defined(__APPLE__)
bool has_feature(const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

}  // namespace

#if defined(_MSC_VER) && defined(SIMD_X86)
bool cpu_has_avx512() { return cpu_has(1U << 16 | 1U << 17 | 1U << 30 | 1U << 31, 1U << 29, 0xE6); }
bool cpu_has_avx512vnni() { return cpu_has_avx512() && (leaf7_ecx() & 1U << 11) != 0; }
bool cpu_has_avx512vbmi() { return cpu_has_avx512vnni() && (leaf7_ecx() & (1U << 1 | 1U << 8)) == (1U << 1 | 1U << 8); }
bool cpu_has_avx2() { return cpu_has(1U << 5, 1U << 29 | 1U << 12, 0x6); }
#elif defined(SIMD_X86)
bool cpu_has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
bool cpu_has_avx512vnni() { return cpu_has_avx512() && __builtin_cpu_supports("avx512vnni"); }
bool cpu_has_avx512vbmi() {
    return cpu_has_avx512vnni() && __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("gfni");
}
// Every processor with AVX2 has F16C, which not all compilers know by name.
bool cpu_has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if defined(SIMD_X86)
bool cpu_has_avx512bf16() { return cpu_has_avx512() && (leaf7_1_eax() & 1U << 5) != 0; }
// Not all compilers know it by name.
bool cpu_has_avxvnni() { return cpu_has_avx2() && (leaf7_1_eax() & 1U << 4) != 0; }
#endif
#if defined(SIMD_ARM64) && defined(__linux__)
// Bits of <asm/hwcap.h>, whose older versions lack some names.
bool cpu_has_neon_dot() { return (getauxval(AT_HWCAP) & 1UL << 20) != 0; }
bool cpu_has_i8mm() { return cpu_has_neon_dot() && (getauxval(AT_HWCAP2) & 1UL << 13) != 0; }
#elif defined(SIMD_ARM64) && defined(__APPLE__)
bool cpu_has_neon_dot() { return has_feature("hw.optional.arm.FEAT_DotProd"); }
bool cpu_has_i8mm() { return cpu_has_neon_dot() && has_feature("hw.optional.arm.FEAT_I8MM"); }
#elif defined(SIMD_ARM64) && defined(_WIN32)
// PF_ARM_V82_DP_INSTRUCTIONS_AVAILABLE; there is no documented number for I8MM on all versions.
bool cpu_has_neon_dot() { return IsProcessorFeaturePresent(43) != 0; }
bool cpu_has_i8mm() { return false; }
#elif defined(SIMD_ARM64)
bool cpu_has_neon_dot() { return false; }
bool cpu_has_i8mm() { return false; }
#endif
bool cpu_is_any() { return true; }

constexpr const char* least_first[] = {"portable", "neon",   "neondot",    "i8mm",       "avx2",
                                       "avxvnni",  "avx512", "avx512vnni", "avx512vbmi", "avx512bf16"};

bool not_above(const char* name, const char* limit) {
    if (limit == nullptr) return true;
    for (const char* const target : least_first) {
        if (std::strcmp(name, target) == 0) return true;
        if (std::strcmp(limit, target) == 0) return false;
    }
    return true;
}

}  // namespace simd
