// The convolution operators on the CPU.
#include "cpu/channel_sums.h"
#include "cpu/engine.h"
#include "cpu/plain_call.h"
#include "cpu/prepared.h"

namespace cnnops {

namespace {

/// Padding with zeros by one number for both sides of each axis, as the operators take it.
void complete(IntList& padding, std::string& padding_mode) {
  const size_t rank = padding.size();
  padding.resize(2 * rank);
  for (size_t side = 2 * rank; side-- > 0;) padding[side] = padding[side / 2];
  padding_mode = "zeros";
}

/// convNd(rank, input, weight, bias, stride, padding, dilation, groups), as in torch.nn.functional.
PyObject* plain_conv(PyObject* record, PyObject* const* arguments, Py_ssize_t count) {
  using Call = PlainCall<convolution<CpuEngine>>;
  Call::Values values;
  auto& [input, weight, bias, stride, padding, dilation, groups, padding_mode] = values;
  int rank = 0;
  if (!read_function(arguments, count, rank, input, weight, bias, stride, padding, dilation,
                     groups)) {
    Py_RETURN_NONE;
  }
  complete(padding, padding_mode);
  return Call::run(record, arguments + 1, values);
}

/// convNd_kept(rank, input, weight, bias, stride, padding, dilation, groups, prepared): convNd with
/// what cnnops.nn.kept_weights keeps of the weight.
PyObject* plain_conv_kept(PyObject* record, PyObject* const* arguments, Py_ssize_t count) {
  using Call = PlainCall<convolution_kept>;
  Call::Values values;
  auto& [input, weight, bias, prepared, stride, padding, dilation, groups, padding_mode] = values;
  int rank = 0;
  if (!read_function(arguments, count, rank, input, weight, bias, stride, padding, dilation, groups,
                     prepared)) {
    Py_RETURN_NONE;
  }
  complete(padding, padding_mode);
  return Call::run(record, arguments + 1, values);
}

/// Sets the spatial size of a transposed convolution; false where the long way must look closer.
bool set_transposed_size(IntList& to, const Tensor& input, const Tensor& weight,
                         const ConvArguments& arguments, const IntList& output_padding) {
  const size_t rank = arguments.stride.size();
  const auto from = input.sizes(), kernel = weight.sizes();
  if (kernel.size() != rank + 2 || from.size() < rank + 1) return false;
  for (size_t i = 0; i < rank; ++i) {
    const int64_t stride = arguments.stride[i], extra = output_padding[i];
    if (extra < 0 || (extra >= stride && extra > 0)) return false;
    // 128 bits hold any such sum.
    const __int128 size = __int128(from[from.size() - rank + i] - 1) * stride + extra + 1 +
                          __int128(kernel[2 + i] - 1) * arguments.dilation[i] -
                          __int128(arguments.padding[2 * i]) - arguments.padding[2 * i + 1];
    to.push_back(static_cast<int64_t>(size));
    if (to.back() != size) return false;
  }
  return true;
}

/// conv_transposeNd(rank, input, weight, bias, stride, padding, output_padding, groups, dilation),
/// as in torch.nn.functional.
PyObject* plain_conv_transpose(PyObject* record, PyObject* const* arguments, Py_ssize_t count) {
  using Call = PlainCall<convolution_grad_input<CpuEngine>>;
  Call::Values values;
  auto& [input, weight, bias, size, stride, padding, dilation, groups, padding_mode] = values;
  IntList output_padding;
  int rank = 0;
  if (!read_function(arguments, count, rank, input, weight, bias, stride, padding, output_padding,
                     groups, dilation)) {
    Py_RETURN_NONE;
  }
  complete(padding, padding_mode);
  if (!set_transposed_size(size, input, weight, {stride, padding, dilation, groups, padding_mode},
                           output_padding)) {
    Py_RETURN_NONE;
  }
  return Call::run(record, arguments + 1, values);
}

/// The gradients of a convolution or a transposed convolution for its input, weight and bias, as
/// far as they are asked for: what backward computes in one call.
using Gradients = std::tuple<std::optional<Tensor>, std::optional<Tensor>, std::optional<Tensor>>;

/// The sizes of the spatial axes, `rank` of them.
IntList spatial(const Tensor& tensor, int rank) {
  const IntSpan sizes = sizes_of(tensor);
  CNNOPS_CHECK(std::ssize(sizes) > rank, "expected more than ", rank, " dimensions, but got ",
               sizes);
  return IntList(sizes.end() - rank, sizes.end());
}

Gradients convolution_gradients(const Tensor& grad, const Tensor& input, const Tensor& weight,
                                bool for_input, bool for_weight, bool for_bias,
                                const IntList& stride, const IntList& padding,
                                const IntList& dilation, int64_t groups,
                                const std::string& padding_mode) {
  const int rank = static_cast<int>(stride.size());
  Gradients all;
  auto& [grad_input, grad_weight, grad_bias] = all;
  if (for_input) {
    grad_input = convolution_grad_input<CpuEngine>(grad, weight, std::nullopt, spatial(input, rank),
                                                   stride, padding, dilation, groups, padding_mode);
  }
  if (for_weight) {
    grad_weight = convolution_grad_weight<CpuEngine>(grad, input, spatial(weight, rank), stride,
                                                     padding, dilation, groups, padding_mode);
  }
  if (for_bias) grad_bias = sum_to_channels(grad, rank);
  return all;
}

/// The first of these may have more positions than `input`, whose others it never read.
Gradients convolution_transpose_gradients(const Tensor& grad, const Tensor& input,
                                          const Tensor& weight, bool for_input, bool for_weight,
                                          bool for_bias, const IntList& stride,
                                          const IntList& padding, const IntList& dilation,
                                          int64_t groups, const std::string& padding_mode) {
  const int rank = static_cast<int>(stride.size());
  Gradients all;
  auto& [grad_input, grad_weight, grad_bias] = all;
  if (for_input) {
    grad_input = convolution<CpuEngine>(grad, weight, std::nullopt, stride, padding, dilation,
                                        groups, padding_mode);
  }
  if (for_weight) {
    grad_weight = convolution_grad_weight<CpuEngine>(input, grad, spatial(weight, rank), stride,
                                                     padding, dilation, groups, padding_mode);
  }
  if (for_bias) grad_bias = sum_to_channels(grad, rank);
  return all;
}

}  // namespace

PyMethodDef conv_plain_calls[] = {
    plain_method<plain_call<convolution<CpuEngine>>>("convolution"),
    plain_method<plain_call<convolution_grad_input<CpuEngine>>>("convolution_grad_input"),
    plain_method<plain_call<convolution_grad_weight<CpuEngine>>>("convolution_grad_weight"),
    plain_method<plain_call<convolution_gradients>>("convolution_gradients"),
    plain_method<plain_call<convolution_transpose_gradients>>("convolution_transpose_gradients"),
    plain_method<plain_call<convolution_kept>>("convolution_kept"),
    plain_method<plain_conv>("convNd"),
    plain_method<plain_conv_kept>("convNd_kept"),
    plain_method<plain_conv_transpose>("conv_transposeNd"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace cnnops

STABLE_TORCH_LIBRARY_IMPL(cnnops, CPU, m) {
  using Engine = cnnops::CpuEngine;
  m.impl("convolution", TORCH_BOX(&cnnops::convolution<Engine>));
  m.impl("convolution_grad_input", TORCH_BOX(&cnnops::convolution_grad_input<Engine>));
  m.impl("convolution_grad_weight", TORCH_BOX(&cnnops::convolution_grad_weight<Engine>));
}
