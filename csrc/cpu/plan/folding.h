// Input gradients made from products with all taps, which are added up; or phase by phase, where
// Winograd's forms make that less.
#pragma once

#include "cpu/plan/limits.h"
#include "cpu/plan/winograd.h"
#include "walks.h"

namespace cnnops::plan {

/// Products with all taps are stored and read again, which so many source channels pay for.
constexpr int64_t kMinFoldedDepth = 16;

/// Strides that a kernel reaches beyond its own: so many source rows neighbouring blocks both
/// multiply.
constexpr int64_t kMaxFoldedReach = 8;

/// Rows that two blocks both multiply are few only where a block has several times as many, and all
/// of them stay in cache: four times as many float products, at most. Of rows that are longer than
/// kMinFoldedRow pixels a block may hold a part.
constexpr int64_t kMaxFoldedProducts = 1 << 18, kMinFoldedRow = 256;

/// A single tap shares nothing with others. The phase that has it is a convolution, which reads the
/// weight better with so many destination channels: of planes only where their rows are narrow.
constexpr int64_t kMinSingleTapRows = 128, kMinSingleTapPlanes = 512;

/// Where the channels of a phase fill registers anyway and several taps are added up, storing their
/// products and packing all of the weight for them must be worth it: from so long sums and so many
/// source pixels on.
constexpr int64_t kMinOverlappingDepth = 128, kMinOverlappingPixels = 64;

/// Whether an input gradient is best made from products with all taps: phases of a stride share
/// them, and so do the taps of few channels.
template <class T>
bool suits_folding(const InputGradient<T>& p, bool channels_last, int64_t lanes) {
  bool strided = false, overlapping = false;
  int64_t taps = 1, pixels = p.batch;
  for (const ConvAxis& axis : p.axis) {
    // Checked before anything is multiplied: these may be huge.
    if (axis.kernel > kMaxFoldedTaps || axis.stride > kMaxFoldedStride) return false;
    if (axis.dilation > kMaxFoldedReach || axis.output == 0) return false;
    if ((axis.kernel - 1) * axis.dilation > kMaxFoldedReach * axis.stride) return false;
    strided = strided || axis.stride > 1;
    overlapping = overlapping || axis.kernel > axis.stride;
    taps *= axis.kernel;
    pixels *= axis.output;
  }
  const bool few = p.rows <= kFewChannels && taps > 1;
  if ((!strided && !few) || taps > kMaxFoldedTaps) return false;
  const bool narrow = 2 * p.axis[2].output <= lanes;
  if (taps == 1 && channels_last && p.rows >= kMinSingleTapRows) return false;
  if (taps == 1 && narrow && p.rows >= kMinSingleTapPlanes) return false;
  if (p.depth < kMinFoldedDepth || pixels <= kFewPixels) return false;
  if (channels_last && p.rows >= lanes && overlapping &&
      (p.depth < kMinOverlappingDepth || pixels < kMinOverlappingPixels)) {
    return false;
  }
  const ConvAxis& high = p.axis[1];
  const int64_t shared = ((high.kernel - 1) * high.dilation + high.stride - 1) / high.stride;
  const int64_t channels = !channels_last ? 1 : p.rows < lanes ? p.rows : lanes;
  const int64_t width = p.axis[2].output;
  const int64_t row = width < kMinFoldedRow ? width : kMinFoldedRow;
  return channels * high.kernel * p.axis[2].kernel * row * shared * 4 <= kMaxFoldedProducts;
}

/// Taps of a phase along an axis, of which Winograd's forms compute several outputs at a time; and
/// what direct sums of a phase, and products with all taps, which are added up, take for each. Each
/// phase reads all of a weight whose taps lie side by side, which products with all taps do once.
constexpr int64_t kMaxPhaseTaps = 8;
constexpr double kDirectPhase = 1.2, kFoldedProduct = 1.25, kFoldedPlanarProduct = 0.72;

/// Whether the phases of an input gradient, one by one and by Winograd's forms where these suit,
/// take less than products with all taps.
template <class T>
bool suits_winograd_phases(const InputGradient<T>& p, bool channels_last, int64_t lanes) {
  static constexpr Tap kTaps[kMaxPhaseTaps] = {{0, 0}, {1, 1}, {2, 2}, {3, 3},
                                               {4, 4}, {5, 5}, {6, 6}, {7, 7}};
  int64_t phases = 1;
  for (const ConvAxis& axis : p.axis) {
    // Checked before anything is multiplied: these may be huge.
    if (axis.kernel > kMaxPhaseTaps * axis.stride || axis.stride > kMaxPhases ||
        axis.dilation > 1 || axis.output == 0) {
      return false;
    }
    phases *= axis.stride;
  }
  if (phases > kMaxPhases || (p.dest_strides.channel != 1 && p.axis[2].stride > 2)) {
    return false;
  }
  if (!winograd_reads(p.source_strides)) return false;

  bool winograd = false;
  double of_phases = 0, of_taps = 0;
  for (int64_t phase = 0; phase < phases; ++phase) {
    ContractionShape shape;
    static_cast<Channels&>(shape) = p;
    int64_t number = phase;
    for (int i = 0; i < kAxes; ++i) {
      const ConvAxis& axis = p.axis[i];
      const int64_t first = number % axis.stride, count = (axis.input - 1) / axis.stride + 1;
      const int64_t left = axis.kernel > first ? (axis.kernel - first - 1) / axis.stride + 1 : 0;
      shape.walk[i] = {count, 1, count + left - 1, PaddingMode::zeros, kTaps, left};
      number /= axis.stride;
    }
    const double products = double(shape.taps()) * shape.batch * shape.pixels();
    FormChoice choice{-1, kDirectPhase * products};
    if (shape.taps() > 0 && suits_winograd<T>(shape)) {
      choice = cheapest_form(shape, filled(p.rows, lanes), kKernelTransform, choice.cost);
    }
    winograd = winograd || choice.form >= 0;
    of_phases += choice.cost;
    of_taps += products;
  }
  const double of_products = (channels_last ? kFoldedProduct : kFoldedPlanarProduct) * of_taps;
  return winograd && of_phases < of_products && allows_winograd();
}

/// Whether the weight has its destination channels and taps side by side, in this order.
template <class T>
bool rows_are_dense(const InputGradient<T>& p) {
  int64_t expected = 1;
  for (int i = kAxes - 1; i >= 0; --i) {
    if (p.axis[i].kernel > 1 && p.weight_strides.axis[i] != expected) return false;
    expected *= p.axis[i].kernel;
  }
  return p.rows == 1 || p.weight_strides.row == expected;
}

}  // namespace cnnops::plan
