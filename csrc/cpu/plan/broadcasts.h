// Few channels in a group: weights that stay in cache, and pixels that are broadcast to registers
// of channels.
#pragma once

#include "cpu/plan/choice.h"
#include "cpu/plan/limits.h"
#include "cpu/plan/products.h"
#include "walks.h"

namespace cnnops::plan {

/// Elements of the packed weights of a group that every tile of pixels goes through: 64 KB of
/// floats come from L2 as fast as a tile takes them. With so few source channels more of them are
/// worth it, as the runs that a GEMM would point to are short.
constexpr int64_t kMaxBroadcastWeights = 16 << 10;
constexpr int64_t kShortRun = 32, kMaxBroadcastWeightsOfShortRuns = 40 << 10;

/// Elements of the sums of a group that every block of pixels adds to: 160 KB of floats stay in L2
/// beside the block.
constexpr int64_t kMaxBroadcastSums = 40 << 10;

/// Emptier registers of channels waste more than broadcasting saves. In channels_last the other way
/// is a GEMM over the same registers, with planes it is one over registers of pixels.
constexpr double kMinFilled = 0.5, kMinFilledPlanar = 0.75;

/// A direct kernel computes whole registers of pixels of every row.
constexpr double kMinFilledRows = 0.9;

/// Elements of K and destination channels from which broadcasts are ahead of it even so, at stride
/// 2: it loads all of a row again for every few channels. Fitted: at strides 1 and 4 they are not.
constexpr int64_t kMinBroadcastInnerPlanar = 128, kMinBroadcastRowsPlanar = 64;

/// Tiles of fewer sums wait for their FMAs. The rows of tiles of a planar weight gradient are the
/// source channels and, of so few that they are interleaved, the taps of the width.
constexpr int64_t kMinBroadcastRows = 3, kMaxInterleavedPlanes = 4;

/// Pixels of a row that the blocks of broadcast_pixels have at most.
constexpr int64_t kWidestBlock = 1024;

/// Whether the source under a row of destination pixels is no larger than a band may be, most of
/// which is read.
inline bool fits_source_blocks(const ContractionShape& shape) {
  int64_t span[2];
  for (int i = 0; i < 2; ++i) {
    const Walk& walk = shape.walk[1 + i];
    span[i] = walk.high() - walk.low();
    // Between the taps of destinations far apart most of the source would go unread.
    const bool far = walk.step > 2 && walk.step > walk.tap_count;
    if (far || walk.step > kMaxDirectStep || span[i] > kMaxDirectSpan) return false;
  }
  const int64_t width = shape.walk[2].count < kWidestBlock ? shape.walk[2].count : kWidestBlock;
  const int64_t row = width * shape.walk[2].step + span[1];
  return row * (span[0] + 1) * shape.walk[0].tap_count * shape.depth <= kMaxBandElements;
}

/// Elements of the weight of a group, its destination channels in whole registers.
inline int64_t padded_weights(const ContractionShape& shape, int64_t lanes) {
  return in_registers(shape.rows, lanes) * shape.depth * shape.taps();
}

/// Whether pixels are best broadcast to registers of destination channels. Results for planes are
/// transposed, which one tap does not pay for, and a direct kernel for few source channels is worse
/// only where its registers of pixels are not full.
inline bool suits_broadcasts(const ContractionShape& shape, bool channels_last, int64_t lanes) {
  const int64_t most =
      shape.depth <= kShortRun ? kMaxBroadcastWeightsOfShortRuns : kMaxBroadcastWeights;
  if (padded_weights(shape, lanes) > most || !fits_source_blocks(shape)) return false;
  const double of_channels = filled(shape.rows, lanes);
  // With one tap and few destination channels the source is most of the work, and read in place.
  if (channels_last) return of_channels >= kMinFilled || (shape.taps() == 1 && shape.depth > 1);
  const double of_pixels = filled(shape.walk[2].count, lanes);
  const bool much = shape.walk[2].step == 2 &&
                    shape.depth * shape.taps() >= kMinBroadcastInnerPlanar &&
                    shape.rows >= kMinBroadcastRowsPlanar;
  return shape.taps() > 1 && of_channels >= kMinFilledPlanar &&
         (shape.depth > kFewChannels || of_pixels < kMinFilledRows || much);
}

/// Whether pixels can well be broadcast for the sums of a weight gradient: these stay in cache, and
/// fill registers and tiles.
inline bool fits_broadcast_sums(const ContractionShape& shape, bool channels_last, int64_t lanes) {
  if (padded_weights(shape, lanes) > kMaxBroadcastSums || !fits_source_blocks(shape)) return false;
  if (filled(shape.rows, lanes) < kMinFilled) return false;
  const int64_t interleaved = shape.depth <= kMaxInterleavedPlanes ? shape.walk[2].tap_count : 1;
  return channels_last || (shape.depth * interleaved >= kMinBroadcastRows && shape.taps() > 1);
}

/// Whether that is best.
inline bool suits_broadcast_sums(const ContractionShape& shape, bool channels_last, int64_t lanes) {
  if (!fits_broadcast_sums(shape, channels_last, lanes)) return false;
  return channels_last ? !suits_pixel_product(shape)
                       : shape.depth * shape.taps() >= kMinBroadcastInner;
}

/// Destination channels of a group, at most, whose sums are added up lane by lane; what that takes
/// for a sum, and a pointer to a tap of a pixel, in multiply-adds of registers. Fitted, as is what
/// the other kernels take for a source channel: a direct one shares what it loads between taps.
constexpr int64_t kMaxFewChannels = 12;
constexpr double kAddingUp = 9, kTapPointer = 6, kBroadcastChannel = 1.25, kDirectTap = 0.75;

/// Whether source channels fill registers better than so few destination channels.
inline bool suits_few_channels(const ContractionShape& shape, int64_t lanes) {
  if (shape.rows > kMaxFewChannels || shape.depth < lanes) return false;
  const double taps = double(shape.taps());
  const double of_sum = double(in_registers(shape.depth, lanes)) / double(lanes) * taps + kAddingUp;
  const double others = double(shape.depth) * taps * (taps > 1 ? kDirectTap : kBroadcastChannel);
  return double(shape.rows) * of_sum + kTapPointer * taps < others;
}

constexpr Choice kFewChannelsLast{Algorithm::few_channels_last,
                                  "few output channels: vectors along those of the input"};
constexpr Choice kBroadcastPixels{Algorithm::broadcast_pixels,
                                  "few channels: pixels are broadcast to registers of them"};
constexpr Choice kTurnedBroadcast{Algorithm::broadcast_pixels,
                                  "few output channels: grad is broadcast to registers of input"};

}  // namespace cnnops::plan
