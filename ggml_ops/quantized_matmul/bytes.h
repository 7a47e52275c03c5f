// Vectors of bytes, and how they are multiplied: those of MATMUL_BYTES, which the source file of a target defines.
#pragma once

#if !defined(MATMUL_BYTES)
#define MATMUL_BYTES "bytes_avx2.h"
#endif

#include MATMUL_BYTES
