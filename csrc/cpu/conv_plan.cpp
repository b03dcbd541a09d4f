// torch.ops.cnnops_plan: the convolution operators, noting their plans.
#include "conv_op.h"
#include "cpu/plan.h"
#include "cpu/plan_notes.h"
#include "schemas.h"

namespace cnnops {

std::vector<PlanNote>& plan_notes() {
  thread_local std::vector<PlanNote> notes;
  return notes;
}

namespace {

int64_t bytes_of(const Tensor& tensor) {
  return tensor.numel() * static_cast<int64_t>(tensor.element_size());
}

/// The engine of conv_op.h that stands for CpuEngine: it notes what that one would do.
class NotingEngine {
 public:
  NotingEngine(const Tensor&, const ConvGeometry&, bool channels_last)
      : channels_last_(channels_last) {}

  bool channels_last() const { return channels_last_; }

  Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last) const {
    return cnnops::allocate(sizes, like, channels_last);
  }
  // Tensors on the meta device have sizes and strides, but no elements.
  template <class T>
  const T* read(const Tensor&) const {
    return nullptr;
  }
  template <class T>
  T* write(const Tensor&) const {
    return nullptr;
  }

  Tensor to_channels_last(const Tensor& tensor) const {
    const Tensor result = cnnops::to_channels_last(tensor);
    if (result.get() != tensor.get()) {
      plan_notes().push_back(
          {"copy", "to channels_last, as the result lies", {}, bytes_of(result)});
    }
    return result;
  }
  void copy(const Tensor& from, const Tensor&) const {
    plan_notes().push_back({"copy", "to the layout of the result", {}, bytes_of(from)});
  }

  template <class Problem>
  void run(Problem& p) const {
    OrderedTaps taps;
    note(plan_of(p, channels_last_, taps), p);
  }
  template <class T>
  bool run_whole(const InputGradient<T>& p) const {
    const auto plan = plan_of(p, channels_last_);
    if (plan.kernel.run != nullptr) note(plan, p);
    return plan.kernel.run != nullptr;
  }
  template <class T>
  void fold(const Fold<T>& p) const {
    int64_t padded = p.batch * p.channels;
    for (const int64_t extent : p.extent) padded *= extent;
    const Kernel<Fold<T>>& kernel = conv_kernels<T>().fold_padding;
    plan_notes().push_back({kernel.name, "padding reads inside the input", kernel.footprint(p),
                            padded * static_cast<int64_t>(sizeof(T))});
  }
  template <class T>
  void fill(const Fill<T>&) const {
    plan_notes().push_back({"fill", "some results depend on no input", {}});
  }

 private:
  template <class Problem>
  static void note(const Plan<Problem>& plan, const Problem& p) {
    plan_notes().push_back({plan.kernel.name, plan.choice.reason, plan.kernel.footprint(p)});
  }

  bool channels_last_;
};

}  // namespace
}  // namespace cnnops

STABLE_TORCH_LIBRARY(cnnops_plan, m) { cnnops::define_schemas(m); }

STABLE_TORCH_LIBRARY_IMPL(cnnops_plan, Meta, m) {
  using Engine = cnnops::NotingEngine;
  m.impl("convolution", TORCH_BOX(&cnnops::convolution<Engine>));
  m.impl("convolution_grad_input", TORCH_BOX(&cnnops::convolution_grad_input<Engine>));
  m.impl("convolution_grad_weight", TORCH_BOX(&cnnops::convolution_grad_weight<Engine>));
}
