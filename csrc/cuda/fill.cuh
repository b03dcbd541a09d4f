// Sets every destination to its channel's bias, or to zero (csrc/contraction.h, Fill): what no tap
// reaches. Rare, so nothing but the order of the writes is thought about: along the last axis.
#pragma once

#include "contraction.h"
#include "cuda/simt.cuh"

namespace cnnops::cuda {

template <class T>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(256, 1) void fill(SIMT_PARAMETER Fill<T> p) {
  const int64_t size = p.batch * p.channels * p.size[0] * p.size[1] * p.size[2];
  const int64_t step = static_cast<int64_t>(gridDim.x) * 256;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < size; i += step) {
    int64_t rest = i, offset = 0;
#pragma unroll
    for (int a = kAxes - 1; a >= 0; --a) {
      offset += rest % p.size[a] * p.dest_strides.axis[a];
      rest /= p.size[a];
    }
    const int64_t channel = rest % p.channels;
    offset += channel * p.dest_strides.channel + rest / p.channels * p.dest_strides.batch;
    simt::store(&p.dest[offset], p.bias != nullptr ? simt::load(&p.bias[channel]) : T{});
  }
}

}  // namespace cnnops::cuda
