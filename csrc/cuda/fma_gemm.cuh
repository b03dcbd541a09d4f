// Convolution as an implicit GEMM with ordinary multiply-adds: exact float32, float64 and int64,
// and what tensor cores do not take. One problem is dest = weight * im2col(source), where
//   rows     are the destination channels of a group,
//   columns  are the pixels of the whole batch,
//   the sum  runs over tap * depth + channel.
// The im2col matrix is never stored: each element is copied from where it lies (site.cuh) into
// shared memory, zeros included, by cp.async, kStages - 1 stages ahead of its use.
//
// The weight comes packed by pack_weight, [group][sum][row] in the type of the sums, zeros up to
// whole stages and vectors, so that its copies are 16 bytes, contiguous and without conditions.
//
// Lanes of a warp copy neighbours in memory: of a planar source 32 pixels of one step of the sum;
// of a channels_last source 8 channels of 4 pixels, each a 32-byte sector.
#pragma once

#include "cuda/fma_tile.cuh"
#include "cuda/site.cuh"

namespace cnnops::cuda {

/// Which way the results of a thread can be stored as vectors.
enum class StoreVector : uint8_t { none, along_pixels, along_rows };

template <class T, class Index>
struct FmaGemm {
  Problem<T, Index> problem;
  const Accumulator<T>* weight = nullptr;  // packed
  const Site<Index>* taps = nullptr;       // `depth` of them
  Index depth = 0;                         // steps of the sum, rounded up to whole stages
  Index packed_rows = 0;                   // rows of a group, rounded up to whole vectors
  Divisor<int32_t> row_tiles, column_tiles;
  StoreVector vector = StoreVector::none;
};

/// Stores a thread's share of the product, with the bias.
template <class T, class Index, class Tile>
SIMT_DEVICE void store_share(const FmaGemm<T, Index>& args, FmaShare<Accumulator<T>, Tile>& share,
                             Index group, Index first_row, Index first_pixel) {
  using Acc = Accumulator<T>;
  constexpr int kVector = FmaShare<Acc, Tile>::kVector;
  using Vector = simt::Vector<T, kVector>;
  const Problem<T, Index>& p = args.problem;
  const Strides<Index>& strides = p.dest_strides;
  if (p.bias != nullptr) {
#pragma unroll
    for (int i = 0; i < Tile::kRowShare; ++i) {
      const Index row = first_row + share.row_of(i);
      if (row < p.rows) {
        const Acc bias = simt::to_float(simt::load(&p.bias[group * p.rows + row]));
#pragma unroll
        for (int j = 0; j < Tile::kColumnShare; ++j) share.sum[i][j] += bias;
      }
    }
  }
  T* const dest = p.dest + group * p.rows * strides.channel;
#pragma unroll
  for (int j = 0; j < Tile::kColumnShare; ++j) {
    if (args.vector == StoreVector::along_pixels && j % kVector != 0) continue;
    const Index pixel = first_pixel + share.column_of(j);
    if (pixel >= p.pixels()) continue;
    Index at[kAxes];
    Index offset = p.split_pixel(pixel, at) * strides.batch;
#pragma unroll
    for (int a = 0; a < kAxes; ++a) offset += at[a] * strides.axis[a];
#pragma unroll
    for (int i = 0; i < Tile::kRowShare; ++i) {
      const Index row = first_row + share.row_of(i);
      if (row >= p.rows) continue;
      T* const to = dest + offset + row * strides.channel;
      if (args.vector == StoreVector::along_pixels) {
        if (j % kVector == 0) {
          Vector values;
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            values.at[v] = simt::from_float<T>(share.sum[i][j / kVector * kVector + v]);
          }
          simt::store(reinterpret_cast<Vector*>(to), values);
        }
      } else if (args.vector == StoreVector::along_rows) {
        if (i % kVector == 0) {
          Vector values;
#pragma unroll
          for (int v = 0; v < kVector; ++v) {
            values.at[v] = simt::from_float<T>(share.sum[i / kVector * kVector + v][j]);
          }
          simt::store(reinterpret_cast<Vector*>(to), values);
        }
      } else {
        simt::store(to, simt::from_float<T>(share.sum[i][j]));
      }
    }
  }
}

template <class T, class Index, class Tile, bool channels_last, bool mapped>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(Tile::kThreads,
                               Tile::kBlocks) void fma_gemm(SIMT_PARAMETER FmaGemm<T, Index> args) {
  using Acc = Accumulator<T>;
  using IndexSite = Site<Index>;
  constexpr int kVector = FmaShare<Acc, Tile>::kVector;
  // The weight is copied in vectors, which lie without gaps.
  constexpr int kPitchA = Tile::kRows, kPitchB = kPitch<Acc, Tile::kColumns>;
  constexpr int kStageA = Tile::kDepth * kPitchA, kStageB = Tile::kDepth * kPitchB;
  SIMT_SHARED(Acc, a, Tile::kStages * kStageA);
  SIMT_SHARED(Acc, b, Tile::kStages * kStageB);
  SIMT_SHARED(IndexSite, pixels, channels_last ? Tile::kColumns : 1);

  const Problem<T, Index>& p = args.problem;
  const int thread = static_cast<int>(threadIdx.x);

  // Blocks that read the same pixels are neighbours, so that they share them in the L2 cache.
  int32_t block = static_cast<int32_t>(blockIdx.x);
  int32_t rest = split(block, args.row_tiles);
  const Index first_row = static_cast<Index>(block) * Tile::kRows;
  const Index group = split(rest, args.column_tiles);
  const Index first_pixel = static_cast<Index>(rest) * Tile::kColumns;

  const auto pixel_at = [&](int column) {
    const Index pixel = first_pixel + column;
    if (pixel >= p.pixels()) return nowhere<Index>();
    Index j[kAxes];
    const Index image = p.split_pixel(pixel, j);
    return site_of_pixel(p, p.source_strides, image, j);
  };
  // A planar block's thread copies one column of every stage, a channels_last one's all of them.
  IndexSite pixel = nowhere<Index>();
  if constexpr (channels_last) {
    for (int column = thread; column < Tile::kColumns; column += Tile::kThreads) {
      store_shared_site(&pixels[column], pixel_at(column));
    }
    __syncthreads();
  } else {
    pixel = pixel_at(thread % Tile::kColumns);
  }

  // A thread copies the same rows of every stage of the weight, from a pointer that moves along.
  constexpr int kRowVectors = Tile::kRows / kVector, kVectors = Tile::kDepth * kRowVectors;
  static_assert(Tile::kThreads % kRowVectors == 0);
  // Where there are fewer vectors than threads, those left over share a place and copy nothing.
  const int weight_row = thread % kRowVectors * kVector;
  const int weight_step =
      kVectors < Tile::kThreads ? thread / kRowVectors % Tile::kDepth : thread / kRowVectors;
  const bool weight_inside = first_row + weight_row < args.packed_rows;
  const Acc* weight = args.weight + (group * args.depth + weight_step) * args.packed_rows +
                      (weight_inside ? first_row + weight_row : 0);
  const T* const source = p.source + group * p.depth * p.source_strides.channel;
  const Index stages = args.depth / Tile::kDepth;

  const auto copy_stage = [&](Index stage) {
    if (stage < stages) {
      const Index k = stage * Tile::kDepth;
      const int slot = static_cast<int>(stage % Tile::kStages);
      Acc* const to = &a[slot * kStageA + weight_step * kPitchA + weight_row];
#pragma unroll
      for (int i = 0; i < kVectors; i += Tile::kThreads) {
        if (kVectors % Tile::kThreads == 0 || thread + i < kVectors) {
          simt::cp_async<16>(to + i / kRowVectors * kPitchA,
                             weight + i / kRowVectors * args.packed_rows, weight_inside);
        }
      }
      weight += Tile::kDepth * args.packed_rows;
      // A channels_last thread copies one step of the sum.
      IndexSite tap = nowhere<Index>();
      if constexpr (channels_last) tap = load_site(&args.taps[k + thread % Tile::kDepth]);
#pragma unroll Tile::kTogether
      for (int i = 0; i < Tile::kDepth * Tile::kColumns / Tile::kThreads; ++i) {
        const int element = thread + i * Tile::kThreads;
        const int step = channels_last ? element % Tile::kDepth : element / Tile::kColumns;
        const int column = channels_last ? element / Tile::kDepth : element % Tile::kColumns;
        if constexpr (channels_last) {
          pixel = load_shared_site(&pixels[column]);
        } else {
          tap = load_site(&args.taps[k + step]);
        }
        Index offset = 0;
        const bool inside = locate<mapped>(p, p.source_strides, pixel, tap, offset);
        copy_element<T>(&b[slot * kStageB + step * kPitchB + column], source + offset, inside);
      }
    }
    simt::cp_commit();  // an empty group too, so that their number says which stage has arrived
  };

#pragma unroll
  for (int stage = 0; stage < Tile::kStages - 1; ++stage) copy_stage(stage);
  FmaShare<Acc, Tile> share(thread);
  for (Index stage = 0; stage < stages; ++stage) {
    simt::cp_wait<Tile::kStages - 2>();
    // All copies of this stage are visible, and all threads are done with the stage before it,
    // whose slot the next copies fill.
    __syncthreads();
    copy_stage(stage + Tile::kStages - 1);
    const int slot = static_cast<int>(stage % Tile::kStages);
    share.template multiply<kPitchA, kPitchB>(&a[slot * kStageA], &b[slot * kStageB]);
  }
  store_share<T, Index, Tile>(args, share, group, first_row, first_pixel);
}

}  // namespace cnnops::cuda
