// The engine of conv_op.h on the CPU: contractions -> plan -> kernels.
#pragma once

#include "conv_op.h"
#include "cpu/parallel.h"
#include "cpu/plan.h"
#include "cpu/prepared.h"

namespace cnnops {

/// Sets every destination to its channel's bias, or to zero: what no tap reaches.
template <class T>
void run(const Fill<T>& p) {
  parallel_for(p.batch * p.channels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T value = p.bias != nullptr ? p.bias[i % p.channels] : T{};
      const Strides& strides = p.dest_strides;
      T* plane = p.dest + i / p.channels * strides.batch + i % p.channels * strides.channel;
      for (int64_t d = 0; d < p.size[0]; ++d) {
        for (int64_t h = 0; h < p.size[1]; ++h) {
          T* row = plane + d * strides.axis[0] + h * strides.axis[1];
          for (int64_t w = 0; w < p.size[2]; ++w) row[w * strides.axis[2]] = value;
        }
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
  Tensor allocate(const IntList& sizes, const Tensor& like, bool channels_last) const {
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
    const auto plan = plan_of(p, channels_last_);
    p.prepared = PreparedWeight::take(plan, p);
    plan.kernel.run(p);
  }
  template <class T>
  void run(WeightContraction<T>& p) const {
    plan_of(p, channels_last_).kernel.run(p);
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
