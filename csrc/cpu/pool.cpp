// Pooling on the CPU: geometry -> windows -> kernels.
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/plain_call.h"
#include "cpu/pool_plan.h"
#include "pool_op.h"

namespace cnnops {

namespace {

/// Adaptive windows may lie on a grid all the same, as where the output divides the input.
void find_grid(PoolWindows* axis) {
  if (axis->stride != 0 || axis->output < 2 || axis->begin[1] == 0) return;
  const int64_t stride = axis->begin[1], kernel = axis->end[0];
  for (int64_t o = 0; o < axis->output; ++o) {
    if (axis->begin[o] != o * stride || axis->end[o] != o * stride + kernel) return;
  }
  axis->stride = stride;
  axis->kernel = kernel;
  axis->padding = 0;
}

}  // namespace

PlannedPool::PlannedPool(const PoolGeometry& g, bool channels_last, WindowCount count,
                         int64_t divisor, bool inverse, const PoolRegisters& registers)
    : problem_{g.batch, g.channels, channels_last, divisor, {}, inverse, {}, {}, {}} {
  const PoolGeometry flat = with_global_windows_flat(g, &count);
  list_windows(flat, count, inverse, registers.lanes);
  take(choose_pool(problem_, false, registers));
}

PlannedPool::PlannedPool(const PoolGeometry& g, bool channels_last, bool places,
                         const PoolRegisters& registers)
    : problem_{g.batch, g.channels, channels_last, 0, {}, false, {}, {}, {}} {
  WindowCount count = WindowCount::kNone;
  list_windows(with_global_windows_flat(g, &count), count, false, registers.lanes);
  take(choose_pool(problem_, places, registers));
}

PlannedPool::PlannedPool(const PoolGeometry& g, bool channels_last, TapPass pass,
                         const PoolRegisters& registers)
    : problem_{g.batch, g.channels, channels_last, 0, {}, pass == TapPass::backward, {}, {}, {}} {
  list_windows(g, WindowCount::kNone, true, registers.lanes);
  take(choose_tap_pool(problem_, pass, registers));
}

void PlannedPool::take(const PoolChoice& choice) {
  problem_.algorithm = choice.algorithm;
  reason_ = choice.reason;
}

void PlannedPool::list_windows(const PoolGeometry& g, WindowCount count, bool inverse,
                               int64_t lanes) {
  int64_t size = 0;
  for (const PoolAxis& axis : g.axis) size += window_list_size(axis, inverse);
  lists_.resize(size);
  int64_t* lists = lists_.data();
  for (int i = 0; i < 3; ++i) {
    const PoolAxis& axis = g.axis[i];
    const AxisWindows windows = axis_windows(axis, count, inverse, lists);
    lists += window_list_size(axis, inverse);
    problem_.axis[i] = {axis.input,    axis.output,   axis.kernel,   axis.stride,
                        axis.padding,  axis.dilation, windows.begin, windows.end,
                        windows.count, windows.first, windows.last};
    find_grid(&problem_.axis[i]);
  }
  if (problem_.channels_last) return;
  problem_.cut = cut_into_blocks(problem_);
  if (!can_block(problem_, lanes)) problem_.chunks = cut_into_chunks(problem_, lanes);
}

namespace {

/// Raises for the first index outside the plane of `g`, which there is one of.
[[noreturn]] void raise_invalid_index(const PoolGeometry& g, const Tensor& indices) {
  const int64_t* at = data_of<int64_t>(indices);
  const int64_t* last = at + indices.numel() - 1;
  while (at < last && *at >= 0 && *at < g.input_plane()) ++at;
  IntList volume;
  for (int a = 3 - g.rank; a < 3; ++a) volume.push_back(g.axis[a].input);
  CNNOPS_CHECK(false, "Found an invalid max index: ", *at, " (output volumes are of size ",
               join_sizes(volume), ")");
}

/// The engine of pool_op.h.
class CpuEngine {
 public:
  explicit CpuEngine(const Tensor&) {}

  /// Raises where a window spans more of its plane than the 32-bit offsets inside the kernels hold.
  static void check_window_span(const PoolGeometry& g) {
    if (g.input_plane() <= INT32_MAX) return;
    int64_t span = 0, step = 1;
    for (int i = 2; i >= 0; --i) {
      const PoolAxis& axis = g.axis[i];
      // An adaptive window holds at most this many; one on a grid at most the whole axis.
      const int64_t reach = axis.stride == 0 ? axis.input / (axis.output > 0 ? axis.output : 1) + 2
                                             : (axis.kernel - 1) * axis.dilation + 1;
      span += (reach < axis.input ? reach : axis.input) * step;
      step *= axis.input;
    }
    CNNOPS_CHECK(span <= INT32_MAX, "max pooling with indices: a window spans ", span,
                 " elements of its input plane, more than the supported ", INT32_MAX);
  }

  Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last, ScalarType dtype) {
    return cnnops::allocate(sizes, like, channels_last, dtype);
  }

  template <class T>
  void max_pool(const PoolGeometry& g, bool channels_last, const Tensor& input,
                const Tensor& output, const Tensor* indices) {
    const PoolKernels<T>& kernels = pool_kernels<T>();
    const PlannedPool plan(g, channels_last, indices != nullptr, kernels.registers);
    kernels.max_pool(plan.problem(), data_of<T>(input), mutable_data_of<T>(output),
                     indices ? mutable_data_of<int64_t>(*indices) : nullptr);
  }

  template <class T>
  void max_pool_taps(const PoolGeometry& g, bool channels_last, const Tensor& input,
                     const Tensor& output, const Tensor& taps) {
    const PoolKernels<T>& kernels = pool_kernels<T>();
    const PlannedPool plan(g, channels_last, TapPass::forward, kernels.registers);
    kernels.max_pool_taps(plan.problem(), data_of<T>(input), mutable_data_of<T>(output),
                          mutable_data_of<uint8_t>(taps));
  }

  template <class T>
  void max_pool_taps_backward(const PoolGeometry& g, bool channels_last, const Tensor& grad_output,
                              const Tensor& taps, const Tensor& grad_input) {
    const PoolKernels<T>& kernels = pool_kernels<T>();
    const PlannedPool plan(g, channels_last, TapPass::backward, kernels.registers);
    kernels.max_pool_taps_backward(plan.problem(), data_of<T>(grad_output), data_of<uint8_t>(taps),
                                   mutable_data_of<T>(grad_input));
  }

  template <class T>
  void avg_pool(const PoolGeometry& g, bool channels_last, WindowCount count, int64_t divisor,
                bool backward, const Tensor& from, const Tensor& to) {
    const PoolKernels<T>& kernels = pool_kernels<T>();
    const PlannedPool plan(g, channels_last, count, divisor, backward, kernels.registers);
    const auto kernel = backward ? kernels.avg_pool_backward : kernels.avg_pool;
    kernel(plan.problem(), data_of<T>(from), mutable_data_of<T>(to));
  }

  template <class T>
  void fractional_max_pool(const PoolGeometry& g, bool channels_last, const Tensor& input,
                           const Tensor& samples, const Tensor& output, const Tensor& indices) {
    FractionalProblem problem{g.batch, g.channels, channels_last, g.rank, {}, {}, {}};
    for (int i = 0; i < 3; ++i) {
      problem.input[i] = g.axis[i].input;
      problem.output[i] = g.axis[i].output;
      problem.kernel[i] = g.axis[i].kernel;
    }
    pool_kernels<T>().fractional_max_pool(problem, data_of<T>(input), data_of<T>(samples),
                                          mutable_data_of<T>(output),
                                          mutable_data_of<int64_t>(indices));
  }

  template <class T>
  void scatter_add(const PoolGeometry& g, bool channels_last, const Tensor& from,
                   const Tensor& indices, const Tensor& to) {
    move_by_index<T>(pool_kernels<T>().scatter_add, g, channels_last, from, indices, to);
  }
  template <class T>
  void scatter(const PoolGeometry& g, bool channels_last, const Tensor& from, const Tensor& indices,
               const Tensor& to) {
    move_by_index<T>(pool_kernels<T>().scatter, g, channels_last, from, indices, to);
  }
  template <class T>
  void gather(const PoolGeometry& g, bool channels_last, const Tensor& from, const Tensor& indices,
              const Tensor& to) {
    move_by_index<T>(pool_kernels<T>().gather, g, channels_last, from, indices, to);
  }

 private:
  template <class T, class Kernel>
  static void move_by_index(Kernel kernel, const PoolGeometry& g, bool channels_last,
                            const Tensor& from, const Tensor& indices, const Tensor& to) {
    const bool valid = kernel(indexed_problem(g, channels_last), data_of<T>(from),
                              data_of<int64_t>(indices), mutable_data_of<T>(to));
    if (!valid) raise_invalid_index(g, indices);
  }
};

}  // namespace

PyMethodDef pool_plain_calls[] = {
    plain_method<plain_call<max_pool<CpuEngine>>>("max_pool"),
    plain_method<plain_call<max_pool_with_indices<CpuEngine>>>("max_pool_with_indices"),
    plain_method<plain_call<max_pool_with_taps<CpuEngine>>>("max_pool_with_taps"),
    plain_method<plain_call<max_pool_taps_backward<CpuEngine>>>("max_pool_taps_backward"),
    plain_method<plain_call<adaptive_max_pool<CpuEngine>>>("adaptive_max_pool"),
    plain_method<plain_call<fractional_max_pool<CpuEngine>>>("fractional_max_pool"),
    plain_method<plain_call<max_pool_backward<CpuEngine>>>("max_pool_backward"),
    plain_method<plain_call<max_pool_gather<CpuEngine>>>("max_pool_gather"),
    plain_method<plain_call<max_unpool<CpuEngine>>>("max_unpool"),
    plain_method<plain_call<avg_pool<CpuEngine>>>("avg_pool"),
    plain_method<plain_call<avg_pool_backward<CpuEngine>>>("avg_pool_backward"),
    plain_method<plain_call<adaptive_avg_pool<CpuEngine>>>("adaptive_avg_pool"),
    plain_method<plain_call<adaptive_avg_pool_backward<CpuEngine>>>("adaptive_avg_pool_backward"),
    plain_method<plain_function<max_pool<CpuEngine>>>("max_poolNd"),
    plain_method<plain_function<max_pool_with_indices<CpuEngine>>>("max_pool_with_indicesNd"),
    plain_method<plain_function<max_pool_with_taps<CpuEngine>>>("max_pool_with_tapsNd"),
    plain_method<plain_function<adaptive_max_pool<CpuEngine>>>("adaptive_max_poolNd"),
    plain_method<plain_function<avg_pool<CpuEngine>>>("avg_poolNd"),
    plain_method<plain_function<adaptive_avg_pool<CpuEngine>>>("adaptive_avg_poolNd"),
    {nullptr, nullptr, 0, nullptr},
};

STABLE_TORCH_LIBRARY_IMPL(cnnops, CPU, m) { register_pooling<CpuEngine>(m); }

}  // namespace cnnops
