// What a target has to offer, and what it needs. The tests of the processor are in dispatch.cpp, which is compiled for
// any processor.
#pragma once

#include <iterator>

#include "kquants.h"

namespace kquants {

bool cpu_has_avx512();
bool cpu_has_avx2();
bool cpu_is_any();

extern const Target target_avx512;
extern const Target target_avx2;
extern const Target target_neon;
extern const Target target_portable;

}  // namespace kquants
