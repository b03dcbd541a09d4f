// Few channels in a group and long rows: vectors along the width of rows that are gathered once
// into a band, or read where they lie.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/plan/choice.h"
#include "cpu/plan/limits.h"
#include "walks.h"

namespace cnnops::plan {

/// Taking a source row apart into more phases than this pays where it is all that destinations
/// read, as in models of raw sound, and where a matrix product would have a single row.
constexpr int64_t kMaxBandStep = 4;

/// Whether the source rows under a row of destinations are few and near enough for a band.
inline bool fits_bands(const ContractionShape& shape) {
  const bool one_row = shape.depth * shape.walk[0].tap_count * shape.walk[1].tap_count == 1;
  const bool far = one_row || (shape.rows == 1 && shape.depth == 1);
  int64_t span[2];
  for (int i = 0; i < 2; ++i) {
    const Walk& walk = shape.walk[1 + i];
    span[i] = walk.high() - walk.low();
    if (walk.step > (far ? kMaxDirectStep : kMaxBandStep)) return false;
    if (span[i] > kMaxDirectSpan) return false;
  }
  const int64_t row = (shape.walk[2].count + span[1]) * shape.walk[2].step;
  return row * (span[0] + 1) * shape.walk[0].tap_count <= kMaxBandElements;
}

/// So many elements of a band of a direct kernel are gathered once. Those of several channels that
/// are more are gathered channel by channel, and again for each few destination channels, which so
/// many of these do not pay for. Pairs of phases are gathered fast: of few source channels they
/// are.
constexpr int64_t kGatheredElements = int64_t(24) << 10;
constexpr int64_t kChannelsOfGathering = 8, kChannelsOfPairs = 4;

/// Whether a band is gathered again and again.
inline bool gathers_again(const ContractionShape& shape) {
  const Walk &height = shape.walk[1], &width = shape.walk[2];
  const int64_t row = width.count * width.step;
  const int64_t rows = shape.walk[0].tap_count * height.positions(1);
  const bool slow = width.step > 2 || (width.step > 1 && shape.depth > kChannelsOfPairs);
  return slow && shape.depth > 1 && shape.rows > kChannelsOfGathering &&
         shape.depth * rows * row > kGatheredElements;
}

/// Narrower rows leave most lanes of a register unused; a GEMM folds rows into its panel.
constexpr int64_t kMinDirectWidth = 8;

/// The direct weight kernel passes over grad once for each pair of channels: only so many pairs.
constexpr int64_t kMaxDirectPairs = 16;

/// Rows of grad long beside loading and storing the sums that they are added to; and taps whose
/// sums are added up in one pass over them, with 32 registers.
constexpr int64_t kLongRow = 256, kTapsOfLongRow = 12;

/// Whether the sums of each destination channel are so few that transposing grad would be most of
/// the work, and its rows so long that adding up lanes is little. All taps must be along the width:
/// each kernel row passes over grad again.
inline bool suits_long_rows(const ContractionShape& shape) {
  const Walk& width = shape.walk[2];
  return shape.taps() > 1 && width.tap_count == shape.taps() && width.tap_count <= kTapsOfLongRow &&
         shape.depth * shape.taps() < kMinBroadcastInner && width.count >= kLongRow;
}

/// Where the sums of all rows under way are in registers the work for an element is little, and it
/// is worth leaving some of a register empty.
inline bool fills_rolling_row(int64_t width, int64_t lanes) { return 8 * width >= 5 * lanes; }

/// The same of input gradients, all taps of which meet every register of the source.
inline bool fills_phased_row(const ConvAxis& width, int64_t lanes) {
  return 4 * width.input >= lanes * (width.kernel - 1);
}

/// Destination channels of a source channel, at most, each of which loads and shifts its rows.
constexpr int64_t kMaxRowsInPlace = 2;

/// Whether the rows of a planar contraction with one source channel in a group are best read where
/// they lie: what few taps read is shifted in registers. `choice` is what computes it otherwise.
template <class T>
bool suits_rows_in_place(const Contraction<T>& p, Algorithm choice, int64_t lanes) {
  if (conv_kernels<T>().depthwise_planar.run == nullptr) return false;
  if (p.depth > 1 || p.rows > kMaxRowsInPlace) return false;
  if (p.source_strides.axis[2] != 1 || p.dest_strides.axis[2] != 1) return false;
  const int64_t count = p.walk[2].count;
  const bool wide =
      rows_roll(p.walk[1], p.walk[2]) ? fills_rolling_row(count, lanes) : count > kNarrowRow;
  if (choice == Algorithm::grouped_planar ? !wide : choice != Algorithm::direct_planar) {
    return false;
  }
  const Walk& width = p.walk[2];
  const int64_t taps = width.tap_count, span = width.high() - width.low();
  const bool listed = taps == 3 || taps == 5 || (width.step == 1 && (taps == 4 || taps == 7));
  if (!listed || width.mode != PaddingMode::zeros) return false;
  if (width.step > 2 || (width.step == 2 && width.tap_distance() > 1)) return false;
  const int64_t high = p.walk[1].high() - p.walk[1].low();
  // Shifts reach the next register, and only the outermost registers the padding.
  return high <= kMaxDirectSpan && span <= lanes && width.low() >= -lanes &&
         (width.count - 1) * width.step + width.low() <= width.size;
}

}  // namespace cnnops::plan
