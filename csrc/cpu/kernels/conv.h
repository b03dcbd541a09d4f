// The convolution kernels of one instruction set, for CNNOPS_INSTANTIATED_TYPES. Included by
// isa/conv_*.cpp inside the namespace of the instruction set; the kernels build on each other in
// this order.

#include "cpu/kernels/tile.h"
//
#include "cpu/kernels/gather.h"
//
#include "cpu/kernels/squares.h"
//
#include "cpu/kernels/items.h"
//
#include "cpu/kernels/weight_rows.h"
//
#include "cpu/kernels/dest_runs.h"
//
#include "cpu/kernels/gemm_planar.h"
//
#include "cpu/kernels/plane_tiles.h"
//
#include "cpu/kernels/pointwise_planar.h"
//
#include "cpu/kernels/weight_columns.h"
//
#include "cpu/kernels/pixel_pointers.h"
//
#include "cpu/kernels/packed_columns.h"
//
#include "cpu/kernels/weight_slices.h"
//
#include "cpu/kernels/gemm_channels_last.h"
//
#if defined(CNNOPS_TARGET_AVX512_BF16)
#include "cpu/kernels/pair_weights.h"
//
#include "cpu/kernels/pair_pixels.h"
//
#include "cpu/kernels/pair_multiply.h"
//
#include "cpu/kernels/pair_products.h"
#endif
//
#include "cpu/kernels/strips.h"
//
#include "cpu/kernels/shifted_planar.h"
//
#include "cpu/kernels/transposed_planar.h"
//
#include "cpu/kernels/affine_tile.h"
//
#include "cpu/kernels/sliding_tile.h"
//
#include "cpu/kernels/source_block.h"
//
#include "cpu/kernels/broadcast_pixels.h"
//
#include "cpu/kernels/few_channels_last.h"
//
#include "cpu/kernels/few_pixels.h"
//
#include "cpu/kernels/weight_few_pixels.h"
//
#include "cpu/kernels/band.h"
//
#include "cpu/kernels/paired_rows.h"
//
#include "cpu/kernels/direct_planar.h"
//
#if defined(CNNOPS_TARGET_AVX512)
#include "cpu/kernels/row_blocks.h"
//
#include "cpu/kernels/shifted_row.h"
//
#include "cpu/kernels/rolling_rows.h"
//
#include "cpu/kernels/depthwise_planar.h"
#endif
//
#include "cpu/kernels/groups.h"
//
#include "cpu/kernels/grouped_window.h"
//
#include "cpu/kernels/grouped_channels_last.h"
//
#include "cpu/kernels/grouped_planar.h"
//
#include "cpu/kernels/winograd_groups.h"
//
#include "cpu/kernels/winograd_transform.h"
//
#include "cpu/kernels/winograd_tiles.h"
//
#include "cpu/kernels/winograd.h"
//
#include "cpu/kernels/weight_splits.h"
//
#include "cpu/kernels/weight_places.h"
//
#include "cpu/kernels/weight_strips.h"
//
#include "cpu/kernels/weight_gemm_planar.h"
//
#include "cpu/kernels/weight_gemm_channels_last.h"
//
#include "cpu/kernels/weight_sums.h"
//
#include "cpu/kernels/weight_broadcast_pixels.h"
//
#include "cpu/kernels/weight_windows.h"
//
#include "cpu/kernels/weight_direct_planar.h"
#include "cpu/kernels/weight_pointwise_planar.h"
//
#include "cpu/kernels/weight_grouped_channels_last.h"
//
#include "cpu/kernels/weight_grouped_planar.h"
//
#include "cpu/kernels/weight_winograd.h"
//
#if defined(CNNOPS_TARGET_AVX512_BF16)
#include "cpu/kernels/weight_pair_products.h"
#endif
//
#include "cpu/kernels/fold_taps.h"
//
#include "cpu/kernels/folded_rows.h"
//
#include "cpu/kernels/tiled_dest.h"
//
#include "cpu/kernels/fold_taps_planar.h"
//
#include "cpu/kernels/fold_taps_channels_last.h"
//
#include "cpu/kernels/input_phases.h"
//
#include "cpu/kernels/phased_planar.h"
//
#include "cpu/kernels/phased_channels_last.h"
//
#include "cpu/kernels/phased_blocks.h"
//
#if defined(CNNOPS_TARGET_AVX512)
#include "cpu/kernels/rolling_phases.h"
//
#include "cpu/kernels/phased_rows.h"
#endif
//
#include "cpu/kernels/fold_padding.h"

template <class T, template <class> class Blocking>
Footprint footprint(const Contraction<T>& p) {
  return Blocking<T>(p).footprint();
}
template <class T, template <class> class Blocking>
Footprint gradient_footprint(const InputGradient<T>& p) {
  return Blocking<T>(p).footprint();
}
template <class T, template <class> class Blocking>
Footprint weight_footprint(const WeightContraction<T>& p) {
  return Blocking<T>(p).footprint();
}

/// Bytes of the packed weights that a kernel can be given.
template <class T, template <class> class Blocking>
int64_t weight_bytes(const Contraction<T>& p) {
  return Blocking<T>(p).weight_bytes;
}

#if !defined(CNNOPS_TARGET_AVX512_BF16)
struct MatrixUnit;
struct DotProducts;
#endif

/// The kernels of pairs on a unit; none but for bfloat16 where the CPU has instructions for it.
template <class T, class Unit>
constexpr Kernel<Contraction<T>> pair_kernel() {
#if defined(CNNOPS_TARGET_AVX512_BF16)
  if constexpr (__is_same(T, bfloat16)) {
    return {Unit::kName, pair_products<Unit>, pairs_footprint, pairs_weight_bytes, pairs_prepare};
  }
#endif
  return {"", nullptr, nullptr};
}
template <class T, class Unit>
constexpr Kernel<WeightContraction<T>> weight_pair_kernel() {
#if defined(CNNOPS_TARGET_AVX512_BF16)
  if constexpr (__is_same(T, bfloat16)) {
    return {Unit::kWeightName, weight_pair_products<Unit>, weight_pairs_footprint};
  }
#endif
  return {"", nullptr, nullptr};
}

/// The kernel that shifts rows in registers, for destinations; none but where an instruction does
/// that, and for floating-point numbers.
template <class T>
constexpr Kernel<Contraction<T>> depthwise_kernel() {
#if defined(CNNOPS_TARGET_AVX512)
  if constexpr (kFloats<T>) {
    return {"depthwise_planar", depthwise_planar<T>, footprint<T, DepthwisePlanarBlocking>};
  }
#endif
  return {"", nullptr, nullptr};
}

/// The same for input gradients.
template <class T>
constexpr Kernel<InputGradient<T>> phased_rows_kernel() {
#if defined(CNNOPS_TARGET_AVX512)
  if constexpr (kFloats<T>) {
    return {"phased_rows", phased_rows<T>, gradient_footprint<T, PhasedRowsBlocking>};
  }
#endif
  return {"", nullptr, nullptr};
}

/// The weight gradient of 1x1 kernels over planes; none but for numbers that are their own
/// accumulators.
template <class T>
constexpr Kernel<WeightContraction<T>> weight_pointwise_kernel() {
  if constexpr (__is_same(T, float) || __is_same(T, double)) {
    return {"weight_pointwise_planar", weight_pointwise_planar<T>,
            weight_footprint<T, WeightPointwisePlanarBlocking>};
  } else {
    return {"", nullptr, nullptr};
  }
}

/// The Winograd kernel of a form, and that for the gradient of the weight; none but where sums are
/// float.
template <class T, int kForm>
constexpr Kernel<Contraction<T>> winograd_kernel() {
  if constexpr (__is_same(Accumulator<T>, float)) {
    return {kWinogradForms[kForm].name, winograd<T, kForm>, winograd_footprint<T, kForm>,
            winograd_prepared_bytes<T, kForm>, winograd_prepare<T, kForm>};
  } else {
    return {"", nullptr, nullptr};
  }
}
template <class T, int kForm>
constexpr Kernel<WeightContraction<T>> weight_winograd_kernel() {
  if constexpr (__is_same(Accumulator<T>, float)) {
    return {kWinogradForms[kForm].weight_name, weight_winograd<T, kForm>,
            weight_winograd_footprint<T, kForm>};
  } else {
    return {"", nullptr, nullptr};
  }
}

/// The kernels of all forms.
template <class T, int... kForms>
constexpr WinogradKernels<Contraction<T>> winograd_kernels(std::integer_sequence<int, kForms...>) {
  return {winograd_kernel<T, kForms>()...};
}
template <class T, int... kForms>
constexpr WinogradKernels<WeightContraction<T>> weight_winograd_kernels(
    std::integer_sequence<int, kForms...>) {
  return {weight_winograd_kernel<T, kForms>()...};
}

template <class T>
const ConvKernels<T>& conv_kernels() {
  constexpr std::make_integer_sequence<int, kWinogradFormCount> forms;
  static constexpr ConvKernels<T> table{
      kLanes<Accumulator<T>>,
      {"gemm_planar", gemm_planar<T>, footprint<T, GemmPlanarBlocking>},
      {"shifted_planar", shifted_planar<T>, footprint<T, ShiftedPlanarBlocking>},
      {"transposed_planar", transposed_planar<T>, footprint<T, TransposedPlanarBlocking>,
       weight_bytes<T, TransposedPlanarBlocking>, prepare_columns<T>},
      {"pointwise_planar", pointwise_planar<T>, footprint<T, PointwisePlanarBlocking>},
      {"gemm_channels_last", gemm_channels_last<T>, footprint<T, GemmChannelsLastBlocking>,
       weight_bytes<T, GemmChannelsLastBlocking>, prepare_columns<T>},
      pair_kernel<T, MatrixUnit>(),
      pair_kernel<T, DotProducts>(),
      {"broadcast_pixels", broadcast_pixels<T>, footprint<T, BroadcastPixelsBlocking>,
       weight_bytes<T, BroadcastPixelsBlocking>, prepare_columns<T>},
      {"few_channels_last", few_channels_last<T>, footprint<T, FewChannelsLastBlocking>},
      {"few_pixels", few_pixels<T>, footprint<T, FewPixelsBlocking>},
      {"direct_planar", direct_planar<T>, footprint<T, DirectPlanarBlocking>},
      depthwise_kernel<T>(),
      {"grouped_channels_last", grouped_channels_last<T>, footprint<T, GroupedTables>},
      {"grouped_planar", grouped_planar<T>, footprint<T, GroupedPlanarBlocking>},
      winograd_kernels<T>(forms),
      {"fold_taps_planar", fold_taps_planar<T>, gradient_footprint<T, FoldTapsPlanarBlocking>},
      {"fold_taps_channels_last", fold_taps_channels_last<T>,
       gradient_footprint<T, FoldTapsChannelsLastBlocking>},
      phased_rows_kernel<T>(),
      {"phased_planar", phased_planar<T>, gradient_footprint<T, PhasedPlanarBlocking>},
      {"phased_blocks", phased_blocks<T>, gradient_footprint<T, PhasedBlocksBlocking>},
      {"phased_channels_last", phased_channels_last<T>,
       gradient_footprint<T, PhasedGroupsBlocking>},
      {"weight_gemm_planar", weight_gemm_planar<T>, weight_footprint<T, WeightGemmPlanarBlocking>},
      weight_pointwise_kernel<T>(),
      weight_pair_kernel<T, MatrixUnit>(),
      weight_pair_kernel<T, DotProducts>(),
      {"weight_gemm_channels_last", weight_gemm_channels_last<T>,
       weight_footprint<T, WeightGemmChannelsLastBlocking>},
      {"weight_broadcast_pixels", weight_broadcast_pixels<T>,
       weight_footprint<T, WeightBroadcastPixelsBlocking>},
      {"weight_few_pixels", weight_few_pixels<T>, weight_footprint<T, WeightFewPixelsBlocking>},
      {"weight_direct_planar", weight_direct_planar<T>,
       weight_footprint<T, WeightDirectPlanarBlocking>},
      {"weight_grouped_channels_last", weight_grouped_channels_last<T>,
       weight_grouped_channels_last_footprint<T>},
      {"weight_grouped_planar", weight_grouped_planar<T>,
       weight_footprint<T, WeightGroupedPlanarBlocking>},
      weight_winograd_kernels<T>(forms),
      {"fold_padding", fold_padding<T>, fold_footprint<T>},
  };
  return table;
}

#define CNNOPS_INSTANTIATE_KERNELS(T) template const ConvKernels<T>& conv_kernels<T>();
CNNOPS_INSTANTIATED_TYPES(CNNOPS_INSTANTIATE_KERNELS)
