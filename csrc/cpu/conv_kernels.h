// The convolution kernels of one instruction set for one storage type, as a table of pointers.
#pragma once

#include "dtype.h"

/// Calls X(T) for every storage type with convolution kernels.
#define CNNOPS_FOR_EACH_CONV_TYPE(X) X(float) X(double) X(bfloat16) X(float16) X(int64_t)

namespace cnnops {

template <class T>
struct ConvKernels {};

}  // namespace cnnops
