#include "cpu/channel_sums.h"

#include "padding.h"

namespace cnnops {
namespace {

/// torch's sum is fast, but behind the dispatcher: in that time a simple loop adds so many
/// elements.
constexpr int64_t kFewElements = 2048;

/// One sum after the other, in the wider type, in the order of the axes.
template <class T>
Tensor sum_few(const Tensor& grad, int channel_axis) {
  const auto sizes = grad.sizes(), strides = grad.strides();
  const int64_t channels = sizes[channel_axis];
  // The other axes, with those that there are not in front.
  constexpr int kOthers = 1 + kAxes;
  int64_t count[kOthers] = {1, 1, 1, 1}, step[kOthers] = {0, 0, 0, 0};
  for (int axis = static_cast<int>(grad.dim()) - 1, to = kOthers; axis >= 0; --axis) {
    if (axis == channel_axis) continue;
    count[--to] = sizes[axis];
    step[to] = strides[axis];
  }
  const Tensor sums = allocate(IntList{channels}, grad, false);
  for (int64_t channel = 0; channel < channels; ++channel) {
    const T* plane = data_of<T>(grad) + channel * strides[channel_axis];
    double sum = 0;
    for (int64_t n = 0; n < count[0]; ++n) {
      for (int64_t d = 0; d < count[1]; ++d) {
        for (int64_t h = 0; h < count[2]; ++h) {
          const T* row = plane + n * step[0] + d * step[1] + h * step[2];
          for (int64_t w = 0; w < count[3]; ++w) sum += row[w * step[3]];
        }
      }
    }
    mutable_data_of<T>(sums)[channel] = static_cast<T>(sum);
  }
  return sums;
}

}  // namespace

Tensor sum_to_channels(const Tensor& grad, int rank) {
  const int dim = static_cast<int>(grad.dim()), channel_axis = dim - rank - 1;
  CNNOPS_CHECK(rank <= kAxes && (channel_axis == 0 || channel_axis == 1), "expected ", rank + 1,
               " or ", rank + 2, " dimensions, but got sizes ", sizes_of(grad));
  const bool few = grad.numel() <= kFewElements;
  if (few && grad.scalar_type() == ScalarType::Float) return sum_few<float>(grad, channel_axis);
  if (few && grad.scalar_type() == ScalarType::Double) return sum_few<double>(grad, channel_axis);
  IntList axes;
  for (int axis = 0; axis < dim; ++axis) {
    if (axis != channel_axis) axes.push_back(axis);
  }
  return torch::stable::sum(grad, axes);
}

}  // namespace cnnops
