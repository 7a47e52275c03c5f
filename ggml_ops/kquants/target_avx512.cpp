#include <immintrin.h>

#define KQUANTS_TARGET avx512
#define KQUANTS_VECTOR "vector_avx512.h"
#include "kernels.h"

#include "target.h"

namespace kquants {

extern const Target target_avx512 = {"avx512", cpu_has_avx512, avx512::formats, std::size(avx512::formats),
                                     avx512::find_non_finite};

}
