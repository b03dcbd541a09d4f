// The operator schemas of torch.ops.cnnops, the same for every device.
//
// Every operator takes batched (N, C, *spatial) or unbatched (C, *spatial) tensors of one, two or
// three spatial axes; the length of the kernel or output size says which. `padding` of the
// convolutions lists (begin, end) for each spatial axis, outermost axis first. Implementations
// register themselves per device: conv.cpp and pool.cpp of cpu/, conv.cu and pool.cu of cuda/.
#pragma once

#include <torch/csrc/stable/library.h>

#define CONVOLUTION_ARGUMENTS \
  "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str padding_mode"
#define MAX_POOL_ARGUMENTS \
  "SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool ceil_mode"
#define AVG_POOL_ARGUMENTS                                                    \
  "SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, bool ceil_mode, " \
  "bool count_include_pad, SymInt? divisor_override"

namespace cnnops {

/// Defines every operator in `m`, the library of one namespace.
inline void define_schemas(torch::stable::detail::StableLibrary& m) {
  // The three contractions of <conv(x, w), g>; each is the derivative of the other two.
  m.def("convolution(Tensor input, Tensor weight, Tensor? bias, " CONVOLUTION_ARGUMENTS
        ") -> Tensor");
  m.def(
      "convolution_grad_input(Tensor grad_output, Tensor weight, Tensor? bias, "
      "SymInt[] input_size, " CONVOLUTION_ARGUMENTS ") -> Tensor");
  m.def(
      "convolution_grad_weight(Tensor grad_output, Tensor input, SymInt[] kernel_size, " CONVOLUTION_ARGUMENTS
      ") -> Tensor");

  // Max pooling: `indices` are torch's, int64 offsets into the flattened spatial plane.
  m.def("max_pool(Tensor input, " MAX_POOL_ARGUMENTS ") -> Tensor");
  m.def("max_pool_with_indices(Tensor input, " MAX_POOL_ARGUMENTS ") -> (Tensor, Tensor)");
  // For the gradient: the number of the tap in its window, in a byte.
  m.def("max_pool_with_taps(Tensor input, " MAX_POOL_ARGUMENTS ") -> (Tensor, Tensor)");
  m.def(
      "max_pool_taps_backward(Tensor grad_output, Tensor taps, SymInt[] input_size, " MAX_POOL_ARGUMENTS
      ") -> Tensor");
  m.def("adaptive_max_pool(Tensor input, SymInt[] output_size) -> (Tensor, Tensor)");
  m.def(
      "fractional_max_pool(Tensor input, SymInt[] kernel_size, SymInt[] output_size, "
      "Tensor random_samples) -> (Tensor, Tensor)");
  // out[indices[i]] += grad_output[i] per plane: the adjoint of every max pooling.
  m.def("max_pool_backward(Tensor grad_output, Tensor indices, SymInt[] input_size) -> Tensor");
  // out[i] = input[indices[i]] per plane: the adjoint of max_pool_backward and of max_unpool.
  m.def("max_pool_gather(Tensor input, Tensor indices) -> Tensor");
  // out[indices[i]] = input[i] per plane, zero elsewhere.
  m.def("max_unpool(Tensor input, Tensor indices, SymInt[] output_size) -> Tensor");

  m.def("avg_pool(Tensor input, " AVG_POOL_ARGUMENTS ") -> Tensor");
  m.def("avg_pool_backward(Tensor grad_output, SymInt[] input_size, " AVG_POOL_ARGUMENTS
        ") -> Tensor");
  m.def("adaptive_avg_pool(Tensor input, SymInt[] output_size) -> Tensor");
  m.def("adaptive_avg_pool_backward(Tensor grad_output, SymInt[] input_size) -> Tensor");
}

}  // namespace cnnops

#undef CONVOLUTION_ARGUMENTS
#undef MAX_POOL_ARGUMENTS
#undef AVG_POOL_ARGUMENTS
