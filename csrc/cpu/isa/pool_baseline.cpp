#include "cpu/isa/begin.h"
#include "cpu/pool_kernels.h"

namespace cnnops::baseline {
#include "cpu/simd.h"
//
#include "cpu/kernels/pool.h"
}  // namespace cnnops::baseline
