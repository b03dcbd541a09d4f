// The pooling kernels of one instruction set for one storage type, as a table of pointers.
#pragma once

#include "dtype.h"

/// Calls X(T) for every storage type with pooling kernels.
#define CNNOPS_FOR_EACH_POOL_TYPE(X) \
  X(float) X(double) X(bfloat16) X(float16) X(int64_t) X(int32_t) X(int16_t) X(int8_t) X(uint8_t)

namespace cnnops {

template <class T>
struct PoolKernels {};

}  // namespace cnnops
