// The two contractions of csrc/contraction.h as kernels on the GPU take them: by value, without
// pointers to taps, and with indices of 32 bits where everything fits (64-bit arithmetic costs
// a GPU several instructions where 32-bit costs one). describe.h makes them.
#pragma once

#include <cstdint>

#include "cuda/simt.cuh"
#include "padding.h"

namespace cnnops::cuda {

/// Division by a number that is fixed for a launch.
template <class Index>
struct Divisor;

/// For dividends in [0, 2^31): one high multiplication instead of a division of some 20
/// instructions. With 2^shift the power of two not below d, floor(n / d) =
/// (floor(n * m / 2^32) + n) >> shift for m = floor(2^32 * (2^shift - d) / d) + 1.
template <>
struct Divisor<int32_t> {
  int32_t divisor = 1;
  uint32_t multiplier = 1;
  uint32_t shift = 0;

  Divisor() = default;
  explicit Divisor(int64_t d) : divisor(static_cast<int32_t>(d)) {
    while ((int64_t{1} << shift) < d) ++shift;
    multiplier =
        static_cast<uint32_t>(((uint64_t{1} << 32) * ((uint64_t{1} << shift) - d)) / d + 1);
  }
  SIMT_DEVICE int32_t quotient(int32_t n) const {
    const uint32_t high =
        static_cast<uint32_t>((uint64_t{static_cast<uint32_t>(n)} * multiplier) >> 32);
    return static_cast<int32_t>((high + static_cast<uint32_t>(n)) >> shift);
  }
};

template <>
struct Divisor<int64_t> {
  int64_t divisor = 1;

  Divisor() = default;
  explicit Divisor(int64_t d) : divisor(d) {}
  SIMT_DEVICE int64_t quotient(int64_t n) const { return n / divisor; }
};

/// Splits `n` into quotient, which is returned, and remainder, which replaces it.
template <class Index>
SIMT_DEVICE Index split(Index& n, const Divisor<Index>& by) {
  const Index quotient = by.quotient(n);
  n -= quotient * by.divisor;
  return quotient;
}

/// One spatial axis. Destination j < count reads for tap t < taps the source position
/// j * step + offset + t * offset_step, and the weight at kernel + t * kernel_step. Positions
/// outside [0, size) read what the padding mode says.
template <class Index>
struct Axis {
  Index count = 1;
  Index step = 1;
  Index size = 1;
  Index taps = 1;
  Index offset = 0;
  Index offset_step = 0;  // negative for the gradient for the input
  Index kernel = 0;
  Index kernel_step = 0;
};

/// Element strides of an activation, groups merged in `channel`.
template <class Index>
struct Strides {
  Index batch = 0;
  Index channel = 0;
  Index axis[kAxes] = {0, 0, 0};
};

/// Element strides of a weight by role: group, destination channel (row), source channel (depth)
/// of the group, kernel position.
template <class Index>
struct WeightStrides {
  Index group = 0;
  Index row = 0;
  Index depth = 0;
  Index axis[kAxes] = {0, 0, 0};
};

/// The sizes that both contractions share.
template <class Index>
struct Shape {
  Index batch = 1;
  Index groups = 1;
  Index rows = 1;   // destination channels (WeightProblem: grad channels) of a group
  Index depth = 1;  // source channels of a group
  PaddingMode mode = PaddingMode::zeros;
  Axis<Index> axis[kAxes];

  // Divisors that take a flat index apart: by depth; taps by those of axes 1 and 2; pixels
  // (batch, j0, j1, j2) by the counts of axes 0, 1 and 2.
  Divisor<Index> by_depth;
  Divisor<Index> by_taps[2];
  Divisor<Index> by_count[kAxes];

  SIMT_DEVICE Index taps() const { return axis[0].taps * axis[1].taps * axis[2].taps; }
  /// Destinations of the whole batch, in the order batch, axis 0, axis 1, axis 2.
  SIMT_DEVICE Index pixels() const { return batch * axis[0].count * axis[1].count * axis[2].count; }

  /// Takes a flat pixel of the batch apart: the image is returned, `j` gets the position.
  SIMT_DEVICE Index split_pixel(Index pixel, Index (&j)[kAxes]) const {
    j[2] = pixel;
    j[1] = split(j[2], by_count[2]);
    j[0] = split(j[1], by_count[1]);
    return split(j[0], by_count[0]);
  }
  /// Takes a flat tap apart, in the order axis 0, axis 1, axis 2.
  SIMT_DEVICE void split_tap(Index tap, Index (&t)[kAxes]) const {
    t[2] = tap;
    t[1] = split(t[2], by_taps[1]);
    t[0] = split(t[1], by_taps[0]);
  }
};

/// dest[n, g, m, j] = bias[g, m] + sum over c, t of
///     weight[g, m, c, kernel(t)] * source[n, g, c, position(j, t)]
template <class T, class Index>
struct Problem : Shape<Index> {
  const T* source = nullptr;
  Strides<Index> source_strides;
  const T* weight = nullptr;
  WeightStrides<Index> weight_strides;
  const T* bias = nullptr;  // groups * rows elements side by side, or none
  T* dest = nullptr;
  Strides<Index> dest_strides;
};

/// dest[g, m, c, kernel(t)] = sum over n, j of grad[n, g, m, j] * source[n, g, c, position(j, t)]
template <class T, class Index>
struct WeightProblem : Shape<Index> {
  const T* source = nullptr;
  Strides<Index> source_strides;
  const T* grad = nullptr;
  Strides<Index> grad_strides;
  T* dest = nullptr;
  WeightStrides<Index> dest_strides;
};

}  // namespace cnnops::cuda
