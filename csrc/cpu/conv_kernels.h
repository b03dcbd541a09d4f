// The convolution kernels of one instruction set for one storage type, as a table of pointers.
#pragma once

#include "contraction.h"
#include "dtype.h"

namespace cnnops {

/// "planar" kernels run their vectors along the innermost spatial axis and take any strides;
/// "channels_last" kernels run them along channels, which must have stride 1.
template <class T>
struct ConvKernels {
  void (*gemm_planar)(const Contraction<T>&);
  void (*gemm_channels_last)(const Contraction<T>&);
  void (*direct_planar)(const Contraction<T>&);
  void (*grouped_channels_last)(const Contraction<T>&);

  void (*weight_gemm_planar)(const WeightContraction<T>&);
  void (*weight_gemm_channels_last)(const WeightContraction<T>&);
  void (*weight_direct_planar)(const WeightContraction<T>&);
  void (*weight_grouped_channels_last)(const WeightContraction<T>&);

  void (*fold_padding)(const Fold<T>&);
};

}  // namespace cnnops
