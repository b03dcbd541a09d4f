// What the GEMM kernels without tensor cores share: how a block of threads cuts a tile of the
// product, and the multiplication of one stage of the pipeline.
//
// A block computes rows x columns of the product, kDepth steps of the sum at a time. Operands lie
// in shared memory with the sum's index outermost, [kDepth][rows] and [kDepth][columns], as type
// Accumulator, so that a thread's share is loaded in 16-byte vectors. A warp covers 4 x 8 threads:
// its vectors of one operand are 4 (8) different ones, 64 (128) consecutive bytes, which is one
// pass of the 32 banks, for row_tile * column_tile multiplications in each thread.
#pragma once

#include <type_traits>

#include "cuda/simt.cuh"

namespace cnnops::cuda {

/// A tile: the block's rows and columns, a thread's share of each, stages of the pipeline, and the
/// blocks that a multiprocessor should hold at least (which bounds the registers).
template <int rows, int columns, int row_share, int column_share, int stages, int blocks>
struct FmaTile {
  static constexpr int kRows = rows;
  static constexpr int kColumns = columns;
  static constexpr int kRowShare = row_share;
  static constexpr int kColumnShare = column_share;
  static constexpr int kStages = stages;
  static constexpr int kBlocks = blocks;
  /// Steps of the sum in a stage: 8 channels of float are one 32-byte sector of a channels_last
  /// tensor, and more would cost shared memory without saving barriers that matter.
  static constexpr int kDepth = 8;

  static constexpr int kThreadRows = rows / row_share;
  static constexpr int kThreadColumns = columns / column_share;
  static constexpr int kThreads = kThreadRows * kThreadColumns;
  static_assert(kThreadRows % 4 == 0 && kThreadColumns % 8 == 0);
  /// Elements that a thread copies at a time: beside 64 sums there are registers for the sites of
  /// two, not of four.
  static constexpr int kTogether = row_share * column_share < 64 ? 8 : 2;
  // Each thread copies elements of one column (of one step of the sum, channels_last) only.
  static_assert(kThreads % columns == 0 && kThreads % kDepth == 0);
};

/// Elements from one step of an operand in shared memory to the next, where it is copied element by
/// element. The 16 bytes more than its size let 8 lanes of different rows and 4 of different
/// columns write without bank conflicts.
template <class Acc, int size>
constexpr int kPitch = size + 16 / static_cast<int>(sizeof(Acc));

/// A thread's place in its block and its share of the product.
template <class Acc, class Tile>
struct FmaShare {
  static constexpr int kVector = 16 / sizeof(Acc);
  static_assert(Tile::kRowShare % kVector == 0 && Tile::kColumnShare % kVector == 0);
  using Vector = simt::Vector<Acc, kVector>;

  int row;     // of the thread, in vectors
  int column;  // the same
  Acc sum[Tile::kRowShare][Tile::kColumnShare];

  SIMT_DEVICE explicit FmaShare(int thread) {
    constexpr int across = Tile::kThreadColumns / 8;  // warps side by side
    const int lane = thread % simt::kWarp, warp = thread / simt::kWarp;
    row = warp / across * 4 + lane / 8;
    column = warp % across * 8 + lane % 8;
#pragma unroll
    for (int i = 0; i < Tile::kRowShare; ++i) {
#pragma unroll
      for (int j = 0; j < Tile::kColumnShare; ++j) sum[i][j] = Acc{};
    }
  }

  /// The row (column) of the tile that sum[i] (sum[.][j]) belongs to.
  SIMT_DEVICE int row_of(int i) const {
    return (i / kVector * Tile::kThreadRows + row) * kVector + i % kVector;
  }
  SIMT_DEVICE int column_of(int j) const {
    return (j / kVector * Tile::kThreadColumns + column) * kVector + j % kVector;
  }

  /// Adds the products of one stage, whose steps lie a pitch apart.
  template <int pitch_a, int pitch_b>
  SIMT_DEVICE void multiply(const Acc* a, const Acc* b) {
#pragma unroll
    for (int k = 0; k < Tile::kDepth; ++k) {
      Vector left[Tile::kRowShare / kVector], right[Tile::kColumnShare / kVector];
#pragma unroll
      for (int i = 0; i < Tile::kRowShare / kVector; ++i) {
        left[i] = simt::load_shared(
            reinterpret_cast<const Vector*>(&a[k * pitch_a + row_of(i * kVector)]));
      }
#pragma unroll
      for (int j = 0; j < Tile::kColumnShare / kVector; ++j) {
        right[j] = simt::load_shared(
            reinterpret_cast<const Vector*>(&b[k * pitch_b + column_of(j * kVector)]));
      }
#pragma unroll
      for (int i = 0; i < Tile::kRowShare; ++i) {
#pragma unroll
        for (int j = 0; j < Tile::kColumnShare; ++j) {
          sum[i][j] += left[i / kVector].at[i % kVector] * right[j / kVector].at[j % kVector];
        }
      }
    }
  }
};

/// Copies one element to shared memory in the type of its sums, or zero, without a look at `from`,
/// where not `inside`: in the background where the type stays, so that the pipeline hides the
/// latency.
template <class T>
SIMT_DEVICE void copy_element(Accumulator<T>* to, const T* from, bool inside) {
  if constexpr (std::is_same_v<T, Accumulator<T>>) {
    simt::cp_async<sizeof(T)>(to, from, inside);
  } else {
    simt::store_shared(to, inside ? simt::to_float(simt::load(from)) : Accumulator<T>{});
  }
}

}  // namespace cnnops::cuda
