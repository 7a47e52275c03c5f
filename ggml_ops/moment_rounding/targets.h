// The targets that may be compiled in.
#pragma once

#include "moment_rounding.h"

namespace moment_rounding {

extern const Target target_avx512;
extern const Target target_avx2;
extern const Target target_neon;
extern const Target target_portable;

}  // namespace moment_rounding
