#include "cpu/pool_kernels.h"
#include "cpu/isa/begin.h"

namespace cnnops::baseline {
#include "cpu/simd.h"
//
#include "cpu/kernels/pool.h"
}  // namespace cnnops::baseline
