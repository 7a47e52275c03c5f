// The targets that may be compiled in.
#pragma once

#include "attention.h"

namespace attention {

extern const Target target_avx512vnni;
extern const Target target_avx512;
extern const Target target_avxvnni;
extern const Target target_avx2;
extern const Target target_neon;
extern const Target target_portable;

}  // namespace attention
