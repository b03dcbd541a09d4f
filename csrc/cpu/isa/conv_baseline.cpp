#include "cpu/conv_kernels.h"
#include "cpu/isa/begin.h"

namespace cnnops::baseline {
#include "cpu/simd.h"
//
#include "cpu/kernels/conv.h"
}  // namespace cnnops::baseline
