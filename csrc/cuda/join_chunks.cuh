// The gradient for the weight from the partial sums of chunks of the pixels, [chunk][group][row]
// [tap * depth + channel], always added in the same order.
//
// A thread joins the sums of one weight; neighbours are columns, as in `partial`.
#pragma once

#include "cuda/problem.h"

namespace cnnops::cuda {

/// dest = the sum over chunks of partial, in the order of chunks.
template <class T, class Index>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(256, 1) void join_chunks(SIMT_PARAMETER WeightProblem<T, Index> p,
                                                        const Accumulator<T>* partial,
                                                        int32_t chunks, Index columns,
                                                        Divisor<Index> by_columns,
                                                        Divisor<Index> by_rows) {
  const Index first = static_cast<Index>(blockIdx.x) * 256 + threadIdx.x;
  const Index size = p.groups * p.rows * columns;
  for (Index i = first; i < size; i += static_cast<Index>(gridDim.x) * 256) {
    Accumulator<T> sum{};
    for (int32_t chunk = 0; chunk < chunks; ++chunk) {
      sum += simt::load(&partial[static_cast<int64_t>(chunk) * size + i]);
    }
    Index channel = i, t[kAxes];
    Index row = split(channel, by_columns);
    const Index group = split(row, by_rows);
    p.split_tap(split(channel, p.by_depth), t);
    const WeightStrides<Index>& strides = p.dest_strides;
    Index offset = group * strides.group + row * strides.row + channel * strides.depth;
#pragma unroll
    for (int a = 0; a < kAxes; ++a) {
      offset += (p.axis[a].kernel + t[a] * p.axis[a].kernel_step) * strides.axis[a];
    }
    simt::store(&p.dest[offset], simt::from_float<T>(sum));
  }
}

}  // namespace cnnops::cuda
