// torch's CUDA functions of the stable ABI are declared only where this is defined.
#ifndef CNNOPS_EMULATED
#define USE_CUDA
#endif

#include "cuda/runtime.h"

#include <cstring>

#ifdef CNNOPS_EMULATED
#include "cuda/simt.cuh"
#include "schemas.h"

STABLE_TORCH_LIBRARY(cnnops_emulated, m) { cnnops::define_schemas(m); }
#endif

namespace cnnops {

#ifdef CNNOPS_EMULATED

DeviceCall::DeviceCall(const Tensor& input) : input_(input) {
  // Not the default stream, so that a launch that forgets the stream of its call is noticed.
  static char stream;
  stream_ = reinterpret_cast<cudaStream_t>(&stream);
  simt::expect_stream(stream_);
}

DeviceCall::~DeviceCall() {
  simt::expect_stream(nullptr);
  simt::forget_memory();
}

// Few, so that small problems have more blocks than that.
int DeviceCall::multiprocessors() const { return 4; }

void DeviceCall::expose(const Tensor& tensor, bool writable) {
  if (tensor.numel() == 0) return;
  // The elements lie between the least and the greatest address that the strides reach.
  int64_t last = 0;
  for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
  const auto bytes = static_cast<size_t>((last + 1) * tensor.element_size());
  simt::expose_memory(tensor.const_data_ptr(), bytes, writable);
}

/// Fills new memory, so that a kernel that reads or leaves what nothing wrote is noticed.
static Tensor poisoned(Tensor tensor) {
  const size_t bytes = static_cast<size_t>(tensor.numel()) * tensor.element_size();
  if (bytes > 0) std::memset(tensor.mutable_data_ptr(), 0xFF, bytes);
  return tensor;
}

#else

namespace {

int32_t device_index(const Tensor& tensor) {
  int32_t index = 0;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(tensor.get(), &index));
  return index;
}

}  // namespace

DeviceCall::DeviceCall(const Tensor& input) : input_(input), guard_(device_index(input)) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device_index(input), &stream));
  stream_ = static_cast<cudaStream_t>(stream);
}

DeviceCall::~DeviceCall() = default;

int DeviceCall::multiprocessors() const {
  int count = 0;
  const auto error =
      cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device_index(input_));
  CNNOPS_CHECK(error == cudaSuccess,
               "cannot ask the GPU for its size: ", cudaGetErrorString(error));
  return count;
}

void DeviceCall::expose(const Tensor&, bool) {}

static Tensor poisoned(Tensor tensor) { return tensor; }

#endif

Tensor DeviceCall::allocate(IntSpan sizes, const Tensor& like, bool channels_last) {
  return poisoned(cnnops::allocate(sizes, like, channels_last));
}

Tensor DeviceCall::allocate(IntSpan sizes, const Tensor& like, bool channels_last,
                            ScalarType dtype) {
  return poisoned(cnnops::allocate(sizes, like, channels_last, dtype));
}

void* DeviceCall::workspace_bytes(int64_t bytes) {
  workspaces_.push_back(allocate(IntList{bytes}, input_, false, ScalarType::Byte));
  expose(workspaces_.back(), true);
  return workspaces_.back().mutable_data_ptr();
}

}  // namespace cnnops
