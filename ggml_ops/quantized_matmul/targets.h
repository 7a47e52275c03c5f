// The targets that may be compiled in.
#pragma once

#include "quantized_matmul.h"

namespace quantized_matmul {

extern const Target target_avx512vbmi;
extern const Target target_avx512vnni;
extern const Target target_avxvnni;
extern const Target target_avx2;
extern const Target target_i8mm;
extern const Target target_neondot;
extern const Target target_portable;

}  // namespace quantized_matmul
