// The targets that may be compiled in.
#pragma once

#include "delta_net.h"

namespace delta_net {

extern const Target target_avx512;
extern const Target target_avx2;
extern const Target target_neon;
extern const Target target_portable;

}  // namespace delta_net
