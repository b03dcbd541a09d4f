// Convolution on CUDA: contractions -> plan -> launches.
#include "conv_op.h"
#include "cuda/conv_kernels.h"
#include "cuda/fill.cuh"
#include "cuda/fold_padding.cuh"
#include "cuda/launch_grid.h"
#include "cuda/plan.h"
#include "cuda/runtime.h"
#include "cuda/transpose.cuh"

namespace cnnops::cuda {
namespace {

/// Moves the elements of a batched tensor into `to`, which has its sizes, through square tiles that
/// are read along pixels and written along channels, or without `to_channels_last` the other way.
template <class Word, class Index, bool to_channels_last>
void launch_transpose(DeviceCall& device, const Tensor& from, const Tensor& to) {
  const int spatial = static_cast<int>(from.dim()) - 2;
  int64_t size[kAxes] = {1, 1, 1};
  const auto strides_of = [&](const Tensor& tensor) {
    Strides<Index> strides;
    if (tensor.size(0) > 1) strides.batch = static_cast<Index>(tensor.stride(0));
    if (tensor.size(1) > 1) strides.channel = static_cast<Index>(tensor.stride(1));
    for (int i = 0; i < spatial; ++i) {
      const int axis = kAxes - spatial + i;
      size[axis] = tensor.size(2 + i);
      if (size[axis] > 1) strides.axis[axis] = static_cast<Index>(tensor.stride(2 + i));
    }
    return strides;
  };
  Transpose<Word, Index> args;
  args.from = device.read<Word>(from);
  args.from_strides = strides_of(from);
  args.to = device.write<Word>(to);
  args.to_strides = strides_of(to);
  const int64_t pixels = size[0] * size[1] * size[2];
  args.channels = static_cast<Index>(from.size(1));
  args.pixels = static_cast<Index>(pixels);
  for (int i = 0; i < 2; ++i) args.by_size[i] = Divisor<Index>(size[1 + i]);
  const int64_t channel_tiles = ceil_div(from.size(1), kTransposeSide);
  const int64_t pixel_tiles = ceil_div(pixels, kTransposeSide);
  args.channel_tiles = Divisor<int32_t>(channel_tiles);
  args.pixel_tiles = Divisor<int32_t>(pixel_tiles);
  const int64_t blocks = checked_mul(from.size(0), checked_mul(channel_tiles, pixel_tiles));
  SIMT_LAUNCH((transpose<Word, Index, to_channels_last>), grid_of(blocks), dim3(kTransposeThreads),
              0, device.stream(), args);
}

/// The distance from the first to the last element.
double extent_of(const Tensor& tensor) {
  double most = 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    most += double(tensor.size(i) - 1) * double(tensor.stride(i));
  }
  return most;
}

template <class Word, bool to_channels_last>
void launch_transpose(DeviceCall& device, const Tensor& from, const Tensor& to) {
  if (extent_of(from) + kTransposeSide <= INT32_MAX &&
      extent_of(to) + kTransposeSide <= INT32_MAX) {
    return launch_transpose<Word, int32_t, to_channels_last>(device, from, to);
  }
  return launch_transpose<Word, int64_t, to_channels_last>(device, from, to);
}

template <bool to_channels_last>
void launch_transpose(DeviceCall& device, const Tensor& from, const Tensor& to) {
  if (from.numel() == 0) return;
  switch (from.element_size()) {
    case 2: return launch_transpose<uint16_t, to_channels_last>(device, from, to);
    case 4: return launch_transpose<uint32_t, to_channels_last>(device, from, to);
    default: return launch_transpose<uint64_t, to_channels_last>(device, from, to);
  }
}

template <class T>
void launch_fold(DeviceCall& device, const Fold<T>& fold) {
  FoldProblem<T> args;
  args.batch = fold.batch;
  args.channels = fold.channels;
  args.mode = fold.walk[0].mode;
  int64_t size = fold.batch * fold.channels;
  for (int i = 0; i < kAxes; ++i) {
    args.axis[i] = {fold.walk[i].size, fold.extent[i], fold.pad_begin[i]};
    size *= fold.walk[i].size;
  }
  args.source = fold.source;
  args.source_strides = fold.source_strides;
  args.bias = fold.bias;
  args.dest = fold.dest;
  args.dest_strides = fold.dest_strides;
  SIMT_LAUNCH(fold_padding<T>, grid_over(size), dim3(256), 0, device.stream(), args);
}

/// The engine of conv_op.h.
class CudaEngine {
 public:
  CudaEngine(const Tensor& input, const ConvGeometry& geometry, bool channels_last)
      : device_(input),
        tensor_cores_(uses_tensor_cores(input.scalar_type(), geometry, channels_last)),
        channels_last_(channels_last || tensor_cores_) {}

  bool channels_last() const { return channels_last_; }
  Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last) {
    return device_.allocate(sizes, like, channels_last);
  }
  template <class T>
  const T* read(const Tensor& tensor) {
    return device_.read<T>(tensor);
  }
  template <class T>
  T* write(const Tensor& tensor) {
    return device_.write<T>(tensor);
  }
  Tensor to_channels_last(const Tensor& tensor) {
    if (is_dense_channels_last(tensor)) return tensor;
    const Tensor copy = device_.allocate(sizes_of(tensor), tensor, true);
    launch_transpose<true>(device_, tensor, copy);
    return copy;
  }
  /// Kernels compute in another layout than that of the result only for planar ones.
  void copy(const Tensor& from, const Tensor& to) { launch_transpose<false>(device_, from, to); }

  template <class T>
  void run(Contraction<T>& p) {
    merge_pointwise(p);
    if constexpr (kHasMma<T>) {
      if (tensor_cores_) return run_implicit_gemm(device_, p);
    }
    if constexpr (!std::is_integral_v<T>) {
      if (run_depthwise(device_, p, channels_last_)) return;
    }
    run_fma_gemm(device_, p, channels_last_);
  }
  // Every phase is a kernel of its own.
  template <class T>
  bool run_whole(const InputGradient<T>&) const {
    return false;
  }
  template <class T>
  void run(const WeightContraction<T>& p) {
    if constexpr (kHasMma<T>) {
      if (tensor_cores_) return run_implicit_gemm_weight(device_, p);
    }
    if constexpr (!std::is_integral_v<T>) {
      if (run_depthwise_weight(device_, p, channels_last_)) return;
    }
    run_fma_gemm_weight(device_, p, channels_last_);
  }
  template <class T>
  void fold(const Fold<T>& p) {
    launch_fold(device_, p);
  }
  template <class T>
  void fill(const Fill<T>& p) {
    const int64_t size = p.batch * p.channels * p.size[0] * p.size[1] * p.size[2];
    SIMT_LAUNCH(cuda::fill<T>, grid_over(size), dim3(256), 0, device_.stream(), p);
  }

 private:
  DeviceCall device_;
  const bool tensor_cores_;
  const bool channels_last_;
};

}  // namespace
}  // namespace cnnops::cuda

CNNOPS_CUDA_LIBRARY(m) {
  using Engine = cnnops::cuda::CudaEngine;
  m.impl("convolution", TORCH_BOX(&cnnops::convolution<Engine>));
  m.impl("convolution_grad_input", TORCH_BOX(&cnnops::convolution_grad_input<Engine>));
  m.impl("convolution_grad_weight", TORCH_BOX(&cnnops::convolution_grad_weight<Engine>));
}
