#define CNNOPS_INSTANTIATED_TYPES CNNOPS_FOR_EACH_FLOAT_SUM_TYPE
#include "cpu/conv_kernels.h"
#include "cpu/isa/begin.h"

namespace cnnops::baseline {
#include "cpu/simd.h"
//
#include "cpu/kernels/conv.h"
}  // namespace cnnops::baseline
