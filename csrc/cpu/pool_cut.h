// How planes are cut into blocks for kernels/pool_blocks.h, and rows into chunks for
// kernels/pool_shuffles.h.
#pragma once

#include "cpu/pool_kernels.h"

namespace cnnops {

/// Pixels of a block, in registers of planes, that stay in the second-level cache: 128 KB of the
/// longest registers, and less than as much again for places.
constexpr int64_t kPoolBlockPixels = 2048;

/// The most sources that `tile` neighbouring destinations have along an axis.
inline int64_t longest_hull(const PoolSpans& spans, int64_t tile) {
  int64_t longest = 0;
  for (int64_t o = 0; o < spans.to; o += tile) {
    int64_t low, high;
    spans.hull(o, o + tile < spans.to ? o + tile : spans.to, &low, &high);
    if (high - low > longest) longest = high - low;
  }
  return longest;
}

/// Whole planes if they are small, otherwise whole rows, otherwise parts of rows. A block larger
/// than kPoolBlockPixels is left where single windows are so large.
inline PoolCut cut_into_blocks(const PoolProblem& p) {
  PoolCut cut{};
  int64_t hull[3];
  const auto fits = [&] {
    cut.to = cut.tile[0] * cut.tile[1] * cut.tile[2];
    // Sizes beyond what fits need no exact product, which could overflow.
    for (const int64_t size : hull) {
      if (size > kPoolBlockPixels) return false;
    }
    cut.source = hull[0] * hull[1] * hull[2];
    cut.rows = hull[0] * hull[1] * cut.tile[2];
    if (hull[0] * hull[1] > kPoolSourceRows) return false;
    return cut.source + cut.rows + cut.to <= kPoolBlockPixels;
  };
  for (int i = 0; i < 3; ++i) {
    cut.tile[i] = spans_of(p, i).to;
    hull[i] = longest_hull(spans_of(p, i), cut.tile[i]);
  }
  for (int i = 0; i < 3; ++i) {
    const PoolSpans spans = spans_of(p, i);
    int64_t parts = 1 + hull[i] / kPoolBlockPixels;
    while (!fits() && cut.tile[i] > 1) {
      parts += 1 + parts / 8;
      cut.tile[i] = (spans.to - 1) / parts + 1;
      hull[i] = longest_hull(spans, cut.tile[i]);
    }
  }
  if (!fits()) cut.to = 0;
  return cut;
}

/// The most sources that a destination has along an axis.
inline int64_t most_taps(const PoolSpans& spans) {
  int64_t most = 0;
  for (int64_t o = 0; o < spans.to; ++o) {
    const int64_t taps = (spans.end[o] - spans.begin[o] + spans.step - 1) / spans.step;
    if (taps > most) most = taps;
  }
  return most;
}

inline PoolChunks cut_into_chunks(const PoolProblem& p, int64_t lanes) {
  const PoolWindows& axis = p.axis[2];
  const PoolSpans spans = spans_of(p, 2);
  PoolChunks cut{};
  if (most_taps(spans_of(p, 0)) * most_taps(spans_of(p, 1)) > kPoolSourceRows) return cut;
  cut.regular = axis.stride > 0;
  if (cut.regular && !p.inverse) {
    const int64_t reach = axis.kernel <= 2 * lanes && axis.dilation <= 2 * lanes
                              ? (axis.kernel - 1) * axis.dilation
                              : 2 * lanes;
    if (reach >= 2 * lanes) return cut;
    const int64_t fit = (2 * lanes - 1 - reach) / axis.stride + 1;
    cut.count = fit < lanes ? fit : lanes;
    cut.taps = axis.kernel;
    cut.reach = (cut.count - 1) * axis.stride + reach + 1;
    cut.origin = -axis.padding;
    cut.step = cut.count * axis.stride;
  } else if (cut.regular) {
    if (axis.stride > lanes || axis.kernel > lanes * axis.stride) return cut;
    cut.step = lanes / axis.stride;
    cut.count = cut.step * axis.stride;
    cut.taps = (axis.kernel - 1) / axis.stride + 1;
    cut.reach = (axis.padding % axis.stride + cut.count - 1) / axis.stride + cut.taps;
    if (cut.reach > 2 * lanes) return cut;
    cut.origin = axis.padding / axis.stride - (cut.taps - 1);
  } else {
    cut.taps = most_taps(spans);
    for (int64_t first = 0; first < spans.to; ++cut.chunks) {
      int64_t low, high;
      first += chunk_of(spans, first, lanes, &low, &high);
      if (high - low > cut.reach) cut.reach = high - low;
    }
    if (cut.reach > 2 * lanes) cut.chunks = 0;
    cut.count = cut.chunks > 0 ? spans.to / cut.chunks : 0;
    return cut;
  }
  cut.chunks = (spans.to - 1) / cut.count + 1;
  return cut;
}

}  // namespace cnnops
