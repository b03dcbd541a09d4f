// Host side of problem.h: contractions with pointers to taps become plain data.
#pragma once

#include <algorithm>
#include <cmath>

#include "contraction.h"
#include "cuda/problem.h"

namespace cnnops::cuda {

/// Positions stay below this with 32-bit indices, so that kernels can mark what lies in no tile by
/// a position far outside.
constexpr double kMaxPosition32 = 1 << 29;

/// Elements of a padded tile beyond the last one; flat indices may reach that far.
constexpr double kTileSlack = 1 << 10;

/// The largest distance from the source to an element that a contraction of this shape computes
/// with, outside the tensor or inside, or infinity where a position is too far.
inline double reach(const ContractionShape& shape, const cnnops::Strides& strides) {
  double most = double(shape.batch - 1) * double(strides.batch) +
                double(shape.groups * shape.depth - 1) * double(strides.channel);
  for (int i = 0; i < kAxes; ++i) {
    const Walk& walk = shape.walk[i];
    double position = double(walk.size);
    if (walk.count > 1) position += double(walk.count - 1) * double(walk.step);
    position += std::fmax(std::fabs(double(walk.low())), std::fabs(double(walk.high())));
    if (position >= kMaxPosition32) return HUGE_VAL;
    if (walk.size > 1) most += position * double(strides.axis[i]);
  }
  return most;
}

/// The largest distance between two destinations.
inline double extent(const ContractionShape& shape, const cnnops::Strides& strides) {
  double most = double(shape.batch - 1) * double(strides.batch) +
                double(shape.groups * shape.rows - 1) * double(strides.channel);
  for (int i = 0; i < kAxes; ++i) {
    if (shape.walk[i].count > 1) most += double(shape.walk[i].count - 1) * double(strides.axis[i]);
  }
  return most;
}

/// The largest distance between two elements of a weight.
inline double extent(const ContractionShape& shape, const cnnops::WeightStrides& strides) {
  double most = double(shape.groups - 1) * double(strides.group) +
                double(shape.rows - 1) * double(strides.row) +
                double(shape.depth - 1) * double(strides.depth);
  for (int i = 0; i < kAxes; ++i) {
    const Walk& walk = shape.walk[i];
    if (walk.tap_count == 0) continue;
    const int64_t last = std::max(walk.taps[0].kernel, walk.taps[walk.tap_count - 1].kernel);
    if (last > 0) most += double(last) * double(strides.axis[i]);
  }
  return most;
}

/// Whether the flat indices of pixels, and of weights padded to tiles, fit 32 bits.
inline bool counts_fit_int32(const ContractionShape& shape) {
  const double limit = double(INT32_MAX) - kTileSlack;
  const double depth = double(shape.depth) * double(shape.taps()) + kTileSlack;
  return double(shape.batch) * double(shape.pixels()) <= limit &&
         double(shape.groups) * (double(shape.rows) + kTileSlack) * depth <= limit;
}

/// Whether every index and offset of the contraction fits 32 bits.
template <class T>
bool fits_int32(const cnnops::Contraction<T>& p) {
  constexpr double limit = INT32_MAX;
  return counts_fit_int32(p) && reach(p, p.source_strides) <= limit &&
         extent(p, p.dest_strides) <= limit && extent(p, p.weight_strides) <= limit;
}
template <class T>
bool fits_int32(const cnnops::WeightContraction<T>& p) {
  constexpr double limit = INT32_MAX;
  return counts_fit_int32(p) && reach(p, p.source_strides) <= limit &&
         extent(p, p.grad_strides) <= limit && extent(p, p.dest_strides) <= limit;
}

template <class Index>
Axis<Index> axis_of(const Walk& walk) {
  Axis<Index> axis;
  axis.count = static_cast<Index>(walk.count);
  // The distance to a second destination, of which there may be none.
  axis.step = walk.count > 1 ? static_cast<Index>(walk.step) : 0;
  axis.size = static_cast<Index>(walk.size);
  axis.taps = static_cast<Index>(walk.tap_count);
  axis.offset = static_cast<Index>(walk.taps[0].offset);
  axis.kernel = static_cast<Index>(walk.taps[0].kernel);
  if (walk.tap_count > 1) {
    axis.offset_step = static_cast<Index>(walk.taps[1].offset - walk.taps[0].offset);
    axis.kernel_step = static_cast<Index>(walk.taps[1].kernel - walk.taps[0].kernel);
  }
  return axis;
}

template <class Index>
void set_shape(Shape<Index>& to, const ContractionShape& from) {
  to.batch = static_cast<Index>(from.batch);
  to.groups = static_cast<Index>(from.groups);
  to.rows = static_cast<Index>(from.rows);
  to.depth = static_cast<Index>(from.depth);
  to.mode = from.walk[0].mode;
  for (int i = 0; i < kAxes; ++i) {
    to.axis[i] = axis_of<Index>(from.walk[i]);
    to.by_count[i] = Divisor<Index>(from.walk[i].count);
  }
  to.by_depth = Divisor<Index>(from.depth);
  for (int i = 0; i < 2; ++i) to.by_taps[i] = Divisor<Index>(from.walk[1 + i].tap_count);
}

/// Strides of a tensor of which axis i has size[i] elements; those that nothing steps by become 0,
/// since they may be any number.
template <class Index>
Strides<Index> strides_of(const cnnops::Strides& from, int64_t batch, int64_t channels,
                          const int64_t (&size)[kAxes]) {
  Strides<Index> to;
  if (batch > 1) to.batch = static_cast<Index>(from.batch);
  if (channels > 1) to.channel = static_cast<Index>(from.channel);
  for (int i = 0; i < kAxes; ++i) {
    if (size[i] > 1) to.axis[i] = static_cast<Index>(from.axis[i]);
  }
  return to;
}

template <class Index>
Strides<Index> source_strides_of(const ContractionShape& shape, const cnnops::Strides& from) {
  const int64_t size[kAxes] = {shape.walk[0].size, shape.walk[1].size, shape.walk[2].size};
  return strides_of<Index>(from, shape.batch, shape.groups * shape.depth, size);
}

template <class Index>
Strides<Index> dest_strides_of(const ContractionShape& shape, const cnnops::Strides& from) {
  const int64_t size[kAxes] = {shape.walk[0].count, shape.walk[1].count, shape.walk[2].count};
  return strides_of<Index>(from, shape.batch, shape.groups * shape.rows, size);
}

template <class Index>
WeightStrides<Index> weight_strides_of(const ContractionShape& shape,
                                       const cnnops::WeightStrides& from) {
  WeightStrides<Index> to;
  if (shape.groups > 1) to.group = static_cast<Index>(from.group);
  if (shape.rows > 1) to.row = static_cast<Index>(from.row);
  if (shape.depth > 1) to.depth = static_cast<Index>(from.depth);
  for (int i = 0; i < kAxes; ++i) {
    const Walk& walk = shape.walk[i];
    const bool steps = walk.tap_count > 1 || walk.taps[0].kernel > 0;
    if (steps) to.axis[i] = static_cast<Index>(from.axis[i]);
  }
  return to;
}

/// `p` with indices of type Index: int32_t only where fits_int32(p).
template <class Index, class T>
Problem<T, Index> problem_of(const cnnops::Contraction<T>& p) {
  Problem<T, Index> to;
  set_shape(to, p);
  to.source = p.source;
  to.source_strides = source_strides_of<Index>(p, p.source_strides);
  to.weight = p.weight;
  to.weight_strides = weight_strides_of<Index>(p, p.weight_strides);
  to.bias = p.bias;
  to.dest = p.dest;
  to.dest_strides = dest_strides_of<Index>(p, p.dest_strides);
  return to;
}
template <class Index, class T>
WeightProblem<T, Index> problem_of(const cnnops::WeightContraction<T>& p) {
  WeightProblem<T, Index> to;
  set_shape(to, p);
  to.source = p.source;
  to.source_strides = source_strides_of<Index>(p, p.source_strides);
  to.grad = p.grad;
  to.grad_strides = dest_strides_of<Index>(p, p.grad_strides);
  to.dest = p.dest;
  to.dest_strides = weight_strides_of<Index>(p, p.dest_strides);
  return to;
}

}  // namespace cnnops::cuda
