// Which targets are compiled in.

#include "targets.h"

namespace moment_rounding {
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

}  // namespace moment_rounding
