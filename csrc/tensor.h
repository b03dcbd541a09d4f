// What the bindings need of torch, over its stable ABI only: sizes as lists, memory formats, and
// allocation of outputs. Kernels never see a tensor.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "checks.h"
#include "dtype.h"

namespace cnnops {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

/// The sizes of `tensor`, which must outlive them.
inline IntSpan sizes_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  return {sizes.begin(), sizes.end()};
}

/// The elements of `tensor`; nullptr where there is none.
template <class T>
const T* data_of(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T>
T* mutable_data_of(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

/// torch's suggest_memory_format for batched 4-d and 5-d tensors: do the strides decrease in the
/// order N, *spatial, C? Of layouts that fit both formats, as with C == 1, the strides decide.
bool is_channels_last(const Tensor& tensor);

/// Whether the elements lie densely in channels_last order, with the strides that torch gives a
/// new tensor.
bool is_dense_channels_last(const Tensor& tensor);

/// `tensor` itself where is_dense_channels_last, else such a copy.
Tensor to_channels_last(const Tensor& tensor);

/// An uninitialised tensor like `like` in dtype and device; channels_last needs 4 or 5 sizes.
Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last);
Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last, ScalarType dtype);

/// A dtype as torch's messages print it.
const char* dtype_name(ScalarType dtype);

/// Raises unless `tensor` is on the device of `input`; `name` says what it is.
void check_device(const char* name, const Tensor& tensor, const Tensor& input);

/// Raises unless `tensor` has the device and the dtype of `input`; `name` says what it is.
void check_like_input(const char* name, const Tensor& tensor, const Tensor& input);

}  // namespace cnnops
