// Depthwise convolution, and the gradient for its input by phases, of channels_last tensors.
//
// Lanes lie along the channels, kVector of them to a thread, so that every load is whole memory
// segments; the other threads of a block are a tile of runs, each of kChannelsRun destinations
// along W. Along a run a source element that has been read serves all the taps that it lies under
// (kSliding: steps of 1 between destinations and between taps), and the rows that the runs of a
// block share come out of the L1 cache. Weights are kept in shared memory in the order that the
// lanes read them, as many rows of the kernel at a time as fit there.
#pragma once

#include "cuda/depthwise.cuh"

namespace cnnops::cuda {

constexpr int kChannelsRun = 4;

/// Channels that a thread takes at once where all addresses allow it.
template <class T>
constexpr int kChannelsVector = sizeof(Accumulator<T>) == 8 ? 2 : 4;

/// How a block is cut: lanes * across * down <= kDepthwiseThreads, powers of two.
struct ChannelsTile {
  int lanes = 1;
  int across = 1;  // runs
  int down = 1;
  int tap_rows = 1;  // rows of the kernel that shared memory holds
  Divisor<int32_t> by_tiles_across, by_tiles_down, by_channel_blocks;
};

/// kVector channels in the type of sums.
template <class T, int kVector>
struct Channels {
  Accumulator<T> at[kVector];

  SIMT_DEVICE void load(const T* from) {
    if constexpr (kVector == 1) {
      at[0] = simt::to_float(simt::load(from));
    } else {
      const auto all = simt::load(reinterpret_cast<const simt::Vector<T, kVector>*>(from));
#pragma unroll
      for (int v = 0; v < kVector; ++v) at[v] = simt::to_float(all.at[v]);
    }
  }
  SIMT_DEVICE void clear() {
#pragma unroll
    for (int v = 0; v < kVector; ++v) at[v] = 0;
  }
  SIMT_DEVICE void load_shared(const Accumulator<T>* from) {
    if constexpr (kVector == 1) {
      at[0] = simt::load_shared(from);
    } else {
      using All = simt::Vector<Accumulator<T>, kVector>;
      const auto all = simt::load_shared(reinterpret_cast<const All*>(from));
#pragma unroll
      for (int v = 0; v < kVector; ++v) at[v] = all.at[v];
    }
  }
  SIMT_DEVICE void add_product(const Channels& a, const Channels& b) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) at[v] += a.at[v] * b.at[v];
  }
};

template <class T, int kVector, bool kSliding>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(kDepthwiseThreads,
                               2) void depthwise_channels(SIMT_PARAMETER Problem<T, int32_t> p,
                                                          SIMT_PARAMETER ChannelsTile tile) {
  using Value = Accumulator<T>;
  using Vector = Channels<T, kVector>;
  SIMT_DYNAMIC_SHARED(Value, weights);
  const int thread = static_cast<int>(threadIdx.x);
  const Axis<int32_t>&depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];

  int32_t x0 = static_cast<int32_t>(blockIdx.x);
  int32_t y0 = split(x0, tile.by_tiles_across);
  int32_t slice = split(y0, tile.by_tiles_down);
  int32_t image = split(slice, p.by_count[0]);
  const int32_t block_of_channels = image;
  image = tile.by_channel_blocks.quotient(image);
  const int32_t first_group =
      (block_of_channels - image * tile.by_channel_blocks.divisor) * tile.lanes * kVector;
  const int lane = thread & (tile.lanes - 1);
  const int slot = thread / tile.lanes;
  const int32_t group = first_group + lane * kVector;
  x0 = (x0 * tile.across + (slot & (tile.across - 1))) * kChannelsRun;
  y0 = y0 * tile.down + slot / tile.across;
  const bool active =
      slot < tile.across * tile.down && group < p.groups && x0 < width.count && y0 < height.count;
  const int row_size = width.taps * tile.lanes * kVector;
  // Beyond the last column that a destination reads, padding means nothing.
  const int32_t last_column =
      (width.count - 1) * width.step + width.offset + (width.taps - 1) * width.offset_step;

  for (int32_t m = 0; m < p.rows; ++m) {
    Vector sum[kChannelsRun];
#pragma unroll
    for (int i = 0; i < kChannelsRun; ++i) sum[i].clear();
    for (int32_t outer = 0; outer < p.depth * depth.taps; ++outer) {
      const int32_t channel = outer / depth.taps, tap = outer - channel * depth.taps;
      const int32_t z =
          resolve(depth, p.mode, slice * depth.step + depth.offset + tap * depth.offset_step);
      if (z < 0) continue;  // for the whole block
      const T* plane = p.source + image * p.source_strides.batch +
                       (group * p.depth + channel) * p.source_strides.channel +
                       z * p.source_strides.axis[0];
      for (int32_t tap_row = 0; tap_row < height.taps; tap_row += tile.tap_rows) {
        const int32_t left = height.taps - tap_row;
        const int32_t tap_rows = left < tile.tap_rows ? left : tile.tap_rows;
        const WeightStrides<int32_t>& strides = p.weight_strides;
        __syncthreads();  // the weights have been read
        for (int i = thread; i < tap_rows * row_size; i += kDepthwiseThreads) {
          const int of_lane = i & (tile.lanes * kVector - 1);
          int32_t x = i / (tile.lanes * kVector);
          const int32_t y = tap_row + split(x, p.by_taps[1]);
          if (first_group + of_lane >= p.groups) continue;
          const T* from = p.weight + (first_group + of_lane) * strides.group + m * strides.row +
                          channel * strides.depth +
                          (depth.kernel + tap * depth.kernel_step) * strides.axis[0] +
                          (height.kernel + y * height.kernel_step) * strides.axis[1] +
                          (width.kernel + x * width.kernel_step) * strides.axis[2];
          simt::store_shared(weights + i, simt::to_float(simt::load(from)));
        }
        __syncthreads();
        if (!active) continue;
        for (int32_t row = 0; row < tap_rows; ++row) {
          const int32_t y =
              resolve(height, p.mode,
                      y0 * height.step + height.offset + (tap_row + row) * height.offset_step);
          if (y < 0) continue;
          const T* line = plane + y * p.source_strides.axis[1];
          const Value* weight = weights + row * row_size + lane * kVector;
          const auto load = [&](Vector& to, int32_t position) {
            const int32_t at = position <= last_column ? resolve(width, p.mode, position) : -1;
            if (at >= 0) {
              to.load(line + at * p.source_strides.axis[2]);
            } else {
              to.clear();
            }
          };
          if constexpr (kSliding) {
            int32_t position = x0 + width.offset;
            Vector window[2 * kChannelsRun - 1];
#pragma unroll
            for (int i = 0; i < kChannelsRun - 1; ++i) load(window[i], position++);
            for (int32_t x = 0; x < width.taps; x += kChannelsRun) {
#pragma unroll
              for (int j = 0; j < kChannelsRun; ++j) {
                if (x + j >= width.taps) break;
                load(window[kChannelsRun - 1 + j], position++);
                Vector factor;
                factor.load_shared(weight);
                weight += tile.lanes * kVector;
#pragma unroll
                for (int i = 0; i < kChannelsRun; ++i) sum[i].add_product(factor, window[i + j]);
              }
#pragma unroll
              for (int i = 0; i < kChannelsRun - 1; ++i) window[i] = window[i + kChannelsRun];
            }
          } else {
            for (int32_t x = 0; x < width.taps; ++x) {
              Vector factor;
              factor.load_shared(weight);
              weight += tile.lanes * kVector;
#pragma unroll
              for (int i = 0; i < kChannelsRun; ++i) {
                Vector source;
                load(source, (x0 + i) * width.step + width.offset + x * width.offset_step);
                sum[i].add_product(factor, source);
              }
            }
          }
        }
      }
    }
    if (!active) continue;
    const int32_t channel = group * p.rows + m;
    Vector bias;
    bias.clear();
    if (p.bias != nullptr) {
#pragma unroll
      for (int v = 0; v < kVector; ++v)
        bias.at[v] = simt::to_float(simt::load(p.bias + channel + v));
    }
    T* to = p.dest + image * p.dest_strides.batch + channel * p.dest_strides.channel +
            slice * p.dest_strides.axis[0] + y0 * p.dest_strides.axis[1];
#pragma unroll
    for (int i = 0; i < kChannelsRun; ++i) {
      if (x0 + i >= width.count) break;
      T* at = to + (x0 + i) * p.dest_strides.axis[2];
      if constexpr (kVector == 1) {
        simt::store(at, simt::from_float<T>(sum[i].at[0] + bias.at[0]));
      } else {
        simt::Vector<T, kVector> result;
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          result.at[v] = simt::from_float<T>(sum[i].at[v] + bias.at[v]);
        }
        simt::store(reinterpret_cast<simt::Vector<T, kVector>*>(at), result);
      }
    }
  }
}

}  // namespace cnnops::cuda
