// What the CUDA bindings need of torch, over its stable ABI only: the current device and stream,
// memory of torch's caching allocator, and registration.
//
// With CNNOPS_EMULATED the same bindings and kernels are built for the host emulator: tensors are
// on the CPU, there is no stream, and the emulator learns which memory the kernels may touch.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include <vector>

#include "tensor.h"

/// Opens the block that registers operators of CUDA tensors, as in
/// `CNNOPS_CUDA_LIBRARY(m) { m.impl("convolution", TORCH_BOX(&cnnops::convolution)); }`.
#ifdef CNNOPS_EMULATED
#define CNNOPS_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(cnnops_emulated, CPU, m)
#else
#define CNNOPS_CUDA_LIBRARY(m) STABLE_TORCH_LIBRARY_IMPL(cnnops, CUDA, m)
#endif

namespace cnnops {

/// One operator call on a GPU, from its checks to its last launch: makes the device of the input
/// current, and has the stream to launch on and the memory to launch with.
///
/// Nothing here waits for the GPU or allocates outside torch's caching allocator, so that a call
/// can be captured into a CUDA graph.
class DeviceCall {
 public:
  explicit DeviceCall(const Tensor& input);
  ~DeviceCall();
  DeviceCall(const DeviceCall&) = delete;
  DeviceCall& operator=(const DeviceCall&) = delete;

  /// torch's current stream of the device.
  cudaStream_t stream() const { return stream_; }

  /// Streaming multiprocessors of the device.
  int multiprocessors() const;

  /// The elements of `tensor` for kernels to read, nullptr where there is none.
  template <class T>
  const T* read(const Tensor& tensor) {
    expose(tensor, false);
    return data_of<T>(tensor);
  }

  /// The elements of `tensor`, made by `allocate`, for kernels to write and read.
  template <class T>
  T* write(const Tensor& tensor) {
    expose(tensor, true);
    return mutable_data_of<T>(tensor);
  }

  /// cnnops::allocate for a result. The emulator fills it, and workspace, with bytes of 0xFF: NaN
  /// where they are read as floating point.
  Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last);
  Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last, ScalarType dtype);

  /// Uninitialised memory for `count` elements, aligned to 64 bytes and kept until the call ends;
  /// the allocator gives it to nothing else before the kernels launched on `stream` are done.
  ///
  /// A call may ask for dense copies of its arguments and result in another layout, each once, and
  /// for partial sums of at most kMaxPartialSums bytes.
  template <class T>
  T* workspace(int64_t count) {
    return static_cast<T*>(workspace_bytes(checked_mul(count, sizeof(T))));
  }

 private:
  void* workspace_bytes(int64_t bytes);
  void expose(const Tensor& tensor, bool writable);

  Tensor input_;
  cudaStream_t stream_ = nullptr;
#ifndef CNNOPS_EMULATED
  torch::stable::accelerator::DeviceGuard guard_;
#endif
  std::vector<Tensor> workspaces_;
};

/// The bound of workspace for sums that several blocks form and a second kernel joins.
constexpr int64_t kMaxPartialSums = int64_t{64} << 20;

}  // namespace cnnops
