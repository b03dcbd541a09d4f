// The weight as implicit_gemm.cuh copies it: packed[group][row][tap][channel], for weights whose
// channels do not lie side by side (the layout of torch's contiguous weights, and every weight of
// the gradient for the input). As large as the weight.
//
// A block moves a square of 32 channels x 32 lines (row, tap) through shared memory, reading along
// the lines and writing along the channels, so that both cover whole sectors. Lines are numbered so
// that neighbours lie close together in the weight: taps innermost, or rows.
#pragma once

#include "cuda/problem.h"

namespace cnnops::cuda {

template <class T, class Index>
struct Packing {
  Problem<T, Index> problem;
  T* packed = nullptr;
  bool rows_innermost = false;
  Divisor<Index> by_inner;  // by the number of rows, or of taps
  uint32_t line_squares = 1, depth_squares = 1;
};

constexpr int kPackSide = 32;
constexpr int kPackThreads = 256;
/// Elements from a line of the square to the next: an odd number of banks.
template <class T>
constexpr int kPackPitch = kPackSide + 4 / static_cast<int>(sizeof(T));

/// Packing of the weight of `problem`, which then reads `packed`.
template <class T, class Index>
Packing<T, Index> packing_of(Problem<T, Index>& problem, T* packed) {
  Packing<T, Index> packing;
  packing.problem = problem;
  packing.packed = packed;
  const Index taps = problem.axis[0].taps * problem.axis[1].taps * problem.axis[2].taps;
  Index tap_stride = 0;  // of the innermost axis that has several
  for (int i = 0; i < kAxes; ++i) {
    if (problem.axis[i].taps > 1) tap_stride = problem.weight_strides.axis[i];
  }
  packing.rows_innermost = taps == 1 || problem.weight_strides.row < tap_stride;
  packing.by_inner = Divisor<Index>(packing.rows_innermost ? problem.rows : taps);
  packing.line_squares = static_cast<uint32_t>((problem.rows * taps - 1) / kPackSide + 1);
  packing.depth_squares = static_cast<uint32_t>((problem.depth - 1) / kPackSide + 1);

  problem.weight = packed;
  Index stride = 1;
  problem.weight_strides.depth = stride;
  stride *= problem.depth;
  for (int i = kAxes - 1; i >= 0; --i) {
    problem.weight_strides.axis[i] = stride;
    problem.axis[i].kernel = 0;
    problem.axis[i].kernel_step = 1;
    stride *= problem.axis[i].taps;
  }
  problem.weight_strides.row = stride;
  problem.weight_strides.group = stride * problem.rows;
  return packing;
}

template <class T, class Index>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(kPackThreads,
                               4) void pack_k_major(SIMT_PARAMETER Packing<T, Index> args) {
  SIMT_SHARED(T, square, kPackSide * kPackPitch<T>);
  const Problem<T, Index>& p = args.problem;
  const WeightStrides<Index>& strides = p.weight_strides;
  const Index first_channel = static_cast<Index>(blockIdx.x % args.depth_squares) * kPackSide;
  const uint32_t rest = blockIdx.x / args.depth_squares;
  const Index first_line = static_cast<Index>(rest % args.line_squares) * kPackSide;
  const Index group = rest / args.line_squares;
  const int lane = static_cast<int>(threadIdx.x) % kPackSide;
  const int warp = static_cast<int>(threadIdx.x) / kPackSide;
  const Index taps = p.taps();
  const Index lines = p.rows * taps;

  const auto split_line = [&](Index line, Index& row, Index& tap) {
    const Index outer = split(line, args.by_inner);
    row = args.rows_innermost ? line : outer;
    tap = args.rows_innermost ? outer : line;
  };
  Index row, tap;
  if (first_line + lane < lines) {
    split_line(first_line + lane, row, tap);
    Index t[kAxes];
    p.split_tap(tap, t);
    Index offset = group * strides.group + row * strides.row;
#pragma unroll
    for (int i = 0; i < kAxes; ++i) {
      offset += (p.axis[i].kernel + t[i] * p.axis[i].kernel_step) * strides.axis[i];
    }
#pragma unroll
    for (int c = warp; c < kPackSide; c += kPackThreads / kPackSide) {
      if (first_channel + c < p.depth) {
        const T value = simt::load(p.weight + offset + (first_channel + c) * strides.depth);
        simt::store_shared(square + lane * kPackPitch<T> + c, value);
      }
    }
  }
  __syncthreads();
  for (int i = warp; i < kPackSide; i += kPackThreads / kPackSide) {
    if (first_line + i < lines && first_channel + lane < p.depth) {
      split_line(first_line + i, row, tap);
      const Index at = ((group * p.rows + row) * taps + tap) * p.depth + first_channel + lane;
      simt::store(args.packed + at, simt::load_shared(square + i * kPackPitch<T> + lane));
    }
  }
}

}  // namespace cnnops::cuda
