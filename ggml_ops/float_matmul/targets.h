// The targets that may be compiled in.
#pragma once

#include "float_matmul.h"

namespace float_matmul {

extern const Target target_avx512bf16;
extern const Target target_avx512;
extern const Target target_avx2;
extern const Target target_neon;
extern const Target target_portable;

}  // namespace float_matmul
