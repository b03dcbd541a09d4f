// Groups of 1, 2, 4 or 8 channels, of which registers hold several: vectors along channels, and
// planes transposed to that where their rows are too narrow for vectors along them.
#pragma once

#include "cpu/conv_kernels.h"
#include "cpu/plan/choice.h"
#include "cpu/plan/limits.h"
#include "walks.h"

namespace cnnops::plan {

/// Groups that registers of `lanes` channels hold without splitting any.
inline bool groups_fill_registers(const Channels& shape, int64_t lanes) {
  const int64_t size = shape.rows;
  const bool listed = size == 1 || size == 2 || size == 4 || size == 8;
  return listed && size <= lanes && shape.depth == size && shape.groups > 1;
}

/// Whether the planes of the source lie densely; those of a destination may lie anyhow.
template <class T>
bool reads_dense_planes(const Contraction<T>& p) {
  return planes_are_dense(p.source_strides, {p.walk[0].size, p.walk[1].size, p.walk[2].size});
}
/// Whether the planes of source and grad do.
template <class T>
bool reads_dense_planes(const WeightContraction<T>& p) {
  return planes_are_dense(p.source_strides, {p.walk[0].size, p.walk[1].size, p.walk[2].size}) &&
         planes_are_dense(p.grad_strides, {p.walk[0].count, p.walk[1].count, p.walk[2].count});
}

/// Depthwise rows, and rows of a weight gradient, that leave a part of two registers empty: each
/// element of theirs is worth fewer FMAs than loads, of which windows along channels take fewer.
constexpr int64_t kNarrowRowOfWindows = 31;

/// The widest such row of a depthwise kernel. Windows hold more pixels with longer registers: so
/// many taps of a row, times lanes, and what they save pays for transposing rows of any width.
constexpr int64_t kManyTapsOfRow = 240;
inline int64_t narrow_row_of_windows(const ContractionShape& shape, int64_t lanes) {
  const Walk& width = shape.walk[2];
  return width.tap_count * lanes >= kManyTapsOfRow ? width.count : kNarrowRowOfWindows;
}

/// Planes of so many channels as a register holds stay in L1 or L2, source and destination.
constexpr int64_t kMaxBlockElements = int64_t(1) << 15;

/// So many taps of a kernel pay for blocks twice as large, and so many for 1 MB of floats.
constexpr int64_t kManyTaps = 27, kHundredsOfTaps = 256;

/// Elements of a block of planes, at most, of a kernel of so many taps.
inline int64_t most_block_elements(int64_t taps) {
  return kMaxBlockElements * (taps < kManyTaps ? 1 : taps < kHundredsOfTaps ? 2 : 8);
}

/// Whether a register's worth of planes is best transposed, so that vectors run along channels.
inline bool suits_transposed_blocks(const ContractionShape& shape, int64_t narrow, int64_t lanes) {
  const Walk* walk = shape.walk;
  const int64_t plane = walk[0].size * walk[1].size * walk[2].size + shape.pixels();
  return walk[2].count <= narrow && shape.groups * shape.depth >= lanes &&
         plane * lanes <= most_block_elements(shape.taps());
}

/// With so many channels in a group the products of an element are many beside transposing it,
/// whatever the width; weight gradients do that band by band, of which a row must be little.
constexpr int64_t kManyInGroup = 4, kMaxBandRowElements = int64_t(1) << 14;

/// Whether a register's worth of rows is best transposed for a weight gradient.
inline bool suits_transposed_bands(const ContractionShape& shape, int64_t lanes) {
  const Walk &height = shape.walk[1], &width = shape.walk[2];
  if (height.positions(1) > kMaxDirectSpan) return false;
  return shape.depth >= kManyInGroup && falls_into_bands(shape) &&
         shape.groups * shape.depth >= lanes &&
         (height.positions(1) * width.size + width.count) * lanes <= kMaxBandRowElements;
}

constexpr Choice kGroupedPlanar{Algorithm::grouped_planar,
                                "rows too narrow for registers, channels fill them"};
constexpr Choice kGroupedBands{Algorithm::grouped_planar,
                               "a register of channels holds whole groups: bands are transposed"};
constexpr Choice kGroupedChannelsLast{Algorithm::grouped_channels_last,
                                      "a register of channels holds whole groups"};

}  // namespace cnnops::plan
