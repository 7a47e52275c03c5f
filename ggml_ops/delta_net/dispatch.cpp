// Which targets are compiled in.

#include <iterator>

#include "delta_net.h"

namespace delta_net {

extern const Target target_avx512;
extern const Target target_avx2;
extern const Target target_neon;
extern const Target target_portable;

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

const Target& for_size(const Target& target, std::int64_t size) {
    return size % target.lanes == 0 ? target : target_portable;
}

}  // namespace delta_net
