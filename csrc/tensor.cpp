#include "tensor.h"

namespace cnnops {

bool is_channels_last(const Tensor& tensor) {
  const int64_t dim = tensor.dim();
  if (dim != 4 && dim != 5) return false;
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  if (strides[1] == 0) return false;
  int64_t least = 0;
  // C, then the spatial axes from the innermost outwards, then N.
  for (int64_t step = 0; step < dim; ++step) {
    const int64_t d = step == 0 ? 1 : step == dim - 1 ? 0 : dim - step;
    if (sizes[d] == 0 || strides[d] < least) return false;
    // An N of stride C alone is a contiguous (N, C, 1, 1) tensor: not channels_last.
    if (d == 0 && least == strides[1]) return false;
    least = strides[d];
    if (sizes[d] > 1) least = checked_mul(least, sizes[d]);
  }
  return true;
}

Tensor allocate(const IntList& sizes, const Tensor& like, bool channels_last) {
  return allocate(sizes, like, channels_last, like.scalar_type());
}

Tensor allocate(const IntList& sizes, const Tensor& like, bool channels_last, ScalarType dtype) {
  checked_numel(sizes);
  const MemoryFormat format = !channels_last    ? MemoryFormat::Contiguous
                              : sizes.size() == 4 ? MemoryFormat::ChannelsLast
                                                  : MemoryFormat::ChannelsLast3d;
  return torch::stable::empty({sizes.data(), sizes.size()}, dtype, std::nullopt, like.device(),
                              std::nullopt, format);
}

void check_same_dtype(const char* name, const Tensor& tensor, const Tensor& like) {
  CNNOPS_CHECK(tensor.is_cpu(), "Expected all tensors to be on the same device, but ", name,
               " is not on cpu");
  CNNOPS_CHECK(tensor.scalar_type() == like.scalar_type(), "expected ", name,
               " to have the dtype of the input, but got ", static_cast<int>(tensor.scalar_type()),
               " and ", static_cast<int>(like.scalar_type()));
}

}  // namespace cnnops
