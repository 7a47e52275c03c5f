// How the entries of grids become bytes: MATMUL_GRIDS, which the source file of a target defines.
#pragma once

#if !defined(MATMUL_GRIDS)
#define MATMUL_GRIDS "entries_avx2.h"
#endif

#include MATMUL_GRIDS
