// The convolution kernels of one instruction set for one storage type, as a table of pointers.
#pragma once

#include <array>
#include <utility>

#include "contraction.h"
#include "cpu/winograd_forms.h"
#include "dtype.h"

namespace cnnops {

/// Destination pixels that few_pixels and weight_few_pixels take: more would pay for packing the
/// weight.
constexpr int64_t kFewPixels = 8;

/// Whether what neighbouring destination rows read are neighbouring source rows, of a single depth,
/// or zeros: weight_grouped_planar takes such planes band by band.
inline bool falls_into_bands(const ContractionShape& shape) {
  return shape.walk[0].count * shape.walk[0].size == 1 && shape.walk[1].mode == PaddingMode::zeros;
}

/// What a kernel takes for a call, beside its tensors.
struct Footprint {
  int64_t tile_rows = 0;     // of the tile in registers: elements that are broadcast
  int64_t tile_columns = 0;  // and elements that fill registers
  int64_t shared = 0;        // bytes of scratch of a call: packed weights, sums, tables
  int64_t per_thread = 0;    // bytes of scratch of every thread that takes part
};

/// A kernel, and what it takes: both ask the same blocking.
template <class Problem>
struct Kernel {
  const char* name;  // that of its file in kernels/
  void (*run)(const Problem&);
  Footprint (*footprint)(const Problem&);

  // Kernels that first rearrange the weight can also be given it rearranged, as
  // Contraction::prepared: so many bytes, which `prepare` fills. Null for the others.
  int64_t (*prepared_bytes)(const Problem&) = nullptr;
  void (*prepare)(const Problem&, void*) = nullptr;
};

/// A kernel for each form.
template <class Problem>
using WinogradKernels = std::array<Kernel<Problem>, kWinogradFormCount>;

/// "planar" kernels run their vectors along the innermost spatial axis and take any strides;
/// "channels_last" kernels run them along channels, which must have stride 1.
template <class T>
struct ConvKernels {
  int64_t lanes;  // accumulators in a register

  Kernel<Contraction<T>> gemm_planar;
  Kernel<Contraction<T>> shifted_planar;
  Kernel<Contraction<T>> transposed_planar;
  Kernel<Contraction<T>> pointwise_planar;
  Kernel<Contraction<T>> gemm_channels_last;
  Kernel<Contraction<T>> matrix_unit;   // bfloat16 with AVX-512 alone
  Kernel<Contraction<T>> dot_products;  // the same
  Kernel<Contraction<T>> broadcast_pixels;
  Kernel<Contraction<T>> few_channels_last;
  Kernel<Contraction<T>> few_pixels;
  Kernel<Contraction<T>> direct_planar;
  Kernel<Contraction<T>> depthwise_planar;  // float and double with AVX-512 alone
  Kernel<Contraction<T>> grouped_channels_last;
  Kernel<Contraction<T>> grouped_planar;
  WinogradKernels<Contraction<T>> winograd;  // where sums are float

  Kernel<InputGradient<T>> fold_taps_planar;
  Kernel<InputGradient<T>> fold_taps_channels_last;
  Kernel<InputGradient<T>> phased_rows;  // float and double with AVX-512 alone
  Kernel<InputGradient<T>> phased_planar;
  Kernel<InputGradient<T>> phased_blocks;
  Kernel<InputGradient<T>> phased_channels_last;

  Kernel<WeightContraction<T>> weight_gemm_planar;
  Kernel<WeightContraction<T>> weight_pointwise_planar;  // float and double
  Kernel<WeightContraction<T>> weight_matrix_unit;       // bfloat16 with AVX-512 alone
  Kernel<WeightContraction<T>> weight_dot_products;      // the same
  Kernel<WeightContraction<T>> weight_gemm_channels_last;
  Kernel<WeightContraction<T>> weight_broadcast_pixels;
  Kernel<WeightContraction<T>> weight_few_pixels;
  Kernel<WeightContraction<T>> weight_direct_planar;
  Kernel<WeightContraction<T>> weight_grouped_channels_last;
  Kernel<WeightContraction<T>> weight_grouped_planar;
  WinogradKernels<WeightContraction<T>> weight_winograd;  // where sums are float

  Kernel<Fold<T>> fold_padding;
};

}  // namespace cnnops
