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

template <class T, template <class> class Blocking>
Footprint footprint(const Contraction<T>& p) {
  return Blocking<T>(p).footprint();
}
template <class T, template <class> class Blocking>
Footprint weight_footprint(const WeightContraction<T>& p) {
  return Blocking<T>(p).footprint();
}

template <class T>
const ConvKernels<T>& conv_kernels() {
  static constexpr ConvKernels<T> table{
      kLanes<Accumulator<T>>,
      {gemm_planar<T>, footprint<T, GemmPlanarBlocking>},
      {gemm_channels_last<T>, footprint<T, GemmChannelsLastBlocking>},
      {direct_planar<T>, footprint<T, DirectPlanarBlocking>},
      {grouped_channels_last<T>, footprint<T, GroupedChannelsLastBlocking>},
      {weight_gemm_planar<T>, weight_footprint<T, WeightGemmPlanarBlocking>},
      {weight_gemm_channels_last<T>, weight_footprint<T, WeightGemmChannelsLastBlocking>},
      {weight_direct_planar<T>, weight_footprint<T, WeightDirectPlanarBlocking>},
      {weight_grouped_channels_last<T>, weight_footprint<T, WeightGroupedChannelsLastBlocking>},
      {fold_padding<T>, fold_footprint<T>},
  };
  return table;
}

#define CNNOPS_INSTANTIATE_KERNELS(T) template const ConvKernels<T>& conv_kernels<T>();
CNNOPS_FOR_EACH_CONV_TYPE(CNNOPS_INSTANTIATE_KERNELS)
