// The result of implicit_gemm.cuh where several blocks shared the reduction axis of a tile: the sum
// of their partial sums, always in the same order, and the bias.
//
// A thread joins the sums of one element; neighbours are channels of a pixel, as in `partial`.
#pragma once

#include "cuda/problem.h"

namespace cnnops::cuda {

template <class T, class Index>
struct Joining {
  Problem<T, Index> problem;
  const float* partial = nullptr;  // [share][pixel][channel]
  int32_t shares = 0;
  Divisor<Index> by_channels;  // of all groups
};

constexpr int kJoinThreads = 256;

template <class T, class Index>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(kJoinThreads,
                               4) void join_shares(SIMT_PARAMETER Joining<T, Index> args) {
  const Problem<T, Index>& p = args.problem;
  const Index size = p.pixels() * p.groups * p.rows;
  const Index element = static_cast<Index>(blockIdx.x) * kJoinThreads + threadIdx.x;
  if (element < size) {
    Index channel = element, j[kAxes];
    const Index image = p.split_pixel(split(channel, args.by_channels), j);
    float sum = simt::load(args.partial + element);
    for (int32_t share = 1; share < args.shares; ++share) {
      sum += simt::load(args.partial + static_cast<int64_t>(share) * size + element);
    }
    if (p.bias != nullptr) sum += simt::to_float(simt::load(p.bias + channel));
    Index offset = image * p.dest_strides.batch + channel * p.dest_strides.channel;
#pragma unroll
    for (int i = 0; i < kAxes; ++i) offset += j[i] * p.dest_strides.axis[i];
    simt::store(p.dest + offset, simt::from_float<T>(sum));
  }
}

}  // namespace cnnops::cuda
