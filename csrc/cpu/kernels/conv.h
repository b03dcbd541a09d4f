// The convolution kernels of one instruction set. Included by isa/conv_*.cpp inside the namespace
// of the instruction set; the kernels build on each other in this order.

#include "cpu/kernels/tile.h"
//
#include "cpu/kernels/gather.h"
//
#include "cpu/kernels/gemm_planar.h"
//
#include "cpu/kernels/gemm_channels_last.h"
//
#include "cpu/kernels/band.h"
//
#include "cpu/kernels/direct_planar.h"
//
#include "cpu/kernels/grouped_channels_last.h"
//
#include "cpu/kernels/weight_gemm_planar.h"
//
#include "cpu/kernels/weight_gemm_channels_last.h"
//
#include "cpu/kernels/weight_direct_planar.h"
//
#include "cpu/kernels/weight_grouped_channels_last.h"
//
#include "cpu/kernels/fold_padding.h"

template <class T>
const ConvKernels<T>& conv_kernels() {
  static constexpr ConvKernels<T> table{
      gemm_planar<T>,           gemm_channels_last<T>,           direct_planar<T>,
      grouped_channels_last<T>, weight_gemm_planar<T>,           weight_gemm_channels_last<T>,
      weight_direct_planar<T>,  weight_grouped_channels_last<T>, fold_padding<T>,
  };
  return table;
}

#define CNNOPS_INSTANTIATE_KERNELS(T) template const ConvKernels<T>& conv_kernels<T>();
CNNOPS_FOR_EACH_CONV_TYPE(CNNOPS_INSTANTIATE_KERNELS)
