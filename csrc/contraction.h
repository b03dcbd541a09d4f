// The two loop nests that all convolution kernels run, as plain data.
//
// A Contraction computes   dest[n, g, m, j] = bias[g, m] + sum over c, t of
//                              weight[g, m, c, kernel(t)] * source[n, g, c, position(j, t)]
// The forward pass is one Contraction. The gradient for the input (also the transposed convolution)
// is one for each phase of the stride: the destinations j * stride + phase together see only every
// stride-th tap, and for them the taps form a dense convolution of grad_output. An InputGradient is
// all the phases in one, for kernels that multiply before they know which phase a product is of.
//
// A WeightContraction computes  dest[g, m, c, t] = sum over n, j of
//                              grad[n, g, m, j] * source[n, g, c, position(j, t)]
#pragma once

#include <cstdint>

#include "conv_geometry.h"

namespace cnnops {

/// One kernel position on one axis, and the source offset it reads at.
struct Tap {
  int64_t offset;
  int64_t kernel;
};

/// One axis: destination j of `count` reads, for a tap, source position j * step + tap.offset.
/// Positions outside [0, size) read what `mode` says.
struct Walk {
  int64_t count = 1;
  int64_t step = 1;
  int64_t size = 1;
  PaddingMode mode = PaddingMode::zeros;
  const Tap* taps = nullptr;
  int64_t tap_count = 1;

  /// The source position that `position` reads, or -1 for zero.
  int64_t resolve(int64_t position) const { return resolve_position(position, size, mode); }

  /// The smallest and the largest offset of a tap.
  int64_t low() const {
    int64_t least = taps[0].offset;
    for (int64_t t = 1; t < tap_count; ++t) least = taps[t].offset < least ? taps[t].offset : least;
    return least;
  }
  int64_t high() const {
    int64_t most = taps[0].offset;
    for (int64_t t = 1; t < tap_count; ++t) most = taps[t].offset > most ? taps[t].offset : most;
    return most;
  }

  /// From one tap's source position to the next one's; of taps in reverse order it is the same.
  int64_t tap_distance() const { return tap_count > 1 ? (high() - low()) / (tap_count - 1) : 1; }
  /// The distance of destinations that share what they read: dilated taps reach what lies between
  /// by others.
  int64_t sharing_distance() const {
    const int64_t distance = tap_distance();
    int64_t common = step, rest = distance;
    while (rest != 0) {  // Euclid's algorithm
      const int64_t next = common % rest;
      common = rest, rest = next;
    }
    return distance / common;
  }

  /// First and past-the-last destination whose read for this offset lies inside the source.
  int64_t inside_begin(int64_t offset) const {
    if (offset >= 0) return 0;
    const int64_t begin = (-offset - 1) / step + 1;
    return begin < count ? begin : count;
  }
  int64_t inside_end(int64_t offset) const {
    if (offset >= size) return inside_begin(offset);
    const int64_t end = (size - 1 - offset) / step + 1;
    const int64_t begin = inside_begin(offset);
    return end > count ? count : end < begin ? begin : end;
  }

  /// Whether all that is read lies inside the source.
  bool reads_inside() const { return low() >= 0 && (count - 1) * step + high() < size; }

  /// Source positions from the first to the last that `destinations` neighbours read.
  int64_t positions(int64_t destinations) const {
    return (destinations - 1) * step + high() - low() + 1;
  }

  /// From row to row of source copies in which what a tap reads for `destinations` neighbours, and
  /// on to the next row, is consecutive; for each phase of the step. Zeros that end one row and
  /// start the next are there once.
  int64_t shifted_pitch(int64_t destinations) const {
    const int64_t span = high() - low(), read = positions(destinations);
    if (step > 1 || mode != PaddingMode::zeros || destinations < count) {
      return (read + step - 1) / step;
    }
    const int64_t left = low() < 0 ? -low() : 0, past = count - 1 + high() - (size - 1);
    const int64_t right = past > 0 ? past : 0, shared = left < right ? left : right;
    return read - (shared < span ? shared : span);
  }
};

/// Element strides of a tensor, groups merged in `channel`.
struct Strides {
  int64_t batch = 0;
  int64_t channel = 0;
  int64_t axis[kAxes] = {0, 0, 0};
};

/// Whether each axis of these sizes goes on where the one inside it ends, neighbours `distance`
/// apart. The distance of what follows the outermost axis, or -1 where they do not.
inline int64_t joined_axes(const Strides& strides, const int64_t (&size)[kAxes], int64_t distance) {
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    if (size[axis] > 1 && strides.axis[axis] != distance) return -1;
    distance *= size[axis];
  }
  return distance;
}

/// Whether planes of these sizes lie densely in memory, each in order.
inline bool planes_are_dense(const Strides& strides, const int64_t (&size)[kAxes]) {
  return joined_axes(strides, size, 1) >= 0;
}

/// Whether the pixels of all images lie at one distance, that of neighbours in a row.
inline bool pixels_are_even(const Strides& strides, int64_t batch, const int64_t (&size)[kAxes]) {
  const int64_t image = joined_axes(strides, size, strides.axis[kAxes - 1]);
  return image >= 0 && (batch == 1 || strides.batch == image);
}

/// Element strides of a weight by role: destination channel, source channel, kernel position,
/// group.
struct WeightStrides {
  int64_t group = 0;
  int64_t row = 0;
  int64_t depth = 0;
  int64_t axis[kAxes] = {0, 0, 0};
};

/// The longest rows of a plane that are read piece by piece, each piece of all rows before the
/// next: further apart they are in other pages, and in few sets of a cache.
constexpr int64_t kLongestRollingRow = 1536;

/// Whether kernels are as high as they are wide, and meet the rows of a plane in turns: each adds a
/// step of source rows to as many destination rows, and finishes one of these.
inline bool rows_roll(const Walk& height, const Walk& width) {
  return height.tap_count == width.tap_count && height.step == width.step &&
         (height.step == 1 || height.tap_distance() % height.step != 0) &&
         width.size <= kLongestRollingRow;
}

/// Direct kernels keep the phases of so large a stride at most.
constexpr int64_t kMaxDirectStep = 8;

/// Winograd tiles take so many phases of a dilation.
constexpr int64_t kMaxWinogradDilation = 12;

/// So far strides.
constexpr int64_t kMaxWinogradStep = 4;

/// And kernels of so many taps, or so many with those that fill up groups of a form: an axis of two
/// may be filled up to seven.
constexpr int64_t kMaxWinogradTaps = 64, kMaxGroupedTaps = kMaxWinogradTaps * 7;

/// Winograd tiles of `size` outputs along an axis of `count`. The taps of a dilated kernel meet
/// every dilation-th position only: the axis falls apart into as many phases with tiles of their
/// own.
inline int64_t winograd_axis_tiles(int64_t count, int64_t size, int64_t dilation) {
  const int64_t whole = count / (size * dilation), rest = count % (size * dilation);
  return whole * dilation + (rest < dilation ? rest : dilation);
}

/// Images, groups and channels.
struct Channels {
  int64_t batch = 1;
  int64_t groups = 1;
  int64_t rows = 1;   // destination channels (WeightContraction: grad channels) of a group
  int64_t depth = 1;  // source channels of a group
};

/// The sizes that both contractions share.
struct ContractionShape : Channels {
  Walk walk[kAxes];

  int64_t taps() const { return walk[0].tap_count * walk[1].tap_count * walk[2].tap_count; }
  int64_t pixels() const { return walk[0].count * walk[1].count * walk[2].count; }
};

/// The share of what all taps read that is zeros around the source, along the outermost `axes`.
inline double padding_share(const ContractionShape& shape, int axes = kAxes) {
  double inside = 1;
  for (int i = 0; i < axes; ++i) {
    const Walk& walk = shape.walk[i];
    if (walk.mode != PaddingMode::zeros || walk.count == 0) continue;
    double reads = 0;
    for (int64_t t = 0; t < walk.tap_count; ++t) {
      reads += double(walk.inside_end(walk.taps[t].offset)) -
               double(walk.inside_begin(walk.taps[t].offset));
    }
    inside *= reads / (double(walk.count) * double(walk.tap_count));
  }
  return 1 - inside;
}

/// Whether destination i reads source position i and nothing else.
inline bool is_pointwise(const ContractionShape& shape) {
  bool same = shape.taps() == 1;
  for (const Walk& walk : shape.walk) {
    same &= walk.taps[0].offset == 0 && walk.step == 1 && walk.count == walk.size;
  }
  return same;
}

/// Whether source pixel i of all images, which lie at one distance, is what destination i reads.
inline bool reads_each_pixel(const ContractionShape& shape, const Strides& source) {
  return is_pointwise(shape) &&
         pixels_are_even(source, shape.batch,
                         {shape.walk[0].size, shape.walk[1].size, shape.walk[2].size});
}

/// Whole registers of `lanes` that hold `count` elements, in elements.
inline int64_t in_registers(int64_t count, int64_t lanes) {
  return (count + lanes - 1) / lanes * lanes;
}

/// Whether planes so many bytes apart start in the same few lines of a cache.
inline bool planes_compete(int64_t bytes) { return bytes % 4096 == 0; }

/// True when all taps lie side by side in the weight, in order.
inline bool taps_are_contiguous(const ContractionShape& shape, const WeightStrides& strides) {
  int64_t expected = 1;
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    const Walk& walk = shape.walk[axis];
    if (walk.tap_count > 1 && strides.axis[axis] != expected) return false;
    for (int64_t t = 0; t < walk.tap_count; ++t) {
      if (walk.taps[t].kernel != t) return false;
    }
    expected *= walk.tap_count;
  }
  return true;
}

/// Whether K of the weight is dense in each of its rows: in the order of the taps, or of the source
/// channels.
inline bool weight_rows_are_dense(const ContractionShape& shape, const WeightStrides& strides) {
  if (taps_are_contiguous(shape, strides) && (shape.depth == 1 || strides.depth == shape.taps())) {
    return true;
  }
  if (shape.depth > 1 && strides.depth != 1) return false;
  int64_t expected = shape.depth;
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    const Walk& walk = shape.walk[axis];
    if (walk.tap_count > 1 && strides.axis[axis] != expected) return false;
    for (int64_t t = 0; t < walk.tap_count; ++t) {
      if (walk.taps[t].kernel != t) return false;
    }
    expected *= walk.tap_count;
  }
  return true;
}

/// The tensors of a convolution or of the gradient for its input.
template <class T>
struct ConvOperands {
  const T* source = nullptr;
  Strides source_strides;
  const T* weight = nullptr;
  WeightStrides weight_strides;
  const T* bias = nullptr;  // one for each of groups * rows, or none
  T* dest = nullptr;
  Strides dest_strides;
};

template <class T>
struct Contraction : ContractionShape, ConvOperands<T> {
  const void* prepared = nullptr;  // the weight as the kernel's `prepare` left it, if it was kept
};

template <class T>
struct WeightContraction : ContractionShape {
  const T* source = nullptr;
  Strides source_strides;
  const T* grad = nullptr;
  Strides grad_strides;
  T* dest = nullptr;
  WeightStrides dest_strides;
};

/// The gradient for the input of a zero-padded convolution with all its phases, which an engine may
/// have a kernel for:
///   dest[n, g, m, i] = bias[g, m] + sum over c, k, and the o that tap k takes to i, of
///                          weight[g, m, c, k] * source[n, g, c, o]
/// where tap k takes output o of an axis to input o * stride + k * dilation - pad_begin.
template <class T>
struct InputGradient : Channels, ConvOperands<T> {
  ConvAxis axis[kAxes];
};

/// The adjoint of padding by index: dest[n, c, i] = bias[c] + sum of source[n, c, q] over the
/// padded positions q in [0, extent) that read i. Only size and mode of the walks count.
template <class T>
struct Fold {
  int64_t batch = 1;
  int64_t channels = 1;
  Walk walk[kAxes];
  int64_t extent[kAxes] = {1, 1, 1};
  int64_t pad_begin[kAxes] = {0, 0, 0};
  const T* source = nullptr;
  Strides source_strides;
  const T* bias = nullptr;
  T* dest = nullptr;
  Strides dest_strides;
};

/// dest[n, c, i] = bias[c], or zero where there is none: what no tap reaches.
template <class T>
struct Fill {
  int64_t batch = 1;
  int64_t channels = 1;
  int64_t size[kAxes] = {1, 1, 1};
  const T* bias = nullptr;
  T* dest = nullptr;
  Strides dest_strides;
};

}  // namespace cnnops
