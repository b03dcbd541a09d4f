// Where in the source an element of the virtual im2col matrix lies. Its columns are pixels, its
// rows are taps of channels; the position is the sum of what each contributes. A GEMM takes the
// one apart once for each block and the other once for each problem, so that its main loop only
// adds and compares.
#pragma once

#include <type_traits>

#include "cuda/problem.h"
#include "cuda/simt.cuh"

namespace cnnops::cuda {

/// What a pixel, or a tap of a channel, contributes: an offset in elements and a position on each
/// axis. Moved in units of 16 bytes.
template <class Index>
struct Site {
  static constexpr int kLanes = 16 / sizeof(Index);
  static constexpr int kParts = (1 + kAxes) / kLanes;
  simt::Vector<Index, kLanes> part[kParts];

  SIMT_DEVICE Index& offset() { return part[0].at[0]; }
  SIMT_DEVICE Index& position(int axis) {
    return part[(1 + axis) / kLanes].at[(1 + axis) % kLanes];
  }
};

/// A position so far outside that no contribution of the other side brings it back; legitimate
/// ones keep within half of it (describe.h).
template <class Index>
constexpr Index kNowhere =
    sizeof(Index) == 4 ? -(Index{1} << 30) : -(Index{1} << (sizeof(Index) * 8 - 2));

/// The site of what is read as zero: a pixel, or a tap, beyond the last one.
template <class Index>
SIMT_DEVICE Site<Index> nowhere() {
  Site<Index> site;
  site.offset() = 0;
  site.position(0) = kNowhere<Index>;
  site.position(1) = 0;
  site.position(2) = 0;
  return site;
}

/// The site of a destination at `j` of an image.
template <class Index>
SIMT_DEVICE Site<Index> site_of_pixel(const Shape<Index>& shape, const Strides<Index>& strides,
                                      Index image, const Index (&j)[kAxes]) {
  Site<Index> site;
  Index offset = image * strides.batch;
#pragma unroll
  for (int i = 0; i < kAxes; ++i) {
    site.position(i) = j[i] * shape.axis[i].step;
    offset += site.position(i) * strides.axis[i];
  }
  site.offset() = offset;
  return site;
}

/// The site of `row` = tap * depth + channel.
template <class Index>
SIMT_DEVICE Site<Index> site_of_tap(const Shape<Index>& shape, const Strides<Index>& strides,
                                    Index row) {
  Index channel = row, t[kAxes];
  shape.split_tap(split(channel, shape.by_depth), t);
  Site<Index> site;
  Index offset = channel * strides.channel;
#pragma unroll
  for (int i = 0; i < kAxes; ++i) {
    site.position(i) = shape.axis[i].offset + t[i] * shape.axis[i].offset_step;
    offset += site.position(i) * strides.axis[i];
  }
  site.offset() = offset;
  return site;
}

/// Sets `offset` to where the element of a pixel and a tap lies; false where it is zero. Only
/// `mapped` kernels know padding that is not zeros: finding out would cost the others more than
/// their sums leave time for.
template <bool mapped, class Index>
SIMT_DEVICE bool locate(const Shape<Index>& shape, const Strides<Index>& strides, Site<Index> pixel,
                        Site<Index> tap, Index& offset) {
  using Unsigned = std::make_unsigned_t<Index>;
  bool inside = true;
  Index position[kAxes];
#pragma unroll
  for (int i = 0; i < kAxes; ++i) {
    position[i] = pixel.position(i) + tap.position(i);
    inside =
        inside && static_cast<Unsigned>(position[i]) < static_cast<Unsigned>(shape.axis[i].size);
  }
  offset = pixel.offset() + tap.offset();
  if constexpr (mapped) {
    if (inside || shape.mode == PaddingMode::zeros) return inside;
    if (position[0] < kNowhere<Index> / 2) return false;
#pragma unroll
    for (int i = 0; i < kAxes; ++i) {
      const auto resolved =
          static_cast<Index>(resolve_position(position[i], shape.axis[i].size, shape.mode));
      offset += (resolved - position[i]) * strides.axis[i];
    }
    return true;
  }
  return inside;
}

/// A site in global or in shared memory.
template <class Index>
SIMT_DEVICE Site<Index> load_site(const Site<Index>* from) {
  Site<Index> site;
#pragma unroll
  for (int i = 0; i < Site<Index>::kParts; ++i) site.part[i] = simt::load(&from->part[i]);
  return site;
}
template <class Index>
SIMT_DEVICE Site<Index> load_shared_site(const Site<Index>* from) {
  Site<Index> site;
#pragma unroll
  for (int i = 0; i < Site<Index>::kParts; ++i) site.part[i] = simt::load_shared(&from->part[i]);
  return site;
}
template <class Index>
SIMT_DEVICE void store_site(Site<Index>* to, const Site<Index>& site) {
#pragma unroll
  for (int i = 0; i < Site<Index>::kParts; ++i) simt::store(&to->part[i], site.part[i]);
}
template <class Index>
SIMT_DEVICE void store_shared_site(Site<Index>* to, const Site<Index>& site) {
#pragma unroll
  for (int i = 0; i < Site<Index>::kParts; ++i) simt::store_shared(&to->part[i], site.part[i]);
}

/// Writes the sites of all rows of the im2col matrix, `padded` in number: those from `rows` on
/// are nowhere.
template <class Index>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(256, 1) void list_taps(SIMT_PARAMETER Shape<Index> shape,
                                                      SIMT_PARAMETER Strides<Index> strides,
                                                      Index rows, Index padded,
                                                      Site<Index>* sites) {
  const Index first = static_cast<Index>(blockIdx.x) * 256 + threadIdx.x;
  for (Index row = first; row < padded; row += static_cast<Index>(gridDim.x) * 256) {
    store_site(&sites[row], row < rows ? site_of_tap(shape, strides, row) : nowhere<Index>());
  }
}

}  // namespace cnnops::cuda
