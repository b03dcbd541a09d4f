// Pooling, one thread for each output: kWidth neighbouring channels of channels_last tensors, one
// element of others. Serves every window and both directions.
//
// Threads of a warp are neighbours in the innermost axis, so that their loads of one tap are whole
// memory segments: always along channels, and along W unless windows lie far apart. The elements
// that windows share come out of the L1 cache; where they share many, pool_tile.cuh is faster, and
// for large windows pool_window.cuh.
#pragma once

#include "cuda/pool_reduce.cuh"

namespace cnnops::cuda {

constexpr int kDirectThreads = 256;

/// Blocks on a multiprocessor, which bound registers: 64-bit indices take twice as many, and
/// doubles more than floats.
template <class Op>
constexpr int kDirectBlocks = sizeof(typename Op::Index) == 8   ? 2
                              : sizeof(typename Op::Value) == 8 ? 3
                                                                : 4;

template <class Op, int kWidth>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(kDirectThreads, kDirectBlocks<Op>)
    pool_direct(SIMT_PARAMETER PoolProblem<typename Op::Index> p, const typename Op::T* source,
                typename Op::T* dest, typename Op::Place* places) {
  using Index = typename Op::Index;
  const Index flat = static_cast<Index>(blockIdx.x) * kDirectThreads + threadIdx.x;
  if (flat >= p.dests()) return;
  Index outer, at[3], inner;
  p.split_dest(flat, &outer, at, &inner);
  const Range<Index> depth = p.template gathered<Op::kBackward>(0, at[0]);
  const Range<Index> height = p.template gathered<Op::kBackward>(1, at[1]);
  const Range<Index> width = p.template gathered<Op::kBackward>(2, at[2]);

  typename Op::State state[kWidth];
  const Index corner = Op::place(p, depth.begin, height.begin, width.begin);
#pragma unroll
  for (int k = 0; k < kWidth; ++k) state[k] = Op::start(corner);
  for (Index z = depth.begin; z < depth.end; z += depth.step) {
    for (Index y = height.begin; y < height.end; y += height.step) {
      for (Index x = width.begin; x < width.end; x += width.step) {
        const Index from = (outer * p.source_plane() + p.position(z, y, x)) * p.inner + inner;
        const auto values = load_elements<kWidth>(source, from);
        if constexpr (Op::kReadsTaps) {
          const auto taps = load_elements<kWidth>(places, from);
          const Index own = Op::tap(p, at, z, y, x);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            // Zero leaves a sum as it is. Loads of those that count alone would be loads of single
            // elements.
            const auto value = simt::to_float(values.at[k]);
            Op::add(state[k], taps.at[k] == own ? value : decltype(value)(0), 0);
          }
        } else {
          const Index place = Op::place(p, z, y, x);
#pragma unroll
          for (int k = 0; k < kWidth; ++k) {
            Op::add(state[k], Op::weigh(p, simt::to_float(values.at[k]), z, y, x), place);
          }
        }
      }
    }
  }
  store_result<kWidth, Op>(p, state, at, flat, dest, places);
}

}  // namespace cnnops::cuda
