// Which targets are compiled in.

#include <cstring>

#include "../simd/vector_targets.h"
#include "targets.h"

namespace kquants {

simd::Span<const Target* const> targets() {
    return simd::vector_targets<&target_avx512, &target_avx2, &target_neon, &target_portable>;
}

const Format* find_format(const Target& target, const char* name) {
    for (const Format& format : target.formats) {
        if (std::strcmp(format.name, name) == 0) return &format;
    }
    return nullptr;
}

}  // namespace kquants
