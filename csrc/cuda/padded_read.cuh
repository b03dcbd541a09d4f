// Where a position that may lie on padding reads `source`.
#pragma once

#include <type_traits>

#include "cuda/problem.h"

namespace cnnops::cuda {

/// Whether `position` reads an element, given its `offset` as if the tensor went on beyond its
/// borders. Where the padding mode maps the position into the tensor, which `kMapped` allows for,
/// `offset` becomes that of the element which it reads. Without kMapped there is no branch here.
template <bool kMapped, class Index>
SIMT_DEVICE bool padded_read(const Shape<Index>& shape, const Strides<Index>& strides,
                             const Index (&position)[kAxes], Index& offset) {
  using Unsigned = std::make_unsigned_t<Index>;
  bool outside = false;
#pragma unroll
  for (int i = 0; i < kAxes; ++i) {
    outside |= static_cast<Unsigned>(position[i]) >= static_cast<Unsigned>(shape.axis[i].size);
  }
  if constexpr (kMapped) {
    if (outside && shape.mode != PaddingMode::zeros) {
#pragma unroll
      for (int i = 0; i < kAxes; ++i) {
        const Index size = shape.axis[i].size;
        const Index inner = resolve_position(position[i], size, shape.mode);
        offset += (inner - position[i]) * strides.axis[i];
      }
      outside = false;
    }
  }
  return !outside;
}

}  // namespace cnnops::cuda
