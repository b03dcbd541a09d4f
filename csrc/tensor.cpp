#include "tensor.h"

#include <utility>

namespace cnnops {
namespace {

/// The i-th axis of channels_last order from the innermost outwards: C, the spatial axes, N.
int channels_last_axis(int i, int dim) { return i == 0 ? 1 : i == dim - 1 ? 0 : dim - i; }

/// The strides that torch gives a new tensor of these sizes.
IntList dense_strides(IntSpan sizes, bool channels_last) {
  const int dim = static_cast<int>(sizes.size());
  IntList strides(dim);
  int64_t step = 1;
  if (!channels_last) {
    for (int d = dim - 1; d >= 0; --d) {
      strides[d] = step;
      if (sizes[d] > 1) step = checked_mul(step, sizes[d]);
    }
    return strides;
  }
  for (int i = 0; i < dim; ++i) {
    const int d = channels_last_axis(i, dim);
    strides[d] = step;
    step = checked_mul(step, sizes[d]);
  }
  return strides;
}

/// Type and index of the device that `tensor` is on, in the codes of the ABI.
std::pair<int32_t, int32_t> device_of(const Tensor& tensor) {
  int32_t type = 0, index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(tensor.get(), &type));
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &index));
  return {type, index};
}

/// The device of `tensor` as torch prints it: cpu, cuda:0.
std::string device_name(const Tensor& tensor) {
  const auto [type, index] = device_of(tensor);
  if (type == aoti_torch_device_type_cpu()) return "cpu";
  return join(type == aoti_torch_device_type_cuda() ? "cuda" : "device", ':', index);
}

}  // namespace

bool is_channels_last(const Tensor& tensor) {
  const int dim = static_cast<int>(tensor.dim());
  if (dim != 4 && dim != 5) return false;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  if (strides[1] == 0) return false;
  int64_t least = 0;
  for (int i = 0; i < dim; ++i) {
    const int d = channels_last_axis(i, dim);
    if (sizes[d] == 0 || strides[d] < least) return false;
    // An N of stride C alone is a contiguous (N, C, 1, 1) tensor: not channels_last.
    if (d == 0 && least == strides[1]) return false;
    least = strides[d];
    if (sizes[d] > 1) least = checked_mul(least, sizes[d]);
  }
  return true;
}

Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last) {
  return allocate(sizes, like, channels_last, like.scalar_type());
}

Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last, ScalarType dtype) {
  const int64_t numel = checked_numel(sizes);
  const IntList strides = dense_strides(sizes, channels_last);
  const int32_t code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  const auto [device, device_index] = device_of(like);
  // Not torch::stable::empty: that is a call through the dispatcher, and where memory is short it
  // prints a backtrace before it raises.
  AtenTensorHandle handle = nullptr;
  const auto error = aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(),
                                              strides.data(), code, device, device_index, &handle);
  CNNOPS_CHECK(
      error == TORCH_SUCCESS,
      device == aoti_torch_device_type_cuda() ? "CUDA out of memory" : "can't allocate memory",
      ": you tried to allocate ", numel * static_cast<int64_t>(aoti_torch_dtype_element_size(code)),
      " bytes for a tensor of size ", sizes);
  return Tensor(handle);
}

const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Byte: return "unsigned char";
    case ScalarType::Char: return "signed char";
    case ScalarType::Short: return "short int";
    case ScalarType::Int: return "int";
    case ScalarType::Long: return "long int";
    case ScalarType::Half: return "c10::Half";
    case ScalarType::BFloat16: return "c10::BFloat16";
    case ScalarType::Float: return "float";
    case ScalarType::Double: return "double";
    case ScalarType::Bool: return "bool";
    case ScalarType::ComplexFloat: return "c10::complex<float>";
    case ScalarType::ComplexDouble: return "c10::complex<double>";
    default: return torch::headeronly::toString(dtype);
  }
}

void check_device(const char* name, const Tensor& tensor, const Tensor& input) {
  CNNOPS_CHECK(device_of(tensor) == device_of(input),
               "Expected all tensors to be on the same device, but found ", name, " on ",
               device_name(tensor), " and the input on ", device_name(input));
}

void check_like_input(const char* name, const Tensor& tensor, const Tensor& input) {
  check_device(name, tensor, input);
  CNNOPS_CHECK(tensor.scalar_type() == input.scalar_type(), "Input type (",
               dtype_name(input.scalar_type()), ") and ", name, " type (",
               dtype_name(tensor.scalar_type()), ") should be the same");
}

bool is_dense_channels_last(const Tensor& tensor) {
  const auto strides = tensor.strides();
  return IntSpan(strides.begin(), strides.end()) == dense_strides(sizes_of(tensor), true);
}

Tensor to_channels_last(const Tensor& tensor) {
  if (is_dense_channels_last(tensor)) return tensor;
  // contiguous() would leave any strides on axes of size 1, but the kernels step by them.
  Tensor copy = allocate(sizes_of(tensor), tensor, true);
  return torch::stable::copy_(copy, tensor);
}

}  // namespace cnnops
