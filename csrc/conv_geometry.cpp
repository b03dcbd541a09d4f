#include "conv_geometry.h"

namespace cnnops {
namespace {

/// Sizes as torch prints them in convolution errors: (3 x 4).
std::string by(IntSpan sizes) {
  std::ostringstream out;
  out << '(';
  for (size_t i = 0; i < sizes.size(); ++i) out << (i ? " x " : "") << sizes[i];
  out << ')';
  return out.str();
}

/// The sizes of the spatial axes.
IntSpan spatial(IntSpan sizes, int rank) { return {sizes.end() - rank, sizes.end()}; }

PaddingMode parse_mode(const std::string& name) {
  if (name == "zeros") return PaddingMode::zeros;
  if (name == "reflect") return PaddingMode::reflect;
  if (name == "replicate") return PaddingMode::replicate;
  if (name == "circular") return PaddingMode::circular;
  CNNOPS_CHECK_VALUE(false,
                     "padding_mode must be one of zeros, reflect, replicate, circular, but got '",
                     name, "'");
  return PaddingMode::zeros;
}

/// Copies the arguments into the axes of a geometry of `rank`, each in its allowed range.
ConvGeometry with_arguments(int rank, IntSpan kernel, const ConvArguments& arguments) {
  CNNOPS_CHECK(rank >= 1 && rank <= kAxes, "expected 1 to 3 spatial dimensions, but got ", rank);
  const auto check_length = [rank](const char* name, IntSpan list, size_t per_axis) {
    CNNOPS_CHECK(list.size() == rank * per_axis, "expected ", name, " to be a list of ",
                 rank * per_axis, " values to match the convolution dimensions, but got ", name,
                 "=", list);
  };
  check_length("stride", arguments.stride, 1);
  check_length("padding", arguments.padding, 2);
  check_length("dilation", arguments.dilation, 1);
  for (int64_t pad : arguments.padding) {
    CNNOPS_CHECK(pad >= 0,
                 "negative padding is not supported, but got padding=", arguments.padding);
  }
  for (int64_t stride : arguments.stride) {
    CNNOPS_CHECK(stride > 0,
                 "non-positive stride is not supported, but got stride=", arguments.stride);
  }
  for (int64_t dilation : arguments.dilation) {
    CNNOPS_CHECK(dilation > 0,
                 "dilation should be greater than zero, but got dilation=", arguments.dilation);
  }
  for (int64_t size : kernel) {
    CNNOPS_CHECK(size > 0, "kernel size should be greater than zero, but got kernel_size=", kernel);
  }
  CNNOPS_CHECK(arguments.groups > 0,
               "non-positive groups is not supported, but got groups=", arguments.groups);

  ConvGeometry geometry;
  geometry.rank = rank;
  geometry.groups = arguments.groups;
  geometry.mode = parse_mode(arguments.padding_mode);
  for (int i = 0; i < rank; ++i) {
    ConvAxis& axis = geometry.axis[kAxes - rank + i];
    axis.kernel = kernel[i];
    axis.stride = arguments.stride[i];
    axis.dilation = arguments.dilation[i];
    axis.pad_begin = arguments.padding[2 * i];
    axis.pad_end = arguments.padding[2 * i + 1];
  }
  return geometry;
}

void check_weight(IntSpan weight, int64_t groups) {
  CNNOPS_CHECK(weight.size() >= 3,
               "weight should have at least three dimensions, but got weight of size ", weight);
  CNNOPS_CHECK(weight.size() <= 5,
               "weight should have at most five dimensions, but got weight of size ", weight);
  CNNOPS_CHECK(groups > 0, "non-positive groups is not supported, but got groups=", groups);
  CNNOPS_CHECK(weight[0] >= groups, "Given groups=", groups, ", expected weight to be at least ",
               groups, " at dimension 0, but got weight of size ", weight, " instead");
  CNNOPS_CHECK(weight[0] % groups == 0, "Given groups=", groups,
               ", expected weight to be divisible by ", groups,
               " at dimension 0, but got weight of size ", weight, " instead");
}

void check_weight_channels(IntSpan weight, int64_t groups) {
  CNNOPS_CHECK(
      weight[1] > 0, "Given groups=", groups,
      ", expected weight to have at least one channel at dimension 1, but got weight of size ",
      weight, " instead");
}

/// True when `tensor` has a batch axis; raises when its rank fits neither form.
bool check_dim(const char* name, IntSpan tensor, int rank) {
  const size_t dim = tensor.size();
  CNNOPS_CHECK(dim == size_t(rank) + 1 || dim == size_t(rank) + 2, "Expected ", rank + 1,
               "D (unbatched) or ", rank + 2, "D (batched) ", name, " to conv", rank, "d, but got ",
               name, " of size: ", tensor);
  return dim == size_t(rank) + 2;
}

void check_bias(const char* transposed, IntSpan weight, std::optional<IntSpan> bias,
                int64_t channels) {
  if (!bias) return;
  CNNOPS_CHECK(bias->size() == 1 && (*bias)[0] == channels, "Given ", transposed, "weight of size ",
               weight, ", expected bias to be 1-dimensional with ", channels,
               " elements, but got bias of size ", *bias, " instead");
}

/// Output size of the axis for its input size; raises where the kernel does not fit.
int64_t output_size(const ConvGeometry& geometry, const ConvAxis& axis) {
  const int64_t padded = checked_add(axis.input, checked_add(axis.pad_begin, axis.pad_end));
  const int64_t extent = checked_add(checked_mul(axis.dilation, axis.kernel - 1), 1);
  if (padded < extent) {
    IntList inputs, kernels;
    for (int i = kAxes - geometry.rank; i < kAxes; ++i) {
      const ConvAxis& each = geometry.axis[i];
      inputs.push_back(checked_add(each.input, checked_add(each.pad_begin, each.pad_end)));
      kernels.push_back(checked_add(checked_mul(each.dilation, each.kernel - 1), 1));
    }
    CNNOPS_CHECK(false, "Calculated padded input size per channel: ", by(inputs),
                 ". Kernel size: ", by(kernels),
                 ". Kernel size can't be greater than actual input size");
  }
  return (padded - extent) / axis.stride + 1;
}

/// Padding that reads inside the tensor needs a tensor large enough to read from.
void check_mode(const ConvGeometry& geometry) {
  if (geometry.mode == PaddingMode::zeros) return;
  for (const ConvAxis& axis : geometry.axis) {
    for (int64_t pad : {axis.pad_begin, axis.pad_end}) {
      if (pad == 0) continue;
      CNNOPS_CHECK(axis.input > 0,
                   "expected a non-empty input for non-zero padding, but got a spatial size of 0");
      CNNOPS_CHECK(
          geometry.mode != PaddingMode::reflect || pad < axis.input,
          "Padding size should be less than the corresponding input dimension, but got: padding ",
          pad, " for a dimension of size ", axis.input);
      CNNOPS_CHECK(geometry.mode != PaddingMode::circular || pad <= axis.input,
                   "Padding value causes wrapping around more than once: padding ", pad,
                   " for a dimension of size ", axis.input);
    }
  }
}

IntList sizes(const ConvGeometry& geometry, int64_t channels, int64_t ConvAxis::* size) {
  IntList list;
  list.reserve(2 + kAxes);
  if (geometry.batched) list.push_back(geometry.batch);
  list.push_back(channels);
  for (int i = kAxes - geometry.rank; i < kAxes; ++i) list.push_back(geometry.axis[i].*size);
  return list;
}

}  // namespace

IntList ConvGeometry::input_sizes() const { return sizes(*this, in_channels, &ConvAxis::input); }
IntList ConvGeometry::output_sizes() const { return sizes(*this, out_channels, &ConvAxis::output); }
IntList ConvGeometry::weight_sizes() const {
  IntList list{out_channels, in_channels_per_group()};
  for (int i = kAxes - rank; i < kAxes; ++i) list.push_back(axis[i].kernel);
  return list;
}

ConvGeometry check_convolution(IntSpan input, IntSpan weight, std::optional<IntSpan> bias,
                               const ConvArguments& arguments) {
  check_weight(weight, arguments.groups);
  const int rank = static_cast<int>(weight.size()) - 2;
  ConvGeometry geometry = with_arguments(rank, spatial(weight, rank), arguments);
  geometry.batched = check_dim("input", input, rank);
  const int64_t channels = input[input.size() - rank - 1];
  CNNOPS_CHECK(channels == checked_mul(weight[1], arguments.groups),
               "Given groups=", arguments.groups, ", weight of size ", weight, ", expected input",
               input, " to have ", weight[1] * arguments.groups, " channels, but got ", channels,
               " channels instead");
  check_weight_channels(weight, arguments.groups);
  check_bias("", weight, bias, weight[0]);
  geometry.batch = geometry.batched ? input[0] : 1;
  geometry.in_channels = channels;
  geometry.out_channels = weight[0];
  for (int i = 0; i < rank; ++i)
    geometry.axis[kAxes - rank + i].input = input[input.size() - rank + i];
  for (int i = kAxes - rank; i < kAxes; ++i) {
    geometry.axis[i].output = output_size(geometry, geometry.axis[i]);
  }
  check_mode(geometry);
  checked_numel(geometry.output_sizes());
  return geometry;
}

namespace {

/// Fills input and output sizes and checks that they belong together.
void set_sizes(ConvGeometry& geometry, IntSpan input_size, IntSpan output) {
  const int rank = geometry.rank;
  CNNOPS_CHECK(input_size.size() == size_t(rank), "expected ", rank,
               " values for the spatial input size, but got ", input_size);
  const IntSpan output_spatial = spatial(output, rank);
  for (int i = 0; i < rank; ++i) {
    ConvAxis& axis = geometry.axis[kAxes - rank + i];
    axis.input = input_size[i];
    axis.output = output_spatial[i];
  }
  for (int i = kAxes - rank; i < kAxes; ++i) {
    const ConvAxis& axis = geometry.axis[i];
    CNNOPS_CHECK(
        axis.input > 0 || axis.output == 0, "Given input size per channel: ", by(output_spatial),
        ". Calculated output size per channel: ", by(input_size), ". Output size is too small");
    const int64_t expected = axis.input > 0 ? output_size(geometry, axis) : 0;
    CNNOPS_CHECK(axis.output <= expected, "a convolution of spatial size ", by(input_size),
                 " does not give an output of spatial size ", by(output_spatial));
  }
  check_mode(geometry);
}

}  // namespace

ConvGeometry check_grad_input(IntSpan grad_output, IntSpan weight, std::optional<IntSpan> bias,
                              IntSpan input_size, const ConvArguments& arguments) {
  check_weight(weight, arguments.groups);
  const int rank = static_cast<int>(weight.size()) - 2;
  ConvGeometry geometry = with_arguments(rank, spatial(weight, rank), arguments);
  geometry.batched = check_dim("input", grad_output, rank);
  const int64_t channels = grad_output[grad_output.size() - rank - 1];
  CNNOPS_CHECK(channels == weight[0], "Given transposed=1, weight of size ", weight,
               ", expected input", grad_output, " to have ", weight[0], " channels, but got ",
               channels, " channels instead");
  check_weight_channels(weight, arguments.groups);
  geometry.batch = geometry.batched ? grad_output[0] : 1;
  geometry.out_channels = weight[0];
  geometry.in_channels = checked_mul(weight[1], arguments.groups);
  check_bias("transposed=1, ", weight, bias, geometry.in_channels);
  set_sizes(geometry, input_size, grad_output);
  checked_numel(geometry.input_sizes());
  return geometry;
}

ConvGeometry check_grad_weight(IntSpan grad_output, IntSpan input, IntSpan kernel_size,
                               const ConvArguments& arguments) {
  const int rank = static_cast<int>(kernel_size.size());
  ConvGeometry geometry = with_arguments(rank, kernel_size, arguments);
  geometry.batched = check_dim("input", input, rank);
  CNNOPS_CHECK(input.size() == grad_output.size(),
               "expected grad_output and input of the same rank, but got ", grad_output, " and ",
               input);
  geometry.in_channels = input[input.size() - rank - 1];
  geometry.out_channels = grad_output[grad_output.size() - rank - 1];
  for (int64_t channels : {geometry.in_channels, geometry.out_channels}) {
    CNNOPS_CHECK(channels > 0 && channels % arguments.groups == 0,
                 "Given groups=", arguments.groups,
                 ", expected channels that groups divide, but got grad_output", grad_output,
                 " and input", input);
  }
  geometry.batch = geometry.batched ? input[0] : 1;
  CNNOPS_CHECK(!geometry.batched || grad_output[0] == input[0],
               "expected grad_output and input of the same batch size, but got ", grad_output,
               " and ", input);
  set_sizes(geometry, spatial(input, rank), grad_output);
  checked_numel(geometry.weight_sizes());
  return geometry;
}

}  // namespace cnnops
