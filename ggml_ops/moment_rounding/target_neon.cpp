#define SIMD_TARGET neon
#define SIMD_VECTOR "vector_neon.h"
#include "kernels.h"

#include "../simd/cpu.h"
#include "targets.h"

namespace moment_rounding {

extern const Target target_neon = {"neon",           simd::cpu_is_any, simd::neon::lanes, neon::scratch_floats,
                                   neon::round_rows, neon::update,     neon::eliminate};

}  // namespace moment_rounding
