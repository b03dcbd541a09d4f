// The pooling operators on CPU: tensors -> geometry (every check is there) -> kernels.
//
// Tensors are read as they lie when they are dense, contiguous or channels_last; others are copied
// into whichever of the two torch would suggest. Results keep the layout of the input.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/plain_call.h"
#include "pool_geometry.h"
#include "tensor.h"

namespace cnnops {
namespace {

// ---- element types -------------------------------------------------------------------------------

/// The types an operator accepts; torch's CPU operators take the same.
enum class Types { kAll, kFloatsAndInt64, kFloats };

template <class T>
struct Type {
  using type = T;
};

/// Calls f(Type<T>()) with the element type of `dtype`; raises where `types` does not hold it.
template <class F>
void visit(const char* name, Types types, ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f(Type<float>());
    case ScalarType::Double: return f(Type<double>());
    case ScalarType::BFloat16: return f(Type<bfloat16>());
    case ScalarType::Half: return f(Type<float16>());
    default: break;
  }
  if (types != Types::kFloats && dtype == ScalarType::Long) return f(Type<int64_t>());
  if (types == Types::kAll) {
    switch (dtype) {
      case ScalarType::Int: return f(Type<int32_t>());
      case ScalarType::Short: return f(Type<int16_t>());
      case ScalarType::Char: return f(Type<int8_t>());
      case ScalarType::Byte: return f(Type<uint8_t>());
      default: break;
    }
  }
  CNNOPS_CHECK(false, "\"", name, "\" not implemented for '", torch::headeronly::toString(dtype),
               "'");
}

// ---- tensors -------------------------------------------------------------------------------------

/// Does a tensor that a pooling of geometry `g` takes lie in channels_last order?
bool lies_channels_last(const Tensor& tensor, const PoolGeometry& g) {
  return g.batched && g.rank >= 2 && is_channels_last(tensor);
}

/// `tensor` itself where it is dense in that order, a copy elsewhere.
Tensor dense(const Tensor& tensor, bool channels_last) {
  if (!channels_last) return torch::stable::contiguous(tensor);
  return torch::stable::contiguous(
      tensor, tensor.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d);
}

/// Raises unless `indices` is an int64 tensor on the CPU of the sizes of `like`, which is on the
/// CPU.
void check_indices(const Tensor& indices, const Tensor& like) {
  CNNOPS_CHECK(indices.is_cpu(),
               "Expected all tensors to be on the same device, but indices is not on cpu");
  CNNOPS_CHECK(indices.scalar_type() == ScalarType::Long,
               "elements in indices should be type int64 but got: ",
               torch::headeronly::toString(indices.scalar_type()));
  CNNOPS_CHECK(sizes_of(indices) == sizes_of(like),
               "Expected shape of indices to be same as that of the input tensor (", sizes_of(like),
               ") but got indices tensor with shape: ", sizes_of(indices));
}

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

// ---- geometry -> problem -------------------------------------------------------------------------

/// Is every element of a plane in its only window? Then the plane may as well be one row.
bool is_global(const PoolGeometry& g) {
  for (const PoolAxis& axis : g.axis) {
    const bool covers = axis.stride == 0 || (axis.kernel == axis.input && axis.padding == 0);
    if (axis.output != 1 || axis.dilation != 1 || !covers) return false;
  }
  return true;
}

/// A problem for the kernels, with the lists of windows it points to.
class Plan {
 public:
  Plan(const PoolGeometry& g, bool channels_last, WindowCount count, int64_t divisor, bool inverse)
      : problem_{g.batch, g.channels, channels_last, divisor, {}} {
    PoolAxis axes[3] = {g.axis[0], g.axis[1], g.axis[2]};
    if (is_global(g)) {
      axes[0] = axes[1] = PoolAxis();
      axes[2] = {g.input_plane(), 1, g.input_plane(), 0, 0, 1};
      if (count != WindowCount::kNone) count = WindowCount::kAdaptive;
    }
    for (int i = 0; i < 3; ++i) {
      const PoolAxis& axis = axes[i];
      windows_[i] = axis_windows(axis, count, inverse);
      problem_.axis[i] = {axis.input,
                          axis.output,
                          axis.kernel,
                          axis.stride,
                          axis.padding,
                          axis.dilation,
                          windows_[i].begin.data(),
                          windows_[i].end.data(),
                          windows_[i].count.data(),
                          windows_[i].first.data(),
                          windows_[i].last.data()};
    }
  }
  Plan(const Plan&) = delete;
  Plan& operator=(const Plan&) = delete;

  const PoolProblem& problem() const { return problem_; }

 private:
  AxisWindows windows_[3];
  PoolProblem problem_;
};

IndexedProblem indexed_problem(const PoolGeometry& g, bool channels_last) {
  return {g.batch, g.channels, g.output_plane(), g.input_plane(), channels_last};
}

bool is_empty(const Tensor& tensor) { return tensor.numel() == 0; }

// ---- maxima --------------------------------------------------------------------------------------

/// The maxima and, where `with_indices`, their positions.
std::tuple<Tensor, Tensor> max_pool_of(const char* name, Types types, const Tensor& input,
                                       const PoolGeometry& g, bool with_indices) {
  const bool channels_last = lies_channels_last(input, g);
  const IntList sizes = g.output_sizes();
  Tensor output = allocate(sizes, input, channels_last);
  Tensor indices = with_indices ? allocate(sizes, input, channels_last, ScalarType::Long) : output;
  visit(name, types, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(output)) return;
    const Plan plan(g, channels_last, WindowCount::kNone, 0, false);
    const Tensor from = dense(input, channels_last);
    pool_kernels<T>().max_pool(plan.problem(), data_of<T>(from), mutable_data_of<T>(output),
                               with_indices ? mutable_data_of<int64_t>(indices) : nullptr);
  });
  return {output, indices};
}

/// Is an input (C, D, H, W) dense in channels_last order and in no other?
bool is_unbatched_channels_last(const Tensor& input) {
  const auto sizes = input.sizes();
  const auto strides = input.strides();
  int64_t expected = 1;
  for (const int64_t d : {0, 3, 2, 1}) {
    if (sizes[d] > 1 && strides[d] != expected) return false;
    expected *= sizes[d];
  }
  return !input.is_contiguous();
}

/// max_pool_of for windows on a grid. torch's max_pool3d, alone of all poolings, keeps the layout
/// of an input without a batch axis too.
std::tuple<Tensor, Tensor> grid_max_pool(const Tensor& input, const PoolGeometry& g,
                                         bool with_indices) {
  if (g.rank != 3 || g.batched || !is_unbatched_channels_last(input)) {
    return max_pool_of("max_pool", Types::kAll, input, g, with_indices);
  }
  PoolGeometry batched = g;
  batched.batched = true;
  const Tensor batch = to_channels_last(torch::stable::unsqueeze(input, 0));
  const auto [output, indices] = max_pool_of("max_pool", Types::kAll, batch, batched, with_indices);
  return {torch::stable::squeeze(output, 0), torch::stable::squeeze(indices, 0)};
}

PoolArguments max_pool_arguments(const IntList& kernel_size, const IntList& stride,
                                 const IntList& padding, const IntList& dilation, bool ceil_mode) {
  return {kernel_size, stride, padding, dilation, ceil_mode};
}

Tensor max_pool(const Tensor& input, IntList kernel_size, IntList stride, IntList padding,
                IntList dilation, bool ceil_mode) {
  const PoolGeometry g =
      window_pool_geometry("max_pool", sizes_of(input),
                           max_pool_arguments(kernel_size, stride, padding, dilation, ceil_mode));
  return std::get<0>(grid_max_pool(input, g, false));
}

/// Raises where a window spans more of its plane than the 32-bit offsets inside the kernels hold.
void check_window_span(const PoolGeometry& g) {
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

std::tuple<Tensor, Tensor> max_pool_with_indices(const Tensor& input, IntList kernel_size,
                                                 IntList stride, IntList padding, IntList dilation,
                                                 bool ceil_mode) {
  const PoolGeometry g =
      window_pool_geometry("max_pool", sizes_of(input),
                           max_pool_arguments(kernel_size, stride, padding, dilation, ceil_mode));
  check_window_span(g);
  return grid_max_pool(input, g, true);
}

std::tuple<Tensor, Tensor> adaptive_max_pool(const Tensor& input, IntList output_size) {
  const PoolGeometry g =
      adaptive_pool_geometry("adaptive_max_pool", AdaptiveKind::kMax, sizes_of(input), output_size);
  check_window_span(g);
  return max_pool_of("adaptive_max_pool", Types::kFloats, input, g, true);
}

std::tuple<Tensor, Tensor> fractional_max_pool(const Tensor& input, IntList kernel_size,
                                               IntList output_size, const Tensor& random_samples) {
  const char* name = "fractional_max_pool";
  const PoolGeometry g = fractional_pool_geometry(name, sizes_of(input), kernel_size, output_size,
                                                  sizes_of(random_samples));
  check_like_input("_random_samples", random_samples, input);
  const bool channels_last = lies_channels_last(input, g);
  const IntList sizes = g.output_sizes();
  Tensor output = allocate(sizes, input, channels_last);
  Tensor indices = allocate(sizes, input, channels_last, ScalarType::Long);
  visit(name, Types::kFloats, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(output)) return;
    FractionalProblem problem{g.batch, g.channels, channels_last, g.rank, {}, {}, {}};
    for (int i = 0; i < 3; ++i) {
      problem.input[i] = g.axis[i].input;
      problem.output[i] = g.axis[i].output;
      problem.kernel[i] = g.axis[i].kernel;
    }
    const Tensor from = dense(input, channels_last);
    const Tensor samples = dense(random_samples, false);
    pool_kernels<T>().fractional_max_pool(problem, data_of<T>(from), data_of<T>(samples),
                                          mutable_data_of<T>(output),
                                          mutable_data_of<int64_t>(indices));
  });
  return {output, indices};
}

// ---- by index ------------------------------------------------------------------------------------

Tensor max_pool_backward(const Tensor& grad_output, const Tensor& indices, IntList input_size) {
  const char* name = "max_pool_backward";
  const PoolGeometry g = indexed_pool_geometry(name, sizes_of(grad_output), input_size, true);
  check_indices(indices, grad_output);
  // The indices lie as the input did; a gradient can come in any layout.
  const bool channels_last = lies_channels_last(indices, g);
  Tensor grad_input = allocate(g.input_sizes(), grad_output, channels_last);
  visit(name, Types::kFloats, grad_output.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Tensor from = dense(grad_output, channels_last);
    const Tensor at = dense(indices, channels_last);
    check_index_values(data_of<int64_t>(at), at.numel(), g);
    if (is_empty(grad_input)) return;
    const IndexedProblem problem = indexed_problem(g, channels_last);
    if constexpr (sizeof(T) == 2) {
      // Windows overlap: 16-bit gradients add up in float32 and are rounded once.
      Tensor wide = allocate(sizes_of(from), from, channels_last, ScalarType::Float);
      Tensor sums = allocate(g.input_sizes(), from, channels_last, ScalarType::Float);
      torch::stable::copy_(wide, from);
      pool_kernels<float>().scatter_add(problem, data_of<float>(wide), data_of<int64_t>(at),
                                        mutable_data_of<float>(sums));
      torch::stable::copy_(grad_input, sums);
    } else {
      pool_kernels<T>().scatter_add(problem, data_of<T>(from), data_of<int64_t>(at),
                                    mutable_data_of<T>(grad_input));
    }
  });
  return grad_input;
}

/// `input` and `indices` are batched: the rank of unbatched tensors would be ambiguous.
Tensor max_pool_gather(const Tensor& input, const Tensor& indices) {
  const char* name = "max_pool_gather";
  const IntList sizes = sizes_of(indices), input_sizes = sizes_of(input);
  CNNOPS_CHECK(sizes.size() >= 3 && sizes.size() <= 5 && input_sizes.size() == sizes.size() &&
                   input_sizes[0] == sizes[0] && input_sizes[1] == sizes[1],
               name, ": Expected batched input and indices (N, C, *spatial) of one batch size and ",
               "number of channels, but got sizes ", input_sizes, " and ", sizes);
  CNNOPS_CHECK(indices.is_cpu() && indices.scalar_type() == ScalarType::Long,
               "elements in indices should be type int64 on cpu but got: ",
               torch::headeronly::toString(indices.scalar_type()));
  const PoolGeometry g =
      indexed_pool_geometry(name, sizes, IntList(input_sizes.begin() + 2, input_sizes.end()), true);
  const bool channels_last = lies_channels_last(indices, g);
  Tensor output = allocate(sizes, input, channels_last);
  visit(name, Types::kFloats, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Tensor from = dense(input, channels_last);
    const Tensor at = dense(indices, channels_last);
    check_index_values(data_of<int64_t>(at), at.numel(), g);
    if (is_empty(output)) return;
    pool_kernels<T>().gather(indexed_problem(g, channels_last), data_of<T>(from),
                             data_of<int64_t>(at), mutable_data_of<T>(output));
  });
  return output;
}

Tensor max_unpool(const Tensor& input, const Tensor& indices, IntList output_size) {
  const char* name = "max_unpool";
  const PoolGeometry g = indexed_pool_geometry(name, sizes_of(input), output_size, false);
  check_indices(indices, input);
  const bool channels_last = lies_channels_last(input, g);
  Tensor output = allocate(g.input_sizes(), input, channels_last);
  visit(name, Types::kFloats, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(output)) return;
    const Tensor from = dense(input, channels_last);
    const Tensor at = dense(indices, channels_last);
    check_index_values(data_of<int64_t>(at), at.numel(), g);
    pool_kernels<T>().scatter(indexed_problem(g, channels_last), data_of<T>(from),
                              data_of<int64_t>(at), mutable_data_of<T>(output));
  });
  return output;
}

// ---- means ---------------------------------------------------------------------------------------

/// Runs avg_pool, or where `backward` its gradient, which takes the output's side to the input's.
Tensor avg_pool_of(const char* name, Types types, const Tensor& input, const PoolGeometry& g,
                   WindowCount count, int64_t divisor, bool backward) {
  const bool channels_last = lies_channels_last(input, g);
  Tensor output = allocate(backward ? g.input_sizes() : g.output_sizes(), input, channels_last);
  visit(name, types, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(output)) return;
    const Plan plan(g, channels_last, count, divisor, backward);
    const Tensor from = dense(input, channels_last);
    const PoolKernels<T>& kernels = pool_kernels<T>();
    const auto kernel = backward ? kernels.avg_pool_backward : kernels.avg_pool;
    kernel(plan.problem(), data_of<T>(from), mutable_data_of<T>(output));
  });
  return output;
}

WindowCount count_of(bool count_include_pad) {
  return count_include_pad ? WindowCount::kPadded : WindowCount::kInput;
}

PoolArguments avg_pool_arguments(const IntList& kernel_size, const IntList& stride,
                                 const IntList& padding, bool ceil_mode) {
  return {kernel_size, stride, padding, {1}, ceil_mode};
}

Tensor avg_pool(const Tensor& input, IntList kernel_size, IntList stride, IntList padding,
                bool ceil_mode, bool count_include_pad, std::optional<int64_t> divisor_override) {
  const PoolGeometry g = window_pool_geometry(
      "avg_pool", sizes_of(input), avg_pool_arguments(kernel_size, stride, padding, ceil_mode));
  return avg_pool_of("avg_pool", Types::kFloatsAndInt64, input, g, count_of(count_include_pad),
                     checked_divisor(g, divisor_override), false);
}

Tensor avg_pool_backward(const Tensor& grad_output, IntList input_size, IntList kernel_size,
                         IntList stride, IntList padding, bool ceil_mode, bool count_include_pad,
                         std::optional<int64_t> divisor_override) {
  const PoolGeometry g =
      window_pool_backward_geometry("avg_pool_backward", sizes_of(grad_output), input_size,
                                    avg_pool_arguments(kernel_size, stride, padding, ceil_mode));
  return avg_pool_of("avg_pool_backward", Types::kFloatsAndInt64, grad_output, g,
                     count_of(count_include_pad), checked_divisor(g, divisor_override), true);
}

Tensor adaptive_avg_pool(const Tensor& input, IntList output_size) {
  const PoolGeometry g = adaptive_pool_geometry("adaptive_avg_pool", AdaptiveKind::kAverage,
                                                sizes_of(input), output_size);
  return avg_pool_of("adaptive_avg_pool", Types::kFloats, input, g, WindowCount::kAdaptive, 0,
                     false);
}

Tensor adaptive_avg_pool_backward(const Tensor& grad_output, IntList input_size) {
  const PoolGeometry g = adaptive_pool_backward_geometry("adaptive_avg_pool_backward",
                                                         sizes_of(grad_output), input_size);
  return avg_pool_of("adaptive_avg_pool_backward", Types::kFloats, grad_output, g,
                     WindowCount::kAdaptive, 0, true);
}

}  // namespace

PyMethodDef pool_plain_calls[] = {
    plain_method<max_pool>("max_pool"),
    plain_method<max_pool_with_indices>("max_pool_with_indices"),
    plain_method<adaptive_max_pool>("adaptive_max_pool"),
    plain_method<fractional_max_pool>("fractional_max_pool"),
    plain_method<max_pool_backward>("max_pool_backward"),
    plain_method<max_pool_gather>("max_pool_gather"),
    plain_method<max_unpool>("max_unpool"),
    plain_method<avg_pool>("avg_pool"),
    plain_method<avg_pool_backward>("avg_pool_backward"),
    plain_method<adaptive_avg_pool>("adaptive_avg_pool"),
    plain_method<adaptive_avg_pool_backward>("adaptive_avg_pool_backward"),
    {nullptr, nullptr, 0, nullptr},
};

STABLE_TORCH_LIBRARY_IMPL(cnnops, CPU, m) {
  m.impl("max_pool", TORCH_BOX(&max_pool));
  m.impl("max_pool_with_indices", TORCH_BOX(&max_pool_with_indices));
  m.impl("adaptive_max_pool", TORCH_BOX(&adaptive_max_pool));
  m.impl("fractional_max_pool", TORCH_BOX(&fractional_max_pool));
  m.impl("max_pool_backward", TORCH_BOX(&max_pool_backward));
  m.impl("max_pool_gather", TORCH_BOX(&max_pool_gather));
  m.impl("max_unpool", TORCH_BOX(&max_unpool));
  m.impl("avg_pool", TORCH_BOX(&avg_pool));
  m.impl("avg_pool_backward", TORCH_BOX(&avg_pool_backward));
  m.impl("adaptive_avg_pool", TORCH_BOX(&adaptive_avg_pool));
  m.impl("adaptive_avg_pool_backward", TORCH_BOX(&adaptive_avg_pool_backward));
}

}  // namespace cnnops
