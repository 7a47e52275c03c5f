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

#if defined(SIMD_X86)
// The registers of CPUID, and XCR0: what the operating system saves. Asked for here, since what stands behind
// __builtin_cpu_supports differs by compiler, and is not initialized by all of them in a shared library.
struct Registers {
    unsigned eax, ebx, ecx, edx;
};
#if defined(_MSC_VER)
Registers cpuid(unsigned leaf, unsigned part) {
    int r[4];
    __cpuid(r, 0);
    if (static_cast<unsigned>(r[0]) < leaf) return {};
    __cpuidex(r, static_cast<int>(leaf), static_cast<int>(part));
    return {static_cast<unsigned>(r[0]), static_cast<unsigned>(r[1]), static_cast<unsigned>(r[2]),
            static_cast<unsigned>(r[3])};
}
unsigned saved_registers() { return static_cast<unsigned>(_xgetbv(0)); }
#else
Registers cpuid(unsigned leaf, unsigned part) {
    Registers r{};
    if (__get_cpuid_count(leaf, part, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
    return r;
}
unsigned saved_registers() {
    unsigned low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}
#endif
bool has_all(unsigned word, unsigned bits) { return (word & bits) == bits; }
// Bits of leaf 7 (EBX) and leaf 1 (ECX), and of XCR0.
bool cpu_has(unsigned leaf7, unsigned leaf1, unsigned saved) {
    const unsigned osxsave = 1U << 27;
    return has_all(cpuid(1, 0).ecx, leaf1 | osxsave) && has_all(cpuid(7, 0).ebx, leaf7) &&
           has_all(saved_registers(), saved);
}
#elif defined(SIMD_ARM64) && defined(__APPLE__)
bool has_feature(const char* name) {
    int value = 0;
    std::size_t size = sizeof value;
    return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
#endif

}  // namespace

#if defined(SIMD_X86)
bool cpu_has_avx512() { return cpu_has(1U << 16 | 1U << 17 | 1U << 30 | 1U << 31, 1U << 29 | 1U << 12, 0xE6); }
bool cpu_has_avx512vnni() { return cpu_has_avx512() && has_all(cpuid(7, 0).ecx, 1U << 11); }
bool cpu_has_avx512vbmi() { return cpu_has_avx512vnni() && has_all(cpuid(7, 0).ecx, 1U << 1 | 1U << 8); }
bool cpu_has_avx512bf16() { return cpu_has_avx512() && has_all(cpuid(7, 1).eax, 1U << 5); }
bool cpu_has_avx2() { return cpu_has(1U << 5, 1U << 29 | 1U << 12, 0x6); }
bool cpu_has_avxvnni() { return cpu_has_avx2() && has_all(cpuid(7, 1).eax, 1U << 4); }
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
