// What every pooling computes with, whatever the device: sizes of three spatial axes, the windows
// along each of them, and the one place where pooling arguments are checked. Nothing here knows
// about torch.
//
// One- and two-dimensional pooling fill the last axes (width, then height); the missing ones have
// size 1 and a window of 1. Errors are std::runtime_error (RuntimeError) with torch's words.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "checks.h"

namespace cnnops {

/// One spatial axis. Window o starts at o * stride - padding; adaptive and fractional pooling have
/// windows that no stride describes and leave `stride` at 0.
struct PoolAxis {
  int64_t input = 1;
  int64_t output = 1;
  int64_t kernel = 1;
  int64_t stride = 1;
  int64_t padding = 0;
  int64_t dilation = 1;
};

/// A pooling of (N, C, *input) or (C, *input) into (N, C, *output) or (C, *output).
struct PoolGeometry {
  int rank = 0;  // spatial axes that the tensors really have: 1, 2 or 3
  bool batched = false;
  int64_t batch = 1;
  int64_t channels = 1;
  PoolAxis axis[3];  // depth, height, width

  /// Tensor sizes on either side; they raise when the number of elements overflows.
  IntList input_sizes() const { return sizes(&PoolAxis::input); }
  IntList output_sizes() const { return sizes(&PoolAxis::output); }
  /// Elements of one channel's plane.
  int64_t input_plane() const { return axis[0].input * axis[1].input * axis[2].input; }
  int64_t output_plane() const { return axis[0].output * axis[1].output * axis[2].output; }

 private:
  IntList sizes(int64_t PoolAxis::* side) const;
};

/// Arguments of the pools whose windows lie on a regular grid. An empty `stride` means
/// `kernel_size`; lists of one entry stand for that entry on every axis.
struct PoolArguments {
  IntSpan kernel_size;
  IntSpan stride;
  IntSpan padding;
  IntSpan dilation;
  bool ceil_mode;
};

/// max_pool and avg_pool of a tensor of these sizes.
PoolGeometry window_pool_geometry(const char* name, IntSpan input_sizes,
                                  const PoolArguments& arguments);

/// What avg_pool divides by instead of the number of elements, 0 for that number. Raises for an
/// override of 0, and for windows that avg_pool does not take or whose elements overflow int64.
int64_t checked_divisor(const PoolGeometry& g, std::optional<int64_t> divisor_override);

/// window_pool_geometry seen from the other side, for backward: `grad_sizes` are those of the
/// gradient of the output, `input_size` the spatial sizes of the input that was pooled.
PoolGeometry window_pool_backward_geometry(const char* name, IntSpan grad_sizes, IntSpan input_size,
                                           const PoolArguments& arguments);

/// Which sizes of 0 an adaptive pool accepts: torch differs between its two operators.
enum class AdaptiveKind { kMax, kAverage };

/// adaptive_max_pool and adaptive_avg_pool, and the backward pass of the latter.
PoolGeometry adaptive_pool_geometry(const char* name, AdaptiveKind kind, IntSpan input_sizes,
                                    IntSpan output_size);
PoolGeometry adaptive_pool_backward_geometry(const char* name, IntSpan grad_sizes,
                                             IntSpan input_size);

/// fractional_max_pool; `sample_sizes` are those of random_samples, (N, C, rank).
PoolGeometry fractional_pool_geometry(const char* name, IntSpan input_sizes, IntSpan kernel_size,
                                      IntSpan output_size, IntSpan sample_sizes);

/// max_unpool and max_pool_backward, which send the elements of a tensor of `small_sizes` to the
/// positions that indices name in planes of `plane_size`: `input` is the plane, `output` the small
/// side. `allow_empty` accepts small tensors without elements.
PoolGeometry indexed_pool_geometry(const char* name, IntSpan small_sizes, IntSpan plane_size,
                                   bool allow_empty);

/// Sizes as torch writes them in pooling errors: 3x6x7.
std::string join_sizes(IntSpan sizes);

/// Raises unless `sizes` are those of `expected`, in the words of torch's own check.
void check_sizes(const char* name, IntSpan sizes, IntSpan expected);

/// How the elements of a window are counted for the mean.
enum class WindowCount { kNone, kInput, kPadded, kAdaptive };

/// `g` as kernels compute it: where the only window of a plane covers all of it, the plane as one
/// row, whose window counts as its own elements if it counts at all.
PoolGeometry with_global_windows_flat(const PoolGeometry& g, WindowCount* count);

/// The windows along one axis: output o reads inputs begin[o], begin[o] + dilation, ... below
/// end[o]. `end` never decreases, nor does `begin` where dilation is 1.
struct AxisWindows {
  int64_t* begin;
  int64_t* end;
  int64_t* count;  // elements of window o that its mean divides by
  int64_t* first;  // input x lies in the windows [first[x], last[x]); dilation 1 only
  int64_t* last;
};

/// Integers in the lists of `axis`; `inverse` asks for `first` and `last` too.
int64_t window_list_size(const PoolAxis& axis, bool inverse);

/// Lists the windows of `axis` in the window_list_size integers at `lists`.
AxisWindows axis_windows(const PoolAxis& axis, WindowCount count, bool inverse, int64_t* lists);

}  // namespace cnnops
