// Which targets are compiled in.

#include "targets.h"

namespace delta_net {
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

const Target& for_size(const Target& target, std::int64_t size) {
    return size % target.lanes == 0 ? target : target_portable;
}

}  // namespace delta_net
