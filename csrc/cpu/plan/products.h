// Products of matrices of enough channels: of pixels in panels, of planes as they lie, and on the
// matrix unit.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/pair_units.h"
#include "cpu/plan/choice.h"
#include "cpu/plan/limits.h"
#include "walks.h"

namespace cnnops::plan {

/// From this many destination channels in a group on they fill registers.
constexpr int64_t kMinChannelsInRegister = 8;

constexpr Choice kPointwisePlanar{Algorithm::pointwise_planar,
                                  "1x1: planes are multiplied where they lie"};

/// Whether a planar contraction is a product of matrices as they lie, of accumulators. Small planes
/// of several images share the panels of a GEMM.
template <class T>
bool suits_planes(const Contraction<T>& p) {
  const Walk& walk = p.walk[2];
  const bool one_row = p.walk[0].count == 1 && p.walk[1].count == 1 && p.taps() == 1;
  const bool same = walk.step == 1 && walk.taps[0].offset == 0 && walk.count == walk.size;
  const bool rows = p.walk[0].taps[0].offset == 0 && p.walk[1].taps[0].offset == 0;
  const bool dense = p.source_strides.axis[2] == 1 && p.dest_strides.axis[2] == 1;
  return std::is_same_v<T, Accumulator<T>> && one_row && same && rows && dense &&
         (walk.count >= kMinPlane || p.batch == 1);
}

/// Gathering im2col costs about an eighth of multiplying it, so more columns may not be dropped.
constexpr int64_t kMaxDroppedShare = 16;
constexpr int64_t kMaxShiftedElements = 320 << 10;

/// Whether the taps of a planar contraction are best read as shifts of copied source rows: when few
/// of the columns lie between two rows, and the rows under a panel of 64 columns fit an L2 cache.
template <class T>
bool suits_shifted_rows(const Contraction<T>& p) {
  const Walk& width = p.walk[2];
  if (p.taps() == 1 || width.step > 1 || p.source_strides.axis[2] != 1) return false;
  const int64_t lines = p.walk[0].tap_count * p.walk[1].tap_count;
  const int64_t elements = p.depth * lines * width.step * 64;
  if (width.high() - width.low() > kMaxDirectSpan) return false;
  const int64_t dropped = width.shifted_pitch(width.count) - width.count;
  return dropped * kMaxDroppedShare <= width.count && elements <= kMaxShiftedElements;
}

/// Channels on both sides that pay for transposing rows.
constexpr int64_t kMinTransposed = 32;

/// Pointers to so many taps of each pixel of a chunk stay in L2.
constexpr int64_t kMaxTransposedTaps = 512;

/// Whether so many channels meet in a planar contraction that transposing its rows, in and out,
/// costs little beside the products.
template <class T>
bool suits_transposing(const Contraction<T>& p) {
  bool zeros = true;
  for (const Walk& walk : p.walk) zeros &= walk.mode == PaddingMode::zeros;
  const Walk& width = p.walk[2];
  const bool near = width.step <= kMaxDirectStep && width.high() - width.low() <= kMaxDirectSpan &&
                    p.taps() <= kMaxTransposedTaps;
  return zeros && near && p.taps() > 1 && p.source_strides.axis[2] == 1 &&
         p.dest_strides.axis[2] == 1 && p.depth >= kMinTransposed && p.rows >= kMinTransposed;
}

/// From so many source channels on a product of matrices adds up the weight of a 1x1 kernel faster:
/// for many rows, or where a source beyond L2 is best read a panel at a time.
constexpr int64_t kMinProductDepth = 192, kMinProductRows = 64, kMinProductSource = 320 << 10;

/// Whether the weight gradient of a 1x1 kernel over channels_last tensors is a product of matrices.
inline bool suits_pixel_product(const ContractionShape& shape) {
  if (shape.taps() > 1 || shape.depth < kMinProductDepth) return false;
  return shape.rows >= kMinProductRows ||
         shape.batch * shape.pixels() * shape.depth >= kMinProductSource;
}

/// Pixels of planes that pay for adding up the lanes of a sum of each pair of channels; source
/// channels up to which such sums of a few rows stay in L2; and channels on the smaller side up to
/// which transposing the other side takes longer than that.
constexpr int64_t kMinLongPlane = 1024, kMaxLongPlanes = 512, kFewLongPlanes = 24;

/// Whether the weight gradient of a 1x1 kernel is best added up along the pixels of both sides: few
/// channels meet those that would be transposed, the planes are long beside what adding up lanes
/// takes, and the sums of a few rows stay in cache.
template <class T>
bool suits_products_of_planes(const WeightContraction<T>& p) {
  if (conv_kernels<T>().weight_pointwise_planar.run == nullptr) return false;
  const int64_t fewer = std::min(p.rows, p.depth);
  return p.batch > 0 && fewer > 0 && fewer <= kFewLongPlanes && parts_are_alike(p) &&
         p.source_strides.axis[2] == 1 && p.grad_strides.axis[2] == 1 &&
         p.walk[2].count >= kMinLongPlane && p.depth <= kMaxLongPlanes;
}

constexpr Choice kMatrixUnit{Algorithm::matrix_unit,
                             "bfloat16: the CPU's matrix unit multiplies tiles of channels"};
constexpr Choice kDotProducts{Algorithm::dot_products,
                              "bfloat16: the CPU adds up two products of channels at once"};

/// With fewer channels on either side most of a tile of pairs would be empty, which a 1x1 kernel
/// pays for least: it copies each pixel once.
constexpr int64_t kMinPairedChannels = 16, kMinPointwisePairs = 8;

/// Pixels of planes may be stored so far apart: a phase of a stride.
constexpr int64_t kMaxPairedStride = 2;

/// Sums of a weight's gradient for so many taps of 32 channels stay in cache.
constexpr int64_t kMaxPairedTaps = 64;

/// Whether the kernels of pairs take two tensors: of rows of channels, or of rows of pixels, which
/// may be `most` apart in the second.
inline bool have_paired_rows(const Strides& one, const Strides& other, int64_t most) {
  const bool channels = one.channel == 1 && other.channel == 1;
  return channels || (one.axis[2] == 1 && other.axis[2] <= most);
}

/// Whether `p` is one for the kernels of pairs.
template <class T>
bool suits_pairs(const InputGradient<T>& p) {
  return have_paired_rows(p.source_strides, p.dest_strides, 1) && p.depth >= kMinPairedChannels &&
         p.rows >= kMinPairedChannels;
}
template <class T>
bool suits_pairs(const Contraction<T>& p) {
  const int64_t least = p.taps() == 1 ? kMinPointwisePairs : kMinPairedChannels;
  return have_paired_rows(p.source_strides, p.dest_strides, kMaxPairedStride) && p.depth >= least &&
         p.rows >= least;
}
template <class T>
bool suits_pairs(const WeightContraction<T>& p) {
  const bool planar = p.source_strides.channel != 1;
  const int64_t least = p.taps() == 1 && planar ? kMinPointwisePairs : kMinPairedChannels;
  return have_paired_rows(p.source_strides, p.grad_strides, 1) && p.depth >= least &&
         p.rows >= least && p.taps() <= kMaxPairedTaps;
}

/// Tiles of the matrix unit are 16 channels by 32: with so few pairs of channels most of them is
/// empty, which, again, a 1x1 kernel pays for least.
constexpr int64_t kMinTilePairs = 512;

inline bool fills_matrix_tiles(const ContractionShape& p) {
  return p.taps() == 1 || p.depth * p.rows >= kMinTilePairs;
}
template <class T>
bool fills_matrix_tiles(const InputGradient<T>& p) {
  return p.depth * p.rows >= kMinTilePairs;
}

/// Whether the matrix unit computes `p`, and whether dot products of the CPU do.
template <class T, class Problem>
bool suits_matrix_unit(const Problem& p) {
  return conv_kernels<T>().matrix_unit.run != nullptr && suits_pairs(p) && fills_matrix_tiles(p) &&
         allows_matrix_unit();
}
template <class T, class Problem>
bool suits_dot_products(const Problem& p) {
  return conv_kernels<T>().dot_products.run != nullptr && suits_pairs(p) && allows_dot_products();
}

}  // namespace cnnops::plan
