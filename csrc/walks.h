// From geometry to contractions: which source position each destination reads for each tap. The
// rules that every device shares.
#pragma once

#include <algorithm>
#include <array>
#include <map>
#include <utility>
#include <vector>

#include "contraction.h"

namespace cnnops {

/// A walk and the taps that it points to. Offsets and kernel positions of successive taps have
/// constant differences.
struct OwnedWalk {
  Walk walk;
  std::vector<Tap> taps;
};

/// Output positions of `axis` reading the input. With `drop` the first and last taps that only ever
/// read zeros are left out.
OwnedWalk forward_walk(const ConvAxis& axis, PaddingMode mode, bool drop);

/// The phases of `axis` that any tap reaches, each as the walk of input positions phase, phase +
/// stride, ... over grad_output. Input position i takes tap k from output position
/// (i + pad_begin - k * dilation) / stride where that is whole.
std::map<int64_t, OwnedWalk> grad_input_phases(const ConvAxis& axis);

/// Whether `phases` are all that `axis` has: then they write every input position.
bool covers_input(const std::map<int64_t, OwnedWalk>& phases, const ConvAxis& axis);

/// Makes `to` the walk of `owned`, which must outlive it.
void set_walk(Walk& to, const OwnedWalk& owned);

/// Batch, groups and channels of a contraction from input to output, or with `transposed` back.
void set_channels(Channels& to, const ConvGeometry& geometry, bool transposed);

/// The fold that ends the gradient for an input whose padding reads inside it: `padded` is
/// `geometry` with the padding made part of the input. Pointers and strides are left to set.
template <class T>
Fold<T> fold_of(const ConvGeometry& geometry, const ConvGeometry& padded) {
  Fold<T> fold;
  fold.batch = geometry.batch;
  fold.channels = geometry.in_channels;
  for (int i = 0; i < kAxes; ++i) {
    fold.walk[i].size = geometry.axis[i].input;
    fold.walk[i].mode = geometry.mode;
    fold.extent[i] = padded.axis[i].input;
    fold.pad_begin[i] = geometry.axis[i].pad_begin;
  }
  return fold;
}

/// The bias in every position of an input or output, as `size` says.
template <class T>
Fill<T> fill_of(T* dest, const Strides& strides, const T* bias, const ConvGeometry& geometry,
                int64_t ConvAxis::* size) {
  Fill<T> fill;
  fill.batch = geometry.batch;
  fill.channels = size == &ConvAxis::input ? geometry.in_channels : geometry.out_channels;
  for (int i = 0; i < kAxes; ++i) fill.size[i] = geometry.axis[i].*size;
  fill.bias = bias;
  fill.dest = dest;
  fill.dest_strides = strides;
  return fill;
}

/// Makes one long row of the innermost axes along which a contraction is 1x1, at stride 1, unpadded
/// and dense, and moves the others inwards, up to it; `other` are the strides of the tensor that
/// destination positions index.
inline void merge_pointwise(ContractionShape& shape, Strides& source, Strides& other,
                            WeightStrides& weight) {
  constexpr int last = kAxes - 1;
  int64_t pixels = 1;
  const int64_t source_step = source.axis[last], other_step = other.axis[last];
  int first = kAxes;  // of the axes of the row
  for (int axis = last; axis >= 0; --axis) {
    const Walk& walk = shape.walk[axis];
    const bool same = walk.tap_count == 1 && walk.taps[0].offset == 0 && walk.step == 1 &&
                      walk.count == walk.size;
    const bool dense = walk.count == 1 || (source.axis[axis] == source_step * pixels &&
                                           other.axis[axis] == other_step * pixels);
    if (!same || !dense) break;
    pixels *= walk.count;
    first = axis;
  }
  if (first >= last) return;
  for (int axis = first; axis < last; ++axis) {
    shape.walk[axis].count = shape.walk[axis].size = 1;
    source.axis[axis] = other.axis[axis] = 0;
  }
  shape.walk[last].count = shape.walk[last].size = pixels;
  std::rotate(shape.walk, shape.walk + first, shape.walk + last);
  for (int64_t* axes : {source.axis, other.axis, weight.axis}) {
    std::rotate(axes, axes + first, axes + last);
  }
}
template <class T>
void merge_pointwise(Contraction<T>& p) {
  merge_pointwise(p, p.source_strides, p.dest_strides, p.weight_strides);
}
template <class T>
void merge_pointwise(WeightContraction<T>& p) {
  merge_pointwise(p, p.source_strides, p.grad_strides, p.dest_strides);
}

/// Source and weight of a 1x1, stride-1, unpadded convolution of one image play the same part.
/// Exchanges them: the pixels become rows, and the rows pixels.
template <class T>
void exchange_parts(Contraction<T>& p) {
  Walk& walk = p.walk[2];
  std::swap(p.source, p.weight);
  const int64_t pixels = walk.count;
  walk.count = walk.size = p.rows;
  p.rows = pixels;
  const WeightStrides weight = p.weight_strides;
  p.weight_strides = {0, p.source_strides.axis[2], p.source_strides.channel, {0, 0, 0}};
  p.source_strides = {0, weight.depth, {0, 0, weight.row}};
  std::swap(p.dest_strides.channel, p.dest_strides.axis[2]);
}

/// Whether the source and what it meets play the same part: a 1x1 kernel at stride 1, unpadded,
/// over pixels that were merged.
inline bool parts_are_alike(const ContractionShape& shape) {
  return shape.walk[0].count == 1 && shape.walk[1].count == 1 && is_pointwise(shape);
}

/// Exchanges source and grad, which must be alike.
template <class T>
void swap_parts(WeightContraction<T>& p) {
  std::swap(p.source, p.grad);
  std::swap(p.source_strides, p.grad_strides);
  std::swap(p.rows, p.depth);
  std::swap(p.dest_strides.row, p.dest_strides.depth);
}

/// Space for the taps of walks that a plan puts in another order.
using OrderedTaps = std::array<std::vector<Tap>, kAxes>;

/// Puts the taps of the width in ascending order of what they read, in `taps`.
inline void order_taps(ContractionShape& shape, OrderedTaps& taps) {
  Walk& width = shape.walk[kAxes - 1];
  if (width.tap_count == 1 || width.taps[0].offset < width.taps[1].offset) return;
  std::vector<Tap>& ordered = taps[kAxes - 1];
  ordered.assign(width.taps, width.taps + width.tap_count);
  std::reverse(ordered.begin(), ordered.end());
  width.taps = ordered.data();
}

/// Whether source and grad of a contraction play the same part but for the order of the taps: at
/// stride 1, and zeros around the source. Where destination i reads source position i + offset,
/// position j of the source meets destination j - offset.
inline bool can_turn_around(const ContractionShape& shape) {
  bool can = true;
  for (const Walk& walk : shape.walk) can &= walk.step == 1 && walk.mode == PaddingMode::zeros;
  return can;
}

/// Exchanges source and grad of such a contraction. Its walks have their taps, in ascending order
/// of what they read, in `taps`.
template <class T>
void turn_around(WeightContraction<T>& p, OrderedTaps& taps) {
  for (int i = 0; i < kAxes; ++i) {
    Walk& walk = p.walk[i];
    taps[i].clear();
    for (int64_t t = walk.tap_count - 1; t >= 0; --t) {
      taps[i].push_back({-walk.taps[t].offset, walk.taps[t].kernel});
    }
    walk.taps = taps[i].data();
    std::swap(walk.count, walk.size);
  }
  swap_parts(p);
}

/// What a pixel of a weight gradient takes, in lanes, with `rows` of one side in registers, which
/// meet `inner` elements of the other. The side in registers is transposed, which takes about as
/// long as multiplying it with 16 of these.
inline int64_t work_of_registers(int64_t rows, int64_t inner, int64_t lanes) {
  return in_registers(rows, lanes) * (16 + inner);
}

/// Exchanges source and grad where that makes neighbours in the weight out of what a kernel
/// computes side by side, its rows in registers of `lanes`. Storing a weight across its layout
/// takes about as long as multiplying with 8 pixels.
template <class T>
void exchange_parts(WeightContraction<T>& p, int64_t lanes) {
  if (!parts_are_alike(p) || p.dest_strides.depth != 1 || p.dest_strides.row == 1) return;
  const int64_t pixels = p.batch * p.walk[2].count;
  const int64_t more =
      (work_of_registers(p.depth, p.rows, lanes) - work_of_registers(p.rows, p.depth, lanes)) *
      pixels;
  if (more <= 8 * p.rows * p.depth) swap_parts(p);
}

/// Exchanges source and grad where channels of the source fill registers of `lanes` so much better
/// that it pays for storing the weight across its layout, which takes as long as so many products
/// of registers with each of its elements.
template <class T>
void exchange_to_fill(WeightContraction<T>& p, int64_t lanes) {
  if (!parts_are_alike(p)) return;
  const bool across = p.dest_strides.depth == 1 && p.dest_strides.row != 1;
  const double products = across ? 6.0 * double(lanes) : 0;
  const int64_t rows = in_registers(p.rows, lanes), depth = in_registers(p.depth, lanes);
  const double saved = double(rows * p.depth) - double(depth * p.rows);
  const double pixels = double(p.batch) * double(p.walk[2].count);
  if (saved * pixels > products * double(p.rows) * double(p.depth)) swap_parts(p);
}

}  // namespace cnnops
