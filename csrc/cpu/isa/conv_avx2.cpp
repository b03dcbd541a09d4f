#if defined(__x86_64__)
#define CNNOPS_TARGET_AVX2
#define CNNOPS_INSTANTIATED_TYPES CNNOPS_FOR_EACH_FLOAT_SUM_TYPE
#include "cpu/conv_kernels.h"
#include "cpu/isa/begin.h"

namespace cnnops::avx2 {
#include "cpu/simd.h"
//
#include "cpu/kernels/conv.h"
}  // namespace cnnops::avx2
#endif
