// What positions outside a tensor read: the one rule of padding, for kernels of every device.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CNNOPS_HOST_DEVICE __host__ __device__
#else
#define CNNOPS_HOST_DEVICE
#endif

namespace cnnops {

/// Depth, height, width. A 1-d or 2-d convolution has size-1 axes in front.
constexpr int kAxes = 3;

/// What an input position outside the tensor reads as: zero, or a position inside it.
enum class PaddingMode : uint8_t { zeros, reflect, replicate, circular };

/// The position of an axis of `size` that `position` reads, or -1 for zero. Padding reaches no
/// further than once round the axis.
template <class Index>
CNNOPS_HOST_DEVICE inline Index resolve_position(Index position, Index size, PaddingMode mode) {
  const bool before = position < 0, behind = position >= size;
  if (!before && !behind) return position;
  if (mode == PaddingMode::zeros) return -1;
  // Selections instead of branches, for kernels that do this in unrolled loops.
  const Index replicated = before ? 0 : size - 1;
  const Index wrapped = before ? position + size : position - size;
  const Index reflected = before ? -position : 2 * (size - 1) - position;
  return mode == PaddingMode::replicate  ? replicated
         : mode == PaddingMode::circular ? wrapped
                                         : reflected;
}

}  // namespace cnnops
