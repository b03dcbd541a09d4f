#define CNNOPS_INSTANTIATED_TYPES CNNOPS_FOR_EACH_POOL_TYPE
#include "cpu/isa/begin.h"
#include "cpu/pool_kernels.h"

namespace cnnops::baseline {
#include "cpu/simd.h"
//
#include "cpu/kernels/pool.h"
}  // namespace cnnops::baseline
