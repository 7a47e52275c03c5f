// Which targets are compiled in.

#include <cstring>

#include "targets.h"

namespace kquants {
namespace {

const Target* const compiled[] = {
#if defined(SIMD_X86)
    &target_avx512,
    &target_avx2,
#elif defined(SIMD_ARM64)
    &target_neon,
#endif
    &target_portable,
};

}  // namespace

simd::Span<const Target* const> targets() { return compiled; }

const Format* find_format(const Target& target, const char* name) {
    for (const Format& format : target.formats) {
        if (std::strcmp(format.name, name) == 0) return &format;
    }
    return nullptr;
}

}  // namespace kquants
