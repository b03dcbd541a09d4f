// torch.ops.cnnops_plan: the pooling operators, noting their plans.
#include "cpu/pool_plan.h"
#include "cpu/dispatch.h"
#include "cpu/plan_notes.h"
#include "pool_op.h"

namespace cnnops {
namespace {

/// The engine of pool_op.h that stands for CpuEngine: it notes what that one would do.
class NotingEngine {
 public:
  explicit NotingEngine(const Tensor&) {}

  static void check_window_span(const PoolGeometry&) {}

  Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last, ScalarType dtype) {
    return cnnops::allocate(sizes, like, channels_last, dtype);
  }

  template <class T>
  void max_pool(const PoolGeometry& g, bool channels_last, const Tensor&, const Tensor&,
                const Tensor* indices) {
    const bool places = indices != nullptr;
    note<T>(PlannedPool(g, channels_last, places, registers<T>()), places, false);
  }

  template <class T>
  void max_pool_taps(const PoolGeometry& g, bool channels_last, const Tensor&, const Tensor&,
                     const Tensor&) {
    note<T>(PlannedPool(g, channels_last, TapPass::forward, registers<T>()), true, false);
  }
  template <class T>
  void max_pool_taps_backward(const PoolGeometry& g, bool channels_last, const Tensor&,
                              const Tensor&, const Tensor&) {
    const PlannedPool plan(g, channels_last, TapPass::backward, registers<T>());
    note_scratch<T>(plan, pool_kernels<T>().max_pool_taps_scratch(plan.problem()), 0);
  }

  template <class T>
  void avg_pool(const PoolGeometry& g, bool channels_last, WindowCount count, int64_t divisor,
                bool backward, const Tensor&, const Tensor&) {
    note<T>(PlannedPool(g, channels_last, count, divisor, backward, registers<T>()), false, true);
  }

  template <class T>
  void fractional_max_pool(const PoolGeometry&, bool, const Tensor&, const Tensor&, const Tensor&,
                           const Tensor&) {
    plan_notes().push_back({"pool_fractional", "windows differ from channel to channel", {}});
  }

  template <class T>
  void scatter_add(const PoolGeometry& g, bool channels_last, const Tensor&, const Tensor&,
                   const Tensor&) {
    const int64_t scratch =
        pool_kernels<T>().scatter_add_scratch(indexed_problem(g, channels_last));
    plan_notes().push_back(
        {"pool_scatter_add", "indices say where gradients go", {0, 0, 0, scratch}});
  }
  template <class T>
  void scatter(const PoolGeometry&, bool, const Tensor&, const Tensor&, const Tensor&) {
    plan_notes().push_back({"pool_scatter", "indices say where elements go", {}});
  }
  template <class T>
  void gather(const PoolGeometry&, bool, const Tensor&, const Tensor&, const Tensor&) {
    plan_notes().push_back({"pool_gather", "indices say where elements come from", {}});
  }

 private:
  template <class T>
  static const PoolRegisters& registers() {
    return pool_kernels<T>().registers;
  }
  template <class T>
  static void note(const PlannedPool& plan, bool places, bool divides) {
    const PoolKernels<T>& kernels = pool_kernels<T>();
    note_scratch<T>(plan, kernels.scratch(plan.problem(), places),
                    kernels.tables(plan.problem(), places, divides));
  }
  template <class T>
  static void note_scratch(const PlannedPool& plan, int64_t scratch, int64_t tables) {
    plan_notes().push_back({name_of(plan.problem().algorithm),
                            plan.reason(),
                            {1, registers<T>().lanes, plan.bytes() + tables, scratch}});
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cnnops_plan, Meta, m) { register_pooling<NotingEngine>(m); }

}  // namespace cnnops
