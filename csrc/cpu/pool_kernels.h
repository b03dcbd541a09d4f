// The pooling kernels of one instruction set for one storage type, as a table of pointers, and the
// plain structs they take. Tensors are dense: (N, C, D, H, W), or (N, D, H, W, C) where
// channels_last.
#pragma once

#include "dtype.h"

/// Calls X(T) for every storage type with pooling kernels.
#define CNNOPS_FOR_EACH_POOL_TYPE(X) \
  X(float) X(double) X(bfloat16) X(float16) X(int64_t) X(int32_t) X(int16_t) X(int8_t) X(uint8_t)

namespace cnnops {

// The functions here are compiled into kernels of every instruction set, so none of them may become
// a copy that the linker could take for another's.

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

/// Does half a register of `lanes` hold the outputs of a row, and the inputs under them: all of the
/// row, or with stride 2 the columns of each phase? Rows of two planes are then as much work as
/// one.
[[gnu::always_inline]] inline bool rows_are_twins(const PoolWindows& width, int64_t lanes) {
  if (2 * width.output > lanes) return false;
  if (width.stride == 1) return 2 * width.input <= lanes;
  const int64_t span = (width.output - 1) * width.stride + width.kernel;
  return width.stride == 2 && (span <= lanes || width.padding + width.input <= lanes);
}

/// What the destinations along one axis are made of: destination o of `to` from the sources
/// begin[o], begin[o] + step, ... below end[o], of `from`.
struct PoolSpans {
  const int64_t* begin;
  const int64_t* end;
  int64_t step;
  int64_t from;
  int64_t to;

  /// The sources [low, high) that hold all those of destinations [first, last), of one or more.
  [[gnu::always_inline]] void hull(int64_t first, int64_t last, int64_t* low, int64_t* high) const {
    *low = begin[first];
    *high = end[last - 1];
    // With dilation, a window that starts in the padding can begin after the next one.
    for (int64_t o = first + 1; o < last && step > 1; ++o) {
      if (begin[o] < *low) *low = begin[o];
    }
    if (*low > *high) *low = *high;
  }
};

/// The most source rows that kernels list.
constexpr int64_t kPoolSourceRows = 256;

/// How planes are cut into blocks (kernels/pool_blocks.h): destinations of a block along each axis,
/// and the most pixels that blocks have of sources, of source rows of destination columns, and of
/// destinations. `to` is 0 where windows are too large.
struct PoolCut {
  int64_t tile[3];
  int64_t source;
  int64_t rows;
  int64_t to;
};

/// How rows are cut into chunks (kernels/pool_shuffles.h). `chunks` is 0 where windows are too
/// wide. `regular`: chunk c is `count` destinations whose sources begin at origin + c * step.
struct PoolChunks {
  bool regular;
  int64_t chunks;
  int64_t taps;   // the most sources of a destination along the row
  int64_t reach;  // sources of a chunk
  int64_t count;
  int64_t origin;
  int64_t step;
};

/// The loop that reduces windows, or spreads their gradient; pool_plan.h chooses.
enum class PoolAlgorithm {
  whole_rows,       // one window holds a whole plane, which is one row
  rows_by_phases,   // vectors of neighbouring outputs along the width
  rolling_rows,     // the same with all rows under way in registers
  rows_by_windows,  // window by window along the width
  pixels,           // vectors along the channels of channels_last tensors
  shuffled_rows,    // vectors along the width, shuffled out of two registers
  blocks,           // vectors across planes, which are transposed in cache
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
  bool inverse;         // is the gradient of the inputs wanted?
  PoolAlgorithm algorithm;
  PoolCut cut;        // of blocks
  PoolChunks chunks;  // of shuffled rows, where there are no blocks
};

/// Outputs from inputs, or where `p.inverse` the other way round.
[[gnu::always_inline]] inline PoolSpans spans_of(const PoolProblem& p, int i) {
  const PoolWindows& axis = p.axis[i];
  if (p.inverse) return {axis.first, axis.last, 1, axis.output, axis.input};
  return {axis.begin, axis.end, axis.dilation, axis.input, axis.output};
}

/// Destinations from `first` on whose sources, [low, high), lie in two registers of `lanes`: a
/// register at most, and one at least.
[[gnu::always_inline]] inline int64_t chunk_of(const PoolSpans& spans, int64_t first, int64_t lanes,
                                               int64_t* low, int64_t* high) {
  const int64_t most = spans.to - first < lanes ? spans.to - first : lanes;
  int64_t count = 1;
  spans.hull(first, first + 1, low, high);
  for (; count < most; ++count) {
    int64_t next_low, next_high;
    spans.hull(first, first + count + 1, &next_low, &next_high);
    if (next_high - next_low > 2 * lanes) break;
    *low = next_low;
    *high = next_high;
  }
  return count;
}

/// Lane of the sources of a regular chunk that is tap `tap` of destination `lane`, -1 for none.
[[gnu::always_inline]] inline int64_t lane_of(const PoolProblem& p, int64_t tap, int64_t lane) {
  const PoolWindows& axis = p.axis[2];
  if (!p.inverse) return lane * axis.stride + tap * axis.dilation;
  const int64_t u = axis.padding % axis.stride + lane, phase = u % axis.stride;
  const int64_t back = p.chunks.taps - 1 - tap;  // outputs before the last window of the input
  return phase + back * axis.stride < axis.kernel ? u / axis.stride + tap : -1;
}

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

/// What the rules of pool_plan.h ask about the registers of an instruction set: elements in one,
/// whether elements of two are shuffled by lanes in a register, and whether there is code that
/// rolls windows of this type.
struct PoolRegisters {
  int64_t lanes;
  bool shuffle;
  bool roll;
};

/// Entries are null where torch has no such operator for T.
template <class T>
struct PoolKernels {
  PoolRegisters registers;
  /// Bytes of scratch of max_pool, max_pool_taps, avg_pool and avg_pool_backward: of every thread,
  /// for poolings that say where maxima are or not, and of the call, for those that divide or not.
  int64_t (*scratch)(const PoolProblem&, bool places);
  int64_t (*tables)(const PoolProblem&, bool places, bool divides);
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
