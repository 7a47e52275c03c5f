#define KQUANTS_TARGET portable
#define KQUANTS_VECTOR "vector_portable.h"
#include "kernels.h"

#include "target.h"

namespace kquants {

extern const Target target_portable = {"portable", cpu_is_any, portable::formats, std::size(portable::formats),
                                       portable::find_non_finite};

}
