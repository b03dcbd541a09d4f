// The gradient for the weight as an implicit GEMM with ordinary multiply-adds, in two kernels.
// dest = grad * im2col(source)^T, where
//   rows     are the grad channels of a group,
//   columns  are tap * depth + channel,
//   the sum  runs over the pixels of the whole batch.
// The sum is long and the product small, so the pixels are cut into chunks, each added up by
// blocks of its own into partial sums (in the type of sums) in workspace, [chunk][group][row]
// [column]; join_chunks adds these in their order. No atomics: the result is the same on each run.
//
// Sites (site.cuh) of the pixels of a stage are computed by a few threads one stage before the
// copies that use them. Lanes copy neighbours in memory: of planar tensors 8 pixels of 4 rows or
// columns, of channels_last ones 32 channels of one pixel.
#pragma once

#include "cuda/fma_tile.cuh"
#include "cuda/site.cuh"

namespace cnnops::cuda {

template <class T, class Index>
struct FmaGemmWeight {
  WeightProblem<T, Index> problem;
  const Site<Index>* taps = nullptr;  // of `columns`, rounded up to whole tiles
  Accumulator<T>* partial = nullptr;
  Index columns = 0;
  Index chunk = 0;  // pixels
  Divisor<int32_t> row_tiles, column_tiles, groups;
};

template <class T, class Index, class Tile, bool channels_last, bool mapped>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(Tile::kThreads, Tile::kBlocks) void fma_gemm_weight(
    SIMT_PARAMETER FmaGemmWeight<T, Index> args) {
  using Acc = Accumulator<T>;
  using IndexSite = Site<Index>;
  constexpr int kDepth = Tile::kDepth, kStages = Tile::kStages;
  // Lanes along channels write neighbours, which need no gaps between steps.
  constexpr int kPitchA = channels_last ? Tile::kRows : kPitch<Acc, Tile::kRows>;
  constexpr int kPitchB = channels_last ? Tile::kColumns : kPitch<Acc, Tile::kColumns>;
  constexpr int kStageA = kDepth * kPitchA, kStageB = kDepth * kPitchB;
  SIMT_SHARED(Acc, a, kStages * kStageA);
  SIMT_SHARED(Acc, b, kStages * kStageB);
  // A ring: the slot of a stage holds its pixels until their copies have been started.
  SIMT_SHARED(IndexSite, source_site, kStages * kDepth);
  SIMT_SHARED(Index, grad_offset, kStages * kDepth);  // -1 beyond the last pixel
  SIMT_SHARED(IndexSite, taps, channels_last ? 1 : Tile::kColumns);

  const WeightProblem<T, Index>& p = args.problem;
  const int thread = static_cast<int>(threadIdx.x);

  int32_t block = static_cast<int32_t>(blockIdx.x);
  int32_t rest = split(block, args.row_tiles);
  const Index first_row = static_cast<Index>(block) * Tile::kRows;
  int32_t outer = split(rest, args.column_tiles);
  const Index first_column = static_cast<Index>(rest) * Tile::kColumns;
  const Index chunk = split(outer, args.groups);
  const Index group = outer;
  const Index begin = chunk * args.chunk;
  const Index end = p.pixels() - begin < args.chunk ? p.pixels() : begin + args.chunk;
  const Index stages = (end - begin + kDepth - 1) / kDepth;

  const auto find_pixel = [&](Index stage, int step) {
    const int slot = static_cast<int>(stage % kStages) * kDepth + step;
    const Index pixel = begin + stage * kDepth + step;
    IndexSite site = nowhere<Index>();
    Index offset = -1;
    if (pixel < end) {
      Index j[kAxes];
      const Index image = p.split_pixel(pixel, j);
      site = site_of_pixel(p, p.source_strides, image, j);
      offset = image * p.grad_strides.batch;
#pragma unroll
      for (int i = 0; i < kAxes; ++i) offset += j[i] * p.grad_strides.axis[i];
    }
    store_shared_site(&source_site[slot], site);
    simt::store_shared(&grad_offset[slot], offset);
  };
  for (int i = thread; i < kStages * kDepth; i += Tile::kThreads) {
    find_pixel(i / kDepth, i % kDepth);
  }
  // A channels_last block's thread copies one column of every stage, a planar one's all of them.
  IndexSite tap = nowhere<Index>();
  if constexpr (channels_last) {
    tap = load_site(&args.taps[first_column + thread % Tile::kColumns]);
  } else {
    for (int column = thread; column < Tile::kColumns; column += Tile::kThreads) {
      store_shared_site(&taps[column], load_site(&args.taps[first_column + column]));
    }
  }
  __syncthreads();

  const T* const grad = p.grad + (group * p.rows + first_row) * p.grad_strides.channel;
  const T* const source = p.source + group * p.depth * p.source_strides.channel;

  const auto copy_stage = [&](Index stage) {
    if (stage < stages) {
      const int slot = static_cast<int>(stage % kStages);
#pragma unroll Tile::kTogether
      for (int i = 0; i < kDepth * Tile::kRows / Tile::kThreads; ++i) {
        const int element = thread + i * Tile::kThreads;
        const int step = channels_last ? element / Tile::kRows : element % kDepth;
        const int row = channels_last ? element % Tile::kRows : element / kDepth;
        const Index offset = simt::load_shared(&grad_offset[slot * kDepth + step]);
        const bool inside = offset >= 0 && first_row + row < p.rows;
        copy_element<T>(&a[slot * kStageA + step * kPitchA + row],
                        grad + offset + row * p.grad_strides.channel, inside);
      }
#pragma unroll Tile::kTogether
      for (int i = 0; i < kDepth * Tile::kColumns / Tile::kThreads; ++i) {
        const int element = thread + i * Tile::kThreads;
        const int step = channels_last ? element / Tile::kColumns : element % kDepth;
        const int column = channels_last ? element % Tile::kColumns : element / kDepth;
        if constexpr (!channels_last) tap = load_shared_site(&taps[column]);
        const IndexSite pixel = load_shared_site(&source_site[slot * kDepth + step]);
        Index offset = 0;
        const bool inside = locate<mapped>(p, p.source_strides, pixel, tap, offset);
        copy_element<T>(&b[slot * kStageB + step * kPitchB + column], source + offset, inside);
      }
    }
    simt::cp_commit();  // an empty group too, so that their number says which stage has arrived
  };

#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) copy_stage(stage);
  FmaShare<Acc, Tile> share(thread);
  for (Index stage = 0; stage < stages; ++stage) {
    simt::cp_wait<kStages - 2>();
    // All copies of this stage and the sites of the next copies are visible, and all threads are
    // done with the stage before it, whose slots are filled now.
    __syncthreads();
    copy_stage(stage + kStages - 1);
    if (thread < kDepth) find_pixel(stage + kStages, thread);
    const int slot = static_cast<int>(stage % kStages);
    share.template multiply<kPitchA, kPitchB>(&a[slot * kStageA], &b[slot * kStageB]);
  }

  Acc* const partial = args.partial + (chunk * p.groups + group) * p.rows * args.columns;
  using Share = FmaShare<Acc, Tile>;
  const bool vectors = args.columns % Share::kVector == 0;
#pragma unroll
  for (int i = 0; i < Tile::kRowShare; ++i) {
    const Index row = first_row + share.row_of(i);
    if (row >= p.rows) continue;
#pragma unroll
    for (int j = 0; j < Tile::kColumnShare; j += Share::kVector) {
      const Index column = first_column + share.column_of(j);
      Acc* const to = &partial[row * args.columns + column];
      if (vectors) {
        typename Share::Vector values;
#pragma unroll
        for (int v = 0; v < Share::kVector; ++v) values.at[v] = share.sum[i][j + v];
        if (column < args.columns) {
          simt::store(reinterpret_cast<typename Share::Vector*>(to), values);
        }
      } else {
#pragma unroll
        for (int v = 0; v < Share::kVector; ++v) {
          if (column + v < args.columns) simt::store(to + v, share.sum[i][j + v]);
        }
      }
    }
  }
}

}  // namespace cnnops::cuda
