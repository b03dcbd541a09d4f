// The weight as fma_gemm.cuh reads it: packed[group][tap * depth + channel][row] in the type of the
// sums, with zeros up to whole stages of the sum and whole vectors of rows.
//
// A block takes a square of 32 rows and 32 steps of the sum through shared memory, so that it
// writes runs of rows and reads along whatever lies side by side in memory: taps of a channel in a
// contiguous weight, channels in a channels_last one, rows where they are input channels.
#pragma once

#include "cuda/problem.h"
#include "cuda/simt.cuh"

namespace cnnops::cuda {

/// What is read by neighbouring lanes.
enum class WeightOrder : uint8_t { taps, channels, rows };

template <class T, class Index>
struct WeightPacking {
  Problem<T, Index> problem;
  WeightOrder order = WeightOrder::taps;
  Divisor<Index> by_taps;  // all axes together
  Index depth = 0;         // steps of the sum, rounded up
  Index packed_rows = 0;
  Divisor<int32_t> row_squares, sum_squares;
  Accumulator<T>* packed = nullptr;
};

constexpr int kPackSide = 32;
constexpr int kPackBlock = 256;

template <class T, class Index>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(kPackBlock,
                               2) void pack_weight(SIMT_PARAMETER WeightPacking<T, Index> args) {
  using Acc = Accumulator<T>;
  constexpr int kSide = kPackSide, kStep = kPackBlock / kSide;
  SIMT_SHARED(Acc, square, kSide * (kSide + 1));  // [step of the sum][row]
  SIMT_SHARED(Index, step_of, kSide);             // where each step belongs in the packed weight
  const Problem<T, Index>& p = args.problem;
  int32_t block = static_cast<int32_t>(blockIdx.x);
  int32_t rest = split(block, args.row_squares);
  const Index group = split(rest, args.sum_squares);
  const Index first_row = static_cast<Index>(block) * kSide;
  const Index first_step = static_cast<Index>(rest) * kSide;
  const int lane = static_cast<int>(threadIdx.x) % kSide;
  const int line = static_cast<int>(threadIdx.x) / kSide;
  const Index sum = p.depth * p.taps();

#pragma unroll
  for (int i = line; i < kSide; i += kStep) {
    const int s = args.order == WeightOrder::rows ? i : lane;
    const int r = args.order == WeightOrder::rows ? lane : i;
    const Index row = first_row + r, step = first_step + s;
    // Steps are taken in the order of memory; those beyond the sum stay where they are.
    Index channel = step, tap = 0;
    if (args.order == WeightOrder::taps) {
      tap = step;
      channel = split(tap, args.by_taps);
    } else {
      tap = split(channel, p.by_depth);
    }
    Acc value{};
    if (row < p.rows && step < sum) {
      Index t[kAxes];
      p.split_tap(tap, t);
      const WeightStrides<Index>& strides = p.weight_strides;
      Index offset = group * strides.group + row * strides.row + channel * strides.depth;
#pragma unroll
      for (int a = 0; a < kAxes; ++a) {
        offset += (p.axis[a].kernel + t[a] * p.axis[a].kernel_step) * strides.axis[a];
      }
      value = simt::to_float(simt::load(&p.weight[offset]));
    }
    simt::store_shared(&square[s * (kSide + 1) + r], value);
    if (r == 0) {
      simt::store_shared(&step_of[s], step < sum ? tap * p.depth + channel : step);
    }
  }
  __syncthreads();
#pragma unroll
  for (int s = line; s < kSide; s += kStep) {
    const Index row = first_row + lane, step = simt::load_shared(&step_of[s]);
    if (row < args.packed_rows && step < args.depth) {
      simt::store(&args.packed[(group * args.depth + step) * args.packed_rows + row],
                  simt::load_shared(&square[s * (kSide + 1) + lane]));
    }
  }
}

}  // namespace cnnops::cuda
