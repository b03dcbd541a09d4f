// How the depthwise kernels cut their work, and what they leave to the GEMM: all rules in one
// place.
#pragma once

#include <algorithm>

#include "cuda/depthwise_weight.cuh"
#include "cuda/plan.h"

namespace cnnops::cuda {

/// A group with more channels than that on its wide side has work enough for a GEMM.
constexpr int64_t kMaxMultiplier = 8;

/// Shared memory that every kernel may use without asking; two blocks fit the smallest
/// multiprocessor, of 100 KiB.
constexpr int64_t kDepthwiseBytes = 48 << 10;

/// Weights of a block of depthwise_channels.cuh.
constexpr int64_t kTapBytes = 16 << 10;

/// Tiles are no wider where there are rows to make up for it: the border that neighbouring tiles
/// read twice shrinks.
constexpr int64_t kDepthwiseTileWidth = 64;

/// A tile with fewer threads at work than that is no tile.
constexpr int64_t kMinDepthwiseThreads = 32;

/// Vectors of channels that lie side by side in a block: 128 bytes of float32.
constexpr int64_t kChannelLanes = 8;

/// Is this contraction depthwise?
inline bool is_depthwise(const ContractionShape& shape) {
  return std::min(shape.rows, shape.depth) == 1 &&
         std::max(shape.rows, shape.depth) <= kMaxMultiplier;
}

inline int64_t power_of_two_at_least(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

/// n cut into equal pieces of at most `most`: the size of a piece.
inline int64_t even_piece(int64_t n, int64_t most) { return ceil_div(n, ceil_div(n, most)); }

/// Source positions that `count` destinations along an axis reach.
inline int64_t reached(const Axis<int32_t>& axis, int64_t count) {
  return (count - 1) * axis.step + (axis.taps - 1) * axis.offset_step + 1;
}

/// Does depthwise code with runs of neighbours serve this axis W?
inline bool is_dense(const Axis<int32_t>& axis) {
  return (axis.step == 1 || axis.count == 1) && (axis.offset_step == 1 || axis.taps == 1);
}

/// The axis with its taps in the order of the source.
inline Axis<int32_t> ascending(Axis<int32_t> axis) {
  if (axis.offset_step >= 0) return axis;
  axis.offset += (axis.taps - 1) * axis.offset_step;
  axis.kernel += (axis.taps - 1) * axis.kernel_step;
  axis.offset_step = -axis.offset_step;
  axis.kernel_step = -axis.kernel_step;
  return axis;
}

/// Threads along a row of `width` elements that leave the fewest idle.
inline int choose_load_lanes(int64_t width) {
  int best = 8;
  for (int lanes = 16; lanes <= kDepthwiseThreads; lanes *= 2) {
    if (ceil_div(width, lanes) * lanes <= ceil_div(width, best) * best) best = lanes;
  }
  return best;
}

/// Sets what follows from planes, height and width of the tile.
template <class T>
void complete_tile(PlanarTile& tile, const Shape<int32_t>& p, bool dense) {
  constexpr int kRun = kPlanarRun<T>;
  constexpr int kBanks = 128 / sizeof(Accumulator<T>);
  tile.source_height = static_cast<int>(reached(p.axis[1], tile.height));
  tile.source_width = static_cast<int>(reached(p.axis[2], tile.width));
  tile.plane_pitch = 0;
  if (!dense) {
    tile.pitch = tile.source_width;
  } else {
    // Successive runs of a tile lie side by side in the banks, also across rows and planes.
    const int reads = static_cast<int>(round_up(p.axis[2].taps, kRun));
    tile.pitch = tile.width + static_cast<int>(round_up(reads, kBanks));
    const int apart = (tile.height - tile.source_height) * tile.width % kBanks;
    tile.plane_pitch = (apart + kBanks) % kBanks;
  }
  tile.plane_pitch += tile.source_height * tile.pitch;
  tile.load_lanes = choose_load_lanes(tile.source_width);
  tile.by_runs = Divisor<int32_t>(tile.width / kRun);
  tile.by_height = Divisor<int32_t>(tile.height);
  tile.by_source_height = Divisor<int32_t>(tile.source_height);
  tile.by_tiles_across = Divisor<int32_t>(ceil_div(p.axis[2].count, tile.width));
  tile.by_tiles_down = Divisor<int32_t>(ceil_div(p.axis[1].count, tile.height));
}

/// Halves planes, then height, then width; false when nothing is left to halve.
inline bool shrink(PlanarTile& tile, int run) {
  if (tile.planes > 1) {
    tile.planes = (tile.planes + 1) / 2;
  } else if (tile.height > 1) {
    tile.height = (tile.height + 1) / 2;
  } else if (tile.width > run) {
    tile.width = static_cast<int>(round_up(tile.width / 2, run));
  } else {
    return false;
  }
  return true;
}

/// Is the patch of the tile so large that its sizes might not fit an int? It fits no block anyway.
inline bool is_far_too_large(const Shape<int32_t>& p, const PlanarTile& tile) {
  return double(reached(p.axis[1], tile.height)) * double(reached(p.axis[2], tile.width)) > 1e6;
}

// ---- forward and gradient for the input ----------------------------------------------------------

/// Elements of a row of weights in shared memory.
template <class T>
int weight_pitch_of(const Shape<int32_t>& p) {
  return static_cast<int>(round_up(p.axis[2].taps, kPlanarRun<T>));
}

template <class T>
int64_t planar_bytes(const PlanarTile& tile, const Shape<int32_t>& p) {
  const int64_t weights = int64_t{p.axis[1].taps} * weight_pitch_of<T>(p);
  return tile.planes * (tile.plane_pitch + weights) * int64_t{sizeof(Accumulator<T>)};
}

/// The tile of depthwise_planar; false where none fits.
template <class T>
bool choose_planar_tile(const Shape<int32_t>& p, bool dense, PlanarTile* tile) {
  constexpr int64_t kRun = kPlanarRun<T>;
  const int64_t widest = p.axis[1].count == 1 ? kDepthwiseThreads * kRun : kDepthwiseTileWidth;
  const int64_t width = round_up(even_piece(p.axis[2].count, widest), kRun);
  const int64_t rows = kDepthwiseThreads / (width / kRun);
  const int64_t height = even_piece(p.axis[1].count, rows);
  tile->width = static_cast<int>(width);
  tile->height = static_cast<int>(height);
  tile->planes = static_cast<int>(std::min<int64_t>(p.groups, rows / height));
  for (;;) {
    if (!is_far_too_large(p, *tile)) {
      complete_tile<T>(*tile, p, dense);
      if (planar_bytes<T>(*tile, p) <= kDepthwiseBytes) break;
    }
    if (!shrink(*tile, kRun)) return false;
  }
  const int64_t threads = tile->planes * tile->height * tile->width / kRun;
  const int64_t possible = p.groups * int64_t{p.axis[1].count} * ceil_div(p.axis[2].count, kRun);
  return threads >= std::min(kMinDepthwiseThreads, possible);
}

/// How depthwise_channels cuts its blocks; false where a row of the kernel does not fit.
template <class T>
bool choose_channels_tile(const Shape<int32_t>& p, int vector, ChannelsTile* tile) {
  const int64_t most = vector == 1 ? simt::kWarp : kChannelLanes;
  const int64_t vectors = ceil_div(p.groups, vector);
  const int64_t lanes = std::min(most, power_of_two_at_least(vectors));
  const int64_t slots = kDepthwiseThreads / lanes;
  const int64_t runs = power_of_two_at_least(ceil_div(p.axis[2].count, kChannelsRun));
  const int64_t rows = power_of_two_at_least(p.axis[1].count);
  // About twice as high as wide in runs is about square in pixels of a 3x3 kernel.
  int64_t across = std::min({runs, slots, std::max<int64_t>(4, slots / rows)});
  const int64_t down = std::min(rows, slots / across);
  const int64_t row_bytes =
      int64_t{p.axis[2].taps} * lanes * vector * int64_t{sizeof(Accumulator<T>)};
  if (row_bytes > kDepthwiseBytes) return false;
  tile->lanes = static_cast<int>(lanes);
  tile->across = static_cast<int>(across);
  tile->down = static_cast<int>(down);
  tile->tap_rows = static_cast<int>(std::clamp<int64_t>(kTapBytes / row_bytes, 1, p.axis[1].taps));
  tile->by_tiles_across = Divisor<int32_t>(ceil_div(p.axis[2].count, across * kChannelsRun));
  tile->by_tiles_down = Divisor<int32_t>(ceil_div(p.axis[1].count, down));
  tile->by_channel_blocks = Divisor<int32_t>(ceil_div(vectors, lanes));
  return true;
}

// ---- gradient for the weight ---------------------------------------------------------------------

/// Sets how `units` units of `lanes` lanes each are dealt to blocks.
inline int64_t deal_units(WeightSplit& cut, int64_t units, int64_t lanes) {
  const int64_t slots = kDepthwiseThreads / lanes;
  const int64_t in_block = even_piece(units, slots);
  cut.units = static_cast<int>(in_block);
  cut.parts = static_cast<int>(slots / in_block);
  cut.by_parts = Divisor<int32_t>(cut.parts);
  const int64_t blocks = ceil_div(units, in_block);
  cut.by_unit_blocks = Divisor<int32_t>(blocks);
  return blocks;
}

/// Cuts `items` into chunks for four blocks on each multiprocessor, as far as the partial sums, of
/// `bytes` for each chunk, keep within kMaxPartialSums; returns their number.
inline int64_t deal_items(WeightSplit& cut, int64_t items, int64_t least, int64_t blocks,
                          int64_t bytes, int multiprocessors) {
  const int64_t wanted = ceil_div(int64_t{4} * multiprocessors, blocks);
  const int64_t most = std::min(ceil_div(items, least), kMaxPartialSums / bytes);
  const int64_t chunk = ceil_div(items, std::max<int64_t>(1, std::min(wanted, most)));
  cut.items = static_cast<int32_t>(items);
  cut.chunk = static_cast<int32_t>(chunk);
  return ceil_div(items, chunk);
}

/// Elements of a row of grad in shared memory: rows are an odd number of runs apart, so that the
/// parts of a warp, which take neighbouring rows, find them in different banks.
template <class T>
int grad_pitch_of(const PlanarTile& tile) {
  const int runs = tile.width / kPlanarRun<T>;
  return (runs | 1) * kPlanarRun<T>;
}

template <class T>
int64_t weight_planar_bytes(const PlanarTile& tile) {
  constexpr int64_t kJoined = kDepthwiseThreads * kPlanarRun<T>;
  const int64_t elements =
      tile.planes * (tile.plane_pitch + int64_t{tile.height} * grad_pitch_of<T>(tile));
  return std::max(elements, kJoined) * int64_t{sizeof(Accumulator<T>)};
}

/// The tile of depthwise_weight_planar, with lines for all `parts`; false where none fits.
template <class T>
bool choose_weight_tile(const Shape<int32_t>& p, bool dense, int parts, PlanarTile* tile) {
  constexpr int kRun = kPlanarRun<T>;
  const int64_t widest = p.axis[1].count == 1 ? 16 * kDepthwiseTileWidth : kDepthwiseTileWidth;
  const int64_t width = round_up(even_piece(p.axis[2].count, widest), kRun);
  const int64_t segments = ceil_div(width, 4 * kRun);
  const int64_t lines = ceil_div(parts, segments);
  const int64_t height = even_piece(p.axis[1].count, std::max<int64_t>(lines, 8));
  tile->width = static_cast<int>(width);
  tile->height = static_cast<int>(height);
  tile->planes = static_cast<int>(std::min<int64_t>(p.batch, ceil_div(lines, height)));
  for (;;) {
    if (!is_far_too_large(p, *tile)) {
      complete_tile<T>(*tile, p, dense);
      if (dense) {
        // Units read past the last tap of their row; rows as in grad_pitch_of.
        const int reads = static_cast<int>(round_up(p.axis[2].taps, kRun)) + kRun;
        tile->pitch = ((tile->width + reads) / kRun | 1) * kRun;
        tile->plane_pitch = tile->source_height * tile->pitch;
      }
      if (weight_planar_bytes<T>(*tile) <= kDepthwiseBytes) return true;
    }
    if (!shrink(*tile, kRun)) return false;
  }
}

}  // namespace cnnops::cuda
