#if defined(__x86_64__)
#define CNNOPS_TARGET_AVX512
#define CNNOPS_INSTANTIATED_TYPES CNNOPS_FOR_EACH_POOL_TYPE
#include "cpu/isa/begin.h"
#include "cpu/pool_kernels.h"

namespace cnnops::avx512 {
#include "cpu/simd.h"
//
#include "cpu/kernels/pool.h"
}  // namespace cnnops::avx512
#endif
