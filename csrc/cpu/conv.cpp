// Convolution on the CPU: tensors -> geometry -> contractions -> plan -> kernels.
#include <torch/csrc/stable/library.h>

#include <array>
#include <map>
#include <string>
#include <vector>

#include "conv_geometry.h"
#include "cpu/contraction.h"
#include "cpu/dispatch.h"
#include "cpu/parallel.h"
#include "cpu/plain_call.h"
#include "cpu/plan.h"
#include "tensor.h"

namespace cnnops {
namespace {

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

/// The bias with its elements side by side.
std::optional<Tensor> dense(const std::optional<Tensor>& bias) {
  return bias && !bias->is_contiguous() ? torch::stable::contiguous(*bias) : bias;
}

/// An unbatched tensor as a batch of one, and back. The layout of a result is decided on batches.
Tensor with_batch(const Tensor& tensor) { return torch::stable::unsqueeze(tensor, 0); }
Tensor without_batch(const Tensor& tensor) { return torch::stable::squeeze(tensor, 0); }

/// Strides of a batched input or output tensor of this geometry.
Strides strides_of(const Tensor& tensor, const ConvGeometry& geometry) {
  const auto from = tensor.strides();
  Strides strides;
  strides.batch = from[0];
  strides.channel = from[1];
  for (int i = 0; i < geometry.rank; ++i) strides.axis[kAxes - geometry.rank + i] = from[2 + i];
  return strides;
}

/// Strides of a weight whose (destination, source) channels are its axes (0, 1) or (1, 0).
WeightStrides weight_strides_of(const Tensor& weight, const ConvGeometry& geometry,
                                bool transposed) {
  const auto from = weight.strides();
  WeightStrides strides;
  strides.group = geometry.out_channels_per_group() * from[0];
  strides.row = from[transposed ? 1 : 0];
  strides.depth = from[transposed ? 0 : 1];
  for (int i = 0; i < geometry.rank; ++i) strides.axis[kAxes - geometry.rank + i] = from[2 + i];
  return strides;
}

/// A walk and the taps that it points to.
struct OwnedWalk {
  Walk walk;
  std::vector<Tap> taps;
};

/// Output positions of `axis` reading the input. With `drop` taps that only ever read zeros are
/// left out.
OwnedWalk forward_walk(const ConvAxis& axis, PaddingMode mode, bool drop) {
  OwnedWalk owned;
  owned.walk = {axis.output, axis.stride, axis.input, mode, nullptr, 0};
  owned.taps.reserve(axis.kernel);
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t offset = k * axis.dilation - axis.pad_begin;
    const bool reads = owned.walk.inside_begin(offset) < owned.walk.inside_end(offset);
    if (reads || !drop || mode != PaddingMode::zeros) owned.taps.push_back({offset, k});
  }
  return owned;
}

/// The phases of `axis` that any tap reaches, each as the walk of input positions phase, phase +
/// stride, ... over grad_output. Input position i takes tap k from output position
/// (i + pad_begin - k * dilation) / stride where that is whole.
std::map<int64_t, OwnedWalk> grad_input_phases(const ConvAxis& axis) {
  std::map<int64_t, OwnedWalk> phases;
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t reach = k * axis.dilation - axis.pad_begin;
    int64_t phase = reach % axis.stride;
    if (phase < 0) phase += axis.stride;
    if (phase >= axis.input) continue;
    const Tap tap{(phase - reach) / axis.stride, k};
    const int64_t count = (axis.input - 1 - phase) / axis.stride + 1;
    const Walk walk{count, 1, axis.output, PaddingMode::zeros, nullptr, 0};
    if (walk.inside_begin(tap.offset) >= walk.inside_end(tap.offset)) continue;
    phases.try_emplace(phase, OwnedWalk{walk, {}}).first->second.taps.push_back(tap);
  }
  return phases;
}

/// Batch, groups and channels of a contraction from input to output, or with `transposed` back.
void set_channels(ContractionShape& to, const ConvGeometry& geometry, bool transposed) {
  to.batch = geometry.batch;
  to.groups = geometry.groups;
  to.rows = transposed ? geometry.in_channels_per_group() : geometry.out_channels_per_group();
  to.depth = transposed ? geometry.out_channels_per_group() : geometry.in_channels_per_group();
}

void set_walk(Walk& to, const OwnedWalk& owned) {
  to = owned.walk;
  to.taps = owned.taps.data();
  to.tap_count = static_cast<int64_t>(owned.taps.size());
}

/// Makes one long row of a 1x1, stride-1, unpadded contraction whose planes are dense.
template <class T>
void merge_pointwise(Contraction<T>& p) {
  int64_t pixels = 1;
  const int64_t source_step = p.source_strides.axis[2], dest_step = p.dest_strides.axis[2];
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    const Walk& walk = p.walk[axis];
    const bool same = walk.tap_count == 1 && walk.taps[0].offset == 0 && walk.step == 1 &&
                      walk.count == walk.size;
    const bool dense = walk.count == 1 || (p.source_strides.axis[axis] == source_step * pixels &&
                                           p.dest_strides.axis[axis] == dest_step * pixels);
    if (!same || !dense) return;
    pixels *= walk.count;
  }
  for (int axis = 0; axis < 2; ++axis) {
    p.walk[axis].count = p.walk[axis].size = 1;
    p.source_strides.axis[axis] = p.dest_strides.axis[axis] = 0;
  }
  p.walk[2].count = p.walk[2].size = pixels;
}

template <class T>
void run(Contraction<T>& p, bool channels_last) {
  merge_pointwise(p);
  const ConvKernels<T>& kernels = conv_kernels<T>();
  switch (choose_algorithm(p, channels_last)) {
    case Algorithm::gemm_planar: return kernels.gemm_planar(p);
    case Algorithm::gemm_channels_last: return kernels.gemm_channels_last(p);
    case Algorithm::direct_planar: return kernels.direct_planar(p);
    case Algorithm::grouped_channels_last: return kernels.grouped_channels_last(p);
  }
}

template <class T>
void run(WeightContraction<T>& p, bool channels_last) {
  const ConvKernels<T>& kernels = conv_kernels<T>();
  switch (choose_weight_algorithm(p, channels_last)) {
    case Algorithm::gemm_planar: return kernels.weight_gemm_planar(p);
    case Algorithm::gemm_channels_last: return kernels.weight_gemm_channels_last(p);
    case Algorithm::direct_planar: return kernels.weight_direct_planar(p);
    case Algorithm::grouped_channels_last: return kernels.weight_grouped_channels_last(p);
  }
}

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

/// Integers narrower than int64, which torch convolves as well.
bool is_narrow_integer(ScalarType dtype) {
  return dtype == ScalarType::Int || dtype == ScalarType::Short || dtype == ScalarType::Char ||
         dtype == ScalarType::Byte;
}

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
    return torch::stable::to(convolution(widened(input), widened(weight), wide_bias, stride,
                                         padding, dilation, groups, padding_mode),
                             input.scalar_type());
  }
  if (!geometry.batched) {
    return without_batch(convolution(with_batch(input), weight, bias, stride, padding, dilation,
                                     groups, padding_mode));
  }
  const bool channels_last = is_channels_last(input) || is_channels_last(weight);
  Tensor output = allocate(geometry.output_sizes(), input, channels_last);
  if (output.numel() == 0) return output;
  const Tensor source = channels_last ? to_channels_last(input) : input;
  const std::optional<Tensor> dense_bias = dense(bias);

  OwnedWalk walks[kAxes];
  for (int i = 0; i < kAxes; ++i) walks[i] = forward_walk(geometry.axis[i], geometry.mode, true);
  with_conv_type(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    Contraction<T> p;
    set_channels(p, geometry, false);
    for (int i = 0; i < kAxes; ++i) set_walk(p.walk[i], walks[i]);
    p.source = data_of<T>(source);
    p.source_strides = strides_of(source, geometry);
    p.weight = data_of<T>(weight);
    p.weight_strides = weight_strides_of(weight, geometry, false);
    p.bias = dense_bias ? data_of<T>(*dense_bias) : nullptr;
    p.dest = mutable_data_of<T>(output);
    p.dest_strides = strides_of(output, geometry);
    if (p.taps() == 0) {
      const int64_t size[kAxes] = {p.walk[0].count, p.walk[1].count, p.walk[2].count};
      fill_with_bias(p.dest, p.dest_strides, p.bias, p.batch, geometry.out_channels, size);
    } else {
      run(p, channels_last);
    }
  });
  return output;
}

/// The gradient for the input of a zero-padded convolution, into `dest`.
void grad_input_into(const Tensor& dest, const Tensor& source, const Tensor& weight,
                     const std::optional<Tensor>& bias, const ConvGeometry& geometry,
                     bool channels_last) {
  std::map<int64_t, OwnedWalk> phases[kAxes];
  bool complete = true;
  for (int i = 0; i < kAxes; ++i) {
    const ConvAxis& axis = geometry.axis[i];
    phases[i] = grad_input_phases(axis);
    const int64_t wanted = axis.stride < axis.input ? axis.stride : axis.input;
    complete = complete && static_cast<int64_t>(phases[i].size()) == wanted;
  }
  with_conv_type(source.scalar_type(), [&](auto type) {
    using T = decltype(type);
    const T* bias_data = bias ? data_of<T>(*bias) : nullptr;
    const Strides strides = strides_of(dest, geometry);
    if (!complete) {
      const int64_t size[kAxes] = {geometry.axis[0].input, geometry.axis[1].input,
                                   geometry.axis[2].input};
      fill_with_bias(mutable_data_of<T>(dest), strides, bias_data, geometry.batch,
                     geometry.in_channels, size);
    }
    for (const auto& d : phases[0]) {
      for (const auto& h : phases[1]) {
        for (const auto& w : phases[2]) {
          Contraction<T> p;
          set_channels(p, geometry, true);
          p.source = data_of<T>(source);
          p.source_strides = strides_of(source, geometry);
          p.weight = data_of<T>(weight);
          p.weight_strides = weight_strides_of(weight, geometry, true);
          p.bias = bias_data;
          p.dest = mutable_data_of<T>(dest);
          p.dest_strides = strides;
          const std::array of_axis{&d, &h, &w};
          for (int i = 0; i < kAxes; ++i) {
            const auto& [phase, owned] = *of_axis[i];
            set_walk(p.walk[i], owned);
            p.dest += phase * strides.axis[i];
            // The distance to a second position, which with a huge stride there is none of.
            if (owned.walk.count > 1) p.dest_strides.axis[i] *= geometry.axis[i].stride;
          }
          run(p, channels_last);
        }
      }
    }
  });
}

/// The gradient for the input of a convolution whose padding reads inside the input: the gradient
/// for the padded input, folded back onto the positions that the padding read.
void grad_padded_input_into(const Tensor& dest, const Tensor& source, const Tensor& weight,
                            const std::optional<Tensor>& bias, const ConvGeometry& geometry,
                            bool channels_last) {
  ConvGeometry padded = geometry;
  padded.mode = PaddingMode::zeros;
  for (ConvAxis& axis : padded.axis) {
    axis.input += axis.pad_begin + axis.pad_end;
    axis.pad_begin = axis.pad_end = 0;
  }
  const Tensor temporary = allocate(padded.input_sizes(), source, channels_last);
  grad_input_into(temporary, source, weight, std::nullopt, padded, channels_last);
  with_conv_type(source.scalar_type(), [&](auto type) {
    using T = decltype(type);
    Fold<T> fold;
    fold.batch = geometry.batch;
    fold.channels = geometry.in_channels;
    for (int i = 0; i < kAxes; ++i) {
      fold.walk[i].size = geometry.axis[i].input;
      fold.walk[i].mode = geometry.mode;
      fold.extent[i] = padded.axis[i].input;
      fold.pad_begin[i] = geometry.axis[i].pad_begin;
    }
    fold.source = data_of<T>(temporary);
    fold.source_strides = strides_of(temporary, padded);
    fold.bias = bias ? data_of<T>(*bias) : nullptr;
    fold.dest = mutable_data_of<T>(dest);
    fold.dest_strides = strides_of(dest, geometry);
    conv_kernels<T>().fold_padding(fold);
  });
}

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
    return without_batch(convolution_grad_input(with_batch(grad_output), weight, bias, input_size,
                                                stride, padding, dilation, groups, padding_mode));
  }
  const bool channels_last = is_channels_last(grad_output) || is_channels_last(weight);
  const Tensor grad_input = allocate(geometry.input_sizes(), grad_output, channels_last);
  if (grad_input.numel() == 0) return grad_input;
  const Tensor source = channels_last ? to_channels_last(grad_output) : grad_output;
  const std::optional<Tensor> dense_bias = dense(bias);
  const auto compute =
      geometry.mode == PaddingMode::zeros ? grad_input_into : grad_padded_input_into;
  compute(grad_input, source, weight, dense_bias, geometry, channels_last);
  return grad_input;
}

Tensor convolution_grad_weight(const Tensor& grad_output, const Tensor& input,
                               const IntList& kernel_size, const IntList& stride,
                               const IntList& padding, const IntList& dilation, int64_t groups,
                               const std::string& padding_mode) {
  check_like_input("grad_output", grad_output, input);
  const ConvGeometry geometry =
      check_grad_weight(sizes_of(grad_output), sizes_of(input), kernel_size,
                        {stride, padding, dilation, groups, padding_mode});
  if (!geometry.batched) {
    return convolution_grad_weight(with_batch(grad_output), with_batch(input), kernel_size, stride,
                                   padding, dilation, groups, padding_mode);
  }
  const bool channels_last = is_channels_last(grad_output) || is_channels_last(input);
  Tensor grad_weight = allocate(geometry.weight_sizes(), input, channels_last);
  if (grad_output.numel() == 0 || input.numel() == 0) return torch::stable::zero_(grad_weight);
  const Tensor source = channels_last ? to_channels_last(input) : input;
  const Tensor grad = channels_last ? to_channels_last(grad_output) : grad_output;

  OwnedWalk walks[kAxes];
  for (int i = 0; i < kAxes; ++i) walks[i] = forward_walk(geometry.axis[i], geometry.mode, false);
  with_conv_type(input.scalar_type(), [&](auto type) {
    using T = decltype(type);
    WeightContraction<T> p;
    set_channels(p, geometry, false);
    for (int i = 0; i < kAxes; ++i) set_walk(p.walk[i], walks[i]);
    p.source = data_of<T>(source);
    p.source_strides = strides_of(source, geometry);
    p.grad = data_of<T>(grad);
    p.grad_strides = strides_of(grad, geometry);
    p.dest = mutable_data_of<T>(grad_weight);
    p.dest_strides = weight_strides_of(grad_weight, geometry, false);
    run(p, channels_last);
  });
  return grad_weight;
}

}  // namespace

PyMethodDef conv_plain_calls[] = {
    plain_method<convolution>("convolution"),
    plain_method<convolution_grad_input>("convolution_grad_input"),
    plain_method<convolution_grad_weight>("convolution_grad_weight"),
    {nullptr, nullptr, 0, nullptr},
};

}  // namespace cnnops

STABLE_TORCH_LIBRARY_IMPL(cnnops, CPU, m) {
  m.impl("convolution", TORCH_BOX(&cnnops::convolution));
  m.impl("convolution_grad_input", TORCH_BOX(&cnnops::convolution_grad_input));
  m.impl("convolution_grad_weight", TORCH_BOX(&cnnops::convolution_grad_weight));
}
