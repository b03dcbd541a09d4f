// Convolution on the CPU: contractions -> plan -> kernels.
#include "conv_op.h"
#include "cpu/parallel.h"
#include "cpu/plan.h"

namespace cnnops {
namespace {

/// Sets every destination to its channel's bias, or to zero: what no tap reaches.
template <class T>
void fill_with_bias(T* dest, const Strides& strides, const T* bias, int64_t batch, int64_t channels,
                    const int64_t (&size)[kAxes]) {
  parallel_for(batch * channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T value = bias != nullptr ? bias[i % channels] : T{};
      T* plane = dest + i / channels * strides.batch + i % channels * strides.channel;
      for (int64_t d = 0; d < size[0]; ++d) {
        for (int64_t h = 0; h < size[1]; ++h) {
          T* row = plane + d * strides.axis[0] + h * strides.axis[1];
          for (int64_t w = 0; w < size[2]; ++w) row[w * strides.axis[2]] = value;
        }
      }
    }
  });
}

/// The engine of conv_op.h: kernels compute in the layout of the result.
class CpuEngine {
 public:
  CpuEngine(const Tensor&, const ConvGeometry&, bool channels_last)
      : channels_last_(channels_last) {}

  bool channels_last() const { return channels_last_; }
  Tensor to_channels_last(const Tensor& tensor) const { return cnnops::to_channels_last(tensor); }
  void copy(const Tensor& from, Tensor to) const { torch::stable::copy_(to, from); }

  template <class Problem>
  void run(Problem& p) const {
    plan_of(p, channels_last_).kernel.run(p);
  }
  template <class T>
  void fold(const Fold<T>& fold) const {
    conv_kernels<T>().fold_padding.run(fold);
  }
  template <class... Arguments>
  void fill_with_bias(const Arguments&... arguments) const {
    cnnops::fill_with_bias(arguments...);
  }

 private:
  bool channels_last_;
};

}  // namespace
}  // namespace cnnops

STABLE_TORCH_LIBRARY_IMPL(cnnops, CPU, m) {
  using Engine = cnnops::CpuEngine;
  m.impl("convolution", TORCH_BOX(&cnnops::convolution<Engine>));
  m.impl("convolution_grad_input", TORCH_BOX(&cnnops::convolution_grad_input<Engine>));
  m.impl("convolution_grad_weight", TORCH_BOX(&cnnops::convolution_grad_weight<Engine>));
}
