// Which targets are compiled in.

#include <cstring>

#include "target.h"

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

const Target* const* targets(std::size_t& count) {
    count = std::size(compiled);
    return compiled;
}

const Format* find_format(const Target& target, const char* name) {
    for (std::size_t i = 0; i < target.format_count; ++i) {
        if (std::strcmp(target.formats[i].name, name) == 0) return &target.formats[i];
    }
    return nullptr;
}

}  // namespace kquants
