// Convolution on tensor cores: the forward pass, and each phase of the gradient for the input.
//
// With pixels (batch, position) as rows, destination channels as columns and (tap, source channel)
// as the reduction axis, a convolution of channels_last tensors is the matrix product
//     dest[pixel, row] = sum over k of im2col[pixel, k] * weight[row, k]
// of which im2col is never in memory: the copies to shared memory read `source` where each of its
// vectors lies, and write zeros where a tap falls on padding.
//
// A block computes a tile of kM pixels x kN channels of a group; blocks that differ only in
// channels and group are neighbours in the grid, so that the pixels they share come from L2. It
// walks the reduction axis in slabs of kSlab elements, kStages - 1 of them in flight, with one
// barrier a slab. A thread copies one and the same vector column of every slab, for a few pixels
// and a few weight rows: it knows one place on the reduction axis, which serves all of them, and
// per pixel an offset and a position, to which the tap adds. Few of the loop's instructions are
// thus addresses: per copied vector an addition and a bounds check for each axis.
//
// Where the tiles are too few to fill the GPU, several blocks share one, each with its part of the
// reduction axis, and reduce.cuh adds their sums in a fixed order.
#pragma once

#include "cuda/mma_tile.cuh"
#include "cuda/padded_read.cuh"
#include "cuda/problem.h"

namespace cnnops::cuda {

/// A place on the reduction axis, and what it adds to the offset of every pixel and weight row.
template <class Index>
struct ReductionPlace {
  Index channel;
  Index tap[kAxes];  // tap[0] == axis[0].taps: past the end
  Index source;
  Index weight;
};

/// The copies of one thread from `source` and `weight` into slabs.
template <class T, class Index, class Tile, Copies kCopies>
class OperandCopies {
 public:
  SIMT_DEVICE OperandCopies(const Problem<T, Index>& problem, Index group, Index first_pixel,
                            Index first_row, Index first_k)
      : p(problem) {
    const Index last_pixel = p.pixels() - 1;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      // Beyond the last pixel: copied again, and dropped when the tile is written.
      Index j[kAxes], pixel = first_pixel + first_line() + i * kLines;
      const Index image = p.split_pixel(pixel < last_pixel ? pixel : last_pixel, j);
      pixel_offset[i] = image * p.source_strides.batch + group * p.depth * channel_stride();
#pragma unroll
      for (int axis = 0; axis < kAxes; ++axis) {
        position[i][axis] = j[axis] * p.axis[axis].step + p.axis[axis].offset;
        pixel_offset[i] += position[i][axis] * p.source_strides.axis[axis];
      }
    }
    row = first_row + first_line();
    row_offset = group * p.weight_strides.group + row * p.weight_strides.row;
    seek(first_k + vector() * kVector<T>);
  }

  /// Copies this thread's vectors of a slab of A and B, and steps to the next slab.
  SIMT_DEVICE void copy(unsigned char* a, unsigned char* b) {
    if constexpr (kVectors) {
      const bool inside = place.tap[0] < p.axis[0].taps;
#pragma unroll
      for (int i = 0; i < kPixels; ++i) {
        Index offset = 0;
        const bool reads = find_source(i, place, offset) && inside;
        simt::cp_async<kVectorBytes>(target(a, i), p.source + offset, reads);
      }
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool reads = row + i * kLines < p.rows && inside;
        const Index offset = row_offset + i * kLines * p.weight_strides.row + place.weight;
        simt::cp_async<kVectorBytes>(target(b, i), p.weight + offset, reads);
      }
      advance(place, kSlab<T>);
    } else {
      simt::Vector<T, kVector<T>> pixels[kPixels], rows[kRows];
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) {
        const bool inside = place.tap[0] < p.axis[0].taps;
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
          Index offset = 0;
          const bool reads = find_source(i, place, offset) && inside;
          pixels[i].at[e] = reads ? simt::load(p.source + offset) : T{};
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          const bool reads = row + i * kLines < p.rows && inside;
          const Index offset = row_offset + i * kLines * p.weight_strides.row + place.weight;
          rows[i].at[e] = reads ? simt::load(p.weight + offset) : T{};
        }
        advance(place, 1);
      }
#pragma unroll
      for (int i = 0; i < kPixels; ++i) simt::store_shared(target(a, i), pixels[i]);
#pragma unroll
      for (int i = 0; i < kRows; ++i) simt::store_shared(target(b, i), rows[i]);
      advance(place, kSlab<T> - kVector<T>);
    }
  }

 private:
  static constexpr bool kVectors = kCopies != Copies::elements;
  static constexpr int kLine = KMajor<T>::kLine;
  static constexpr int kLines = Tile::kThreads / kLine;  // that the block copies at once
  static constexpr int kPixels = Tile::kM / kLines;
  static constexpr int kRows = Tile::kN / kLines;
  static_assert(Tile::kM % kLines == 0 && Tile::kN % kLines == 0);

  static SIMT_DEVICE int first_line() { return static_cast<int>(threadIdx.x) / kLine; }
  static SIMT_DEVICE int vector() { return static_cast<int>(threadIdx.x) % kLine; }

  /// Where this thread's i-th vector of a slab goes.
  static SIMT_DEVICE simt::Vector<T, kVector<T>>* target(unsigned char* slab, int i) {
    const int at = KMajor<T>::copied(first_line() + i * kLines, vector());
    return reinterpret_cast<simt::Vector<T, kVector<T>>*>(slab + at * kVectorBytes);
  }

  SIMT_DEVICE Index channel_stride() const { return kVectors ? 1 : p.source_strides.channel; }
  SIMT_DEVICE Index depth_stride() const { return kVectors ? 1 : p.weight_strides.depth; }

  /// Whether pixel i reads an element at `at`, and its offset.
  SIMT_DEVICE bool find_source(int i, const ReductionPlace<Index>& at, Index& offset) const {
    Index read[kAxes];
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      read[axis] = position[i][axis] + at.tap[axis] * p.axis[axis].offset_step;
    }
    offset = pixel_offset[i] + at.source;
    return padded_read<kCopies != Copies::vectors>(p, p.source_strides, read, offset);
  }

  SIMT_DEVICE void seek(Index k) {
    const Index tap = split(k, p.by_depth);
    place.channel = k;
    p.split_tap(tap, place.tap);
    find_offsets(place);
  }

  SIMT_DEVICE void advance(ReductionPlace<Index>& at, Index elements) const {
    at.channel += elements;
    if (at.channel < p.depth) {
      at.source += elements * channel_stride();
      at.weight += elements * depth_stride();
      return;
    }
    do {
      at.channel -= p.depth;
      if (++at.tap[2] == p.axis[2].taps) {
        at.tap[2] = 0;
        if (++at.tap[1] == p.axis[1].taps) {
          at.tap[1] = 0;
          ++at.tap[0];
        }
      }
    } while (at.channel >= p.depth);
    find_offsets(at);
  }

  SIMT_DEVICE void find_offsets(ReductionPlace<Index>& at) const {
    at.source = at.channel * channel_stride();
    at.weight = at.channel * depth_stride();
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      const Axis<Index>& a = p.axis[axis];
      at.source += at.tap[axis] * a.offset_step * p.source_strides.axis[axis];
      at.weight += (a.kernel + at.tap[axis] * a.kernel_step) * p.weight_strides.axis[axis];
    }
  }

  const Problem<T, Index>& p;
  Index pixel_offset[kPixels];     // of channel 0 where tap 0 reads, which may be outside
  Index position[kPixels][kAxes];  // that tap 0 reads
  Index row;                       // of weight: the first that this thread copies
  Index row_offset;
  ReductionPlace<Index> place;
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
