// The three convolution operators, tensors in, tensors out, the same on every device: validation,
// unbatched and integer tensors, memory formats, phases. A device is an Engine, made for each call:
//
//   Engine(const Tensor& input, const ConvGeometry& geometry, bool channels_last);
//       channels_last: the layout of the result.
//   bool channels_last() const;
//       The layout that the kernels compute in: that of the result, or another.
//   Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last);
//   const T* read<T>(const Tensor&);  T* write<T>(const Tensor&);      The elements, for kernels.
//   Tensor to_channels_last(const Tensor&);       A dense channels_last tensor of its elements.
//   void copy(const Tensor& from, const Tensor& to);               Between the two layouts.
//   void run(Contraction<T>&);  void run(WeightContraction<T>&);
//   bool run_whole(const InputGradient<T>&);
//       Runs it, or returns false: then its phases are run one by one.
//   void fold(const Fold<T>&);
//   void fill(const Fill<T>&);
#pragma once

#include <torch/csrc/stable/library.h>

#include <array>
#include <map>
#include <string>

#include "conv_geometry.h"
#include "tensor.h"
#include "walks.h"

namespace cnnops {

/// Calls f(T{}) with the storage type of `dtype`.
template <class F>
void with_conv_type(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f(float{});
    case ScalarType::Double: return f(double{});
    case ScalarType::BFloat16: return f(bfloat16{});
    case ScalarType::Half: return f(float16{});
    case ScalarType::Long: return f(int64_t{});
    default:
      CNNOPS_CHECK(false, "\"convolution\" not implemented for '",
                   torch::headeronly::toString(dtype), "'");
  }
}

/// Integers narrower than int64, which torch convolves as well.
inline bool is_narrow_integer(ScalarType dtype) {
  return dtype == ScalarType::Int || dtype == ScalarType::Short || dtype == ScalarType::Char ||
         dtype == ScalarType::Byte;
}

/// The bias with its elements side by side.
inline std::optional<Tensor> dense(const std::optional<Tensor>& bias) {
  return bias && !bias->is_contiguous() ? torch::stable::contiguous(*bias) : bias;
}

/// An unbatched tensor as a batch of one, and back. The layout of a result is decided on batches.
inline Tensor with_batch(const Tensor& tensor) { return torch::stable::unsqueeze(tensor, 0); }
inline Tensor without_batch(const Tensor& tensor) { return torch::stable::squeeze(tensor, 0); }

/// Strides of a batched input or output tensor of this geometry.
inline Strides strides_of(const Tensor& tensor, const ConvGeometry& geometry) {
  const auto from = tensor.strides();
  Strides strides;
  strides.batch = from[0];
  strides.channel = from[1];
  for (int i = 0; i < geometry.rank; ++i) strides.axis[kAxes - geometry.rank + i] = from[2 + i];
  return strides;
}

/// Strides of a weight whose (destination, source) channels are its axes (0, 1) or (1, 0).
inline WeightStrides weight_strides_of(const Tensor& weight, const ConvGeometry& geometry,
                                       bool transposed) {
  const auto from = weight.strides();
  WeightStrides strides;
  strides.group = geometry.out_channels_per_group() * from[0];
  strides.row = from[transposed ? 1 : 0];
  strides.depth = from[transposed ? 0 : 1];
  for (int i = 0; i < geometry.rank; ++i) strides.axis[kAxes - geometry.rank + i] = from[2 + i];
  return strides;
}

/// A source in the layout that the engine computes in; any strides where that is not channels_last.
template <class Engine>
Tensor source_for(Engine& engine, const Tensor& tensor) {
  return engine.channels_last() ? engine.to_channels_last(tensor) : tensor;
}

/// Points `to` at the tensors of a convolution, or with `transposed` of the gradient for its input.
template <class T, class Engine>
void set_operands(ConvOperands<T>& to, Engine& engine, const Tensor& source, const Tensor& weight,
                  const std::optional<Tensor>& bias, const Tensor& dest,
                  const ConvGeometry& geometry, bool transposed) {
  to.source = engine.template read<T>(source);
  to.source_strides = strides_of(source, geometry);
  to.weight = engine.template read<T>(weight);
  to.weight_strides = weight_strides_of(weight, geometry, transposed);
  to.bias = bias ? engine.template read<T>(*bias) : nullptr;
  to.dest = engine.template write<T>(dest);
  to.dest_strides = strides_of(dest, geometry);
}

/// Runs compute(dest) with a dest in the layout that the engine computes in, and moves the result
/// to `result` where that is another.
template <class Engine, class F>
void with_dest(Engine& engine, const Tensor& result, bool channels_last, const F& compute) {
  if (engine.channels_last() == channels_last) return compute(result);
  const Tensor dest = engine.allocate(sizes_of(result), result, engine.channels_last());
  compute(dest);
  engine.copy(dest, result);
}

template <class Engine>
Tensor convolution(const Tensor& input, const Tensor& weight, const std::optional<Tensor>& bias,
                   const IntList& stride, const IntList& padding, const IntList& dilation,
                   int64_t groups, const std::string& padding_mode) {
  check_like_input("weight", weight, input);
  if (bias) check_like_input("bias", *bias, input);
  const ConvGeometry geometry = check_convolution(
      sizes_of(input), sizes_of(weight), bias ? std::optional(sizes_of(*bias)) : std::nullopt,
      {stride, padding, dilation, groups, padding_mode});
  if (is_narrow_integer(input.scalar_type())) {
    // Sums modulo 2^64 are also right modulo any smaller power of two.
    const auto widened = [](const Tensor& tensor) {
      return torch::stable::to(tensor, ScalarType::Long);
    };
    const std::optional<Tensor> wide_bias = bias ? std::optional(widened(*bias)) : bias;
    return torch::stable::to(convolution<Engine>(widened(input), widened(weight), wide_bias, stride,
                                                 padding, dilation, groups, padding_mode),
                             input.scalar_type());
  }
  if (!geometry.batched) {
    return without_batch(convolution<Engine>(with_batch(input), weight, bias, stride, padding,
                                             dilation, groups, padding_mode));
  }
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  Engine engine(input, geometry, channels_last);
  const Tensor output = engine.allocate(geometry.output_sizes(), input, channels_last);
  if (output.numel() == 0) return output;
  const Tensor source = source_for(engine, input);
  const std::optional<Tensor> dense_bias = dense(bias);

  OwnedWalk walks[kAxes];
  for (int i = 0; i < kAxes; ++i) walks[i] = forward_walk(geometry.axis[i], geometry.mode, true);
  with_dest(engine, output, channels_last, [&](const Tensor& dest) {
    with_conv_type(input.scalar_type(), [&](auto type) {
      using T = decltype(type);
      Contraction<T> p;
      set_channels(p, geometry, false);
      for (int i = 0; i < kAxes; ++i) set_walk(p.walk[i], walks[i]);
      set_operands(p, engine, source, weight, dense_bias, dest, geometry, false);
      if (p.taps() == 0) {
        engine.fill(fill_of(p.dest, p.dest_strides, p.bias, geometry, &ConvAxis::output));
      } else {
        engine.run(p);
      }
    });
  });
  return output;
}

/// An InputGradient as one contraction for each phase of the strides.
template <class Engine, class T>
void run_phases(Engine& engine, const InputGradient<T>& whole, const ConvGeometry& geometry) {
  std::map<int64_t, OwnedWalk> phases[kAxes];
  bool complete = true;
  for (int i = 0; i < kAxes; ++i) {
    phases[i] = grad_input_phases(geometry.axis[i]);
    complete = complete && covers_input(phases[i], geometry.axis[i]);
  }
  if (!complete) {
    engine.fill(fill_of(whole.dest, whole.dest_strides, whole.bias, geometry, &ConvAxis::input));
  }
  for (const auto& d : phases[0]) {
    for (const auto& h : phases[1]) {
      for (const auto& w : phases[2]) {
        Contraction<T> p;
        static_cast<Channels&>(p) = whole;
        static_cast<ConvOperands<T>&>(p) = whole;
        const std::array of_axis{&d, &h, &w};
        for (int i = 0; i < kAxes; ++i) {
          const auto& [phase, owned] = *of_axis[i];
          set_walk(p.walk[i], owned);
          p.dest += phase * whole.dest_strides.axis[i];
          // The distance to a second position, which with a huge stride there is none of.
          if (owned.walk.count > 1) p.dest_strides.axis[i] *= geometry.axis[i].stride;
        }
        engine.run(p);
      }
    }
  }
}

/// The gradient for the input of a zero-padded convolution, into `dest`.
template <class Engine>
void grad_input_into(Engine& engine, const Tensor& dest, const Tensor& source, const Tensor& weight,
                     const std::optional<Tensor>& bias, const ConvGeometry& geometry) {
  with_conv_type(source.scalar_type(), [&](auto type) {
    using T = decltype(type);
    InputGradient<T> whole;
    set_channels(whole, geometry, true);
    for (int i = 0; i < kAxes; ++i) whole.axis[i] = geometry.axis[i];
    set_operands(whole, engine, source, weight, bias, dest, geometry, true);
    if (!engine.run_whole(whole)) run_phases(engine, whole, geometry);
  });
}

/// The gradient for the input of a convolution whose padding reads inside the input: the gradient
/// for the padded input, folded back onto the positions that the padding read.
template <class Engine>
void grad_padded_input_into(Engine& engine, const Tensor& dest, const Tensor& source,
                            const Tensor& weight, const std::optional<Tensor>& bias,
                            const ConvGeometry& geometry) {
  ConvGeometry padded = geometry;
  padded.mode = PaddingMode::zeros;
  for (ConvAxis& axis : padded.axis) {
    axis.input += axis.pad_begin + axis.pad_end;
    axis.pad_begin = axis.pad_end = 0;
  }
  const Tensor temporary = engine.allocate(padded.input_sizes(), source, engine.channels_last());
  grad_input_into(engine, temporary, source, weight, std::nullopt, padded);
  with_conv_type(source.scalar_type(), [&](auto type) {
    using T = decltype(type);
    Fold<T> fold = fold_of<T>(geometry, padded);
    fold.source = engine.template read<T>(temporary);
    fold.source_strides = strides_of(temporary, padded);
    fold.bias = bias ? engine.template read<T>(*bias) : nullptr;
    fold.dest = engine.template write<T>(dest);
    fold.dest_strides = strides_of(dest, geometry);
    engine.fold(fold);
  });
}

template <class Engine>
Tensor convolution_grad_input(const Tensor& grad_output, const Tensor& weight,
                              const std::optional<Tensor>& bias, const IntList& input_size,
                              const IntList& stride, const IntList& padding,
                              const IntList& dilation, int64_t groups,
                              const std::string& padding_mode) {
  check_like_input("weight", weight, grad_output);
  if (bias) check_like_input("bias", *bias, grad_output);
  const ConvGeometry geometry = check_grad_input(
      sizes_of(grad_output), sizes_of(weight), bias ? std::optional(sizes_of(*bias)) : std::nullopt,
      input_size, {stride, padding, dilation, groups, padding_mode});
  if (!geometry.batched) {
    return without_batch(convolution_grad_input<Engine>(with_batch(grad_output), weight, bias,
                                                        input_size, stride, padding, dilation,
                                                        groups, padding_mode));
  }
  const bool channels_last = is_channels_last(grad_output) || is_channels_last(weight);
  Engine engine(grad_output, geometry, channels_last);
  const Tensor grad_input = engine.allocate(geometry.input_sizes(), grad_output, channels_last);
  if (grad_input.numel() == 0) return grad_input;
  const Tensor source = source_for(engine, grad_output);
  const std::optional<Tensor> dense_bias = dense(bias);
  if (geometry.mode != PaddingMode::zeros) {
    // The fold writes any layout.
    grad_padded_input_into(engine, grad_input, source, weight, dense_bias, geometry);
  } else {
    with_dest(engine, grad_input, channels_last, [&](const Tensor& dest) {
      grad_input_into(engine, dest, source, weight, dense_bias, geometry);
    });
  }
  return grad_input;
}

template <class Engine>
Tensor convolution_grad_weight(const Tensor& grad_output, const Tensor& input,
                               const IntList& kernel_size, const IntList& stride,
                               const IntList& padding, const IntList& dilation, int64_t groups,
                               const std::string& padding_mode) {
  check_like_input("grad_output", grad_output, input);
  const ConvGeometry geometry =
      check_grad_weight(sizes_of(grad_output), sizes_of(input), kernel_size,
                        {stride, padding, dilation, groups, padding_mode});
  if (!geometry.batched) {
    return convolution_grad_weight<Engine>(with_batch(grad_output), with_batch(input), kernel_size,
                                           stride, padding, dilation, groups, padding_mode);
  }
  const bool channels_last = is_channels_last(grad_output) || is_channels_last(input);
  Engine engine(input, geometry, channels_last);
  Tensor grad_weight = engine.allocate(geometry.weight_sizes(), input, channels_last);
  if (grad_output.numel() == 0 || input.numel() == 0) return torch::stable::zero_(grad_weight);
  const Tensor source = source_for(engine, input);
  const Tensor grad = source_for(engine, grad_output);

  OwnedWalk walks[kAxes];
  for (int i = 0; i < kAxes; ++i) walks[i] = forward_walk(geometry.axis[i], geometry.mode, false);
  with_conv_type(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    WeightContraction<T> p;
    set_channels(p, geometry, false);
    for (int i = 0; i < kAxes; ++i) set_walk(p.walk[i], walks[i]);
    p.source = engine.template read<T>(source);
    p.source_strides = strides_of(source, geometry);
    p.grad = engine.template read<T>(grad);
    p.grad_strides = strides_of(grad, geometry);
    p.dest = engine.template write<T>(grad_weight);
    p.dest_strides = weight_strides_of(grad_weight, geometry, false);
    engine.run(p);
  });
  return grad_weight;
}

}  // namespace cnnops
