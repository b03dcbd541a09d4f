// The engine of conv_op.h on the CPU: contractions -> plan -> kernels.
#pragma once

#include "conv_op.h"
#include "cpu/parallel.h"
#include "cpu/plan.h"
#include "cpu/prepared.h"

namespace cnnops {

/// Sets every destination to its channel's bias, or to zero: what no tap reaches. Channels are the
/// inner loop where they are neighbours.
template <class T>
void run(const Fill<T>& p) {
  const Strides& strides = p.dest_strides;
  const int64_t inner = strides.channel == 1 ? p.channels : 1, outer = p.channels / inner;
  const int64_t rows = p.batch * outer * p.size[0] * p.size[1];
  parallel_for(rows, 1 + 4096 / (1 + p.size[2] * inner), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t h = i % p.size[1], d = i / p.size[1] % p.size[0];
      const int64_t plane = i / p.size[1] / p.size[0], channel = plane % outer;
      T* row = p.dest + plane / outer * strides.batch + channel * strides.channel +
               d * strides.axis[0] + h * strides.axis[1];
      for (int64_t w = 0; w < p.size[2]; ++w) {
        T* to = row + w * strides.axis[2];
        for (int64_t c = 0; c < inner; ++c) to[c] = p.bias != nullptr ? p.bias[channel + c] : T{};
      }
    }
  });
}

/// Kernels compute in the layout of the result.
class CpuEngine {
 public:
  CpuEngine(const Tensor&, const ConvGeometry&, bool channels_last)
      : channels_last_(channels_last) {}

  bool channels_last() const { return channels_last_; }
  Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last) const {
    return cnnops::allocate(sizes, like, channels_last);
  }
  template <class T>
  const T* read(const Tensor& tensor) const {
    return data_of<T>(tensor);
  }
  template <class T>
  T* write(const Tensor& tensor) const {
    return mutable_data_of<T>(tensor);
  }
  Tensor to_channels_last(const Tensor& tensor) const { return cnnops::to_channels_last(tensor); }
  void copy(const Tensor& from, Tensor to) const { torch::stable::copy_(to, from); }

  template <class T>
  void run(Contraction<T>& p) const {
    OrderedTaps taps;
    const auto plan = plan_of(p, channels_last_, taps);
    p.prepared = PreparedWeights::take(plan, p);
    plan.kernel.run(p);
  }
  template <class T>
  bool run_whole(const InputGradient<T>& p) const {
    const auto plan = plan_of(p, channels_last_);
    if (plan.kernel.run != nullptr) plan.kernel.run(p);
    return plan.kernel.run != nullptr;
  }
  template <class T>
  void run(WeightContraction<T>& p) const {
    OrderedTaps taps;
    plan_of(p, channels_last_, taps).kernel.run(p);
  }
  template <class T>
  void fold(const Fold<T>& p) const {
    conv_kernels<T>().fold_padding.run(p);
  }
  template <class T>
  void fill(const Fill<T>& p) const {
    cnnops::run(p);
  }

 private:
  bool channels_last_;
};

}  // namespace cnnops
