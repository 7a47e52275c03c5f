#define SIMD_TARGET portable
#define SIMD_VECTOR "vector_portable.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace moment_rounding {

extern const Target target_portable = {
    "portable",           simd::cpu_is_any, simd::portable::lanes, portable::scratch_floats,
    portable::round_rows, portable::update, portable::eliminate};

}  // namespace moment_rounding
