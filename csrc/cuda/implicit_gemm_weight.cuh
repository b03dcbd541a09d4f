// The gradient for the weight on tensor cores.
//
// With grad channels as rows, (tap, source channel) as columns and pixels (batch, position) as the
// reduction axis, it is the matrix product
//     dest[row, column] = sum over pixels of grad[pixel, row] * im2col[pixel, column]
// of channels_last tensors: both operands have the reduction axis outermost, and go through shared
// memory that way (MMajor).
//
// A block computes a tile of kM channels x kN columns of a group over a share of the pixels, which
// are many where the tiles are few: the shares are partial sums, and reduce.cuh adds them in a
// fixed order. Blocks of one share are neighbours in the grid, so that all tiles read its pixels
// while L2 has them.
//
// A thread copies one and the same vector column of every slab, for a few pixels: its tap and
// channel are fixed, the pixels move. Each lane takes one pixel of the slab apart into offsets and
// a position, and the others get them from it by shuffles.
#pragma once

#include "cuda/mma_tile.cuh"
#include "cuda/padded_read.cuh"
#include "cuda/problem.h"

namespace cnnops::cuda {

/// One pixel of the reduction axis, or a column of im2col: what it adds to offsets and positions.
template <class Index>
struct SourcePlace {
  Index offset;
  Index position[kAxes];
};

/// The copies of one thread from `grad` and `source` into slabs.
template <class T, class Index, class Tile, Copies kCopies>
class WeightOperandCopies {
 public:
  SIMT_DEVICE WeightOperandCopies(const WeightProblem<T, Index>& problem, Index group,
                                  Index first_row, Index first_column, Index first_pixel,
                                  Index end_pixel)
      : p(problem), slab_pixel(first_pixel), end(end_pixel) {
    row = first_row + A::vector() * kVector<T>;
    row_offset = (group * p.rows + row) * p.grad_strides.channel;
    column = first_column + B::vector() * kVector<T>;
    source_offset = group * p.depth * p.source_strides.channel;
    if constexpr (kVectors) column_place = place_of_column(column);
  }

  /// Copies this thread's vectors of a slab of A and B, and steps to the next slab.
  SIMT_DEVICE void copy(unsigned char* a, unsigned char* b) {
    Index own_grad;
    SourcePlace<Index> own;
    take_apart(slab_pixel + static_cast<Index>(threadIdx.x % kSlab<T>), own_grad, own);
    Index grad[A::kCount];
#pragma unroll
    for (int i = 0; i < A::kCount; ++i)
      grad[i] = __shfl_sync(simt::kFullMask, own_grad, A::line(i));
    SourcePlace<Index> source[B::kCount];
#pragma unroll
    for (int i = 0; i < B::kCount; ++i) {
      source[i].offset = __shfl_sync(simt::kFullMask, own.offset, B::line(i));
#pragma unroll
      for (int axis = 0; axis < kAxes; ++axis) {
        source[i].position[axis] = __shfl_sync(simt::kFullMask, own.position[axis], B::line(i));
      }
    }
    if constexpr (kVectors) {
#pragma unroll
      for (int i = 0; i < A::kCount; ++i) {
        const bool reads = slab_pixel + A::line(i) < end && row < p.rows;
        simt::cp_async<kVectorBytes>(A::target(a, i), p.grad + grad[i] + row_offset, reads);
      }
#pragma unroll
      for (int i = 0; i < B::kCount; ++i) {
        Index offset = 0;
        const bool reads = find_source(source[i], column_place, offset) &&
                           slab_pixel + B::line(i) < end && column < columns();
        simt::cp_async<kVectorBytes>(B::target(b, i), p.source + offset, reads);
      }
    } else {
      simt::Vector<T, kVector<T>> rows[A::kCount], pixels[B::kCount];
#pragma unroll
      for (int e = 0; e < kVector<T>; ++e) {
#pragma unroll
        for (int i = 0; i < A::kCount; ++i) {
          const bool reads = slab_pixel + A::line(i) < end && row + e < p.rows;
          const Index offset = grad[i] + row_offset + e * p.grad_strides.channel;
          rows[i].at[e] = reads ? simt::load(p.grad + offset) : T{};
        }
        const SourcePlace<Index> at = place_of_column(column + e);
#pragma unroll
        for (int i = 0; i < B::kCount; ++i) {
          Index offset = 0;
          const bool reads = find_source(source[i], at, offset) && slab_pixel + B::line(i) < end &&
                             column + e < columns();
          pixels[i].at[e] = reads ? simt::load(p.source + offset) : T{};
        }
      }
#pragma unroll
      for (int i = 0; i < A::kCount; ++i) simt::store_shared(A::target(a, i), rows[i]);
#pragma unroll
      for (int i = 0; i < B::kCount; ++i) simt::store_shared(B::target(b, i), pixels[i]);
    }
    slab_pixel += kSlab<T>;
  }

 private:
  static constexpr bool kVectors = kCopies != Copies::elements;
  /// Which vectors of an operand's slab this thread copies: one of each of kCount lines.
  template <int kExtent>
  struct Copied {
    using Slab = MMajor<T, kExtent>;
    static constexpr int kLines = Tile::kThreads / Slab::kLine;  // that the block copies at once
    static constexpr int kCount = kSlab<T> / kLines;
    static_assert(kSlab<T> % kLines == 0);

    static SIMT_DEVICE int vector() { return static_cast<int>(threadIdx.x) % Slab::kLine; }
    static SIMT_DEVICE int line(int i) {
      return static_cast<int>(threadIdx.x) / Slab::kLine + i * kLines;
    }
    static SIMT_DEVICE simt::Vector<T, kVector<T>>* target(unsigned char* slab, int i) {
      return reinterpret_cast<simt::Vector<T, kVector<T>>*>(slab + Slab::copied(line(i), vector()) *
                                                                       kVectorBytes);
    }
  };
  using A = Copied<Tile::kM>;
  using B = Copied<Tile::kN>;

  SIMT_DEVICE Index columns() const { return p.taps() * p.depth; }

  /// Offset in `grad` and place in `source` of a pixel; beyond the end, of the last one.
  SIMT_DEVICE void take_apart(Index pixel, Index& grad, SourcePlace<Index>& source) const {
    Index j[kAxes];
    const Index image = p.split_pixel(pixel < end ? pixel : end - 1, j);
    grad = image * p.grad_strides.batch;
    source.offset = image * p.source_strides.batch + source_offset;
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      grad += j[axis] * p.grad_strides.axis[axis];
      source.position[axis] = j[axis] * p.axis[axis].step + p.axis[axis].offset;
      source.offset += source.position[axis] * p.source_strides.axis[axis];
    }
  }

  SIMT_DEVICE SourcePlace<Index> place_of_column(Index n) const {
    SourcePlace<Index> at;
    Index tap[kAxes];
    p.split_tap(split(n, p.by_depth), tap);
    at.offset = n * p.source_strides.channel;
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      at.position[axis] = tap[axis] * p.axis[axis].offset_step;
      at.offset += at.position[axis] * p.source_strides.axis[axis];
    }
    return at;
  }

  SIMT_DEVICE bool find_source(const SourcePlace<Index>& pixel, const SourcePlace<Index>& at,
                               Index& offset) const {
    Index read[kAxes];
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) read[axis] = pixel.position[axis] + at.position[axis];
    offset = pixel.offset + at.offset;
    return padded_read<kCopies != Copies::vectors>(p, p.source_strides, read, offset);
  }

  const WeightProblem<T, Index>& p;
  Index slab_pixel;  // the first pixel of the next slab
  Index end;         // of the block's share
  Index row;         // of A: the first of this thread's vector
  Index row_offset;
  Index column;  // of B, likewise
  SourcePlace<Index> column_place;
  Index source_offset;  // of the group
};

/// Where a column (tap, source channel) lies in a row of `dest`.
template <class T, class Index>
SIMT_DEVICE Index dest_offset(const WeightProblem<T, Index>& p, Index column) {
  Index tap[kAxes];
  p.split_tap(split(column, p.by_depth), tap);
  Index offset = column * p.dest_strides.depth;
#pragma unroll
  for (int i = 0; i < kAxes; ++i) {
    offset += (p.axis[i].kernel + tap[i] * p.axis[i].kernel_step) * p.dest_strides.axis[i];
  }
  return offset;
}

template <class T, class Index, class Tile, Copies kCopies>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(Tile::kThreads, Tile::kBlocks)
    implicit_gemm_weight(SIMT_PARAMETER WeightProblem<T, Index> p, SIMT_PARAMETER Share share) {
  SIMT_DYNAMIC_SHARED(unsigned char, shared);
  const Place<Tile> place;
  const Index all_columns = p.taps() * p.depth;
  const uint32_t tiles_across = static_cast<uint32_t>((all_columns + Tile::kN - 1) / Tile::kN);
  const uint32_t tiles_down = static_cast<uint32_t>((p.rows + Tile::kM - 1) / Tile::kM);
  const Index first_column = static_cast<Index>(blockIdx.x % tiles_across) * Tile::kN;
  const Index first_row = static_cast<Index>(blockIdx.x / tiles_across % tiles_down) * Tile::kM;
  const Index group = blockIdx.x / tiles_across / tiles_down;

  const Index pixels = p.pixels();
  const Index share_pixels = static_cast<Index>(share.slabs) * kSlab<T>;
  const Index first_pixel = static_cast<Index>(blockIdx.y) * share_pixels;
  const Index end_pixel = pixels - first_pixel < share_pixels ? pixels : first_pixel + share_pixels;
  const int slabs = static_cast<int>((end_pixel - first_pixel + kSlab<T> - 1) / kSlab<T>);

  WeightOperandCopies<T, Index, Tile, kCopies> copies(p, group, first_row, first_column,
                                                      first_pixel, end_pixel);
  Sums<Tile> sums = {};
  run_pipeline<T, Tile, MMajor<T, Tile::kM>, MMajor<T, Tile::kN>>(sums, shared, place, copies,
                                                                  slabs);

  const Index columns = all_columns - first_column;
  const Index rows = p.rows - first_row;
  if (share.partial != nullptr) {
    const int64_t row = static_cast<int64_t>(blockIdx.y) * p.groups * p.rows +
                        static_cast<int64_t>(group) * p.rows + first_row;
    const auto offset_of = [&](int m) -> Index { return m < rows ? m * all_columns : -1; };
    const auto column_offset = [](Index column) { return column; };
    store_tile<float, Index, Tile>(sums, shared, place,
                                   share.partial + row * all_columns + first_column, columns,
                                   share.vectors, offset_of, column_offset);
  } else {
    T* dest = p.dest + group * p.dest_strides.group + first_row * p.dest_strides.row;
    const auto offset_of = [&](int m) -> Index { return m < rows ? m * p.dest_strides.row : -1; };
    const auto column_offset = [&](Index n) { return dest_offset(p, first_column + n); };
    store_tile<T, Index, Tile>(sums, shared, place, dest, columns, false, offset_of, column_offset);
  }
}

}  // namespace cnnops::cuda
