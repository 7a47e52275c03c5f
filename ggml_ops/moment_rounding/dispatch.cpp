// Which targets are compiled in.

#include "../simd/vector_targets.h"
#include "targets.h"

namespace moment_rounding {

simd::Span<const Target* const> targets() {
    return simd::vector_targets<&target_avx512, &target_avx2, &target_neon, &target_portable>;
}

}  // namespace moment_rounding
