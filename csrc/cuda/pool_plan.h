// Which kernel runs which pooling on the GPU, how its work is cut, and how wide its indices are:
// all rules in one place. They look at the shape, the layout and the element size only.
#pragma once

#include "cuda/pool_tile.cuh"
#include "cuda/pool_window.cuh"

namespace cnnops::cuda {

namespace plan {

/// A window of fewer elements leaves most threads of a group without work.
constexpr int64_t kMinWindowElements = 32;

/// With as many outputs a thread for each fills the GPU, if neighbours read neighbours.
constexpr int64_t kManyOutputs = 65536;

/// Shared memory of a tile: four blocks fit a multiprocessor of 164 KiB.
constexpr int64_t kTileBytes = 40 << 10;

/// Tiles of fewer outputs leave most threads of the block idle.
constexpr int64_t kMinTileOutputs = 128;

/// Tiles are no wider where the plane has rows to make up for it: the border that neighbouring
/// tiles read twice shrinks.
constexpr int64_t kTileWidth = 64;

/// Where 32-bit indices end: room for the threads of the last block.
constexpr int64_t kMaxIndex = (int64_t{1} << 31) - 4096;

}  // namespace plan

/// The largest index that a kernel forms of this pooling.
inline int64_t largest_index(const PoolGeometry& g) {
  // Of every plane: its elements, or the random samples of fractional pools, `rank` of them.
  const int64_t of_plane = std::max({g.input_plane(), g.output_plane(), int64_t{g.rank}});
  int64_t largest = checked_mul(checked_mul(g.batch, g.channels), of_plane);
  int64_t elements = 1;  // of a window, which its mean divides by
  for (const PoolAxis& axis : g.axis) {
    if (axis.stride == 0) {
      const int64_t input = std::max<int64_t>(axis.input, 1);
      const int64_t output = std::max<int64_t>(axis.output, 1);
      largest = std::max({largest, Scale<int64_t>::largest(input, output),
                          Scale<int64_t>::largest(output, input)});
      continue;
    }
    // Every parameter fits 32 bits, so that these sums do not overflow.
    largest = std::max(largest,
                       axis.input + 2 * axis.padding + axis.dilation * axis.kernel + axis.stride);
    // Means of more elements than int64 counts have been refused.
    if (__builtin_mul_overflow(elements, axis.kernel, &elements)) return INT64_MAX;
  }
  return std::max(largest, elements);
}

/// The largest index that the reduction Op forms of it. Places that count by taps may lie behind
/// the end of a plane of few rows or columns.
template <class Op>
int64_t largest_index_of(const PoolGeometry& g) {
  int64_t places = 0;
  if (Op::kFindsTaps) {
    for (const PoolAxis& axis : g.axis) {
      places = checked_add(checked_mul(places, axis.kernel), axis.input);
    }
  }
  return std::max(largest_index(g), places);
}

/// Calls f(int32_t()) or f(int64_t()), the type that holds `largest`.
template <class F>
void with_index(int64_t largest, const F& f) {
  if (largest <= plan::kMaxIndex) {
    f(int32_t());
  } else {
    f(int64_t());
  }
}

/// What all means of a pooling divide by, where that is one number, else 0.
inline int64_t common_divisor(const PoolGeometry& g, WindowCount count, int64_t divisor_override) {
  if (divisor_override != 0 || count == WindowCount::kNone) return divisor_override;
  int64_t product = 1;
  for (const PoolAxis& axis : g.axis) {
    if (axis.stride == 0) {
      product *= axis.input % axis.output == 0 ? axis.input / axis.output : 0;
      continue;
    }
    const int64_t padding = count == WindowCount::kPadded ? axis.padding : 0;
    const int64_t last_end = (axis.output - 1) * axis.stride - axis.padding + axis.kernel;
    const bool whole = axis.padding == padding && last_end <= axis.input + padding;
    product *= whole ? axis.kernel : 0;
  }
  return product;
}

/// The most elements that one window of `axis` reads.
inline int64_t window_elements(const PoolAxis& axis) {
  const int64_t most =
      axis.stride == 0 ? axis.input / std::max<int64_t>(axis.output, 1) + 2 : axis.kernel;
  return std::min(most, axis.input);
}

/// The most source positions that `count` neighbouring dest positions of a grid of windows reach.
inline int64_t reached(const PoolAxis& axis, bool backward, int64_t count) {
  if (backward) {
    return std::min(axis.output, (count - 1 + axis.kernel + axis.stride - 1) / axis.stride);
  }
  return std::min(axis.input, (count - 1) * axis.stride + axis.dilation * axis.kernel);
}

/// The tile of pool_tile.cuh, or one without blocks where that kernel does not pay.
template <class Op>
PoolTile choose_tile(const PoolGeometry& g, bool channels_last) {
  PoolTile tile;
  tile.blocks = 0;
  const PoolAxis& height = g.axis[1];
  const PoolAxis& width = g.axis[2];
  bool grid = true;
  for (const PoolAxis& axis : g.axis) grid = grid && axis.stride != 0;
  const int64_t taps = std::min(height.kernel, height.input) * std::min(width.kernel, width.input);
  if (channels_last || !grid || taps / 2 < height.stride * width.stride) return tile;

  constexpr bool kBackward = Op::kBackward;
  const int64_t planes = g.batch * g.channels;
  const int64_t rows = kBackward ? height.input : height.output;
  const int64_t columns = kBackward ? width.input : width.output;
  const int64_t slices = kBackward ? g.axis[0].input : g.axis[0].output;
  int64_t across = std::min<int64_t>(columns, rows == 1 ? kTileOutputs : plan::kTileWidth);
  int64_t down = std::min(rows, kTileOutputs / across);
  int64_t deep = std::min(planes, kTileOutputs / (across * down));
  for (;;) {
    const int64_t source_down = reached(height, kBackward, down);
    const int64_t source_across = reached(width, kBackward, across);
    const int64_t per_row = source_across * sizeof(typename Op::Value) +
                            across * (sizeof(typename Op::Value) + sizeof(int32_t));
    if (source_down <= plan::kTileBytes / per_row / deep) {
      tile.planes = static_cast<int>(deep);
      tile.height = static_cast<int>(down);
      tile.width = static_cast<int>(across);
      tile.source_height = static_cast<int>(source_down);
      tile.source_width = static_cast<int>(source_across);
      break;
    }
    int64_t& largest = deep > 1 ? deep : down > across / 2 ? down : across;
    if (largest == 1) return tile;
    largest = (largest + 1) / 2;
  }
  const int64_t possible = std::min<int64_t>(plan::kMinTileOutputs, planes * rows * columns);
  if (deep * down * across < possible) return tile;
  const int64_t tiles_down = (rows - 1) / down + 1, tiles_across = (columns - 1) / across + 1;
  tile.by_height = Divisor<int32_t>(tile.height);
  tile.by_width = Divisor<int32_t>(tile.width);
  tile.by_source_height = Divisor<int32_t>(tile.source_height);
  tile.by_source_width = Divisor<int32_t>(tile.source_width);
  tile.by_tiles_down = Divisor<int32_t>(tiles_down);
  tile.by_tiles_across = Divisor<int32_t>(tiles_across);
  tile.blocks = ((planes - 1) / deep + 1) * slices * tiles_down * tiles_across;
  return tile;
}

/// Does pool_window.cuh pay for `outputs` (vectors of) outputs?
inline bool wants_window(const PoolGeometry& g, bool channels_last, int64_t outputs) {
  int64_t elements = 1;
  for (const PoolAxis& axis : g.axis) elements *= window_elements(axis);
  if (elements < plan::kMinWindowElements) return false;
  return !channels_last || outputs < plan::kManyOutputs;
}

inline int64_t power_of_two_from(int64_t n) {
  int64_t power = 1;
  while (power < n) power *= 2;
  return power;
}

/// How pool_window.cuh deals out its threads: lanes over the channels, as many parts as a window
/// has elements for.
template <class Index>
WindowSplit<Index> split_windows(const PoolGeometry& g, const PoolProblem<Index>& p) {
  int64_t elements = 1;
  for (const PoolAxis& axis : g.axis) elements *= window_elements(axis);
  WindowSplit<Index> split_up;
  const int64_t lanes = std::min<int64_t>(simt::kWarp, power_of_two_from(p.inner));
  const int64_t parts = std::min(kWindowThreads / lanes, power_of_two_from((elements + 1) / 2));
  split_up.lanes = static_cast<int>(lanes);
  split_up.parts = static_cast<int>(parts);
  const int64_t blocks = (p.inner - 1) / lanes + 1;
  split_up.blocks_of_lanes = static_cast<Index>(blocks);
  split_up.groups = p.outer * p.dest[0] * p.dest[1] * p.dest[2] * split_up.blocks_of_lanes;
  split_up.by_blocks_of_lanes = Divisor<Index>(blocks);
  return split_up;
}

}  // namespace cnnops::cuda
