// Which kernel, with which tile, runs which convolution on the GPU: all rules in one place. They
// look at shapes, the type and the size of the GPU only, so that on one GPU a call always gives the
// same bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "contraction.h"
#include "cuda/fma_tile.cuh"
#include "cuda/mma_tile.cuh"
#include "cuda/precision.h"
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

// ---- tensor cores (implicit_gemm.cuh, implicit_gemm_weight.cuh) ---------------------------------
//
// M x N of a block and of a warp, stages, blocks on a multiprocessor. M counts pixels and N
// channels; of the gradient for the weight M counts grad channels and N taps x channels. All have
// four warps. What counts: operations for each byte that comes from L2, M N / (M + N), and by a
// warp from shared memory; and tiles enough for all multiprocessors. Two blocks of 48 KiB are what
// the smallest supported GPU holds, with 100 KiB.
//
//   tile      per byte  sums of a thread
//   128x128      64     128   The most of both: what large problems run.
using MmaLarge = Tile<128, 128, 64, 64, 3, 2>;
//   128x64       43      64   Up to 64 channels, and numbers like 192 that 128 would pad too much.
using MmaTall = Tile<128, 64, 64, 32, 4, 2>;
using MmaWide = Tile<64, 128, 32, 64, 4, 2>;
//   128x32       26      32   Up to 32 channels, as in grouped convolutions.
using MmaNarrow = Tile<128, 32, 32, 32, 4, 3>;
//    64x64       32      32   Four times as many tiles, for small results.
using MmaSmall = Tile<64, 64, 32, 32, 4, 3>;
//                           The same with registers for indices of 64 bits.
using MmaSmallFar = Tile<64, 64, 32, 32, 4, 2>;

enum class MmaSize { large, tall, narrow, small };
enum class MmaWeightSize { large, wide, small };

/// Tiles that cover an m x n result.
template <class Tile>
int64_t mma_tiles(int64_t m, int64_t n) {
  return checked_mul(ceil_div(m, Tile::kM), ceil_div(n, Tile::kN));
}

/// Whether tiles of 128 are no more than an eighth emptier than tiles of 64.
inline bool fills_128(int64_t size) { return round_up(size, 128) * 8 <= round_up(size, 64) * 9; }

/// The tile for `groups` products of pixels x rows.
inline MmaSize choose_mma_size(int64_t pixels, int64_t rows, int64_t groups, int multiprocessors) {
  const auto fills_gpu = [&](int64_t tiles) {
    return double(groups) * double(tiles) >= double(multiprocessors);
  };
  if (rows <= MmaNarrow::kN) return MmaSize::narrow;
  if (fills_128(rows) && fills_gpu(mma_tiles<MmaLarge>(pixels, rows))) return MmaSize::large;
  return fills_gpu(mma_tiles<MmaTall>(pixels, rows)) ? MmaSize::tall : MmaSize::small;
}

/// The tile for the gradient for the weight, whose sums are cut until they fill the GPU.
inline MmaWeightSize choose_mma_weight_size(int64_t rows, int64_t columns) {
  if (columns <= MmaSmall::kN) return MmaWeightSize::small;
  return fills_128(rows) ? MmaWeightSize::large : MmaWeightSize::wide;
}

/// A share of fewer slabs would spend more on filling its pipeline and on its partial sums than on
/// its products.
constexpr int64_t kMinSlabs = 8;

/// How many blocks share the sum over `slabs` slabs of each of `tiles` tiles: as many as it takes
/// to fill the GPU once, as far as the partial sums, of `bytes` for each share, keep within
/// kMaxPartialSums.
inline int64_t choose_shares(int64_t slabs, int64_t tiles, int blocks_on_multiprocessor,
                             double bytes, int multiprocessors) {
  const int64_t wanted = int64_t{blocks_on_multiprocessor} * multiprocessors / tiles;
  const auto most = static_cast<int64_t>(double(kMaxPartialSums) / bytes);
  return std::max<int64_t>(1, std::min({wanted, slabs / kMinSlabs, most}));
}

/// Whether rows that start at `data` and at multiples of `strides` from it consist of whole
/// 16-byte vectors, as far as they do at all.
template <class T, class Index>
bool in_vectors(const T* data, std::initializer_list<Index> strides) {
  if (reinterpret_cast<uintptr_t>(data) % kVectorBytes != 0) return false;
  return std::all_of(strides.begin(), strides.end(),
                     [](Index stride) { return stride % kVector<T> == 0; });
}

// ---- which of them -------------------------------------------------------------------------------

/// Whether there are tensor cores for sums of T: for float, in tf32.
template <class T>
constexpr bool kHasMma =
    std::is_same_v<T, bfloat16> || std::is_same_v<T, float16> || std::is_same_v<T, float>;

/// Groups of fewer channels than this, in and out, leave most of a tensor-core tile empty.
constexpr int64_t kMinMmaChannels = 16;

/// Whether a convolution runs on tensor cores, which read channels_last tensors. Planar ones are
/// copied to that order first, which large groups repay. Small groups stay with the multiply-adds,
/// whose tiles are narrower; so do small planar tensors.
inline bool uses_tensor_cores(ScalarType dtype, const ConvGeometry& geometry, bool channels_last) {
  const bool exists = dtype == ScalarType::BFloat16 || dtype == ScalarType::Half ||
                      (dtype == ScalarType::Float && allows_tf32());
  const int64_t in = geometry.in_channels_per_group(), out = geometry.out_channels_per_group();
  const bool depthwise = geometry.groups > 1 && in == 1;
  const bool as_it_lies = channels_last && geometry.groups == 1;
  return exists && !depthwise && (as_it_lies || std::max(in, out) >= kMinMmaChannels);
}

}  // namespace cnnops::cuda
