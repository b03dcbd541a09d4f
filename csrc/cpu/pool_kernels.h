// The pooling kernels of one instruction set for one storage type, as a table of pointers, and the
// plain structs they take. Tensors are dense: (N, C, D, H, W), or (N, D, H, W, C) where
// channels_last.
#pragma once

#include "dtype.h"

/// Calls X(T) for every storage type with pooling kernels.
#define CNNOPS_FOR_EACH_POOL_TYPE(X) \
  X(float) X(double) X(bfloat16) X(float16) X(int64_t) X(int32_t) X(int16_t) X(int8_t) X(uint8_t)

namespace cnnops {

/// The windows along one axis; pointers as in AxisWindows (pool_geometry.h).
struct PoolWindows {
  int64_t input;
  int64_t output;
  int64_t kernel;
  int64_t stride;  // 0: the windows are not on a regular grid
  int64_t padding;
  int64_t dilation;
  const int64_t* begin;
  const int64_t* end;
  const int64_t* count;
  const int64_t* first;
  const int64_t* last;

  /// Where window o would begin if there were no border.
  int64_t start(int64_t o) const { return o * stride - padding; }
};

/// The loop that reduces windows, or spreads their gradient; pool_plan.h chooses.
enum class PoolAlgorithm {
  whole_rows,       // one window holds a whole plane, which is one row
  rows_by_phases,   // vectors of neighbouring outputs along the width
  rows_by_windows,  // window by window along the width
  pixels,           // vectors along the channels of channels_last tensors
  tap_by_tap,       // gradients: one element after the other, to where its tap is
};

/// How far beyond its output a window may reach, in outputs, to be taken by phases.
constexpr int64_t kPoolRowReach = 128;

/// A pooling by windows: max_pool, avg_pool and the adaptive pools.
struct PoolProblem {
  int64_t batch;
  int64_t channels;
  bool channels_last;
  int64_t divisor;      // 0: the mean divides by the product of the windows' counts
  PoolWindows axis[3];  // depth, height, width
  PoolAlgorithm algorithm;
};

/// Elements of `small` planes that go to or come from positions of `large` planes.
struct IndexedProblem {
  int64_t batch;
  int64_t channels;
  int64_t small;
  int64_t large;
  bool channels_last;
};

/// fractional_max_pool; sizes by axis: depth, height, width.
struct FractionalProblem {
  int64_t batch;
  int64_t channels;
  bool channels_last;
  int rank;
  int64_t input[3];
  int64_t output[3];
  int64_t kernel[3];
};

/// Entries are null where torch has no such operator for T.
template <class T>
struct PoolKernels {
  int64_t lanes;  // elements in a register
  /// `indices` may be null.
  void (*max_pool)(const PoolProblem&, const T* input, T* output, int64_t* indices);
  /// The same for the gradient, by pixels or by phases and without dilation; `taps` may not be
  /// null.
  void (*max_pool_taps)(const PoolProblem&, const T* input, T* output, uint8_t* taps);
  /// grad_input[x] = the sum of grad_output over the windows whose tap is x.
  void (*max_pool_taps_backward)(const PoolProblem&, const T* grad_output, const uint8_t* taps,
                                 T* grad_input);
  /// Bytes of scratch that each of its threads takes.
  int64_t (*max_pool_taps_scratch)(const PoolProblem&);
  void (*avg_pool)(const PoolProblem&, const T* input, T* output);
  void (*avg_pool_backward)(const PoolProblem&, const T* grad_output, T* grad_input);
  /// `samples` are (N, C, rank).
  void (*fractional_max_pool)(const FractionalProblem&, const T* input, const T* samples, T* output,
                              int64_t* indices);
  /// The next three return false, with the result undefined, where an index lies outside its plane.
  /// large = 0; large[indices[i]] += small[i].
  bool (*scatter_add)(const IndexedProblem&, const T* small, const int64_t* indices, T* large);
  /// Bytes of scratch that each of its threads takes.
  int64_t (*scatter_add_scratch)(const IndexedProblem&);
  /// large = 0; large[indices[i]] = small[i], the last one staying.
  bool (*scatter)(const IndexedProblem&, const T* small, const int64_t* indices, T* large);
  /// small[i] = large[indices[i]].
  bool (*gather)(const IndexedProblem&, const T* large, const int64_t* indices, T* small);
};

}  // namespace cnnops
