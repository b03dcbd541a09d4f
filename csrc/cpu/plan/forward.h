// The plan of a contraction: the forward pass, or one phase of an input gradient.
#pragma once

#include "cpu/plan/broadcasts.h"
#include "cpu/plan/few_pixels.h"
#include "cpu/plan/groups.h"
#include "cpu/plan/products.h"
#include "cpu/plan/rows.h"
#include "cpu/plan/winograd.h"

namespace cnnops {

namespace plan {

/// The kernel for a forward or input-gradient contraction.
inline Choice choose_algorithm(const ContractionShape& shape, bool channels_last, bool dense_planes,
                               int64_t lanes) {
  const bool depthwise = shape.rows == 1 && shape.depth == 1;
  if (groups_fill_registers(shape, lanes)) {
    if (channels_last) return kGroupedChannelsLast;
    const int64_t narrow = depthwise ? narrow_row_of_windows(shape, lanes) : kNarrowRow;
    if (dense_planes && suits_transposed_blocks(shape, narrow, lanes)) {
      return kGroupedPlanar;
    }
  }
  if (channels_last && suits_few_channels(shape, lanes)) return kFewChannelsLast;
  if (suits_broadcasts(shape, channels_last, lanes)) return kBroadcastPixels;
  if (channels_last && shape.rows >= kMinChannelsInRegister) {
    return {Algorithm::gemm_channels_last, "output channels fill registers"};
  }
  const bool few = shape.depth <= kFewChannels || shape.rows <= kFewChannels;
  const bool direct = few && shape.taps() > 1 && shape.walk[2].count >= kMinDirectWidth;
  if (!direct && !depthwise) {
    return {Algorithm::gemm_planar, few ? "taps or width too few for a direct kernel"
                                        : "enough channels for a matrix product over pixels"};
  }
  if (!fits_bands(shape)) {
    return {Algorithm::gemm_planar, "taps too far apart to keep the rows they read in cache"};
  }
  if (!depthwise && gathers_again(shape)) {
    return {Algorithm::gemm_planar, "rows too long to keep those of all channels in cache"};
  }
  return {Algorithm::direct_planar,
          depthwise ? "depthwise: no sum over channels" : "few channels in a group"};
}

}  // namespace plan

/// The plan of `p`, which is simplified first; taps in another order are in `taps`.
template <class T>
Plan<Contraction<T>> plan_of(Contraction<T>& p, bool channels_last, OrderedTaps& taps) {
  merge_pointwise(p);
  const ConvKernels<T>& kernels = conv_kernels<T>();
  Choice choice =
      plan::choose_algorithm(p, channels_last, plan::reads_dense_planes(p), kernels.lanes);
  if (plan::suits_few_pixels(p)) {
    choice = {Algorithm::few_pixels, "few output pixels: the weight is read once, where it lies"};
  } else if (plan::suits_matrix_unit<T>(p)) {
    choice = plan::kMatrixUnit;
  } else if (plan::suits_dot_products<T>(p)) {
    const int form = plan::winograd_form(p, kernels.lanes);
    if (form >= 0) return {plan::kWinograd, kernels.winograd[form]};
    choice = plan::kDotProducts;
  } else if (plan::suits_rows_in_place(p, choice.algorithm, kernels.lanes)) {
    choice = {Algorithm::depthwise_planar, "few taps along rows, which are read where they lie"};
  } else if (choice.algorithm == Algorithm::gemm_channels_last &&
             plan::suits_weight_rows(p, kernels.lanes)) {
    choice = {Algorithm::gemm_planar, "few pixels: the weight is read as it lies"};
  } else if (choice.algorithm == Algorithm::gemm_planar && plan::suits_planes(p)) {
    choice = plan::kPointwisePlanar;
  } else if (plan::suits_weight_as_pixels(p)) {
    exchange_parts(p);
    choice = {Algorithm::gemm_planar, "few pixels: vectors along the weight, read as it lies"};
  } else if (const int form = plan::winograd_form(p, kernels.lanes); form >= 0) {
    return {plan::kWinograd, kernels.winograd[form]};
  } else if (choice.algorithm == Algorithm::gemm_planar && plan::suits_transposing(p)) {
    choice = {Algorithm::transposed_planar, "channels enough to transpose rows: no im2col"};
  } else if (choice.algorithm == Algorithm::gemm_planar && plan::suits_shifted_rows(p)) {
    choice = {Algorithm::shifted_planar, "rows long beside their padding: taps are shifts"};
  }
  switch (choice.algorithm) {
    case Algorithm::gemm_planar: return {choice, kernels.gemm_planar};
    case Algorithm::shifted_planar: return {choice, kernels.shifted_planar};
    case Algorithm::transposed_planar: return {choice, kernels.transposed_planar};
    case Algorithm::pointwise_planar: return {choice, kernels.pointwise_planar};
    case Algorithm::gemm_channels_last: return {choice, kernels.gemm_channels_last};
    case Algorithm::matrix_unit: return {choice, kernels.matrix_unit};
    case Algorithm::dot_products: return {choice, kernels.dot_products};
    case Algorithm::broadcast_pixels:
      order_taps(p, taps);  // what a pixel reads of a row is one run
      return {choice, kernels.broadcast_pixels};
    case Algorithm::few_channels_last: return {choice, kernels.few_channels_last};
    case Algorithm::few_pixels: return {choice, kernels.few_pixels};
    case Algorithm::direct_planar: return {choice, kernels.direct_planar};
    case Algorithm::depthwise_planar: return {choice, kernels.depthwise_planar};
    case Algorithm::grouped_channels_last: return {choice, kernels.grouped_channels_last};
    case Algorithm::grouped_planar: return {choice, kernels.grouped_planar};
    default: break;  // the others are kernels of input gradients
  }
  return {choice, kernels.gemm_planar};
}

}  // namespace cnnops
