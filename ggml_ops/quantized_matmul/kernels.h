// Everything that is compiled once for each target: a target's source file defines MATMUL_TARGET, SIMD_VECTOR (see
// vector.h) and MATMUL_BYTES, and includes this.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "matmul.h"

namespace matmul::MATMUL_TARGET {
namespace {

#include "../simd/vector.h"

#include MATMUL_BYTES

#include "column.h"
#include "formats.h"
#include "quantize.h"
#include "by_rows.h"
#include "by_panels.h"

void multiply(const Product& job) {
    for_format(job.format, [&job](auto weights) {
        using Weights = decltype(weights);
        if (job.columns_count > most_columns_by_rows) return many_columns<Weights>(job);
        few_columns<Weights>(job, 0, job.columns_count);
    });
}

}  // namespace
}  // namespace matmul::MATMUL_TARGET
