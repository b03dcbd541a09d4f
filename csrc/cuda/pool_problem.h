// A pooling as kernels on the GPU take it: by value, its windows as formulas instead of lists in
// memory, and with indices of 32 bits where everything fits.
//
// Both layouts are one: a tensor is (outer, depth, height, width, inner), where (N, C, D, H, W) has
// outer = N * C and inner = 1, and channels_last has outer = N and inner = C. Backward is the same
// walk seen from the other side: an input lies in a range of windows, as an output reads a range of
// inputs, so `source` and `dest` are input and output, or the other way round.
#pragma once

#include <algorithm>

#include "cuda/problem.h"
#include "pool_geometry.h"

namespace cnnops::cuda {

/// The positions begin, begin + step, ... below end.
template <class Index>
struct Range {
  Index begin;
  Index end;
  Index step;

  SIMT_DEVICE Index count() const { return begin < end ? (end - begin - 1) / step + 1 : 0; }
};

/// i * numerator / denominator for 0 <= i <= denominator, where the products fit Index.
template <class Index>
struct Scale {
  Index whole = 0;
  Index part = 0;
  Divisor<Index> by;

  Scale() = default;
  Scale(int64_t numerator, int64_t denominator)
      : whole(static_cast<Index>(numerator / denominator)),
        part(static_cast<Index>(numerator % denominator)),
        by(denominator) {}

  /// The largest dividend that these functions form.
  static int64_t largest(int64_t numerator, int64_t denominator) {
    const int64_t part = numerator % denominator;
    return checked_add(checked_mul(denominator, part), denominator);
  }

  SIMT_DEVICE Index floor(Index i) const { return i * whole + by.quotient(i * part); }
  SIMT_DEVICE Index ceil(Index i) const {
    return i * whole + by.quotient(i * part + by.divisor - 1);
  }
};

/// The windows along one axis: axis_windows (pool_geometry.h) one at a time.
template <class Index>
struct WindowAxis {
  Index input = 1;
  Index output = 1;
  Index kernel = 1;
  Index stride = 1;  // 0: adaptive
  Index padding = 0;
  Index dilation = 1;
  Index reach = 1;  // of a window, from its first to past its last tap
  WindowCount count_as = WindowCount::kNone;
  Divisor<Index> by_stride;
  Divisor<Index> by_dilation;
  Scale<Index> to_input;   // adaptive only
  Scale<Index> to_output;  // adaptive only

  WindowAxis() = default;
  WindowAxis(const PoolAxis& axis, WindowCount count)
      : input(static_cast<Index>(axis.input)),
        output(static_cast<Index>(axis.output)),
        count_as(count) {
    if (axis.stride == 0) {
      stride = 0;
      to_input = Scale<Index>(axis.input, std::max<int64_t>(axis.output, 1));
      to_output = Scale<Index>(axis.output, std::max<int64_t>(axis.input, 1));
      return;
    }
    kernel = static_cast<Index>(axis.kernel);
    stride = static_cast<Index>(axis.stride);
    padding = static_cast<Index>(axis.padding);
    dilation = static_cast<Index>(axis.dilation);
    reach = static_cast<Index>(axis.dilation * (axis.kernel - 1) + 1);
    by_stride = Divisor<Index>(axis.stride);
    by_dilation = Divisor<Index>(axis.dilation);
  }

  /// Where tap 0 of window o of a grid lies; before 0 in the padding.
  SIMT_DEVICE Index start(Index o) const { return o * stride - padding; }

  /// The inputs of window o.
  SIMT_DEVICE Range<Index> inputs(Index o) const {
    if (stride == 0) return {to_input.floor(o), to_input.ceil(o + 1), 1};
    const Index first = start(o);
    // Padding is skipped in whole steps of the dilation.
    const Index begin =
        first >= 0 ? first : first + by_dilation.quotient(dilation - 1 - first) * dilation;
    return {begin, first + reach < input ? first + reach : input, dilation};
  }

  /// The windows that input x lies in; dilation 1 only.
  SIMT_DEVICE Range<Index> windows(Index x) const {
    if (stride == 0) return {to_output.floor(x), to_output.ceil(x + 1), 1};
    const Index last = by_stride.quotient(x + padding) + 1;
    const Index before = x + padding - kernel;  // windows that start there or earlier have ended
    const Index first = before < 0 ? 0 : by_stride.quotient(before) + 1;
    return {first, last < output ? last : output, 1};
  }

  /// Elements of window o that its mean divides by.
  SIMT_DEVICE Index count(Index o) const {
    if (count_as == WindowCount::kPadded) {
      const Index stop = start(o) + reach;
      return (stop < input + padding ? stop : input + padding) - start(o);
    }
    const Range<Index> range = inputs(o);
    return range.end > range.begin ? range.end - range.begin : 0;
  }
};

template <class Index>
struct PoolProblem {
  bool backward = false;
  Index outer = 1;
  Index inner = 1;      // in vectors of the kernel's width
  int64_t divisor = 0;  // of all means; 0: each window has its own
  WindowAxis<Index> axis[3];
  Index source[3] = {1, 1, 1};
  Index dest[3] = {1, 1, 1};
  Divisor<Index> by_inner;
  Divisor<Index> by_dest[3];

  PoolProblem() = default;
  /// `vector`: channels that a kernel takes at a time, a divisor of them for channels_last.
  PoolProblem(const PoolGeometry& g, bool channels_last, WindowCount count, int64_t divisor,
              bool backward, int64_t vector)
      : backward(backward),
        outer(static_cast<Index>(channels_last ? g.batch : g.batch * g.channels)),
        inner(static_cast<Index>(channels_last ? g.channels / vector : 1)),
        divisor(divisor),
        by_inner(std::max<Index>(inner, 1)) {
    for (int i = 0; i < 3; ++i) {
      axis[i] = WindowAxis<Index>(g.axis[i], count);
      source[i] = backward ? axis[i].output : axis[i].input;
      dest[i] = backward ? axis[i].input : axis[i].output;
      by_dest[i] = Divisor<Index>(std::max<Index>(dest[i], 1));
    }
  }

  SIMT_DEVICE Index source_plane() const { return source[0] * source[1] * source[2]; }
  SIMT_DEVICE Index dests() const { return outer * dest[0] * dest[1] * dest[2] * inner; }

  /// The source positions along axis i that dest position `at` gathers.
  template <bool kBackward>
  SIMT_DEVICE Range<Index> gathered(int i, Index at) const {
    if constexpr (kBackward) {
      return axis[i].windows(at);
    } else {
      return axis[i].inputs(at);
    }
  }

  /// The number that the element at (z, y, x) of the source has among those of its plane.
  SIMT_DEVICE Index position(Index z, Index y, Index x) const {
    return (z * source[1] + y) * source[2] + x;
  }

  /// What the mean of window (d, h, w) divides by.
  SIMT_DEVICE Index divisor_of(Index d, Index h, Index w) const {
    return axis[0].count(d) * axis[1].count(h) * axis[2].count(w);
  }

  /// Takes a flat dest element apart into (outer, at[0], at[1], at[2], inner).
  SIMT_DEVICE void split_dest(Index flat, Index* outer_at, Index (&at)[3], Index* inner_at) const {
    *inner_at = flat;
    at[2] = split(*inner_at, by_inner);
    at[1] = split(at[2], by_dest[2]);
    at[0] = split(at[1], by_dest[1]);
    *outer_at = split(at[0], by_dest[0]);
  }
};

/// Small planes that correspond to positions in large planes by indices.
template <class Index>
struct IndexedProblem {
  Index outer;
  Index inner;
  Index small;
  Index large;
};

/// fractional_max_pool; sizes by axis: depth, height, width.
template <class Index>
struct FractionalProblem {
  Index batch;
  Index channels;
  bool channels_last;
  int rank;
  Index input[3];
  Index output[3];
  Index kernel[3];
};

}  // namespace cnnops::cuda
