// Pooling forward with many threads for each window, for windows of many elements: above all those
// that cover their whole plane.
//
// A group of lanes * parts threads shares a window: `lanes` of them lie along the channels of
// channels_last tensors (1 otherwise), and the elements of the window are dealt out to the `parts`,
// neighbours to neighbours, so that loads are whole memory segments in both layouts. The parts join
// by shuffles within a warp and then through shared memory, always in the same order.
#pragma once

#include "cuda/pool_reduce.cuh"

namespace cnnops::cuda {

constexpr int kWindowThreads = 256;
constexpr int kWindowWarps = kWindowThreads / simt::kWarp;

/// How threads are dealt out; powers of two, lanes <= 32 and lanes * parts <= kWindowThreads.
template <class Index>
struct WindowSplit {
  int lanes = 1;
  int parts = 1;
  Index blocks_of_lanes = 1;  // that cover p.inner
  Index groups = 1;           // of the whole problem
  Divisor<Index> by_blocks_of_lanes;
};

template <class Op, int kWidth>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(kWindowThreads, 4)
    pool_window(SIMT_PARAMETER PoolProblem<typename Op::Index> p,
                SIMT_PARAMETER WindowSplit<typename Op::Index> split_up,
                const typename Op::T* source, typename Op::T* dest, typename Op::Place* places) {
  using Index = typename Op::Index;
  using State = typename Op::State;
  SIMT_SHARED(State, partial, kWindowThreads * kWidth);
  const int thread = threadIdx.x;
  const int group_size = split_up.lanes * split_up.parts;
  const int lane = thread & (split_up.lanes - 1);
  const int part = (thread & (group_size - 1)) / split_up.lanes;

  Index group =
      static_cast<Index>(blockIdx.x) * (kWindowThreads / group_size) + thread / group_size;
  bool active = group < split_up.groups;
  if (!active) group = 0;
  Index inner = group;
  Index window = split(inner, split_up.by_blocks_of_lanes);
  inner = inner * split_up.lanes + lane;
  active = active && inner < p.inner;
  Index at[3] = {0, 0, window};
  at[1] = split(at[2], p.by_dest[2]);
  at[0] = split(at[1], p.by_dest[1]);
  const Index outer = split(at[0], p.by_dest[0]);
  const Range<Index> depth = p.template gathered<Op::kBackward>(0, at[0]);
  const Range<Index> height = p.template gathered<Op::kBackward>(1, at[1]);
  const Range<Index> width = p.template gathered<Op::kBackward>(2, at[2]);
  const Index columns = width.count(), rows = height.count();
  const Index count = active ? depth.count() * rows * columns : 0;

  State state[kWidth];
  const Index corner = Op::place(p, depth.begin, height.begin, width.begin);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) state[k] = Op::start(corner);
  for (Index i = part; i < count; i += split_up.parts) {
    Index x = i, y = 0, z = 0;
    if (columns < count) {  // not one row
      y = i / columns;
      x = i - y * columns;
      z = y / rows;
      y -= z * rows;
    }
    z = depth.begin + z * depth.step;
    y = height.begin + y * height.step;
    x = width.begin + x * width.step;
    const auto values = load_elements<kWidth>(
        source, (outer * p.source_plane() + p.position(z, y, x)) * p.inner + inner);
    const Index place = Op::place(p, z, y, x);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) Op::add(state[k], simt::to_float(values.at[k]), place);
  }

  // Within a warp, the parts that are `lanes`, 2 * lanes, ... apart.
  for (int apart = simt::kWarp / 2; apart >= split_up.lanes; apart /= 2) {
    if (apart >= group_size) continue;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) Op::merge(state[k], Op::shuffled(state[k], apart));
  }
  if (group_size > simt::kWarp) {
#pragma unroll
    for (int k = 0; k < kWidth; ++k)
      simt::store_shared(&partial[k * kWindowThreads + thread], state[k]);
    __syncthreads();
    // The first part of a group takes the results of the other warps.
    for (int other = simt::kWarp; other < group_size && part == 0; other += simt::kWarp) {
#pragma unroll
      for (int k = 0; k < kWidth; ++k) {
        Op::merge(state[k], simt::load_shared(&partial[k * kWindowThreads + thread + other]));
      }
    }
  }
  if (active && part == 0) {
    store_result<kWidth, Op>(p, state, at, window * p.inner + inner, dest, places);
  }
}

}  // namespace cnnops::cuda
