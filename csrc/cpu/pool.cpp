// Pooling on the CPU: geometry -> windows -> kernels.
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/plain_call.h"
#include "cpu/pool_plan.h"
#include "pool_op.h"

namespace cnnops {

PlannedPool::PlannedPool(const PoolGeometry& g, bool channels_last, WindowCount count,
                         int64_t divisor, bool inverse)
    : problem_{g.batch, g.channels, channels_last, divisor, {}, {}} {
  const PoolGeometry flat = with_global_windows_flat(g, &count);
  int64_t size = 0;
  for (const PoolAxis& axis : flat.axis) size += window_list_size(axis, inverse);
  lists_.resize(size);
  int64_t* lists = lists_.data();
  for (int i = 0; i < 3; ++i) {
    const PoolAxis& axis = flat.axis[i];
    const AxisWindows windows = axis_windows(axis, count, inverse, lists);
    lists += window_list_size(axis, inverse);
    problem_.axis[i] = {axis.input,    axis.output,   axis.kernel,   axis.stride,
                        axis.padding,  axis.dilation, windows.begin, windows.end,
                        windows.count, windows.first, windows.last};
  }
  const PoolChoice choice = choose_pool(problem_);
  problem_.algorithm = choice.algorithm;
  reason_ = choice.reason;
}

namespace {

/// Raises unless every index lies in the plane of `g`, before anything is read or written there.
void check_index_values(const int64_t* indices, int64_t count, const PoolGeometry& g) {
  const uint64_t last = static_cast<uint64_t>(g.input_plane()) - 1;
  // Bit 63 of an index, or of its distance to the last one, tells that it is out of range.
  uint64_t bits = count > 0 ? last : 0;
  for (int64_t i = 0; i < count; ++i) {
    bits |= static_cast<uint64_t>(indices[i]) | (last - static_cast<uint64_t>(indices[i]));
  }
  if (bits >> 63 == 0) return;
  IntList volume;
  for (int a = 3 - g.rank; a < 3; ++a) volume.push_back(g.axis[a].input);
  for (int64_t i = 0; i < count; ++i) {
    CNNOPS_CHECK(indices[i] >= 0 && indices[i] < g.input_plane(),
                 "Found an invalid max index: ", indices[i], " (output volumes are of size ",
                 join_sizes(volume), ")");
  }
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

  Tensor allocate(const IntList& sizes, const Tensor& like, bool channels_last, ScalarType dtype) {
    return cnnops::allocate(sizes, like, channels_last, dtype);
  }

  template <class T>
  void max_pool(const PoolGeometry& g, bool channels_last, const Tensor& input,
                const Tensor& output, const Tensor* indices) {
    const PlannedPool plan(g, channels_last, WindowCount::kNone, 0, false);
    pool_kernels<T>().max_pool(plan.problem(), data_of<T>(input), mutable_data_of<T>(output),
                               indices ? mutable_data_of<int64_t>(*indices) : nullptr);
  }

  template <class T>
  void avg_pool(const PoolGeometry& g, bool channels_last, WindowCount count, int64_t divisor,
                bool backward, const Tensor& from, const Tensor& to) {
    const PlannedPool plan(g, channels_last, count, divisor, backward);
    const PoolKernels<T>& kernels = pool_kernels<T>();
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

  void check_indices(const PoolGeometry& g, const Tensor& indices) {
    check_index_values(data_of<int64_t>(indices), indices.numel(), g);
  }

  template <class T>
  void scatter_add(const PoolGeometry& g, bool channels_last, const Tensor& from,
                   const Tensor& indices, const Tensor& to) {
    pool_kernels<T>().scatter_add(indexed_problem(g, channels_last), data_of<T>(from),
                                  data_of<int64_t>(indices), mutable_data_of<T>(to));
  }

  template <class T>
  void scatter(const PoolGeometry& g, bool channels_last, const Tensor& from, const Tensor& indices,
               const Tensor& to) {
    pool_kernels<T>().scatter(indexed_problem(g, channels_last), data_of<T>(from),
                              data_of<int64_t>(indices), mutable_data_of<T>(to));
  }

  template <class T>
  void gather(const PoolGeometry& g, bool channels_last, const Tensor& from, const Tensor& indices,
              const Tensor& to) {
    pool_kernels<T>().gather(indexed_problem(g, channels_last), data_of<T>(from),
                             data_of<int64_t>(indices), mutable_data_of<T>(to));
  }
};

}  // namespace

PyMethodDef pool_plain_calls[] = {
    plain_method<plain_call<max_pool<CpuEngine>>>("max_pool"),
    plain_method<plain_call<max_pool_with_indices<CpuEngine>>>("max_pool_with_indices"),
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
    plain_method<plain_function<adaptive_max_pool<CpuEngine>>>("adaptive_max_poolNd"),
    plain_method<plain_function<avg_pool<CpuEngine>>>("avg_poolNd"),
    plain_method<plain_function<adaptive_avg_pool<CpuEngine>>>("adaptive_avg_poolNd"),
    {nullptr, nullptr, 0, nullptr},
};

STABLE_TORCH_LIBRARY_IMPL(cnnops, CPU, m) { register_pooling<CpuEngine>(m); }

}  // namespace cnnops
