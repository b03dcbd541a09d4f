// The pooling operators, tensors in, tensors out, the same on every device: element types, memory
// formats, indices, and every check (in pool_geometry.h). A device is an Engine, made for each
// call:
//
//   explicit Engine(const Tensor& like);
//   static void check_window_span(const PoolGeometry&);
//       Raises for windows too large for the engine to find the indices of maxima in.
//   Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last, ScalarType);
//   void max_pool<T>(const PoolGeometry&, bool channels_last, const Tensor& input,
//                    const Tensor& output, const Tensor* indices);
//   void max_pool_taps<T>(const PoolGeometry&, bool channels_last, const Tensor& input,
//                         const Tensor& output, const Tensor& taps);
//   void max_pool_taps_backward<T>(const PoolGeometry&, bool channels_last,
//                                  const Tensor& grad_output, const Tensor& taps,
//                                  const Tensor& grad_input);
//   void avg_pool<T>(const PoolGeometry&, bool channels_last, WindowCount, int64_t divisor,
//                    bool backward, const Tensor& from, const Tensor& to);
//   void fractional_max_pool<T>(const PoolGeometry&, bool channels_last, const Tensor& input,
//                               const Tensor& samples, const Tensor& output,
//                               const Tensor& indices);
//   void scatter_add<T>, scatter<T>, gather<T>(const PoolGeometry&, bool channels_last,
//                                              const Tensor& from, const Tensor& indices,
//                                              const Tensor& to);
//       Any of the tensors may be empty. Raises for indices outside their plane, if the engine can
//       do so without waiting.
//
// Tensors are read as they lie when they are dense, contiguous or channels_last; others are copied
// into whichever of the two torch would suggest. Results keep the layout of the input.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <tuple>

#include "pool_geometry.h"
#include "tensor.h"

namespace cnnops {

// ---- element types -------------------------------------------------------------------------------

/// The types an operator accepts; torch's CPU operators take the same.
enum class Types { kAll, kFloatsAndInt64, kFloats };

template <class T>
struct Type {
  using type = T;
};

/// Calls f(Type<T>()) with the element type of `dtype`; raises where `kTypes` does not hold it.
template <Types kTypes, class F>
void visit(const char* name, ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f(Type<float>());
    case ScalarType::Double: return f(Type<double>());
    case ScalarType::BFloat16: return f(Type<bfloat16>());
    case ScalarType::Half: return f(Type<float16>());
    default: break;
  }
  if constexpr (kTypes != Types::kFloats) {
    if (dtype == ScalarType::Long) return f(Type<int64_t>());
  }
  if constexpr (kTypes == Types::kAll) {
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
inline bool lies_channels_last(const Tensor& tensor, const PoolGeometry& g) {
  return g.batched && g.rank >= 2 && is_channels_last(tensor);
}

/// `tensor` itself where it is dense in that order, a copy elsewhere.
inline Tensor dense(const Tensor& tensor, bool channels_last) {
  // torch::stable::contiguous would find the same, but is a call through the dispatcher.
  if (channels_last ? is_dense_channels_last(tensor) : tensor.is_contiguous()) return tensor;
  if (!channels_last) return torch::stable::contiguous(tensor);
  return torch::stable::contiguous(
      tensor, tensor.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d);
}

/// Raises unless `indices` is an int64 tensor of the device and the sizes of `like`.
inline void check_indices(const Tensor& indices, const Tensor& like) {
  check_device("indices", indices, like);
  CNNOPS_CHECK(indices.scalar_type() == ScalarType::Long,
               "elements in indices should be type int64 but got: ",
               torch::headeronly::toString(indices.scalar_type()));
  CNNOPS_CHECK(sizes_of(indices) == sizes_of(like),
               "Expected shape of indices to be same as that of the input tensor (", sizes_of(like),
               ") but got indices tensor with shape: ", sizes_of(indices));
}

inline bool is_empty(const Tensor& tensor) { return tensor.numel() == 0; }

// ---- maxima --------------------------------------------------------------------------------------

/// What a max pooling tells beside the maxima: where they are, as int64 indices in their planes or
/// as the numbers of taps of their windows, in bytes.
enum class Places { kNone, kIndices, kTaps };

/// The maxima and, where asked for, their places.
template <class Engine, Types kTypes, Places kPlaces = Places::kIndices>
std::tuple<Tensor, Tensor> max_pool_of(const char* name, const Tensor& input,
                                       const PoolGeometry& g) {
  const bool channels_last = lies_channels_last(input, g);
  const IntList sizes = g.output_sizes();
  Engine engine(input);
  Tensor output = engine.allocate(sizes, input, channels_last, input.scalar_type());
  Tensor places = output;
  if constexpr (kPlaces != Places::kNone) {
    const ScalarType dtype = kPlaces == Places::kTaps ? ScalarType::Byte : ScalarType::Long;
    places = engine.allocate(sizes, input, channels_last, dtype);
  }
  visit<kTypes>(name, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(output)) return;
    const Tensor from = dense(input, channels_last);
    if constexpr (kPlaces == Places::kTaps) {
      engine.template max_pool_taps<T>(g, channels_last, from, output, places);
    } else {
      engine.template max_pool<T>(g, channels_last, from, output,
                                  kPlaces == Places::kIndices ? &places : nullptr);
    }
  });
  return {output, places};
}

/// Is an input (C, D, H, W) dense in channels_last order and in no other?
inline bool is_unbatched_channels_last(const Tensor& input) {
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
template <class Engine, Types kTypes, Places kPlaces>
std::tuple<Tensor, Tensor> grid_max_pool(const Tensor& input, const PoolGeometry& g) {
  if (g.rank != 3 || g.batched || !is_unbatched_channels_last(input)) {
    return max_pool_of<Engine, kTypes, kPlaces>("max_pool", input, g);
  }
  PoolGeometry batched = g;
  batched.batched = true;
  const Tensor batch = to_channels_last(torch::stable::unsqueeze(input, 0));
  const auto [output, places] = max_pool_of<Engine, kTypes, kPlaces>("max_pool", batch, batched);
  return {torch::stable::squeeze(output, 0), torch::stable::squeeze(places, 0)};
}

template <class Engine>
Tensor max_pool(const Tensor& input, const IntList& kernel_size, const IntList& stride,
                const IntList& padding, const IntList& dilation, bool ceil_mode) {
  const PoolGeometry g = window_pool_geometry("max_pool", sizes_of(input),
                                              {kernel_size, stride, padding, dilation, ceil_mode});
  return std::get<0>(grid_max_pool<Engine, Types::kAll, Places::kNone>(input, g));
}

template <class Engine>
std::tuple<Tensor, Tensor> max_pool_with_indices(const Tensor& input, const IntList& kernel_size,
                                                 const IntList& stride, const IntList& padding,
                                                 const IntList& dilation, bool ceil_mode) {
  const PoolGeometry g = window_pool_geometry("max_pool", sizes_of(input),
                                              {kernel_size, stride, padding, dilation, ceil_mode});
  Engine::check_window_span(g);
  return grid_max_pool<Engine, Types::kAll, Places::kIndices>(input, g);
}

/// Raises unless taps are offered for these windows: without dilation, of stride 1 or 2, and so
/// small that an input lies in three of them along an axis at most, which its gradient looks at.
inline void check_taps(const PoolGeometry& g) {
  for (const PoolAxis& axis : g.axis) {
    CNNOPS_CHECK(
        axis.dilation == 1 && axis.stride <= 2 && axis.kernel <= 3 * axis.stride,
        "max_pool_with_taps: Expected stride 1 or 2, a kernel of at most three strides and no "
        "dilation, but got kernel_size ",
        axis.kernel, ", stride ", axis.stride, " and dilation ", axis.dilation);
  }
}

template <class Engine>
std::tuple<Tensor, Tensor> max_pool_with_taps(const Tensor& input, const IntList& kernel_size,
                                              const IntList& stride, const IntList& padding,
                                              const IntList& dilation, bool ceil_mode) {
  const PoolGeometry g = window_pool_geometry("max_pool", sizes_of(input),
                                              {kernel_size, stride, padding, dilation, ceil_mode});
  check_taps(g);
  return grid_max_pool<Engine, Types::kFloats, Places::kTaps>(input, g);
}

template <class Engine>
std::tuple<Tensor, Tensor> adaptive_max_pool(const Tensor& input, const IntList& output_size) {
  const PoolGeometry g =
      adaptive_pool_geometry("adaptive_max_pool", AdaptiveKind::kMax, sizes_of(input), output_size);
  Engine::check_window_span(g);
  return max_pool_of<Engine, Types::kFloats>("adaptive_max_pool", input, g);
}

template <class Engine>
std::tuple<Tensor, Tensor> fractional_max_pool(const Tensor& input, const IntList& kernel_size,
                                               const IntList& output_size,
                                               const Tensor& random_samples) {
  const char* name = "fractional_max_pool";
  const PoolGeometry g = fractional_pool_geometry(name, sizes_of(input), kernel_size, output_size,
                                                  sizes_of(random_samples));
  check_like_input("_random_samples", random_samples, input);
  const bool channels_last = lies_channels_last(input, g);
  const IntList sizes = g.output_sizes();
  Engine engine(input);
  Tensor output = engine.allocate(sizes, input, channels_last, input.scalar_type());
  Tensor indices = engine.allocate(sizes, input, channels_last, ScalarType::Long);
  visit<Types::kFloats>(name, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(output)) return;
    engine.template fractional_max_pool<T>(g, channels_last, dense(input, channels_last),
                                           dense(random_samples, false), output, indices);
  });
  return {output, indices};
}

template <class Engine>
Tensor max_pool_taps_backward(const Tensor& grad_output, const Tensor& taps,
                              const IntList& input_size, const IntList& kernel_size,
                              const IntList& stride, const IntList& padding,
                              const IntList& dilation, bool ceil_mode) {
  const char* name = "max_pool_taps_backward";
  const PoolGeometry g = window_pool_backward_geometry(
      name, sizes_of(grad_output), input_size, {kernel_size, stride, padding, dilation, ceil_mode});
  check_taps(g);
  check_device("taps", taps, grad_output);
  CNNOPS_CHECK(taps.scalar_type() == ScalarType::Byte && sizes_of(taps) == sizes_of(grad_output),
               name, ": Expected taps of type uint8 and sizes ", sizes_of(grad_output),
               ", but got ", torch::headeronly::toString(taps.scalar_type()), " and ",
               sizes_of(taps));
  // The taps lie as the input did; a gradient can come in any layout.
  const bool channels_last = lies_channels_last(taps, g);
  Engine engine(grad_output);
  const Tensor grad_input =
      engine.allocate(g.input_sizes(), grad_output, channels_last, grad_output.scalar_type());
  visit<Types::kFloats>(name, grad_output.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(grad_input)) return;
    engine.template max_pool_taps_backward<T>(g, channels_last, dense(grad_output, channels_last),
                                              dense(taps, channels_last), grad_input);
  });
  return grad_input;
}

// ---- by index ------------------------------------------------------------------------------------

template <class Engine>
Tensor max_pool_backward(const Tensor& grad_output, const Tensor& indices,
                         const IntList& input_size) {
  const char* name = "max_pool_backward";
  const PoolGeometry g = indexed_pool_geometry(name, sizes_of(grad_output), input_size, true);
  check_indices(indices, grad_output);
  // The indices lie as the input did; a gradient can come in any layout.
  const bool channels_last = lies_channels_last(indices, g);
  Engine engine(grad_output);
  const Tensor grad_input =
      engine.allocate(g.input_sizes(), grad_output, channels_last, grad_output.scalar_type());
  visit<Types::kFloats>(name, grad_output.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Tensor from = dense(grad_output, channels_last);
    const Tensor at = dense(indices, channels_last);
    engine.template scatter_add<T>(g, channels_last, from, at, grad_input);
  });
  return grad_input;
}

/// `input` and `indices` are batched: the rank of unbatched tensors would be ambiguous.
template <class Engine>
Tensor max_pool_gather(const Tensor& input, const Tensor& indices) {
  const char* name = "max_pool_gather";
  const IntSpan sizes = sizes_of(indices), input_sizes = sizes_of(input);
  CNNOPS_CHECK(sizes.size() >= 3 && sizes.size() <= 5 && input_sizes.size() == sizes.size() &&
                   input_sizes[0] == sizes[0] && input_sizes[1] == sizes[1],
               name, ": Expected batched input and indices (N, C, *spatial) of one batch size and ",
               "number of channels, but got sizes ", input_sizes, " and ", sizes);
  check_device("indices", indices, input);
  CNNOPS_CHECK(indices.scalar_type() == ScalarType::Long,
               "elements in indices should be type int64 but got: ",
               torch::headeronly::toString(indices.scalar_type()));
  const PoolGeometry g =
      indexed_pool_geometry(name, sizes, {input_sizes.begin() + 2, input_sizes.end()}, true);
  const bool channels_last = lies_channels_last(indices, g);
  Engine engine(input);
  const Tensor output = engine.allocate(sizes, input, channels_last, input.scalar_type());
  visit<Types::kFloats>(name, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    const Tensor from = dense(input, channels_last);
    const Tensor at = dense(indices, channels_last);
    engine.template gather<T>(g, channels_last, from, at, output);
  });
  return output;
}

template <class Engine>
Tensor max_unpool(const Tensor& input, const Tensor& indices, const IntList& output_size) {
  const char* name = "max_unpool";
  const PoolGeometry g = indexed_pool_geometry(name, sizes_of(input), output_size, false);
  check_indices(indices, input);
  const bool channels_last = lies_channels_last(input, g);
  Engine engine(input);
  const Tensor output = engine.allocate(g.input_sizes(), input, channels_last, input.scalar_type());
  visit<Types::kFloats>(name, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(output)) return;
    const Tensor from = dense(input, channels_last);
    const Tensor at = dense(indices, channels_last);
    engine.template scatter<T>(g, channels_last, from, at, output);
  });
  return output;
}

// ---- means ---------------------------------------------------------------------------------------

/// Runs avg_pool, or where `backward` its gradient, which takes the output's side to the input's.
template <class Engine, Types kTypes>
Tensor avg_pool_of(const char* name, const Tensor& input, const PoolGeometry& g, WindowCount count,
                   int64_t divisor, bool backward) {
  const bool channels_last = lies_channels_last(input, g);
  Engine engine(input);
  const Tensor output = engine.allocate(backward ? g.input_sizes() : g.output_sizes(), input,
                                        channels_last, input.scalar_type());
  visit<kTypes>(name, input.scalar_type(), [&](auto type) {
    using T = typename decltype(type)::type;
    if (is_empty(output)) return;
    engine.template avg_pool<T>(g, channels_last, count, divisor, backward,
                                dense(input, channels_last), output);
  });
  return output;
}

inline WindowCount count_of(bool count_include_pad) {
  return count_include_pad ? WindowCount::kPadded : WindowCount::kInput;
}

/// Average pooling has no dilation.
inline const IntList kNoDilation{1};

template <class Engine>
Tensor avg_pool(const Tensor& input, const IntList& kernel_size, const IntList& stride,
                const IntList& padding, bool ceil_mode, bool count_include_pad,
                std::optional<int64_t> divisor_override) {
  const PoolGeometry g = window_pool_geometry(
      "avg_pool", sizes_of(input), {kernel_size, stride, padding, kNoDilation, ceil_mode});
  return avg_pool_of<Engine, Types::kFloatsAndInt64>("avg_pool", input, g,
                                                     count_of(count_include_pad),
                                                     checked_divisor(g, divisor_override), false);
}

template <class Engine>
Tensor avg_pool_backward(const Tensor& grad_output, const IntList& input_size,
                         const IntList& kernel_size, const IntList& stride, const IntList& padding,
                         bool ceil_mode, bool count_include_pad,
                         std::optional<int64_t> divisor_override) {
  const PoolGeometry g =
      window_pool_backward_geometry("avg_pool_backward", sizes_of(grad_output), input_size,
                                    {kernel_size, stride, padding, kNoDilation, ceil_mode});
  return avg_pool_of<Engine, Types::kFloatsAndInt64>("avg_pool_backward", grad_output, g,
                                                     count_of(count_include_pad),
                                                     checked_divisor(g, divisor_override), true);
}

template <class Engine>
Tensor adaptive_avg_pool(const Tensor& input, const IntList& output_size) {
  const PoolGeometry g = adaptive_pool_geometry("adaptive_avg_pool", AdaptiveKind::kAverage,
                                                sizes_of(input), output_size);
  return avg_pool_of<Engine, Types::kFloats>("adaptive_avg_pool", input, g, WindowCount::kAdaptive,
                                             0, false);
}

template <class Engine>
Tensor adaptive_avg_pool_backward(const Tensor& grad_output, const IntList& input_size) {
  const PoolGeometry g = adaptive_pool_backward_geometry("adaptive_avg_pool_backward",
                                                         sizes_of(grad_output), input_size);
  return avg_pool_of<Engine, Types::kFloats>("adaptive_avg_pool_backward", grad_output, g,
                                             WindowCount::kAdaptive, 0, true);
}

// ---- registration --------------------------------------------------------------------------------

/// Registers the operators for the device of `Engine`; the block that `m` belongs to names it.
template <class Engine, class Library>
void register_pooling(Library& m) {
  m.impl("max_pool", TORCH_BOX(&max_pool<Engine>));
  m.impl("max_pool_with_indices", TORCH_BOX(&max_pool_with_indices<Engine>));
  m.impl("max_pool_with_taps", TORCH_BOX(&max_pool_with_taps<Engine>));
  m.impl("max_pool_taps_backward", TORCH_BOX(&max_pool_taps_backward<Engine>));
  m.impl("adaptive_max_pool", TORCH_BOX(&adaptive_max_pool<Engine>));
  m.impl("fractional_max_pool", TORCH_BOX(&fractional_max_pool<Engine>));
  m.impl("max_pool_backward", TORCH_BOX(&max_pool_backward<Engine>));
  m.impl("max_pool_gather", TORCH_BOX(&max_pool_gather<Engine>));
  m.impl("max_unpool", TORCH_BOX(&max_unpool<Engine>));
  m.impl("avg_pool", TORCH_BOX(&avg_pool<Engine>));
  m.impl("avg_pool_backward", TORCH_BOX(&avg_pool_backward<Engine>));
  m.impl("adaptive_avg_pool", TORCH_BOX(&adaptive_avg_pool<Engine>));
  m.impl("adaptive_avg_pool_backward", TORCH_BOX(&adaptive_avg_pool_backward<Engine>));
}

}  // namespace cnnops
