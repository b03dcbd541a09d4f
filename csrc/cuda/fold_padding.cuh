// The adjoint of padding by index (csrc/contraction.h, Fold), as a gather: a thread adds up, for
// one element of dest, what lies at all padded positions that read it, in ascending order. On each
// axis these are at most three runs of positions.
#pragma once

#include "contraction.h"
#include "cuda/simt.cuh"

namespace cnnops::cuda {

/// One axis of a fold: positions [0, extent) of the padded tensor, of which `size` from `begin` on
/// are the tensor's own.
struct FoldAxis {
  int64_t size = 1;
  int64_t extent = 1;
  int64_t begin = 0;
};

template <class T>
struct FoldProblem {
  int64_t batch = 1;
  int64_t channels = 1;
  PaddingMode mode = PaddingMode::zeros;
  FoldAxis axis[kAxes];
  const T* source = nullptr;
  cnnops::Strides source_strides;
  const T* bias = nullptr;
  T* dest = nullptr;
  cnnops::Strides dest_strides;
};

/// The padded positions [first, end) that read one position, by run.
struct FoldRuns {
  int64_t first[3];
  int64_t end[3];
};

/// The runs that read position i of an axis: before the tensor, inside it, after it. Empty runs
/// where padding does not read i, or where there is no padding.
SIMT_DEVICE FoldRuns runs_of(const FoldAxis& axis, PaddingMode mode, int64_t i) {
  const int64_t inside = axis.begin + i, last = axis.size - 1;
  FoldRuns runs{{0, inside, 0}, {0, inside + 1, 0}};
  int64_t before = -1, after = -1;
  switch (mode) {
    case PaddingMode::zeros: break;
    case PaddingMode::replicate:
      if (i == 0) runs.end[0] = axis.begin;
      if (i == last) {
        runs.first[2] = axis.begin + axis.size;
        runs.end[2] = axis.extent;
      }
      return runs;
    case PaddingMode::circular:
      before = inside - axis.size;
      after = inside + axis.size;
      break;
    case PaddingMode::reflect:
      if (i > 0) before = axis.begin - i;
      if (i < last) after = axis.begin + 2 * last - i;
      break;
  }
  if (before >= 0) {
    runs.first[0] = before;
    runs.end[0] = before + 1;
  }
  if (after >= 0 && after < axis.extent) {
    runs.first[2] = after;
    runs.end[2] = after + 1;
  }
  return runs;
}

template <class T>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(256, 1) void fold_padding(SIMT_PARAMETER FoldProblem<T> p) {
  const int64_t size = p.batch * p.channels * p.axis[0].size * p.axis[1].size * p.axis[2].size;
  const int64_t step = static_cast<int64_t>(gridDim.x) * 256;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x; i < size; i += step) {
    int64_t rest = i, at[kAxes];
#pragma unroll
    for (int a = kAxes - 1; a >= 0; --a) {
      at[a] = rest % p.axis[a].size;
      rest /= p.axis[a].size;
    }
    const int64_t channel = rest % p.channels, image = rest / p.channels;
    const T* const plane =
        p.source + image * p.source_strides.batch + channel * p.source_strides.channel;
    const FoldRuns d = runs_of(p.axis[0], p.mode, at[0]);
    const FoldRuns h = runs_of(p.axis[1], p.mode, at[1]);
    const FoldRuns w = runs_of(p.axis[2], p.mode, at[2]);
    Accumulator<T> sum{};
    if (p.bias != nullptr) sum = simt::to_float(simt::load(&p.bias[channel]));
#pragma unroll
    for (int run = 0; run < 27; ++run) {
      const int rd = run / 9, rh = run / 3 % 3, rw = run % 3;
      // Most runs are empty or one long: unrolled, the loops would only be code.
#pragma unroll 1
      for (int64_t z = d.first[rd]; z < d.end[rd]; ++z) {
#pragma unroll 1
        for (int64_t y = h.first[rh]; y < h.end[rh]; ++y) {
#pragma unroll 1
          for (int64_t x = w.first[rw]; x < w.end[rw]; ++x) {
            sum += simt::to_float(
                simt::load(&plane[z * p.source_strides.axis[0] + y * p.source_strides.axis[1] +
                                  x * p.source_strides.axis[2]]));
          }
        }
      }
    }
    T* const to = p.dest + image * p.dest_strides.batch + channel * p.dest_strides.channel;
    simt::store(&to[at[0] * p.dest_strides.axis[0] + at[1] * p.dest_strides.axis[1] +
                    at[2] * p.dest_strides.axis[2]],
                simt::from_float<T>(sum));
  }
}

}  // namespace cnnops::cuda
