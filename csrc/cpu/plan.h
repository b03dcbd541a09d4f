// Which kernel runs which convolution: all rules in one place. They look at the shape, the layout,
// the width of a register and whether Winograd and AMX are allowed, so the choice, and with it
// every rounding, is the same on any number of threads. A choice comes with its reason, which
// `cnnops.plan` prints.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/amx.h"
#include "cpu/dispatch.h"
#include "cpu/winograd_forms.h"
#include "cpu/winograd_switch.h"
#include "walks.h"

namespace cnnops {

enum class Algorithm {
  gemm_planar,              // vectors along pixels; any strides, any geometry
  shifted_planar,           // several taps on long rows; vectors along pixels of shifted rows
  transposed_planar,        // several taps of many channels; vectors along channels
  pointwise_planar,         // 1x1 kernels on planes as they lie; vectors along pixels
  gemm_channels_last,       // vectors along channels
  amx_channels_last,        // bfloat16, on a CPU with AMX
  broadcast_pixels,         // few channels in a group; vectors along destination channels
  few_channels_last,        // few destination channels; vectors along source channels
  few_pixels,               // few destination pixels; vectors along the weight as it lies
  direct_planar,            // few channels in a group; vectors along the width
  depthwise_planar,         // one source channel in a group, few taps of the width; the same
  grouped_channels_last,    // 1, 2, 4 or 8 channels in and out of a group; vectors along channels
  grouped_planar,           // the same on transposed blocks of planes
  winograd,                 // stride 1, sums in float; in tiles of one of winograd_forms.h
  fold_taps_planar,         // input gradients from products with all taps; vectors along pixels
  fold_taps_channels_last,  // the same; vectors along channels
  phased_rows,              // input gradients of depthwise kernels, rows read where they lie
  phased_planar,            // input gradients with few channels in a group, all phases of a row
  phased_blocks,            // the same of 1, 2, 4 or 8 channels, on transposed blocks of planes
  phased_channels_last,     // the same; vectors along channels
};

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

/// Taking a source row apart into more phases than this pays where it is all that destinations
/// read, as in models of raw sound, and where a matrix product would have a single row.
constexpr int64_t kMaxBandStep = 4;

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

/// With so few channels on one side of a group a GEMM spends more on gathering im2col than it
/// saves.
constexpr int64_t kFewChannels = 8;

/// From this many destination channels in a group on they fill registers.
constexpr int64_t kMinChannelsInRegister = 8;

/// The direct weight kernel passes over grad once for each pair of channels: only so many pairs.
constexpr int64_t kMaxDirectPairs = 16;

/// Groups that registers of `lanes` channels hold without splitting any.
inline bool groups_fill_registers(const Channels& shape, int64_t lanes) {
  const int64_t size = shape.rows;
  const bool listed = size == 1 || size == 2 || size == 4 || size == 8;
  return listed && size <= lanes && shape.depth == size && shape.groups > 1;
}

/// A plane of four 512-bit registers of floats; the panels of a GEMM hold pixels of several images.
constexpr int64_t kMinPlane = 64;

/// Pixels of planes that pay for adding up the lanes of a sum of each pair of channels; source
/// channels up to which such sums of a few rows stay in L2; and channels on the smaller side up to
/// which transposing the other side takes longer than that.
constexpr int64_t kMinLongPlane = 1024, kMaxLongPlanes = 512, kFewLongPlanes = 24;

/// Rows up to this width leave vectors along them mostly empty, and little work for each.
constexpr int64_t kNarrowRow = 16;

/// Where the sums of all rows under way are in registers the work for an element is little, and it
/// is worth leaving some of a register empty.
inline bool fills_rolling_row(int64_t width, int64_t lanes) { return 8 * width >= 5 * lanes; }

/// The same of input gradients, all taps of which meet every register of the source.
inline bool fills_phased_row(const ConvAxis& width, int64_t lanes) {
  return 4 * width.input >= lanes * (width.kernel - 1);
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

/// Destination channels of a source channel, at most, each of which loads and shifts its rows.
constexpr int64_t kMaxRowsInPlace = 2;

/// Gathering im2col costs about an eighth of multiplying it, so more columns may not be dropped.
constexpr int64_t kMaxDroppedShare = 16;
constexpr int64_t kMaxShiftedElements = 320 << 10;

/// Channels on both sides that pay for transposing rows.
constexpr int64_t kMinTransposed = 32;

/// Pointers to so many taps of each pixel of a chunk stay in L2.
constexpr int64_t kMaxTransposedTaps = 512;

/// How much of whole registers `count` elements fill.
inline double filled(int64_t count, int64_t lanes) {
  return double(count) / in_registers(count, lanes);
}

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

/// Emptier registers of few pixels waste more than packing the weight costs, which is as much as
/// multiplying it with 16 pixels.
constexpr double kMinFilledPixels = 0.8;

/// A direct kernel computes whole registers of pixels of every row.
constexpr double kMinFilledRows = 0.9;

/// Tiles of fewer sums wait for their FMAs. The rows of tiles of a planar weight gradient are the
/// source channels or, of a single one, the taps of the width.
constexpr int64_t kMinBroadcastRows = 5;

/// Transposing planes of grad takes about as long as multiplying them with so many elements of K.
constexpr int64_t kMinBroadcastInner = 24;

/// From so many source channels on a product of matrices adds up the weight of a 1x1 kernel faster:
/// for many rows, or where a source beyond L2 is best read a panel at a time.
constexpr int64_t kMinProductDepth = 192, kMinProductRows = 64, kMinProductSource = 320 << 10;

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
  return shape.taps() > 1 && of_channels >= kMinFilledPlanar &&
         (shape.depth > kFewChannels || of_pixels < kMinFilledRows);
}

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

/// Whether the weight gradient of a 1x1 kernel over channels_last tensors is a product of matrices.
inline bool suits_pixel_product(const ContractionShape& shape) {
  if (shape.taps() > 1 || shape.depth < kMinProductDepth) return false;
  return shape.rows >= kMinProductRows ||
         shape.batch * shape.pixels() * shape.depth >= kMinProductSource;
}

/// Whether pixels are best broadcast for the sums of a weight gradient.
inline bool suits_broadcast_sums(const ContractionShape& shape, bool channels_last, int64_t lanes) {
  if (padded_weights(shape, lanes) > kMaxBroadcastSums || !fits_source_blocks(shape)) return false;
  if (filled(shape.rows, lanes) < kMinFilled) return false;
  if (channels_last) return !suits_pixel_product(shape);
  const int64_t tile_rows = shape.depth == 1 ? shape.walk[2].tap_count : shape.depth;
  return shape.depth * shape.taps() >= kMinBroadcastInner && tile_rows >= kMinBroadcastRows &&
         shape.taps() > 1;
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
constexpr Choice kPointwisePlanar{Algorithm::pointwise_planar,
                                  "1x1: planes are multiplied where they lie"};
constexpr Choice kGroupedPlanar{Algorithm::grouped_planar,
                                "rows too narrow for registers, channels fill them"};
constexpr Choice kGroupedBands{Algorithm::grouped_planar,
                               "a register of channels holds whole groups: bands are transposed"};
constexpr Choice kGroupedChannelsLast{Algorithm::grouped_channels_last,
                                      "a register of channels holds whole groups"};

constexpr Choice kAmx{Algorithm::amx_channels_last,
                      "bfloat16: the CPU's matrix unit multiplies tiles of channels"};

/// With fewer channels on either side most of a tile of the matrix unit would be empty.
constexpr int64_t kMinAmxChannels = 16;

constexpr Choice kWinograd{Algorithm::winograd,
                           "channels enough: fewer products of transformed tiles"};

/// With fewer channels on either side the transforms of a Winograd tile cost more than they save,
/// and so with fewer pairs of channels where direct sums keep several destinations in registers.
constexpr int64_t kMinWinogradChannels = 10, kMinWinogradPairs = 128;

/// Tiles of a form.
inline double winograd_tiles(const ContractionShape& shape, const WinogradForm& form) {
  double tiles = double(shape.batch) * shape.walk[0].count;
  for (int i = 1; i < kAxes; ++i) {
    const MinimalFilter& filter = form.axis(i);
    const int64_t dilation = filter.taps > 1 ? shape.walk[i].tap_distance() : 1;
    tiles *= double(winograd_axis_tiles(shape.walk[i].count, filter.outputs, dilation));
  }
  return tiles;
}

/// What transforming a channel of a tile costs, in multiply-adds of each product. This and what
/// follows is fitted to times of layers of all kinds. With a stride a tile reads so many times as
/// many lines as it uses, and a kernel is a few of the taps that come together.
constexpr double kTileTransform = 12, kStridedTransform = 2.5;

/// The same for a kernel, which is read from memory, and for the gradient of a kernel, with adding
/// it up.
constexpr double kKernelTransform = 13;
constexpr double kernel_transform(const WinogradForm& form, bool strided) {
  return double(form.points()) * kKernelTransform * (strided ? kStridedTransform : 1);
}
constexpr double gradient_transform(const WinogradForm& form, bool) {
  return 8 * double(form.points()) + 200;
}

/// What direct sums cost that transpose rows of planes or their weight, beside those that read both
/// as they lie; and weight gradients over planes, as they transpose grad too.
constexpr double kTransposedRows = 1.4, kTransposedSums = 2;

/// Groups of taps of a form.
inline double winograd_groups(const ContractionShape& shape, const WinogradForm& form) {
  double groups = double(shape.walk[0].tap_count);
  for (int i = 1; i < kAxes; ++i) {
    const Walk& walk = shape.walk[i];
    groups *= double(form.axis(i).groups(walk.tap_count, walk.step));
  }
  return groups;
}

/// Whether rows or columns have a stride.
inline bool has_stride(const ContractionShape& shape) {
  return shape.walk[1].step > 1 || shape.walk[2].step > 1;
}

/// What a form takes, in multiply-adds for each pair of channels: its products, as `used` of the
/// registers hold any; transforms of tiles, those of the source for each group of taps; and of
/// kernels, at `kernel` each.
inline double winograd_cost(const ContractionShape& shape, const WinogradForm& form, double used,
                            double kernel) {
  const double groups = winograd_groups(shape, form);
  double products = double(shape.walk[0].tap_count);
  for (int i = 1; i < kAxes; ++i) {
    products *= double(form.axis(i).products(shape.walk[i].tap_count, shape.walk[i].step));
  }
  const double apart = has_stride(shape) ? kStridedTransform : 1;
  const double source = apart * kTileTransform / double(shape.rows);
  const double dest = kTileTransform / double(shape.depth);
  const double tile = products / used + double(form.points()) * (groups * source + dest);
  return winograd_tiles(shape, form) * tile + groups * kernel;
}

/// Multiply-adds for each pair of channels of direct sums that leave padding out.
inline double direct_cost(const ContractionShape& shape) {
  return double(shape.taps()) * shape.batch * shape.pixels() * (1 - padding_share(shape));
}

/// True for groups with channels enough. Taps must not be too many, and along rows and columns not
/// far apart, or neighbours where destinations are.
inline bool winograd_takes(const ContractionShape& shape) {
  if (shape.taps() == 1 || shape.taps() > kMaxWinogradTaps) return false;
  for (int i = 1; i < kAxes; ++i) {
    const Walk& walk = shape.walk[i];
    const int64_t distance = walk.tap_distance();
    if (walk.step > 1 ? walk.step > kMaxWinogradStep || distance > 1
                      : distance > kMaxWinogradDilation) {
      return false;
    }
  }
  return shape.depth >= kMinWinogradChannels && shape.rows >= kMinWinogradChannels &&
         shape.depth * shape.rows >= kMinWinogradPairs;
}

/// A form, or -1 for direct sums, and what it takes.
struct FormChoice {
  int form;
  double cost;
};

/// The form that takes least, where direct sums, at `direct`, do not.
inline FormChoice winograd_form(const ContractionShape& shape, double used,
                                double (*kernel)(const WinogradForm&, bool), double direct) {
  FormChoice best{-1, direct};
  for (int i = 0; i < kWinogradFormCount; ++i) {
    const WinogradForm& form = kWinogradForms[i];
    // A tile of several outputs is for axes of several taps.
    if (form.rows.taps > 1 && shape.walk[1].tap_count == 1) continue;
    if (form.columns.taps > 1 && shape.walk[2].tap_count == 1) continue;
    const int64_t of_group = form.rows.taps * form.columns.taps;
    if (winograd_groups(shape, form) * double(of_group) > double(kMaxGroupedTaps)) continue;
    const double cost = winograd_cost(shape, form, used, kernel(form, has_stride(shape)));
    if (cost < best.cost) best = {i, cost};
  }
  return best;
}

/// So large a transformed weight of few tiles is faster made anew, in cache, than fetched.
constexpr int64_t kMaxKeptBytes = 2 << 20, kFewTilePixels = 96 * 16;

/// Whether a prepared weight of so many bytes saves time when it is kept between calls.
inline bool worth_keeping(Algorithm algorithm, const ContractionShape& shape, int64_t bytes) {
  return algorithm != Algorithm::winograd || bytes <= kMaxKeptBytes ||
         shape.batch * shape.pixels() > kFewTilePixels;
}

/// True where the kernel can read whole registers: along channels or along the width.
inline bool winograd_reads(const Strides& strides) {
  return strides.channel == 1 || strides.axis[2] == 1;
}
/// True where it can store them, or every second element of two: a phase of a stride.
inline bool winograd_stores(const Strides& strides) {
  return winograd_reads(strides) || strides.axis[2] == 2;
}

/// Products with all taps are stored and read again, which so many source channels pay for.
constexpr int64_t kMinFoldedDepth = 16;

/// Taps, and strides of an axis, of products that are folded: a block of them holds all taps of a
/// channel.
constexpr int64_t kMaxFoldedTaps = 1024, kMaxFoldedStride = 64;

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

/// Taps of a phase along an axis, of which Winograd's forms compute several outputs at a time; and
/// what direct sums of a phase, and products with all taps, which are added up, take for each.
constexpr int64_t kMaxPhaseTaps = 8;
constexpr double kDirectPhase = 1.2, kFoldedProduct = 1.25;

/// Channels on either side, of which phases are computed a row at a time, and pairs of them of
/// narrow rows.
constexpr int64_t kMaxPhasedChannels = 16, kMaxNarrowPairs = 64;

/// Phases that are computed together have tables of their own each.
constexpr int64_t kMaxPhases = 64;

}  // namespace plan

/// The kernel for a forward or input-gradient contraction.
inline Choice choose_algorithm(const ContractionShape& shape, bool channels_last, bool dense_planes,
                               int64_t lanes) {
  const bool depthwise = shape.rows == 1 && shape.depth == 1;
  if (plan::groups_fill_registers(shape, lanes)) {
    if (channels_last) return plan::kGroupedChannelsLast;
    const int64_t narrow = depthwise ? plan::narrow_row_of_windows(shape, lanes) : plan::kNarrowRow;
    if (dense_planes && plan::suits_transposed_blocks(shape, narrow, lanes)) {
      return plan::kGroupedPlanar;
    }
  }
  if (channels_last && plan::suits_few_channels(shape, lanes)) return plan::kFewChannelsLast;
  if (plan::suits_broadcasts(shape, channels_last, lanes)) return plan::kBroadcastPixels;
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
  if (!depthwise && plan::gathers_again(shape)) {
    return {Algorithm::gemm_planar, "rows too long to keep those of all channels in cache"};
  }
  return {Algorithm::direct_planar,
          depthwise ? "depthwise: no sum over channels" : "few channels in a group"};
}

/// The kernel for a weight-gradient contraction.
inline Choice choose_weight_algorithm(const ContractionShape& shape, bool channels_last,
                                      bool dense_planes, int64_t lanes) {
  const bool depthwise = shape.rows == 1 && shape.depth == 1;
  if (plan::groups_fill_registers(shape, lanes)) {
    if (channels_last) return plan::kGroupedChannelsLast;
    const int64_t narrow =
        depthwise ? plan::narrow_row_of_windows(shape, lanes) : plan::kNarrowRowOfWindows;
    if (dense_planes && plan::suits_transposed_bands(shape, lanes)) return plan::kGroupedBands;
    if (dense_planes && plan::suits_transposed_blocks(shape, narrow, lanes)) {
      return plan::kGroupedPlanar;
    }
  }
  if (plan::suits_broadcast_sums(shape, channels_last, lanes)) return plan::kBroadcastPixels;
  const bool few = shape.rows * shape.depth <= plan::kMaxDirectPairs &&
                   shape.walk[2].count >= plan::kMinDirectWidth;
  const bool direct = few || depthwise || (!channels_last && plan::suits_long_rows(shape));
  if (direct && plan::fits_bands(shape)) {
    return {Algorithm::direct_planar, depthwise ? "depthwise: no product of channels"
                                      : few     ? "few pairs of channels"
                                                : "few sums for each of long rows"};
  }
  const char* reason = direct ? "taps too far apart to keep the rows they read in cache"
                              : "enough channels for a matrix product";
  return {channels_last ? Algorithm::gemm_channels_last : Algorithm::gemm_planar, reason};
}

/// Whether Winograd kernels take a contraction of this shape.
template <class T>
bool suits_winograd(const ContractionShape& shape) {
  return std::is_same_v<Accumulator<T>, float> && plan::winograd_takes(shape);
}

/// The form of Winograd's tiles that computes `p`, or -1 where another kernel does.
template <class T>
int winograd_form(const Contraction<T>& p, int64_t lanes) {
  if (!suits_winograd<T>(p) || !plan::winograd_reads(p.source_strides) ||
      !plan::winograd_stores(p.dest_strides)) {
    return -1;
  }
  const bool in_place = p.dest_strides.channel == 1 && p.weight_strides.depth == 1;
  const bool transposes = !in_place && !plan::has_stride(p);
  const double direct = plan::direct_cost(p) * (transposes ? plan::kTransposedRows : 1);
  const int form =
      plan::winograd_form(p, plan::filled(p.rows, lanes), plan::kernel_transform, direct).form;
  return form < 0 || allows_winograd() ? form : -1;
}

/// The same for the gradient of a weight.
template <class T>
int winograd_form(const WeightContraction<T>& p, bool channels_last, int64_t lanes) {
  if (!suits_winograd<T>(p) || !plan::winograd_reads(p.source_strides) ||
      !plan::winograd_reads(p.grad_strides)) {
    return -1;
  }
  const bool transposes = !channels_last && !plan::has_stride(p);
  const double direct = plan::direct_cost(p) * (transposes ? plan::kTransposedSums : 1);
  const int form =
      plan::winograd_form(p, plan::filled(p.depth, lanes), plan::gradient_transform, direct).form;
  return form < 0 || allows_winograd() ? form : -1;
}

/// Whether the matrix unit computes `p`, a Contraction or an InputGradient.
template <class T, class Problem>
bool suits_amx(const Problem& p) {
  return conv_kernels<T>().amx_channels_last.run != nullptr && p.source_strides.channel == 1 &&
         p.dest_strides.channel == 1 && p.depth >= plan::kMinAmxChannels &&
         p.rows >= plan::kMinAmxChannels && allows_amx();
}

/// How a contraction is computed.
template <class Problem>
struct Plan {
  Choice choice;
  Kernel<Problem> kernel;
};

/// Whether there are so few destination pixels that reading the weight is most of the work, and the
/// weight can be read where it lies.
template <class T>
bool suits_few_pixels(const Contraction<T>& p) {
  return p.batch * p.pixels() <= kFewPixels && p.rows > 1 && p.depth > 1 &&
         (p.weight_strides.row == 1 || weight_rows_are_dense(p, p.weight_strides));
}

/// The same for the gradient of a weight: storing it is most of the work.
template <class T>
bool suits_few_pixels(const WeightContraction<T>& p) {
  return p.batch * p.pixels() <= kFewPixels && p.depth > 1 &&
         weight_rows_are_dense(p, p.dest_strides);
}

/// The same as the first where the rows of the weight are dense: they are broadcast, vectors along
/// the pixels, which fill these.
template <class T>
bool suits_weight_rows(const Contraction<T>& p, int64_t lanes) {
  const int64_t pixels = p.batch * p.pixels();
  return p.taps() == 1 && pixels <= plan::kMinPlane && p.rows >= plan::kMinPlane &&
         plan::filled(pixels, lanes) >= plan::kMinFilledPixels && p.weight_strides.depth == 1 &&
         p.weight_strides.row != 1;
}

/// Whether a 1x1 convolution has so few pixels that packing its weight, which is as large as all
/// else, costs more than storing the destination across its layout: the weight takes the part of
/// the source, vectors along the destination channels.
template <class T>
bool suits_weight_as_pixels(const Contraction<T>& p) {
  return parts_are_alike(p) && p.batch == 1 && p.groups == 1 && p.bias == nullptr &&
         p.walk[2].count <= plan::kMinPlane && p.rows >= plan::kMinPlane &&
         p.source_strides.channel != 1 && p.weight_strides.row == 1;
}

/// Whether a planar contraction is a product of matrices as they lie, of accumulators. Small planes
/// of several images share the panels of a GEMM.
template <class T>
bool suits_planes(const Contraction<T>& p) {
  const Walk& walk = p.walk[2];
  const bool one_row = p.walk[0].count == 1 && p.walk[1].count == 1 && p.taps() == 1;
  const bool same = walk.step == 1 && walk.taps[0].offset == 0 && walk.count == walk.size;
  const bool rows = p.walk[0].taps[0].offset == 0 && p.walk[1].taps[0].offset == 0;
  const bool dense = p.source_strides.axis[2] == 1 && p.dest_strides.axis[2] == 1;
  return std::is_same_v<T, Accumulator<T>> && one_row && same && rows && dense &&
         (walk.count >= plan::kMinPlane || p.batch == 1);
}

/// Whether the taps of a planar contraction are best read as shifts of copied source rows: when few
/// of the columns lie between two rows, and the rows under a panel of 64 columns fit an L2 cache.
template <class T>
bool suits_shifted_rows(const Contraction<T>& p) {
  const Walk& width = p.walk[2];
  if (p.taps() == 1 || width.step > 1 || p.source_strides.axis[2] != 1) return false;
  const int64_t lines = p.walk[0].tap_count * p.walk[1].tap_count;
  const int64_t elements = p.depth * lines * width.step * 64;
  if (width.high() - width.low() > plan::kMaxDirectSpan) return false;
  const int64_t dropped = width.shifted_pitch(width.count) - width.count;
  return dropped * plan::kMaxDroppedShare <= width.count && elements <= plan::kMaxShiftedElements;
}

/// Whether so many channels meet in a planar contraction that transposing its rows, in and out,
/// costs little beside the products.
template <class T>
bool suits_transposing(const Contraction<T>& p) {
  bool zeros = true;
  for (const Walk& walk : p.walk) zeros &= walk.mode == PaddingMode::zeros;
  const Walk& width = p.walk[2];
  const bool near = width.step <= kMaxDirectStep &&
                    width.high() - width.low() <= plan::kMaxDirectSpan &&
                    p.taps() <= plan::kMaxTransposedTaps;
  return zeros && near && p.taps() > 1 && p.source_strides.axis[2] == 1 &&
         p.dest_strides.axis[2] == 1 && p.depth >= plan::kMinTransposed &&
         p.rows >= plan::kMinTransposed;
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

/// Whether the rows of a planar contraction with one source channel in a group are best read where
/// they lie: what few taps read is shifted in registers. `choice` is what computes it otherwise.
template <class T>
bool suits_rows_in_place(const Contraction<T>& p, Algorithm choice, int64_t lanes) {
  if (conv_kernels<T>().depthwise_planar.run == nullptr) return false;
  if (p.depth > 1 || p.rows > plan::kMaxRowsInPlace) return false;
  if (p.source_strides.axis[2] != 1 || p.dest_strides.axis[2] != 1) return false;
  const int64_t count = p.walk[2].count;
  const bool wide = rows_roll(p.walk[1], p.walk[2]) ? plan::fills_rolling_row(count, lanes)
                                                    : count > plan::kNarrowRow;
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
  return high <= plan::kMaxDirectSpan && span <= lanes && width.low() >= -lanes &&
         (width.count - 1) * width.step + width.low() <= width.size;
}

/// Whether the weight gradient of a 1x1 kernel is best added up along the pixels of both sides: few
/// channels meet those that would be transposed, the planes are long beside what adding up lanes
/// takes, and the sums of a few rows stay in cache.
template <class T>
bool suits_products_of_planes(const WeightContraction<T>& p) {
  if (conv_kernels<T>().weight_pointwise_planar.run == nullptr) return false;
  const int64_t fewer = std::min(p.rows, p.depth);
  return p.batch > 0 && fewer > 0 && fewer <= plan::kFewLongPlanes && parts_are_alike(p) &&
         p.source_strides.axis[2] == 1 && p.grad_strides.axis[2] == 1 &&
         p.walk[2].count >= plan::kMinLongPlane && p.depth <= plan::kMaxLongPlanes;
}

/// The plan of `p`, which is simplified first.
template <class T>
Plan<Contraction<T>> plan_of(Contraction<T>& p, bool channels_last) {
  merge_pointwise(p);
  const ConvKernels<T>& kernels = conv_kernels<T>();
  Choice choice = choose_algorithm(p, channels_last, reads_dense_planes(p), kernels.lanes);
  if (suits_few_pixels(p)) {
    choice = {Algorithm::few_pixels, "few output pixels: the weight is read once, where it lies"};
  } else if (channels_last && suits_amx<T>(p)) {
    choice = plan::kAmx;
  } else if (suits_rows_in_place(p, choice.algorithm, kernels.lanes)) {
    choice = {Algorithm::depthwise_planar, "few taps along rows, which are read where they lie"};
  } else if (choice.algorithm == Algorithm::gemm_channels_last &&
             suits_weight_rows(p, kernels.lanes)) {
    choice = {Algorithm::gemm_planar, "few pixels: the weight is read as it lies"};
  } else if (choice.algorithm == Algorithm::gemm_planar && suits_planes(p)) {
    choice = plan::kPointwisePlanar;
  } else if (suits_weight_as_pixels(p)) {
    exchange_parts(p);
    choice = {Algorithm::gemm_planar, "few pixels: vectors along the weight, read as it lies"};
  } else if (const int form = winograd_form(p, kernels.lanes); form >= 0) {
    return {plan::kWinograd, kernels.winograd[form]};
  } else if (choice.algorithm == Algorithm::gemm_planar && suits_transposing(p)) {
    choice = {Algorithm::transposed_planar, "channels enough to transpose rows: no im2col"};
  } else if (choice.algorithm == Algorithm::gemm_planar && suits_shifted_rows(p)) {
    choice = {Algorithm::shifted_planar, "rows long beside their padding: taps are shifts"};
  }
  switch (choice.algorithm) {
    case Algorithm::gemm_planar: return {choice, kernels.gemm_planar};
    case Algorithm::shifted_planar: return {choice, kernels.shifted_planar};
    case Algorithm::transposed_planar: return {choice, kernels.transposed_planar};
    case Algorithm::pointwise_planar: return {choice, kernels.pointwise_planar};
    case Algorithm::gemm_channels_last: return {choice, kernels.gemm_channels_last};
    case Algorithm::amx_channels_last: return {choice, kernels.amx_channels_last};
    case Algorithm::broadcast_pixels: return {choice, kernels.broadcast_pixels};
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
template <class T>
Plan<WeightContraction<T>> plan_of(WeightContraction<T>& p, bool channels_last) {
  merge_pointwise(p);
  const ConvKernels<T>& kernels = conv_kernels<T>();
  if (suits_few_pixels(p)) {
    return {{Algorithm::few_pixels, "few output pixels: the weight is stored once, where it lies"},
            kernels.weight_few_pixels};
  }
  if (channels_last) exchange_to_fill(p, kernels.lanes);
  Choice choice = choose_weight_algorithm(p, channels_last, reads_dense_planes(p), kernels.lanes);
  if (const int form = winograd_form(p, channels_last, kernels.lanes); form >= 0) {
    return {plan::kWinograd, kernels.weight_winograd[form]};
  }
  if (choice.algorithm == Algorithm::gemm_planar && suits_products_of_planes(p)) {
    choice = plan::kPointwisePlanar;
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

/// Whether an input gradient is best made from products with all taps: phases of a stride share
/// them, and so do the taps of few channels.
template <class T>
bool suits_folding(const InputGradient<T>& p, bool channels_last, int64_t lanes) {
  bool strided = false, overlapping = false;
  int64_t taps = 1, pixels = p.batch;
  for (const ConvAxis& axis : p.axis) {
    // Checked before anything is multiplied: these may be huge.
    if (axis.kernel > plan::kMaxFoldedTaps || axis.stride > plan::kMaxFoldedStride) return false;
    if (axis.dilation > plan::kMaxFoldedReach || axis.output == 0) return false;
    if ((axis.kernel - 1) * axis.dilation > plan::kMaxFoldedReach * axis.stride) return false;
    strided = strided || axis.stride > 1;
    overlapping = overlapping || axis.kernel > axis.stride;
    taps *= axis.kernel;
    pixels *= axis.output;
  }
  const bool few = p.rows <= plan::kFewChannels && taps > 1;
  if ((!strided && !few) || taps > plan::kMaxFoldedTaps) return false;
  const bool narrow = 2 * p.axis[2].output <= lanes;
  if (taps == 1 && channels_last && p.rows >= plan::kMinSingleTapRows) return false;
  if (taps == 1 && narrow && p.rows >= plan::kMinSingleTapPlanes) return false;
  if (p.depth < plan::kMinFoldedDepth || pixels <= kFewPixels) return false;
  if (channels_last && p.rows >= lanes && overlapping &&
      (p.depth < plan::kMinOverlappingDepth || pixels < plan::kMinOverlappingPixels)) {
    return false;
  }
  const ConvAxis& high = p.axis[1];
  const int64_t shared = ((high.kernel - 1) * high.dilation + high.stride - 1) / high.stride;
  const int64_t channels = !channels_last ? 1 : p.rows < lanes ? p.rows : lanes;
  const int64_t width = p.axis[2].output;
  const int64_t row = width < plan::kMinFoldedRow ? width : plan::kMinFoldedRow;
  return channels * high.kernel * p.axis[2].kernel * row * shared * 4 <= plan::kMaxFoldedProducts;
}

/// Whether the phases of an input gradient, one by one and by Winograd's forms where these suit,
/// take less than products with all taps.
template <class T>
bool suits_winograd_phases(const InputGradient<T>& p, int64_t lanes) {
  static constexpr Tap kTaps[plan::kMaxPhaseTaps] = {{0, 0}, {1, 1}, {2, 2}, {3, 3},
                                                     {4, 4}, {5, 5}, {6, 6}, {7, 7}};
  int64_t phases = 1;
  for (const ConvAxis& axis : p.axis) {
    // Checked before anything is multiplied: these may be huge.
    if (axis.kernel > plan::kMaxPhaseTaps * axis.stride || axis.stride > plan::kMaxPhases ||
        axis.dilation > 1 || axis.output == 0) {
      return false;
    }
    phases *= axis.stride;
  }
  if (phases > plan::kMaxPhases || (p.dest_strides.channel != 1 && p.axis[2].stride > 2)) {
    return false;
  }
  if (!plan::winograd_reads(p.source_strides)) return false;

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
    plan::FormChoice choice{-1, plan::kDirectPhase * products};
    if (shape.taps() > 0 && suits_winograd<T>(shape)) {
      choice = plan::winograd_form(shape, plan::filled(p.rows, lanes), plan::kernel_transform,
                                   choice.cost);
    }
    winograd = winograd || choice.form >= 0;
    of_phases += choice.cost;
    of_taps += products;
  }
  return winograd && of_phases < plan::kFoldedProduct * of_taps && allows_winograd();
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

/// Whether the phases of an input gradient are best computed a row at a time: few channels meet in
/// a destination, and what reads and stores cost is most of the work.
template <class T>
bool suits_phased_rows(const InputGradient<T>& p) {
  const int64_t stride = p.axis[2].stride;
  if (stride != 2 && stride != 3 && stride != 4 && stride != 8) return false;
  if (p.depth > plan::kMaxPhasedChannels || p.rows > plan::kMaxPhasedChannels) return false;
  // Two destination channels share what they load, and pairs of them load it again, which a narrow
  // row is worst at.
  if (p.depth > plan::kFewChannels && p.rows == 1) return false;
  const int64_t strides = (p.axis[2].input - 1) / stride + 1;
  if (p.rows * p.depth > plan::kMaxNarrowPairs && strides <= plan::kNarrowRow) return false;
  if (p.dest_strides.axis[2] != 1) return false;
  int64_t span[kAxes];
  for (int i = 0; i < kAxes; ++i) {
    const ConvAxis& axis = p.axis[i];
    // Checked before anything is multiplied, as above.
    if (axis.kernel > plan::kMaxFoldedTaps || axis.stride > plan::kMaxFoldedStride) return false;
    if (axis.dilation > plan::kMaxDirectSpan || axis.output == 0) return false;
    span[i] = (axis.kernel - 1) * axis.dilation / axis.stride + 1;
    if (span[i] > plan::kMaxDirectSpan) return false;
  }
  const int64_t row = strides + span[2];
  return row < plan::kMaxBandElements &&
         row * (span[1] + 1) * p.depth * p.axis[0].kernel <= plan::kMaxBandElements;
}

/// Whether all phases of an input gradient with one source channel in a group are computed from
/// source rows as they lie.
template <class T>
bool suits_phased_rows_in_place(const InputGradient<T>& p) {
  if (conv_kernels<T>().phased_rows.run == nullptr) return false;
  if (p.depth > 1 || p.rows > plan::kMaxRowsInPlace) return false;
  if (p.source_strides.axis[2] != 1 || p.dest_strides.axis[2] != 1) return false;
  for (const ConvAxis& axis : {p.axis[1], p.axis[2]}) {
    if (axis.kernel < 3 || axis.kernel > 5 || axis.kernel != p.axis[2].kernel) return false;
    if (axis.stride != 2 || axis.dilation != 1 || axis.output == 0) return false;
  }
  const ConvAxis& deep = p.axis[0];
  if (deep.kernel > plan::kMaxFoldedTaps || deep.stride > plan::kMaxFoldedStride) return false;
  return deep.dilation <= plan::kMaxDirectSpan && deep.output > 0 &&
         p.axis[2].input <= kLongestRollingRow;
}

/// Whether registers of channels hold whole groups of an input gradient with a stride, all phases
/// of which have taps.
template <class T>
bool suits_phased_groups(const InputGradient<T>& p, int64_t lanes) {
  int64_t phases = 1;
  for (const ConvAxis& axis : p.axis) {
    // Checked before anything is multiplied, as above.
    if (axis.kernel > plan::kMaxFoldedTaps || axis.stride > plan::kMaxPhases) return false;
    if (axis.kernel < axis.stride || axis.input < axis.stride || axis.output == 0) return false;
    if (axis.dilation > 1 && axis.stride > 1) return false;
    phases *= axis.stride;
  }
  return plan::groups_fill_registers(p, lanes) && phases > 1 && phases <= plan::kMaxPhases;
}

/// Whether a register's worth of its planes is best transposed.
template <class T>
bool suits_phased_blocks(const InputGradient<T>& p, int64_t lanes) {
  const ConvAxis* axis = p.axis;
  if (!planes_are_dense(p.source_strides, {axis[0].output, axis[1].output, axis[2].output}) ||
      !planes_are_dense(p.dest_strides, {axis[0].input, axis[1].input, axis[2].input})) {
    return false;
  }
  const int64_t narrow = p.depth == 1 ? plan::kNarrowRowOfWindows : plan::kNarrowRow;
  int64_t of_source = 1, of_dest = 1, taps = 1;
  for (int i = 0; i < kAxes; ++i) {
    if (axis[i].input > plan::kMaxBlockElements || axis[i].output > plan::kMaxBlockElements) {
      return false;
    }
    of_source *= axis[i].output;
    of_dest *= axis[i].input;
    taps *= axis[i].kernel;
  }
  return axis[2].output <= narrow && p.groups * p.depth >= lanes &&
         (of_source + of_dest) * lanes <= plan::most_block_elements(taps);
}

/// The plan of `p`; no kernel where its phases are better run one by one.
template <class T>
Plan<InputGradient<T>> plan_of(const InputGradient<T>& p, bool channels_last) {
  constexpr Plan<InputGradient<T>> none{{Algorithm::fold_taps_planar, ""}, {"", nullptr, nullptr}};
  const ConvKernels<T>& kernels = conv_kernels<T>();
  const bool in_place = !channels_last && suits_phased_rows_in_place(p);
  if (suits_phased_groups(p, kernels.lanes)) {
    if (channels_last) {
      return {{Algorithm::phased_channels_last, "a register of channels holds whole groups"},
              kernels.phased_channels_last};
    }
    const bool narrow = !in_place || !plan::fills_phased_row(p.axis[2], kernels.lanes);
    if (narrow && suits_phased_blocks(p, kernels.lanes)) {
      return {{Algorithm::phased_blocks, "rows too narrow for registers, channels fill them"},
              kernels.phased_blocks};
    }
  }
  if (in_place) {
    return {{Algorithm::phased_rows, "few taps of stride 2, rows are read where they lie"},
            kernels.phased_rows};
  }
  if (!channels_last && suits_phased_rows(p)) {
    return {{Algorithm::phased_planar, "few channels in a group: whole rows of all phases"},
            kernels.phased_planar};
  }
  if (channels_last && suits_amx<T>(p)) return none;
  if (!suits_folding(p, channels_last, kernels.lanes)) return none;
  if (suits_winograd_phases(p, kernels.lanes)) return none;
  const char* reason = "phases and taps share products with the source";
  if (channels_last) {
    return {{Algorithm::fold_taps_channels_last, reason}, kernels.fold_taps_channels_last};
  }
  if (planes_are_dense(p.source_strides, {1, p.axis[1].output, p.axis[2].output}) &&
      rows_are_dense(p)) {
    return {{Algorithm::fold_taps_planar, reason}, kernels.fold_taps_planar};
  }
  return none;
}

}  // namespace cnnops
