// The geometry of a convolution, in one form for 1-, 2- and 3-d, and the one validator that makes
// it.
//
// Convolution is the trilinear form <conv(x, w), g>. Its three contractions (output, gradient for
// x, gradient for w) share this geometry; x is always `input`, g always `output`.
#pragma once

#include <optional>
#include <string>

#include "checks.h"
#include "padding.h"

namespace cnnops {

/// One spatial axis: output o reads, for tap k, the input at o * stride + k * dilation - pad_begin.
struct ConvAxis {
  int64_t input = 1;
  int64_t kernel = 1;
  int64_t output = 1;
  int64_t stride = 1;
  int64_t dilation = 1;
  int64_t pad_begin = 0;
  int64_t pad_end = 0;
};

struct ConvGeometry {
  int rank = 0;         // spatial axes of the tensors: 1, 2 or 3
  bool batched = true;  // false: the tensors come without the batch axis
  int64_t batch = 1;
  int64_t groups = 1;
  int64_t in_channels = 1;   // of all groups
  int64_t out_channels = 1;  // of all groups
  PaddingMode mode = PaddingMode::zeros;
  ConvAxis axis[kAxes];

  int64_t in_channels_per_group() const { return in_channels / groups; }
  int64_t out_channels_per_group() const { return out_channels / groups; }

  /// Sizes of the tensors in torch's order, with the batch axis where there is one.
  IntList input_sizes() const;
  IntList output_sizes() const;
  IntList weight_sizes() const;
};

/// The arguments that all three contractions share, where the caller has them. `padding` has
/// (begin, end) for each axis.
struct ConvArguments {
  IntSpan stride;
  IntSpan padding;
  IntSpan dilation;
  int64_t groups;
  const std::string& padding_mode;
};

/// Geometry of convolution(input, weight, bias), or RuntimeError in torch's words.
ConvGeometry check_convolution(IntSpan input, IntSpan weight, std::optional<IntSpan> bias,
                               const ConvArguments& arguments);

/// Geometry of the gradient for an input of spatial size `input_size`, which is also
/// conv_transpose. The output may be smaller than a convolution of such an input would give:
/// positions beyond it count as zero (output_padding between stride and dilation needs that).
ConvGeometry check_grad_input(IntSpan grad_output, IntSpan weight, std::optional<IntSpan> bias,
                              IntSpan input_size, const ConvArguments& arguments);

/// Geometry of the gradient for a weight of spatial size `kernel_size`.
ConvGeometry check_grad_weight(IntSpan grad_output, IntSpan input, IntSpan kernel_size,
                               const ConvArguments& arguments);

}  // namespace cnnops
