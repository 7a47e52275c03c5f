#include <immintrin.h>

#define KQUANTS_TARGET avx2
#define KQUANTS_VECTOR "vector_avx2.h"
#include "kernels.h"

#include "target.h"

namespace kquants {

extern const Target target_avx2 = {"avx2", cpu_has_avx2, avx2::formats, std::size(avx2::formats),
                                   avx2::find_non_finite};

}
