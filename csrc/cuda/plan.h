// Which kernel, with which tile, runs which convolution on the GPU: all rules in one place. They
// look at shapes, the type and the size of the GPU only, so that on one GPU a call always gives the
// same bits.
#pragma once

#include <algorithm>
#include <type_traits>

#include "contraction.h"
#include "cuda/fma_tile.cuh"
#include "cuda/runtime.h"

namespace cnnops::cuda {

// ---- multiply-adds (fma_gemm.cuh, fma_gemm_weight.cuh) -----------------------------------------
//
// rows x columns, a thread's share of each, stages, blocks on a multiprocessor.

/// 64 multiply-adds for 4 shared-memory loads in each thread: where float32 runs near its peak.
/// Two blocks of 8 warps leave 128 registers to a thread, and half of the shared memory of the
/// smallest supported GPU free (2 x 33 KiB of 100).
using FmaLarge = FmaTile<128, 128, 8, 8, 4, 2>;

/// For problems that do not fill the GPU with the large tile, and for float64 and int64, whose
/// elements take two registers.
using FmaMedium = FmaTile<64, 64, 4, 4, 4, 2>;

/// Few destination channels, as in grouped convolutions: a taller tile would be mostly empty.
using FmaNarrow = FmaTile<16, 64, 4, 4, 4, 4>;

enum class FmaSize { large, medium, narrow };

/// Only float32 is worth a third tile: the 16-bit types have tensor cores for large problems.
template <class T>
constexpr bool kHasFmaLarge = std::is_same_v<T, float>;

/// int64 is for exactness, not for speed: one tile.
template <class T>
constexpr bool kHasFmaNarrow = !std::is_same_v<T, int64_t>;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// Blocks of a tile that a product of this size takes.
template <class Tile>
int64_t tiles_of(int64_t rows, int64_t columns) {
  return ceil_div(rows, Tile::kRows) * ceil_div(columns, Tile::kColumns);
}

/// The tile for `groups` products of rows x columns whose sums are not cut.
template <class T>
FmaSize choose_fma_size(int64_t groups, int64_t rows, int64_t columns, int multiprocessors) {
  if (kHasFmaNarrow<T> && rows <= FmaNarrow::kRows) return FmaSize::narrow;
  // Rows of the large tile are at least three quarters full, and it fills the GPU.
  const bool full = rows % FmaLarge::kRows == 0 || rows % FmaLarge::kRows >= 96;
  const double blocks = double(groups) * double(tiles_of<FmaLarge>(rows, columns));
  return kHasFmaLarge<T> && full && blocks >= double(multiprocessors) ? FmaSize::large
                                                                      : FmaSize::medium;
}

/// The tile for the gradient for the weight, whose sums are cut until they fill the GPU.
template <class T>
FmaSize choose_fma_weight_size(int64_t rows, int64_t columns) {
  if (kHasFmaNarrow<T> && rows <= FmaNarrow::kRows) return FmaSize::narrow;
  const bool full = rows >= 96 && columns >= 96;
  return kHasFmaLarge<T> && full ? FmaSize::large : FmaSize::medium;
}

/// Shorter chunks would spend more on starting and joining than on their sums.
constexpr int64_t kMinChunk = 64;

/// Pixels of one chunk of a sum over `pixels`, of which `blocks` blocks each take one tile of the
/// product: enough chunks for four blocks on each multiprocessor, as far as the partial sums, of
/// `bytes` for each chunk, keep within kMaxPartialSums. One chunk may exceed that: a weight.
inline int64_t choose_chunk(int64_t pixels, int64_t blocks, int64_t bytes, int multiprocessors) {
  const int64_t wanted = ceil_div(int64_t{4} * multiprocessors, blocks);
  const int64_t most = std::min(ceil_div(pixels, kMinChunk), kMaxPartialSums / bytes);
  const int64_t chunks = std::max<int64_t>(1, std::min(wanted, most));
  return round_up(ceil_div(pixels, chunks), FmaMedium::kDepth);
}

}  // namespace cnnops::cuda
