// Which kernel runs which convolution: all rules in one place. They look at the shape, the layout
// and the width of a register, so the choice, and with it every rounding, is the same on any number
// of threads. A choice comes with its reason, which `cnnops.plan` prints.
#pragma once

#include "cpu/dispatch.h"
#include "walks.h"

namespace cnnops {

enum class Algorithm {
  gemm_planar,            // vectors along pixels; any strides, any geometry
  gemm_channels_last,     // vectors along channels
  direct_planar,          // few channels in a group; vectors along the width
  grouped_channels_last,  // 1, 2, 4 or 8 channels in and out of a group; vectors along channels
};

inline const char* name_of(Algorithm algorithm) {
  switch (algorithm) {
    case Algorithm::gemm_planar: return "gemm_planar";
    case Algorithm::gemm_channels_last: return "gemm_channels_last";
    case Algorithm::direct_planar: return "direct_planar";
    case Algorithm::grouped_channels_last: return "grouped_channels_last";
  }
  return "";
}

/// What a contraction runs, and why.
struct Choice {
  Algorithm algorithm;
  const char* reason;
};

namespace plan {

/// Direct kernels gather whole source rows, the phases of the stride apart: with far dilations most
/// of a gathered row would go unused. Such shapes, and far strides, go to the GEMM.
constexpr int64_t kMaxDirectSpan = 512;

/// A band of one source channel and destination row must not be much larger than an L2 cache.
constexpr int64_t kMaxBandElements = int64_t(1) << 19;

inline bool fits_bands(const ContractionShape& shape) {
  int64_t span[2];
  for (int i = 0; i < 2; ++i) {
    const Walk& walk = shape.walk[1 + i];
    span[i] = walk.high() - walk.low();
    if (walk.step > kMaxDirectStep || span[i] > kMaxDirectSpan) return false;
  }
  const int64_t row = (shape.walk[2].count + span[1]) * shape.walk[2].step;
  return row * (span[0] + 1) * shape.walk[0].tap_count <= kMaxBandElements;
}

/// Narrower rows leave most lanes of a register unused; a GEMM folds rows into its panel.
constexpr int64_t kMinDirectWidth = 8;

/// With so few channels on one side of a group a GEMM spends more on gathering im2col than it
/// saves.
constexpr int64_t kFewChannels = 8;

/// From this many destination channels in a group on they fill registers.
constexpr int64_t kMinChannelsInRegister = 8;

/// The direct weight kernel passes over grad once for each pair of channels: only so many pairs.
constexpr int64_t kMaxDirectPairs = 16;

/// Groups that registers of `lanes` channels hold without splitting any.
inline bool groups_fill_registers(const ContractionShape& shape, int64_t lanes) {
  const int64_t size = shape.rows;
  const bool listed = size == 1 || size == 2 || size == 4 || size == 8;
  return listed && size <= lanes && shape.depth == size && shape.groups > 1;
}

constexpr Choice kGroupedChannelsLast{Algorithm::grouped_channels_last,
                                      "a register of channels holds whole groups"};

}  // namespace plan

/// The kernel for a forward or input-gradient contraction.
inline Choice choose_algorithm(const ContractionShape& shape, bool channels_last, int64_t lanes) {
  const bool depthwise = shape.rows == 1 && shape.depth == 1;
  if (channels_last && plan::groups_fill_registers(shape, lanes)) return plan::kGroupedChannelsLast;
  if (channels_last && shape.rows >= plan::kMinChannelsInRegister) {
    return {Algorithm::gemm_channels_last, "output channels fill registers"};
  }
  const bool few = shape.depth <= plan::kFewChannels || shape.rows <= plan::kFewChannels;
  const bool direct = few && shape.taps() > 1 && shape.walk[2].count >= plan::kMinDirectWidth;
  if (!direct && !depthwise) {
    return {Algorithm::gemm_planar, few ? "taps or width too few for a direct kernel"
                                        : "enough channels for a matrix product over pixels"};
  }
  if (!plan::fits_bands(shape)) {
    return {Algorithm::gemm_planar, "taps too far apart to keep the rows they read in cache"};
  }
  return {Algorithm::direct_planar,
          depthwise ? "depthwise: no sum over channels" : "few channels in a group"};
}

/// The kernel for a weight-gradient contraction.
inline Choice choose_weight_algorithm(const ContractionShape& shape, bool channels_last,
                                      int64_t lanes) {
  const bool depthwise = shape.rows == 1 && shape.depth == 1;
  if (channels_last && plan::groups_fill_registers(shape, lanes)) return plan::kGroupedChannelsLast;
  const bool few = shape.rows * shape.depth <= plan::kMaxDirectPairs &&
                   shape.walk[2].count >= plan::kMinDirectWidth;
  if ((few || depthwise) && plan::fits_bands(shape)) {
    return {Algorithm::direct_planar,
            depthwise ? "depthwise: no product of channels" : "few pairs of channels"};
  }
  const char* reason = few || depthwise ? "taps too far apart to keep the rows they read in cache"
                                        : "enough channels for a matrix product";
  return {channels_last ? Algorithm::gemm_channels_last : Algorithm::gemm_planar, reason};
}

/// How a contraction is computed.
template <class Problem>
struct Plan {
  Choice choice;
  Kernel<Problem> kernel;
};

/// The plan of `p`, which is simplified first.
template <class T>
Plan<Contraction<T>> plan_of(Contraction<T>& p, bool channels_last) {
  merge_pointwise(p);
  const ConvKernels<T>& kernels = conv_kernels<T>();
  const Choice choice = choose_algorithm(p, channels_last, kernels.lanes);
  switch (choice.algorithm) {
    case Algorithm::gemm_planar: return {choice, kernels.gemm_planar};
    case Algorithm::gemm_channels_last: return {choice, kernels.gemm_channels_last};
    case Algorithm::direct_planar: return {choice, kernels.direct_planar};
    case Algorithm::grouped_channels_last: return {choice, kernels.grouped_channels_last};
  }
  return {choice, kernels.gemm_planar};
}
template <class T>
Plan<WeightContraction<T>> plan_of(WeightContraction<T>& p, bool channels_last) {
  const ConvKernels<T>& kernels = conv_kernels<T>();
  const Choice choice = choose_weight_algorithm(p, channels_last, kernels.lanes);
  switch (choice.algorithm) {
    case Algorithm::gemm_planar: return {choice, kernels.weight_gemm_planar};
    case Algorithm::gemm_channels_last: return {choice, kernels.weight_gemm_channels_last};
    case Algorithm::direct_planar: return {choice, kernels.weight_direct_planar};
    case Algorithm::grouped_channels_last: return {choice, kernels.weight_grouped_channels_last};
  }
  return {choice, kernels.weight_gemm_planar};
}

}  // namespace cnnops
