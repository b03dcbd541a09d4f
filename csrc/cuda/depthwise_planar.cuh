// Depthwise convolution, and the gradient for its input by phases, of (N, C, D, H, W) tensors.
//
// A block computes a tile of destinations of one image, of one channel or of several where planes
// are small. It copies the source that the tile reaches into shared memory, with the padding
// resolved, so that source elements are read once but for the borders of tiles. 3-d kernels do so
// slice by slice. Each thread adds up one run of kRun destinations.
//
//   kDense    steps of 1 between destinations and between taps along W: the run is kRun neighbours,
//             and 16 bytes of source and 16 of weights give kRun * kRun multiply-adds. Pitches put
//             the runs of a warp side by side in the banks.
//   otherwise the run is kRun destinations far apart, so that the lanes are neighbours.
#pragma once

#include "cuda/depthwise.cuh"

namespace cnnops::cuda {

/// Elements that 16 bytes of sums hold.
template <class T>
constexpr int kPlanarRun = 16 / sizeof(Accumulator<T>);

template <class T, bool kDense>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(kDepthwiseThreads, 3) void depthwise_planar(
    SIMT_PARAMETER Problem<T, int32_t> p, SIMT_PARAMETER PlanarTile tile,
    SIMT_PARAMETER Divisor<int32_t> by_plane_blocks, int weight_pitch, bool vector_store) {
  using Value = Accumulator<T>;
  constexpr int kRun = kPlanarRun<T>;
  using Run = simt::Vector<Value, kRun>;
  SIMT_DYNAMIC_SHARED(Value, patch);
  Value* const weights = patch + tile.planes * tile.plane_pitch;
  const int thread = static_cast<int>(threadIdx.x);
  const Axis<int32_t>&depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];

  int32_t left = static_cast<int32_t>(blockIdx.x);
  int32_t top = split(left, tile.by_tiles_across);
  int32_t slice = split(top, tile.by_tiles_down);
  int32_t first_group = split(slice, p.by_count[0]);
  const int32_t image = split(first_group, by_plane_blocks);
  left *= tile.width;
  top *= tile.height;
  first_group *= tile.planes;
  const int32_t planes =
      tile.planes < p.groups - first_group ? tile.planes : p.groups - first_group;

  int32_t run = thread;
  int32_t row = split(run, tile.by_runs);
  const int32_t plane = split(row, tile.by_height);
  const int runs = tile.width / kRun;
  const int32_t first = kDense ? run * kRun : run;
  const bool active = plane < planes && top + row < height.count && left + first < width.count;

  int32_t loaded = -1;
  for (int32_t m = 0; m < p.rows; ++m) {
    Value sum[kRun] = {};
    for (int32_t outer = 0; outer < p.depth * depth.taps; ++outer) {
      const int32_t channel = outer / depth.taps, tap = outer - channel * depth.taps;
      const int32_t z =
          resolve(depth, p.mode, slice * depth.step + depth.offset + tap * depth.offset_step);
      if (z < 0) continue;  // for the whole block
      __syncthreads();      // the patch and the weights have been read
      if (loaded != outer) {
        const auto plane_of = [&](int32_t at) {
          return image * p.source_strides.batch +
                 ((first_group + at) * p.depth + channel) * p.source_strides.channel +
                 z * p.source_strides.axis[0];
        };
        load_patch(p, p.source_strides, p.source, tile, planes, top, left, plane_of, patch);
        loaded = outer;
      }
      const WeightStrides<int32_t>& strides = p.weight_strides;
      const T* from = p.weight + first_group * strides.group + m * strides.row +
                      channel * strides.depth +
                      (depth.kernel + tap * depth.kernel_step) * strides.axis[0];
      for (int i = thread; i < planes * height.taps * width.taps; i += kDepthwiseThreads) {
        int32_t x = i;
        const int32_t line = split(x, p.by_taps[1]);
        int32_t y = line;
        const int32_t group = split(y, p.by_taps[0]);
        simt::store_shared(
            weights + line * weight_pitch + x,
            simt::to_float(simt::load(from + group * strides.group +
                                      (height.kernel + y * height.kernel_step) * strides.axis[1] +
                                      (width.kernel + x * width.kernel_step) * strides.axis[2])));
      }
      __syncthreads();
      if (!active) continue;
      const Value* source = patch + plane * tile.plane_pitch + row * height.step * tile.pitch;
      const Value* weight = weights + plane * height.taps * weight_pitch;
      for (int32_t y = 0; y < height.taps; ++y) {
        if constexpr (kDense) {
          const Run* line = reinterpret_cast<const Run*>(source + first);
          Run low = simt::load_shared(line);
          int32_t x = 0;
          for (; x + kRun <= width.taps; x += kRun) {
            const Run high = simt::load_shared(++line);
            const Run factor = simt::load_shared(reinterpret_cast<const Run*>(weight + x));
            correlate(sum, factor.at, low.at, high.at, kRun);
            low = high;
          }
          if (x < width.taps) {
            const Run high = simt::load_shared(++line);
            const Run factor = simt::load_shared(reinterpret_cast<const Run*>(weight + x));
            correlate(sum, factor.at, low.at, high.at, width.taps - x);
          }
        } else {
          for (int32_t x = 0; x < width.taps; ++x) {
            const Value factor = simt::load_shared(weight + x);
#pragma unroll
            for (int i = 0; i < kRun; ++i) {
              const int at = (first + i * runs) * width.step + x * width.offset_step;
              sum[i] += factor * simt::load_shared(source + at);
            }
          }
        }
        source += height.offset_step * tile.pitch;
        weight += weight_pitch;
      }
    }
    if (!active) continue;
    const int32_t channel = (first_group + plane) * p.rows + m;
    const Value bias = p.bias != nullptr ? simt::to_float(simt::load(p.bias + channel)) : Value(0);
    T* to = p.dest + image * p.dest_strides.batch + channel * p.dest_strides.channel +
            slice * p.dest_strides.axis[0] + (top + row) * p.dest_strides.axis[1];
    if (kDense && vector_store) {
      simt::Vector<T, kRun> result;
#pragma unroll
      for (int i = 0; i < kRun; ++i) result.at[i] = simt::from_float<T>(sum[i] + bias);
      simt::store(reinterpret_cast<simt::Vector<T, kRun>*>(to + left + first), result);
      continue;
    }
#pragma unroll
    for (int i = 0; i < kRun; ++i) {
      const int32_t x = left + first + i * (kDense ? 1 : runs);
      if (x < width.count) {
        simt::store(to + x * p.dest_strides.axis[2], simt::from_float<T>(sum[i] + bias));
      }
    }
  }
}

}  // namespace cnnops::cuda
