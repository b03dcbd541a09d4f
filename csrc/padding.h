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

/// The position of an axis of `size` that `position` reads, or -1 for zero.
CNNOPS_HOST_DEVICE inline int64_t resolve_position(int64_t position, int64_t size,
                                                   PaddingMode mode) {
  if (position >= 0 && position < size) return position;
  switch (mode) {
    case PaddingMode::zeros: return -1;
    case PaddingMode::replicate: return position < 0 ? 0 : size - 1;
    case PaddingMode::circular: return position < 0 ? position + size : position - size;
    case PaddingMode::reflect: return position < 0 ? -position : 2 * (size - 1) - position;
  }
  return -1;
}

}  // namespace cnnops
