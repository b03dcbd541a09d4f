// The gradient for the weight on tensor cores.
//
// With grad channels as rows, (tap, source channel) as columns and pixels (batch, position) as the
// reduction axis, it is the matrix product
//     dest[row, column] = sum over pixels of grad[pixel, row] * im2col[pixel, column]
// of channels_last tensors: both operands have the reduction axis outermost, and go through shared
// memory that way (MMajor).
//
// A block computes a tile of kM channels x kN columns of a group over a share of the pixels, which
// are many where the tiles are few: the shares are partial sums, and join_chunks.cuh adds them in a
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

/// What a pixel of the reduction axis, or a column of im2col, adds to the offset and to the
/// position that an element is read at.
template <class Index>
struct SourcePlace {
  Index offset;
  Index position[kAxes];
};

/// A column of im2col, a tap and a source channel; instead of those beyond the end, the last.
template <class T, class Index>
SIMT_DEVICE SourcePlace<Index> place_of_column(const WeightProblem<T, Index>& p, Index group,
                                               Index column) {
  const Index last = p.taps() * p.depth - 1;
  if (column > last) column = last;
  Index tap[kAxes];
  p.split_tap(split(column, p.by_depth), tap);
  SourcePlace<Index> place;
  place.offset = (group * p.depth + column) * p.source_strides.channel;
#pragma unroll
  for (int axis = 0; axis < kAxes; ++axis) {
    place.position[axis] = tap[axis] * p.axis[axis].offset_step;
    place.offset += place.position[axis] * p.source_strides.axis[axis];
  }
  return place;
}

/// The pixels of a slab, one in each lane of a warp: where they lie in `grad` and in `source`.
template <class T, class Index>
struct SlabPixels {
  Index grad;
  SourcePlace<Index> source;

  /// Lane l has pixel first + l % kSlab; instead of those beyond the end, the last.
  SIMT_DEVICE SlabPixels(const WeightProblem<T, Index>& p, Index first, Index end) {
    const Index pixel = first + static_cast<Index>(threadIdx.x % kSlab<T>);
    Index j[kAxes];
    const Index image = p.split_pixel(pixel < end ? pixel : end - 1, j);
    grad = image * p.grad_strides.batch;
    source.offset = image * p.source_strides.batch;
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      grad += j[axis] * p.grad_strides.axis[axis];
      source.position[axis] = j[axis] * p.axis[axis].step + p.axis[axis].offset;
      source.offset += source.position[axis] * p.source_strides.axis[axis];
    }
  }

  /// The offset in `grad` of pixel `line` of the slab. All lanes must ask.
  SIMT_DEVICE Index grad_of(int line) const { return __shfl_sync(simt::kFullMask, grad, line); }

  /// Whether pixel `line` of the slab reads an element for `column`, and its offset in `source`.
  /// All lanes must ask.
  template <bool kMapped>
  SIMT_DEVICE bool find_source(const WeightProblem<T, Index>& p, int line,
                               const SourcePlace<Index>& column, Index& offset) const {
    Index read[kAxes];
#pragma unroll
    for (int axis = 0; axis < kAxes; ++axis) {
      read[axis] =
          __shfl_sync(simt::kFullMask, source.position[axis], line) + column.position[axis];
    }
    offset = __shfl_sync(simt::kFullMask, source.offset, line) + column.offset;
    return padded_read<kMapped>(p, p.source_strides, read, offset);
  }
};

/// How threads share the copies of an operand's slab, kExtent rows or columns of kSlab pixels: each
/// takes `kWide` elements, a vector or one, at the same place of kCount lines.
template <class T, class Tile, int kExtent, int kWide>
struct SlabShare {
  static constexpr int kAcross = kExtent / kWide;
  static constexpr int kLines = Tile::kThreads / kAcross;  // that the block copies at once
  static constexpr int kCount = kSlab<T> / kLines;
  static_assert(Tile::kThreads % kAcross == 0 && kSlab<T> % kLines == 0);

  /// The row or column, and the i-th pixel, of this thread.
  static SIMT_DEVICE int element() { return static_cast<int>(threadIdx.x) % kAcross * kWide; }
  static SIMT_DEVICE int line(int i) {
    return static_cast<int>(threadIdx.x) / kAcross + i * kLines;
  }
  static SIMT_DEVICE T* target(unsigned char* slab, int i) {
    const int vector = MMajor<T, kExtent>::copied(line(i), element() / kVector<T>);
    return reinterpret_cast<T*>(slab) + vector * kVector<T> + element() % kVector<T>;
  }
};

/// The copies of one thread from `grad` and `source` into slabs.
template <class T, class Index, class Tile, Copies kCopies>
class WeightOperandCopies {
 public:
  SIMT_DEVICE WeightOperandCopies(const WeightProblem<T, Index>& problem, Index group,
                                  Index first_row, Index first_column, Index first_pixel,
                                  Index end_pixel)
      : p(problem), next(first_pixel), end(end_pixel) {
    const Index row = first_row + A::element();
    row_inside = row < p.rows;
    row_offset = (group * p.rows + row) * p.grad_strides.channel;
    const Index place = first_column + B::element();
    column_inside = place < p.taps() * p.depth;
    column = place_of_column(p, group, place);
  }

  /// Starts the copies of a slab of A and B, and steps to the next slab.
  SIMT_DEVICE void copy(unsigned char* a, unsigned char* b) {
    const SlabPixels<T, Index> pixels(p, next, end);
    if constexpr (kCopies == Copies::elements) {
      T rows[A::kCount], columns[B::kCount];
#pragma unroll
      for (int i = 0; i < A::kCount; ++i) {
        const Index offset = pixels.grad_of(A::line(i)) + row_offset;
        const bool reads = next + A::line(i) < end && row_inside;
        rows[i] = reads ? simt::load(p.grad + offset) : T{};
      }
#pragma unroll
      for (int i = 0; i < B::kCount; ++i) {
        Index offset;
        const bool found = pixels.template find_source<true>(p, B::line(i), column, offset);
        const bool reads = found && next + B::line(i) < end && column_inside;
        columns[i] = reads ? simt::load(p.source + offset) : T{};
      }
#pragma unroll
      for (int i = 0; i < A::kCount; ++i) simt::store_shared(A::target(a, i), rows[i]);
#pragma unroll
      for (int i = 0; i < B::kCount; ++i) simt::store_shared(B::target(b, i), columns[i]);
    } else {
      constexpr bool kMapped = kCopies == Copies::mapped_vectors;
#pragma unroll
      for (int i = 0; i < A::kCount; ++i) {
        const Index offset = pixels.grad_of(A::line(i)) + row_offset;
        const bool reads = next + A::line(i) < end && row_inside;
        simt::cp_async<kVectorBytes>(A::target(a, i), p.grad + offset, reads);
      }
#pragma unroll
      for (int i = 0; i < B::kCount; ++i) {
        Index offset;
        const bool found = pixels.template find_source<kMapped>(p, B::line(i), column, offset);
        const bool reads = found && next + B::line(i) < end && column_inside;
        simt::cp_async<kVectorBytes>(B::target(b, i), p.source + offset, reads);
      }
    }
    next += kSlab<T>;
  }

 private:
  static constexpr int kWide = kCopies == Copies::elements ? 1 : kVector<T>;
  using A = SlabShare<T, Tile, Tile::kM, kWide>;
  using B = SlabShare<T, Tile, Tile::kN, kWide>;

  const WeightProblem<T, Index>& p;
  Index next;  // the first pixel of the next slab
  Index end;   // of the block's share
  bool row_inside, column_inside;
  Index row_offset;
  SourcePlace<Index> column;
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
