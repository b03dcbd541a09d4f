// fractional_max_pool: maxima of windows at pseudo-random places, which differ from plane to plane.
// One thread for each output, neighbours along the innermost axis of the layout: the places are
// irregular and the windows small, so there is nothing to share.
//
// The starts of windows follow from the random samples by torch's formula, evaluated in the storage
// type as its CPU operator does.
#pragma once

#include "cuda/pool_reduce.cuh"

namespace cnnops::cuda {

constexpr int kFractionalThreads = 256;

/// Start of window o of `output` along an axis.
template <class T, class Index>
SIMT_DEVICE Index fractional_start(Accumulator<T> sample, Index o, Index input, Index output,
                                   Index kernel) {
  using Value = Accumulator<T>;
  if (o == output - 1) return input - kernel;
  const auto rounded = [](Value value) { return simt::to_float(simt::from_float<T>(value)); };
  // Samples come from the caller: whatever they are, the window stays inside the input.
  const auto whole = [](Value value) {
    return value > Value(-2147483648.0) && value < Value(2147483648.0) ? static_cast<int64_t>(value)
                                                                       : int64_t{-2147483648ll};
  };
  const Value step = rounded(rounded(static_cast<Value>(input - kernel)) /
                             rounded(static_cast<Value>(output - 1)));
  const Value at = rounded(rounded(rounded(static_cast<Value>(o)) + sample) * step);
  const int64_t start = whole(at) - whole(rounded(sample * step));
  const int64_t last = input - kernel;
  return static_cast<Index>(start < 0 ? 0 : start > last ? last : start);
}

/// `samples` are (N, C, rank).
template <class T, class Index>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(kFractionalThreads, 4)
    pool_fractional(SIMT_PARAMETER FractionalProblem<Index> p, const T* input, const T* samples,
                    T* output, int64_t* indices) {
  using Op = Maximum<T, Index>;
  const Index flat = static_cast<Index>(blockIdx.x) * kFractionalThreads + threadIdx.x;
  const Index output_size = p.output[0] * p.output[1] * p.output[2];
  if (flat >= p.batch * p.channels * output_size) return;
  const Index inner = p.channels_last ? p.channels : 1;
  const Index row = flat / inner;
  Index pixel = row % output_size;
  const Index outer = row / output_size;
  const Index plane = outer * inner + flat % inner;

  Index start[3];
#pragma unroll
  for (int axis = 2; axis >= 0; --axis) {
    // Samples of 1-d and 3-d pools follow the axes; those of 2-d pools are (width, height).
    const int i = p.rank == 2 ? 2 - axis : axis - (3 - p.rank);
    const Accumulator<T> sample =
        i >= 0 && i < p.rank ? simt::to_float(simt::load(samples + plane * p.rank + i)) : 0;
    start[axis] = fractional_start<T>(sample, pixel % p.output[axis], p.input[axis], p.output[axis],
                                      p.kernel[axis]);
    pixel /= p.output[axis];
  }
  const Index corner = (start[0] * p.input[1] + start[1]) * p.input[2] + start[2];
  const Index base = outer * p.input[0] * p.input[1] * p.input[2];
  typename Op::State state = Op::start(corner);
  for (Index z = 0; z < p.kernel[0]; ++z) {
    for (Index y = 0; y < p.kernel[1]; ++y) {
      const Index from = corner + (z * p.input[1] + y) * p.input[2];
      for (Index x = from; x < from + p.kernel[2]; ++x) {
        Op::add(state, simt::to_float(simt::load(input + (base + x) * inner + flat % inner)), x);
      }
    }
  }
  simt::store(output + flat, simt::from_float<T>(state.value));
  simt::store(indices + flat, static_cast<int64_t>(state.at));
}

}  // namespace cnnops::cuda
