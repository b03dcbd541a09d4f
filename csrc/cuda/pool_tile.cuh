// Pooling of (N, C, D, H, W) tensors where windows overlap: a block computes a tile of outputs, of
// one plane or of several small ones, from a patch of the source that it reads once into shared
// memory.
//
// Windows are products of ranges along the axes, so they reduce one axis at a time: each row of the
// patch along W into `partial`, then the rows of a window along H, and the slices along D into the
// registers of the thread that has the output. A window of k * k elements costs about 2 * k reads
// of shared memory instead of k * k. The order of the steps is that of memory, as the rules between
// equal maxima want it. Backward means reduce the gradients of the windows that an input lies in,
// which are ranges too; they are divided when they enter the patch.
#pragma once

#include "cuda/pool_reduce.cuh"

namespace cnnops::cuda {

constexpr int kTileThreads = 256;
constexpr int kTileOutputsPerThread = 4;
constexpr int kTileOutputs = kTileThreads * kTileOutputsPerThread;

/// Blocks on a multiprocessor: five leave 48 registers to a thread, four the 64 that doubles need.
template <class Value>
constexpr int kTileBlocks = sizeof(Value) == 8 ? 4 : 5;

/// The tile of a block: outputs of some planes, and the most source elements that they reach.
struct PoolTile {
  int planes = 1;
  int height = 1;
  int width = 1;
  int source_height = 1;
  int source_width = 1;
  Divisor<int32_t> by_height, by_width, by_source_height, by_source_width;
  Divisor<int32_t> by_tiles_down, by_tiles_across;  // of a plane
  int64_t blocks = 1;

  int patch() const { return planes * source_height * source_width; }
  int partials() const { return planes * source_height * width; }
};

/// Shared memory of a block: the patch, then the partial values, then their places.
template <class Op>
int64_t tile_bytes(const PoolTile& tile) {
  const int64_t place = Op::kHasPlaces ? sizeof(int32_t) : 0;
  return int64_t{tile.patch()} * sizeof(typename Op::Value) +
         int64_t{tile.partials()} * (sizeof(typename Op::Value) + place);
}

template <class Op>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(kTileThreads, kTileBlocks<typename Op::Value>)
    pool_tile(SIMT_PARAMETER PoolProblem<int32_t> p, SIMT_PARAMETER PoolTile tile,
              const typename Op::T* source, typename Op::T* dest, typename Op::Place* places) {
  using Value = typename Op::Value;
  using State = typename Op::State;
  SIMT_DYNAMIC_SHARED(Value, patch);
  Value* const partial = patch + tile.planes * tile.source_height * tile.source_width;
  const int partials = tile.planes * tile.source_height * tile.width;
  int32_t* const partial_at = reinterpret_cast<int32_t*>(partial + partials);
  const int thread = threadIdx.x;

  int32_t left = blockIdx.x;
  int32_t top = split(left, tile.by_tiles_across);
  int32_t slice = split(top, tile.by_tiles_down);
  const int32_t first_plane = split(slice, p.by_dest[0]) * tile.planes;
  left *= tile.width;
  top *= tile.height;
  const int32_t right = left + tile.width < p.dest[2] ? left + tile.width : p.dest[2];
  const int32_t bottom = top + tile.height < p.dest[1] ? top + tile.height : p.dest[1];
  const int32_t planes = tile.planes < p.outer - first_plane ? tile.planes : p.outer - first_plane;

  // The source that the tile reaches. A dilated window that starts in the padding begins further in
  // than its successor does, never before `start`.
  const auto reached = [&](int axis, int32_t first, int32_t last) {
    Range<int32_t> range = p.template gathered<Op::kBackward>(axis, first);
    range.end = p.template gathered<Op::kBackward>(axis, last - 1).end;
    if (!Op::kBackward && range.step > 1) range.begin = range.begin < range.step ? 0 : range.begin;
    range.step = 1;
    return range;
  };
  const Range<int32_t> rows = reached(1, top, bottom);
  const Range<int32_t> columns = reached(2, left, right);
  const Range<int32_t> depth = p.template gathered<Op::kBackward>(0, slice);

  // Where the window of each output begins and ends in `partial`, the same in all slices. Computed
  // in the loop over them, the compiler would hold the coordinates too, in more registers.
  State state[kTileOutputsPerThread];
  int first[kTileOutputsPerThread], end[kTileOutputsPerThread];
  const int row_step = (Op::kBackward ? 1 : p.axis[1].dilation) * tile.width;
#pragma unroll
  for (int k = 0; k < kTileOutputsPerThread; ++k) {
    state[k] = Op::start(-1);
    int32_t x = thread + k * kTileThreads;
    int32_t y = split(x, tile.by_width);
    const int32_t plane = split(y, tile.by_height);
    const bool inside = x + left < right && y + top < bottom && plane < planes;
    const Range<int32_t> range = p.template gathered<Op::kBackward>(1, y + top);
    first[k] = (plane * tile.source_height + range.begin - rows.begin) * tile.width + x;
    end[k] = inside ? first[k] + (range.end - range.begin) * tile.width : first[k];
  }

  for (int32_t z = depth.begin; z < depth.end; z += depth.step) {
    // Unrolling takes registers and gains nothing: each load waits for the store before it.
#pragma unroll 1
    for (int i = thread; i < tile.planes * tile.source_height * tile.source_width;
         i += kTileThreads) {
      int32_t x = i;
      int32_t y = split(x, tile.by_source_width);
      const int32_t plane = split(y, tile.by_source_height);
      x += columns.begin;
      y += rows.begin;
      if (x >= columns.end || y >= rows.end || plane >= planes) continue;
      const int64_t row = (int64_t{first_plane + plane} * p.source[0] + z) * p.source[1] + y;
      const Value value = simt::to_float(simt::load(source + row * p.source[2] + x));
      simt::store_shared(&patch[i], Op::weigh(p, value, z, y, x));
    }
    __syncthreads();
    for (int i = thread; i < partials; i += kTileThreads) {
      int32_t x = i;
      int32_t row = split(x, tile.by_width);
      const Value* from = patch + row * tile.source_width - columns.begin;
      const int32_t plane = split(row, tile.by_source_height);
      x += left;
      row += rows.begin;
      if (x >= right || row >= rows.end || plane >= planes) continue;
      const Range<int32_t> range = p.template gathered<Op::kBackward>(2, x);
      State part = Op::start(-1);  // of nothing but -infinity, it loses to what follows
      for (int32_t at = range.begin; at < range.end; at += range.step) {
        Op::add(part, simt::load_shared(from + at), Op::place(p, z, row, at));
      }
      simt::store_shared(&partial[i], part.value);
      if constexpr (Op::kHasPlaces) simt::store_shared(&partial_at[i], part.at);
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kTileOutputsPerThread; ++k) {
      for (int from = first[k]; from < end[k]; from += row_step) {
        int32_t place = 0;
        if constexpr (Op::kHasPlaces) place = simt::load_shared(&partial_at[from]);
        Op::add(state[k], simt::load_shared(&partial[from]), place);
      }
    }
    // Every thread is past its reads of the patch; those of `partial` end before the barrier that
    // the next slice meets before it writes there.
  }

#pragma unroll
  for (int k = 0; k < kTileOutputsPerThread; ++k) {
    int32_t at[3] = {slice, 0, thread + k * kTileThreads};
    at[1] = split(at[2], tile.by_width);
    const int32_t plane = split(at[1], tile.by_height);
    at[1] += top;
    at[2] += left;
    if (at[2] >= right || at[1] >= bottom || plane >= planes) continue;
    if constexpr (Op::kHasPlaces) {
      if (state[k].at < 0) {  // nothing but -infinity
        state[k].at = Op::place(p, depth.begin, p.template gathered<Op::kBackward>(1, at[1]).begin,
                                p.template gathered<Op::kBackward>(2, at[2]).begin);
      }
    }
    const int32_t to =
        (((first_plane + plane) * p.dest[0] + slice) * p.dest[1] + at[1]) * p.dest[2] + at[2];
    const State result[1] = {state[k]};
    store_result<1, Op>(p, result, at, to, dest, places);
  }
}

}  // namespace cnnops::cuda
