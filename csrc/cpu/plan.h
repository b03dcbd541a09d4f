// Which kernel runs which convolution: all rules in one place. They look at the shape and the layout
// only, so the choice, and with it every rounding, is the same on any number of threads.
#pragma once

#include "cpu/contraction.h"

namespace cnnops {

enum class Algorithm {
  gemm_planar,              // vectors along pixels; any strides, any geometry
  gemm_channels_last,       // vectors along channels
  direct_planar,            // few channels in a group; vectors along the width
  depthwise_channels_last,  // one channel in a group; vectors along channels
};

namespace plan {

/// Direct kernels gather whole source rows, the phases of the stride apart: with far strides or
/// dilations most of a gathered row would go unused. Such shapes go to the GEMM.
constexpr int64_t kMaxDirectStep = 4;
constexpr int64_t kMaxDirectSpan = 512;

inline bool fits_bands(const ContractionShape& shape) {
  for (int axis = 1; axis < kAxes; ++axis) {
    const Walk& walk = shape.walk[axis];
    if (walk.step > kMaxDirectStep) return false;
    int64_t low = walk.taps[0].offset, high = low;
    for (int64_t t = 1; t < walk.tap_count; ++t) {
      low = walk.taps[t].offset < low ? walk.taps[t].offset : low;
      high = walk.taps[t].offset > high ? walk.taps[t].offset : high;
    }
    if (high - low > kMaxDirectSpan) return false;
  }
  // A band of one row must stay near the size of an L2 cache.
  const Walk& width = shape.walk[2];
  return (width.count + kMaxDirectSpan) * width.step * shape.depth * shape.walk[0].tap_count *
             shape.walk[1].tap_count <=
         int64_t(1) << 17;
}

/// From this width on a GEMM that folds rows into its panel uses its lanes no better.
constexpr int64_t kMinDirectWidth = 12;
/// Up to so many source channels gathering im2col rows costs more than the GEMM's better tile saves.
constexpr int64_t kMaxDirectDepth = 4;

}  // namespace plan

/// The kernel for a forward or input-gradient contraction.
inline Algorithm choose_algorithm(const ContractionShape& shape, bool channels_last) {
  const bool depthwise = shape.rows == 1 && shape.depth == 1;
  if (channels_last) {
    return depthwise ? Algorithm::depthwise_channels_last : Algorithm::gemm_channels_last;
  }
  const bool wide = shape.walk[2].count >= plan::kMinDirectWidth;
  const bool few = shape.depth <= plan::kMaxDirectDepth && (wide || depthwise) && shape.taps() > 1;
  return (few || depthwise) && plan::fits_bands(shape) ? Algorithm::direct_planar
                                                       : Algorithm::gemm_planar;
}

/// The kernel for a weight-gradient contraction.
inline Algorithm choose_weight_algorithm(const ContractionShape& shape, bool channels_last) {
  const bool depthwise = shape.rows == 1 && shape.depth == 1;
  if (channels_last) {
    return depthwise ? Algorithm::depthwise_channels_last : Algorithm::gemm_channels_last;
  }
  // The direct kernel passes over the band once for each pair of channels.
  const bool few = shape.rows * shape.depth <= 16 && shape.walk[2].count >= plan::kMinDirectWidth;
  return (few || depthwise) && plan::fits_bands(shape) ? Algorithm::direct_planar
                                                       : Algorithm::gemm_planar;
}

}  // namespace cnnops
