// The gradient for the weight of a depthwise convolution: for each pair of a grad channel and a
// source channel of a group, and each tap, the sum over the batch and all pixels. Two steps, both
// in a fixed order: blocks add up a chunk of the sum each into partial sums in workspace, and
// join_chunks (join_chunks.cuh) adds the chunks.
//
// A thread has kRun neighbouring taps of one row of the kernel, a unit. What a unit adds up is the
// correlation of source rows with grad rows, the roles of taps and pixels swapped: of the grad
// elements and the source elements of a run each pair is a product for one of the taps. A block has
// several units, and each unit several parts, threads that share the rows; the parts join through
// shared memory.
#pragma once

#include "cuda/depthwise_channels.cuh"
#include "cuda/depthwise_planar.cuh"

namespace cnnops::cuda {

/// What a block of either kernel is to do: units of one slice of the kernel, for one pair of
/// channels (or lanes of pairs), over one chunk.
struct WeightSplit {
  int units = 1;      // of a block
  int parts = 1;      // threads of each unit
  int32_t items = 1;  // planar: tiles of destinations; channels_last: rows of them
  int32_t chunk = 1;  // items of a block
  Divisor<int32_t> by_runs, by_parts;
  Divisor<int32_t> by_unit_blocks, by_slices, by_rows, by_depth, by_channel_blocks;
};

/// Adds up the parts of each unit and writes the results of a block. `sums` has room for
/// kSums values of each thread; thread = (unit * parts + part) * lanes + lane.
template <int kSums, class Value, class Write>
SIMT_DEVICE void join_parts(const Value (&sum)[kSums], int units, int parts, int lanes, Value* sums,
                            const Write& write) {
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();  // what was in this memory has been read
  if (thread < units * parts * lanes) {
#pragma unroll
    for (int k = 0; k < kSums; ++k) {
      simt::store_shared(sums + k * kDepthwiseThreads + thread, sum[k]);
    }
  }
  __syncthreads();
  for (int i = thread; i < units * lanes * kSums; i += kDepthwiseThreads) {
    const int k = i / (units * lanes), rest = i - k * units * lanes;
    const int unit = rest / lanes, lane = rest - unit * lanes;
    Value total = 0;
    for (int part = 0; part < parts; ++part) {
      total +=
          simt::load_shared(sums + k * kDepthwiseThreads + (unit * parts + part) * lanes + lane);
    }
    write(unit, lane, k, total);
  }
}

/// (N, C, D, H, W): source and grad of a tile of some images go through shared memory. An item is
/// such a tile; the parts share its rows, cut into segments.
template <class T, bool kDense>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(kDepthwiseThreads, 3) void depthwise_weight_planar(
    SIMT_PARAMETER WeightProblem<T, int32_t> p, SIMT_PARAMETER PlanarTile tile,
    SIMT_PARAMETER WeightSplit cut, int grad_pitch, Accumulator<T>* partial) {
  using Value = Accumulator<T>;
  constexpr int kRun = kPlanarRun<T>;
  using Run = simt::Vector<Value, kRun>;
  constexpr int kSegment = 4 * kRun;
  SIMT_DYNAMIC_SHARED(Value, patch);
  Value* const grads = patch + tile.planes * tile.plane_pitch;
  const int thread = static_cast<int>(threadIdx.x);
  const Axis<int32_t>&depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];

  int32_t unit_block = static_cast<int32_t>(blockIdx.x);
  int32_t tap = split(unit_block, cut.by_unit_blocks);
  int32_t channel = split(tap, cut.by_slices);
  int32_t row = split(channel, cut.by_depth);
  int32_t group = split(row, cut.by_rows);
  const int32_t chunk = split(group, cut.by_channel_blocks);

  const int unit_of_block = cut.by_parts.quotient(thread);
  const int part = thread - unit_of_block * cut.parts;
  int32_t run = unit_block * cut.units + unit_of_block;
  const int32_t tap_row = split(run, cut.by_runs);
  const bool active = unit_of_block < cut.units && tap_row < height.taps;
  const int32_t first_tap = run * kRun;

  Value sum[kRun] = {};
  const int32_t begin = chunk * cut.chunk;
  const int32_t end = begin + cut.chunk < cut.items ? begin + cut.chunk : cut.items;
  for (int32_t item = begin; item < end; ++item) {
    int32_t left = item;
    int32_t top = split(left, tile.by_tiles_across);
    int32_t slice = split(top, tile.by_tiles_down);
    int32_t first_image = split(slice, p.by_count[0]);
    left *= tile.width;
    top *= tile.height;
    first_image *= tile.planes;
    const int32_t images =
        tile.planes < p.batch - first_image ? tile.planes : p.batch - first_image;
    const int32_t z =
        resolve(depth, p.mode, slice * depth.step + depth.offset + tap * depth.offset_step);
    if (z < 0) continue;  // for the whole block
    const int32_t rows = tile.height < height.count - top ? tile.height : height.count - top;
    const int32_t columns = tile.width < width.count - left ? tile.width : width.count - left;
    __syncthreads();  // the patch has been read
    const auto plane_of = [&](int32_t at) {
      return (first_image + at) * p.source_strides.batch +
             (group * p.depth + channel) * p.source_strides.channel + z * p.source_strides.axis[0];
    };
    load_patch(p, p.source_strides, p.source, tile, images, top, left, plane_of, patch);
    const T* grad = p.grad + first_image * p.grad_strides.batch +
                    (group * p.rows + row) * p.grad_strides.channel +
                    slice * p.grad_strides.axis[0] + top * p.grad_strides.axis[1] +
                    left * p.grad_strides.axis[2];
    for (int i = thread / tile.load_lanes; i < images * tile.height;
         i += kDepthwiseThreads / tile.load_lanes) {
      int32_t y = i;
      const int32_t image = split(y, tile.by_height);
      if (y >= rows) continue;
      const T* from = grad + image * p.grad_strides.batch + y * p.grad_strides.axis[1];
      for (int x = thread & (tile.load_lanes - 1); x < columns; x += tile.load_lanes) {
        simt::store_shared(grads + i * grad_pitch + x,
                           simt::to_float(simt::load(from + x * p.grad_strides.axis[2])));
      }
    }
    __syncthreads();
    if (!active) continue;
    const int segments = (columns + kSegment - 1) / kSegment;
    for (int i = part; i < images * tile.height * segments; i += cut.parts) {
      const int segment = i / (images * tile.height);
      const int line = i - segment * images * tile.height;
      int32_t y = line;
      const int32_t image = split(y, tile.by_height);
      if (y >= rows) continue;
      const Value* g = grads + line * grad_pitch + segment * kSegment;
      const Value* source = patch + image * tile.plane_pitch +
                            (y * height.step + tap_row * height.offset_step) * tile.pitch;
      const int left_over = columns - segment * kSegment;
      const int count = left_over < kSegment ? left_over : kSegment;
      if constexpr (kDense) {
        const Run* from = reinterpret_cast<const Run*>(source + segment * kSegment + first_tap);
        Run low = simt::load_shared(from);
        for (int x = 0; x < count; x += kRun) {
          const Run high = simt::load_shared(++from);
          const Run factor = simt::load_shared(reinterpret_cast<const Run*>(g + x));
          correlate(sum, factor.at, low.at, high.at, count - x);
          low = high;
        }
      } else {
        source += segment * kSegment * width.step;
        for (int x = 0; x < count; ++x) {
          const Value factor = simt::load_shared(g + x);
#pragma unroll
          for (int k = 0; k < kRun; ++k) {
            if (first_tap + k >= width.taps) break;
            const int at = x * width.step + (first_tap + k) * width.offset_step;
            sum[k] += factor * simt::load_shared(source + at);
          }
        }
      }
    }
  }
  join_parts(sum, cut.units, cut.parts, 1, patch, [&](int unit, int, int k, Value total) {
    int32_t x = unit_block * cut.units + unit;
    const int32_t y = split(x, cut.by_runs);
    x = x * kRun + k;
    if (y >= height.taps || x >= width.taps) return;
    const int64_t t = (int64_t{tap} * height.taps + y) * width.taps + x;
    const int64_t of_chunk = (int64_t{chunk} * p.groups + group) * p.rows + row;
    simt::store(partial + (of_chunk * p.taps() + t) * p.depth + channel, total);
  });
}

/// channels_last: lanes along the channels. An item is a row of destinations of one image, which
/// the parts take in turns; the rows that the units of a block share come out of the L1 cache.
template <class T, int kVector, bool kSliding>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(kDepthwiseThreads, 2) void depthwise_weight_channels(
    SIMT_PARAMETER WeightProblem<T, int32_t> p, SIMT_PARAMETER WeightSplit cut, int lanes,
    Accumulator<T>* partial) {
  using Value = Accumulator<T>;
  using Vector = Channels<T, kVector>;
  constexpr int kRun = kChannelsRun;
  SIMT_SHARED(Value, joined, kDepthwiseThreads * kRun * kVector);
  const int thread = static_cast<int>(threadIdx.x);
  const Axis<int32_t>&depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];

  int32_t unit_block = static_cast<int32_t>(blockIdx.x);
  int32_t tap = split(unit_block, cut.by_unit_blocks);
  int32_t channel = split(tap, cut.by_slices);
  int32_t row = split(channel, cut.by_depth);
  int32_t first_group = split(row, cut.by_rows);
  const int32_t chunk = split(first_group, cut.by_channel_blocks);
  first_group *= lanes * kVector;
  const int lane = thread & (lanes - 1);
  const int32_t group = first_group + lane * kVector;
  const int unit_of_block = cut.by_parts.quotient(thread / lanes);
  const int part = thread / lanes - unit_of_block * cut.parts;
  int32_t run = unit_block * cut.units + unit_of_block;
  const int32_t tap_row = split(run, cut.by_runs);
  const bool active = unit_of_block < cut.units && tap_row < height.taps && group < p.groups;
  const int32_t first_tap = run * kRun;
  const int32_t last_column =
      (width.count - 1) * width.step + width.offset + (width.taps - 1) * width.offset_step;

  Vector sum[kRun];
#pragma unroll
  for (int k = 0; k < kRun; ++k) sum[k].clear();
  const int32_t begin = chunk * cut.chunk;
  const int32_t end = begin + cut.chunk < cut.items ? begin + cut.chunk : cut.items;
  for (int32_t item = begin + part; item < end && active; item += cut.parts) {
    int32_t row_of_grad = item;
    int32_t slice = split(row_of_grad, p.by_count[1]);
    const int32_t image = split(slice, p.by_count[0]);
    const int32_t z =
        resolve(depth, p.mode, slice * depth.step + depth.offset + tap * depth.offset_step);
    const int32_t y = resolve(
        height, p.mode, row_of_grad * height.step + height.offset + tap_row * height.offset_step);
    if (z < 0 || y < 0) continue;
    const T* source = p.source + image * p.source_strides.batch +
                      (group * p.depth + channel) * p.source_strides.channel +
                      z * p.source_strides.axis[0] + y * p.source_strides.axis[1];
    const T* grad = p.grad + image * p.grad_strides.batch +
                    (group * p.rows + row) * p.grad_strides.channel +
                    slice * p.grad_strides.axis[0] + row_of_grad * p.grad_strides.axis[1];
    const auto load = [&](Vector& to, int32_t position) {
      const int32_t at = position <= last_column ? resolve(width, p.mode, position) : -1;
      if (at >= 0) {
        to.load(source + at * p.source_strides.axis[2]);
      } else {
        to.clear();
      }
    };
    if constexpr (kSliding) {
      int32_t position = width.offset + first_tap;
      Vector window[2 * kRun - 1];
#pragma unroll
      for (int k = 0; k < kRun - 1; ++k) load(window[k], position++);
      for (int32_t x = 0; x < width.count; x += kRun) {
#pragma unroll
        for (int j = 0; j < kRun; ++j) {
          if (x + j >= width.count) break;
          load(window[kRun - 1 + j], position++);
          Vector factor;
          factor.load(grad + (x + j) * p.grad_strides.axis[2]);
#pragma unroll
          for (int k = 0; k < kRun; ++k) sum[k].add_product(factor, window[j + k]);
        }
#pragma unroll
        for (int k = 0; k < kRun - 1; ++k) window[k] = window[k + kRun];
      }
    } else {
      for (int32_t x = 0; x < width.count; ++x) {
        Vector factor;
        factor.load(grad + x * p.grad_strides.axis[2]);
#pragma unroll
        for (int k = 0; k < kRun; ++k) {
          Vector value;
          load(value, x * width.step + width.offset + (first_tap + k) * width.offset_step);
          sum[k].add_product(factor, value);
        }
      }
    }
  }
  Value all[kRun * kVector];
#pragma unroll
  for (int k = 0; k < kRun; ++k) {
#pragma unroll
    for (int v = 0; v < kVector; ++v) all[k * kVector + v] = sum[k].at[v];
  }
  join_parts(all, cut.units, cut.parts, lanes, joined, [&](int unit, int at, int k, Value total) {
    int32_t x = unit_block * cut.units + unit;
    const int32_t y = split(x, cut.by_runs);
    x = x * kRun + k / kVector;
    const int32_t of_lane = first_group + at * kVector + k % kVector;
    if (y >= height.taps || x >= width.taps || of_lane >= p.groups) return;
    const int64_t t = (int64_t{tap} * height.taps + y) * width.taps + x;
    const int64_t of_chunk = (int64_t{chunk} * p.groups + of_lane) * p.rows + row;
    simt::store(partial + (of_chunk * p.taps() + t) * p.depth + channel, total);
  });
}

}  // namespace cnnops::cuda
