// Copies a batched tensor between planar and channels_last order: for each image a transposition
// of its channels x pixels matrix. A block takes a square of 32 channels and 32 pixels through
// shared memory, so that it reads and writes whole runs of 32 neighbours whichever axis they lie
// along; rows that are an odd number of banks apart keep columns of the square in different banks.
#pragma once

#include "contraction.h"
#include "cuda/problem.h"
#include "cuda/simt.cuh"

namespace cnnops::cuda {

/// Elements are moved, not looked at: Word is an unsigned integer of their size.
template <class Word, class Index>
struct Transpose {
  Index channels = 1;
  Index pixels = 1;           // of an image
  Divisor<Index> by_size[2];  // of axes 1 and 2
  Divisor<int32_t> channel_tiles, pixel_tiles;
  const Word* from = nullptr;
  Strides<Index> from_strides;
  Word* to = nullptr;
  Strides<Index> to_strides;

  /// Where a pixel of an image lies.
  SIMT_DEVICE Index offset(const Strides<Index>& strides, Index pixel) const {
    Index j[kAxes];
    j[2] = pixel;
    j[1] = split(j[2], by_size[1]);
    j[0] = split(j[1], by_size[0]);
    return j[0] * strides.axis[0] + j[1] * strides.axis[1] + j[2] * strides.axis[2];
  }
};

constexpr int kTransposeSide = 32;
constexpr int kTransposeThreads = 256;
/// Elements from a row of the square to the next: an odd number of banks, or of pairs of them.
template <class Word>
constexpr int kTransposePitch = kTransposeSide + (sizeof(Word) < 4 ? 4 / sizeof(Word) : 1);

/// `to_channels_last`: reads along pixels and writes along channels; else the other way round.
template <class Word, class Index, bool to_channels_last>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(kTransposeThreads,
                               4) void transpose(SIMT_PARAMETER Transpose<Word, Index> p) {
  constexpr int kSide = kTransposeSide, kStep = kTransposeThreads / kSide;
  constexpr int kPitch = kTransposePitch<Word>;
  SIMT_SHARED(Word, square, kSide * kPitch);
  int32_t block = static_cast<int32_t>(blockIdx.x);
  int32_t rest = split(block, p.channel_tiles);
  const Index image = split(rest, p.pixel_tiles);
  const Index first_channel = static_cast<Index>(block) * kSide;
  const Index first_pixel = static_cast<Index>(rest) * kSide;
  const int lane = static_cast<int>(threadIdx.x) % kSide,
            line = static_cast<int>(threadIdx.x) / kSide;

  const Word* const from = p.from + image * p.from_strides.batch;
#pragma unroll
  for (int i = line; i < kSide; i += kStep) {
    const Index channel = first_channel + (to_channels_last ? i : lane);
    const Index pixel = first_pixel + (to_channels_last ? lane : i);
    if (channel < p.channels && pixel < p.pixels) {
      const Index offset = p.offset(p.from_strides, pixel) + channel * p.from_strides.channel;
      simt::store_shared(&square[i * kPitch + lane], simt::load(&from[offset]));
    }
  }
  __syncthreads();
  Word* const to = p.to + image * p.to_strides.batch;
#pragma unroll
  for (int i = line; i < kSide; i += kStep) {
    const Index channel = first_channel + (to_channels_last ? lane : i);
    const Index pixel = first_pixel + (to_channels_last ? i : lane);
    if (channel < p.channels && pixel < p.pixels) {
      const Index offset = p.offset(p.to_strides, pixel) + channel * p.to_strides.channel;
      simt::store(&to[offset], simt::load_shared(&square[lane * kPitch + i]));
    }
  }
}

}  // namespace cnnops::cuda
