// Convolution on tensor cores: the forward pass, and each phase of the gradient for the input.
//
// A convolution of channels_last tensors is the matrix product
//     dest[pixel, row] = sum over k of im2col[pixel, k] * weight[row, k]
// where a pixel is (batch, position), a row of the weight is a destination channel, and k, the
// reduction axis, is (tap, source channel). im2col is never in memory: the copies to shared memory
// read `source` where each of its vectors lies, and write zeros where a tap falls on padding.
//
// A block computes a tile of kM pixels x kN rows of a group. Blocks of the same pixels, which
// differ in rows and group, are neighbours in the grid, so that the source they share comes from
// L2. A block walks the reduction axis in slabs of kSlab elements, kStages - 1 of them in flight,
// with one barrier a slab. A thread copies one and the same vector column of every slab, for a few
// pixels and a few rows: it knows one place on the reduction axis, which serves all of them, and
// per pixel an offset and a position, to which the tap adds. Few of the loop's instructions are
// thus addresses: per copied vector an addition and a bounds check for each axis.
//
// Where the tiles are too few to fill the GPU, several blocks share one, each with its part of the
// reduction axis, and join_shares.cuh adds their sums in a fixed order.
#pragma once

#include "cuda/mma_tile.cuh"
#include "cuda/padded_read.cuh"
#include "cuda/problem.h"

namespace cnnops::cuda {

/// A place on the reduction axis, and what it adds to the offset of every pixel and weight row.
/// kDense: channels of source and weight lie side by side.
template <class T, class Index, bool kDense>
struct ReductionPlace {
  const Problem<T, Index>& p;
  Index channel;
  Index tap[kAxes];
  Index source;
  Index weight;

  SIMT_DEVICE ReductionPlace(const Problem<T, Index>& problem, Index k) : p(problem) {
    const Index flat_tap = split(k, p.by_depth);
    channel = k;
    p.split_tap(flat_tap, tap);
    settle();
  }

  /// Before the end of the reduction axis?
  SIMT_DEVICE bool inside() const { return tap[0] < p.axis[0].taps; }

  SIMT_DEVICE void advance(Index elements) {
    if (!inside()) return;
    channel += elements;
    if (channel < p.depth) {
      source += elements * channel_stride();
      weight += elements * depth_stride();
      return;
    }
    do {
      channel -= p.depth;
      if (++tap[2] == p.axis[2].taps) {
        tap[2] = 0;
        if (++tap[1] == p.axis[1].taps) {
          tap[1] = 0;
          ++tap[0];
        }
      }
    } while (channel >= p.depth);
    settle();
  }

 private:
  SIMT_DEVICE Index channel_stride() const { return kDense ? 1 : p.source_strides.channel; }
  SIMT_DEVICE Index depth_stride() const { return kDense ? 1 : p.weight_strides.depth; }

  /// Computes the offsets of this tap and channel. All places beyond the end become one, with
  /// offsets of 0: those of taps that do not exist could be too large for Index.
  SIMT_DEVICE void settle() {
    if (!inside()) {
      tap[0] = p.axis[0].taps;
      source = weight = 0;
      return;
    }
    source = channel * channel_stride();
    weight = channel * depth_stride();
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      const Axis<Index>& a = p.axis[axis];
      source += tap[axis] * a.offset_step * p.source_strides.axis[axis];
      weight += (a.kernel + tap[axis] * a.kernel_step) * p.weight_strides.axis[axis];
    }
  }
};

/// A pixel: the position that tap 0 reads, which may be outside, and the offset of channel 0 there.
template <class Index>
struct Pixel {
  Index offset;
  Index position[kAxes];

  Pixel() = default;
  /// Pixel `index`; the last one stands in for those beyond it, whose results are dropped.
  template <class T>
  SIMT_DEVICE Pixel(const Problem<T, Index>& p, Index group, Index index) {
    const Index last = p.pixels() - 1;
    Index j[kAxes];
    const Index image = p.split_pixel(index < last ? index : last, j);
    offset = image * p.source_strides.batch + group * p.depth * p.source_strides.channel;
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      position[axis] = j[axis] * p.axis[axis].step + p.axis[axis].offset;
      offset += position[axis] * p.source_strides.axis[axis];
    }
  }

  /// Whether the pixel reads an element at `place` of the reduction axis; `found` is its offset.
  template <bool kMapped, class T, bool kDense>
  SIMT_DEVICE bool find(const ReductionPlace<T, Index, kDense>& place, Index& found) const {
    Index read[kAxes];
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      read[axis] = position[axis] + place.tap[axis] * place.p.axis[axis].offset_step;
    }
    found = offset + place.source;
    return padded_read<kMapped>(place.p, place.p.source_strides, read, found) && place.inside();
  }
};

/// The copies of one thread from `source` and `weight` into slabs: one and the same vector of
/// channels of every slab, for kPixels pixels and kRows rows.
template <class T, class Index, class Tile, Copies kCopies>
class OperandCopies {
 public:
  SIMT_DEVICE OperandCopies(const Problem<T, Index>& problem, Index group, Index first_pixel,
                            Index first_row, Index first_k)
      : p(problem), place(problem, first_k + vector() * kVector<T>) {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) pixel[i] = Pixel<Index>(p, group, first_pixel + line(i));
    row = first_row + line(0);
    row_offset = group * p.weight_strides.group + row * p.weight_strides.row;
  }

  /// Starts the copies of a slab of A and B, and steps to the next slab.
  SIMT_DEVICE void copy(unsigned char* a, unsigned char* b) {
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      Index offset;
      const bool reads = pixel[i].template find<kCopies == Copies::mapped_vectors>(place, offset);
      simt::cp_async<kVectorBytes>(target(a, i), p.source + offset, reads);
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool reads = row + i * kLines < p.rows && place.inside();
      const Index offset = row_offset + i * kLines * p.weight_strides.row + place.weight;
      simt::cp_async<kVectorBytes>(target(b, i), p.weight + offset, reads);
    }
    place.advance(kSlab<T>);
  }

 private:
  static constexpr int kLine = KMajor<T>::kLine;
  static constexpr int kLines = Tile::kThreads / kLine;  // that the block copies at once
  static constexpr int kPixels = Tile::kM / kLines;
  static constexpr int kRows = Tile::kN / kLines;
  static_assert(Tile::kM % kLines == 0 && Tile::kN % kLines == 0);

  static SIMT_DEVICE int vector() { return static_cast<int>(threadIdx.x) % kLine; }
  static SIMT_DEVICE int line(int i) { return static_cast<int>(threadIdx.x) / kLine + i * kLines; }
  static SIMT_DEVICE unsigned char* target(unsigned char* slab, int i) {
    return slab + KMajor<T>::copied(line(i), vector()) * kVectorBytes;
  }

  const Problem<T, Index>& p;
  ReductionPlace<T, Index, true> place;
  Pixel<Index> pixel[kPixels];
  Index row;  // the first that this thread copies
  Index row_offset;
};

/// The same element by element: one and the same channel of every slab, for many pixels and rows,
/// so that lanes read neighbouring channels. Each lane knows one of the warp's pixels, and the
/// others get it from that lane by shuffles.
template <class T, class Index, class Tile>
class OperandCopies<T, Index, Tile, Copies::elements> {
 public:
  SIMT_DEVICE OperandCopies(const Problem<T, Index>& problem, Index group, Index first_pixel,
                            Index first_row, Index first_k)
      : p(problem), place(problem, first_k + element()) {
    const int lane = static_cast<int>(threadIdx.x) % simt::kWarp;
    const int warp = static_cast<int>(threadIdx.x) / simt::kWarp;
    own = Pixel<Index>(
        p, group,
        first_pixel + warp * kLinesOfWarp + lane % kLinesOfWarp + lane / kLinesOfWarp * kLines);
    row = first_row + line(0);
    row_offset = group * p.weight_strides.group + row * p.weight_strides.row;
  }

  SIMT_DEVICE void copy(unsigned char* a, unsigned char* b) {
    T pixels[kPixels], rows[kRows];
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      const int owner = i * kLinesOfWarp + line(0) % kLinesOfWarp;
      Pixel<Index> pixel;
      pixel.offset = __shfl_sync(simt::kFullMask, own.offset, owner);
#pragma unroll
      for (int axis = 0; axis < kAxes; ++axis) {
        pixel.position[axis] = __shfl_sync(simt::kFullMask, own.position[axis], owner);
      }
      Index offset;
      const bool reads = pixel.template find<true>(place, offset);
      pixels[i] = reads ? simt::load(p.source + offset) : T{};
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool reads = row + i * kLines < p.rows && place.inside();
      const Index offset = row_offset + i * kLines * p.weight_strides.row + place.weight;
      rows[i] = reads ? simt::load(p.weight + offset) : T{};
    }
#pragma unroll
    for (int i = 0; i < kPixels; ++i) simt::store_shared(target(a, i), pixels[i]);
#pragma unroll
    for (int i = 0; i < kRows; ++i) simt::store_shared(target(b, i), rows[i]);
    place.advance(kSlab<T>);
  }

 private:
  static constexpr int kLines = Tile::kThreads / kSlab<T>;  // that the block copies at once
  static constexpr int kLinesOfWarp = simt::kWarp / kSlab<T>;
  static constexpr int kPixels = Tile::kM / kLines;
  static constexpr int kRows = Tile::kN / kLines;
  static_assert(kPixels * kLinesOfWarp <= simt::kWarp, "a pixel for each lane");

  static SIMT_DEVICE int element() { return static_cast<int>(threadIdx.x) % kSlab<T>; }
  static SIMT_DEVICE int line(int i) {
    return static_cast<int>(threadIdx.x) / kSlab<T> + i * kLines;
  }
  static SIMT_DEVICE T* target(unsigned char* slab, int i) {
    const int vector = KMajor<T>::copied(line(i), element() / kVector<T>);
    return reinterpret_cast<T*>(slab) + vector * kVector<T> + element() % kVector<T>;
  }

  const Problem<T, Index>& p;
  ReductionPlace<T, Index, false> place;
  Pixel<Index> own;
  Index row;  // the first that this thread copies
  Index row_offset;
};

/// Adds to each sum the bias of its column. `bias` has `columns` elements, if there is one.
template <class T, class Index, class Tile>
SIMT_DEVICE void add_bias(Sums<Tile>& sums, const Place<Tile>& place, const T* bias,
                          Index columns) {
  if (bias == nullptr) return;
#pragma unroll
  for (int j = 0; j < Tile::kAcross; ++j) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const Index column = place.n + j * 8 + place.lane % 4 * 2 + e;
      const float value = column < columns ? simt::to_float(simt::load(bias + column)) : 0.0f;
#pragma unroll
      for (int i = 0; i < Tile::kDown; ++i) {
        sums[i][j][e] += value;
        sums[i][j][2 + e] += value;
      }
    }
  }
}

/// Where channel 0 of a pixel lies in `dest`.
template <class T, class Index>
SIMT_DEVICE Index dest_offset(const Problem<T, Index>& p, Index pixel) {
  Index j[kAxes];
  Index offset = p.split_pixel(pixel, j) * p.dest_strides.batch;
#pragma unroll
  for (int axis = 0; axis < kAxes; ++axis) offset += j[axis] * p.dest_strides.axis[axis];
  return offset;
}

/// Block x takes a tile, counted along rows, then groups, then pixels; block y a share of its sums.
template <class T, class Index, class Tile, Copies kCopies>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(Tile::kThreads, Tile::kBlocks)
    implicit_gemm(SIMT_PARAMETER Problem<T, Index> p, SIMT_PARAMETER Share share) {
  SIMT_DYNAMIC_SHARED(unsigned char, shared);
  const Place<Tile> place;
  const uint32_t tiles_across = static_cast<uint32_t>((p.rows + Tile::kN - 1) / Tile::kN);
  const uint32_t groups = static_cast<uint32_t>(p.groups);
  const Index first_row = static_cast<Index>(blockIdx.x % tiles_across) * Tile::kN;
  const Index group = blockIdx.x / tiles_across % groups;
  const Index first_pixel = static_cast<Index>(blockIdx.x / tiles_across / groups) * Tile::kM;

  const Index all_slabs = (p.taps() * p.depth + kSlab<T> - 1) / kSlab<T>;
  const Index first_slab = static_cast<Index>(blockIdx.y) * share.slabs;
  const int slabs =
      static_cast<int>(all_slabs - first_slab < share.slabs ? all_slabs - first_slab : share.slabs);

  OperandCopies<T, Index, Tile, kCopies> copies(p, group, first_pixel, first_row,
                                                first_slab * kSlab<T>);
  Sums<Tile> sums = {};
  run_pipeline<T, Tile, KMajor<T>, KMajor<T>>(sums, shared, place, copies, slabs);

  const Index columns = p.rows - first_row;
  const Index channel = group * p.rows + first_row;
  const Index pixels = p.pixels();
  if (share.partial != nullptr) {
    const Index channels = p.groups * p.rows;
    float* dest = share.partial + static_cast<int64_t>(blockIdx.y) * pixels * channels + channel;
    const auto offset_of = [&](int m) -> Index {
      const Index pixel = first_pixel + m;
      return pixel < pixels ? pixel * channels : -1;
    };
    const auto column_offset = [](Index column) { return column; };
    store_tile<float, Index, Tile>(sums, shared, place, dest, columns, share.vectors, offset_of,
                                   column_offset);
  } else {
    const Index stride = p.dest_strides.channel;
    const auto offset_of = [&](int m) -> Index {
      const Index pixel = first_pixel + m;
      return pixel < pixels ? dest_offset(p, pixel) : -1;
    };
    add_bias<T, Index, Tile>(sums, place, p.bias == nullptr ? nullptr : p.bias + channel, columns);
    const auto column_offset = [&](Index column) { return column * stride; };
    store_tile<T, Index, Tile>(sums, shared, place, p.dest + channel * stride, columns,
                               share.vectors, offset_of, column_offset);
  }
}

}  // namespace cnnops::cuda
