// The plan of a weight gradient.
#pragma once

#include "cpu/plan/broadcasts.h"
#include "cpu/plan/few_pixels.h"
#include "cpu/plan/groups.h"
#include "cpu/plan/products.h"
#include "cpu/plan/rows.h"
#include "cpu/plan/winograd.h"

namespace cnnops {

namespace plan {

/// The kernel for a weight-gradient contraction.
inline Choice choose_weight_algorithm(const ContractionShape& shape, bool channels_last,
                                      bool dense_planes, int64_t lanes) {
  const bool depthwise = shape.rows == 1 && shape.depth == 1;
  if (groups_fill_registers(shape, lanes)) {
    if (channels_last) return kGroupedChannelsLast;
    const int64_t narrow = depthwise ? narrow_row_of_windows(shape, lanes) : kNarrowRowOfWindows;
    if (dense_planes && suits_transposed_bands(shape, lanes)) return kGroupedBands;
    if (dense_planes && suits_transposed_blocks(shape, narrow, lanes)) {
      return kGroupedPlanar;
    }
  }
  if (suits_broadcast_sums(shape, channels_last, lanes)) return kBroadcastPixels;
  const bool few =
      shape.rows * shape.depth <= kMaxDirectPairs && shape.walk[2].count >= kMinDirectWidth;
  const bool direct = few || depthwise || (!channels_last && suits_long_rows(shape));
  if (direct && fits_bands(shape)) {
    return {Algorithm::direct_planar, depthwise ? "depthwise: no product of channels"
                                      : few     ? "few pairs of channels"
                                                : "few sums for each of long rows"};
  }
  const char* reason = direct ? "taps too far apart to keep the rows they read in cache"
                              : "enough channels for a matrix product";
  return {channels_last ? Algorithm::gemm_channels_last : Algorithm::gemm_planar, reason};
}

/// Whether pixels of grad are better broadcast to registers of source channels than the other way
/// round, in the work that this takes.
inline bool pays_to_turn_around(const ContractionShape& shape, int64_t lanes) {
  const int64_t taps = shape.taps();
  return 4 * work_of_registers(shape.depth, shape.rows * taps, lanes) <
         3 * work_of_registers(shape.rows, shape.depth * taps, lanes);
}

}  // namespace plan

/// The plan of `p`, which is simplified first; walks that are turned around have their taps in
/// `taps`.
template <class T>
Plan<WeightContraction<T>> plan_of(WeightContraction<T>& p, bool channels_last, OrderedTaps& taps) {
  merge_pointwise(p);
  const ConvKernels<T>& kernels = conv_kernels<T>();
  if (plan::suits_few_pixels(p)) {
    return {{Algorithm::few_pixels, "few output pixels: the weight is stored once, where it lies"},
            kernels.weight_few_pixels};
  }
  if (channels_last) exchange_to_fill(p, kernels.lanes);
  if (plan::suits_matrix_unit<T>(p)) return {plan::kMatrixUnit, kernels.weight_matrix_unit};
  Choice choice =
      plan::choose_weight_algorithm(p, channels_last, plan::reads_dense_planes(p), kernels.lanes);
  if (const int form = plan::winograd_form(p, channels_last, kernels.lanes); form >= 0) {
    return {plan::kWinograd, kernels.weight_winograd[form]};
  }
  if (plan::suits_dot_products<T>(p)) return {plan::kDotProducts, kernels.weight_dot_products};
  if (choice.algorithm == Algorithm::gemm_planar && plan::suits_products_of_planes(p)) {
    choice = plan::kPointwisePlanar;
  }
  const bool product = choice.algorithm == Algorithm::gemm_planar ||
                       choice.algorithm == Algorithm::gemm_channels_last;
  const bool may_turn = product && p.taps() > 1 && can_turn_around(p);
  if (may_turn && plan::pays_to_turn_around(p, kernels.lanes)) {
    WeightContraction<T> turned = p;
    turn_around(turned, taps);
    if (plan::fits_broadcast_sums(turned, channels_last, kernels.lanes)) {
      p = turned;
      return {plan::kTurnedBroadcast, kernels.weight_broadcast_pixels};
    }
  }
  switch (choice.algorithm) {
    case Algorithm::pointwise_planar: return {choice, kernels.weight_pointwise_planar};
    case Algorithm::gemm_planar:
      exchange_parts(p, kernels.lanes);
      return {choice, kernels.weight_gemm_planar};
    case Algorithm::gemm_channels_last: return {choice, kernels.weight_gemm_channels_last};
    case Algorithm::broadcast_pixels: return {choice, kernels.weight_broadcast_pixels};
    case Algorithm::direct_planar: return {choice, kernels.weight_direct_planar};
    case Algorithm::grouped_channels_last: return {choice, kernels.weight_grouped_channels_last};
    case Algorithm::grouped_planar: return {choice, kernels.weight_grouped_planar};
    default: break;  // the others are kernels of the other two contractions
  }
  return {choice, kernels.weight_gemm_planar};
}

}  // namespace cnnops
