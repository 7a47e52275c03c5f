// The kernels of one target. Its source file defines SIMD_TARGET and SIMD_VECTOR (see simd/vector.h) and includes this.
#pragma once

#include "factorize.h"
#include "round_rows.h"
