// What the depthwise kernels share. In a depthwise convolution groups have one channel on one side
// at least: a group has `rows` destination channels and `depth` source channels, and one of the two
// is 1 (the other one is the multiplier).
//
// Depthwise kernels do little arithmetic for each element, so what counts is that elements are read
// about once and that neighbouring threads read neighbours. Sums are formed in registers for kRun
// neighbours at a time: along the run of outputs, a source element and a weight that have been read
// serve up to kRun multiply-adds.
#pragma once

#include "cuda/problem.h"

namespace cnnops::cuda {

constexpr int kDepthwiseThreads = 256;

/// The source position that is read for `position`, or -1 for zero.
SIMT_DEVICE int32_t resolve(const Axis<int32_t>& axis, PaddingMode mode, int32_t position) {
  if (static_cast<uint32_t>(position) < static_cast<uint32_t>(axis.size)) return position;
  if (mode == PaddingMode::zeros) return -1;
  return static_cast<int32_t>(resolve_position(position, axis.size, mode));
}

/// sum[i] += factor[j] * window[i + j] for j < count, where window is `low` followed by `high`.
template <int kRun, class Value>
SIMT_DEVICE void correlate(Value (&sum)[kRun], const Value (&factor)[kRun],
                           const Value (&low)[kRun], const Value (&high)[kRun], int count) {
#pragma unroll
  for (int j = 0; j < kRun; ++j) {
    if (j >= count) break;
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      sum[i] += factor[j] * (i + j < kRun ? low[i + j] : high[i + j - kRun]);
    }
  }
}

/// A tile of destinations of several planes, and the source that it reaches, for kernels that keep
/// the source in shared memory.
struct PlanarTile {
  int planes = 1;  // channels, or images
  int height = 1;
  int width = 1;  // a multiple of the run
  int source_height = 1;
  int source_width = 1;
  int pitch = 1;        // of a source row in shared memory
  int plane_pitch = 1;  // of a source plane there
  int load_lanes = 32;  // threads along a source row; a power of two
  Divisor<int32_t> by_runs, by_height, by_source_height;
  Divisor<int32_t> by_tiles_across, by_tiles_down;
};

/// Source positions along an axis that `most` destinations from `first` on may read. What a tile
/// covers beyond them belongs to no destination, and its padding to nothing.
SIMT_DEVICE int32_t reached_along(const Axis<int32_t>& axis, int32_t first, int32_t most) {
  const int32_t left = axis.count - first;
  return ((left < most ? left : most) - 1) * axis.step + (axis.taps - 1) * axis.offset_step + 1;
}

/// Copies the source of a tile into `patch`, in the type of sums: for each plane < `planes` rows
/// from `top` on of the slice whose first element of a plane is plane_of(plane).
template <class T, class Index, class PlaneOf>
SIMT_DEVICE void load_patch(const Shape<Index>& p, const Strides<Index>& strides, const T* source,
                            const PlanarTile& tile, int planes, int32_t top, int32_t left,
                            const PlaneOf& plane_of, Accumulator<T>* patch) {
  const int thread = static_cast<int>(threadIdx.x);
  const int32_t rows = reached_along(p.axis[1], top, tile.height);
  const int32_t columns = reached_along(p.axis[2], left, tile.width);
  const int32_t first_row = top * p.axis[1].step + p.axis[1].offset;
  const int32_t first_column = left * p.axis[2].step + p.axis[2].offset;
  const int step = kDepthwiseThreads / tile.load_lanes;
  for (int i = thread / tile.load_lanes; i < planes * tile.source_height; i += step) {
    int32_t row = i;
    const int32_t plane = split(row, tile.by_source_height);
    if (row >= rows) continue;
    const int32_t y = resolve(p.axis[1], p.mode, first_row + row);
    const T* from = source + plane_of(plane) + y * strides.axis[1];
    Accumulator<T>* to = patch + plane * tile.plane_pitch + row * tile.pitch;
#pragma unroll 2
    for (int x = thread & (tile.load_lanes - 1); x < columns; x += tile.load_lanes) {
      const int32_t at = resolve(p.axis[2], p.mode, first_column + x);
      const bool inside = y >= 0 && at >= 0;
      simt::store_shared(to + x, inside ? simt::to_float(simt::load(from + at * strides.axis[2]))
                                        : Accumulator<T>(0));
    }
  }
}

}  // namespace cnnops::cuda
