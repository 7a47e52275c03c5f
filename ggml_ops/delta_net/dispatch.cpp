// Which targets are compiled in.

#include "../simd/vector_targets.h"
#include "targets.h"

namespace delta_net {

simd::Span<const Target* const> targets() {
    return simd::vector_targets<&target_avx512, &target_avx2, &target_neon, &target_portable>;
}

const Target& for_size(const Target& target, std::int64_t size) {
    return size % target.lanes == 0 ? target : target_portable;
}

}  // namespace delta_net
