#if defined(__x86_64__)
#define CNNOPS_TARGET_AVX512
#define CNNOPS_TARGET_AVX512_BF16
#define CNNOPS_INSTANTIATED_TYPES(X) X(bfloat16)
#include "cpu/conv_kernels.h"
#include "cpu/isa/begin.h"

namespace cnnops::avx512_bf16 {
#include "cpu/simd.h"
//
#include "cpu/kernels/conv.h"
}  // namespace cnnops::avx512_bf16
#endif
