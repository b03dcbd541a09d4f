// What each of Winograd's forms takes, and direct sums, of which the least is chosen.
#pragma once

#include <type_traits>

#include "cpu/plan/choice.h"
#include "cpu/plan/limits.h"
#include "cpu/plan/products.h"
#include "cpu/winograd_forms.h"
#include "cpu/winograd_switch.h"
#include "walks.h"

namespace cnnops::plan {

constexpr Choice kWinograd{Algorithm::winograd,
                           "channels enough: fewer products of transformed tiles"};

/// With fewer channels on either side the transforms of a Winograd tile cost more than they save,
/// and so with fewer pairs of channels where direct sums keep several destinations in registers.
constexpr int64_t kMinWinogradChannels = 10, kMinWinogradPairs = 128;

/// Tiles of a form.
inline double winograd_tiles(const ContractionShape& shape, const WinogradForm& form) {
  double tiles = double(shape.batch) * shape.walk[0].count;
  for (int i = 1; i < kAxes; ++i) {
    const MinimalFilter& filter = form.axis(i);
    const int64_t dilation = filter.taps > 1 ? shape.walk[i].tap_distance() : 1;
    tiles *= double(winograd_axis_tiles(shape.walk[i].count, filter.outputs, dilation));
  }
  return tiles;
}

/// What transforming a channel of a tile costs, in multiply-adds of each product. This and what
/// follows is fitted to times of layers of all kinds. With a stride a tile reads so many times as
/// many lines as it uses, and a kernel is a few of the taps that come together.
constexpr double kTileTransform = 12, kStridedTransform = 2.5;

/// What transforming a kernel costs.
struct KernelTransform {
  double of_product, of_product_strided, of_kernel;

  double cost(const WinogradForm& form, bool strided) const {
    return double(form.points()) * (strided ? of_product_strided : of_product) + of_kernel;
  }
};

/// A kernel is read from memory, and its gradient is added up.
constexpr KernelTransform kKernelTransform{13, 13 * kStridedTransform, 0};
constexpr KernelTransform kGradientTransform{8, 8, 200};

/// What direct sums cost that transpose rows of planes or their weight, beside those that read both
/// as they lie; and weight gradients over planes, as they transpose grad too.
constexpr double kTransposedRows = 1.4, kTransposedSums = 1.3;

/// What dot products of pairs take instead: of each product; of a pixel and tap, whose tile is
/// copied whatever its channels, or copied and turned; and of a kernel, which is packed.
constexpr double kDotProduct = 0.65, kPairedTile = 120, kTurnedTile = 250, kPairedKernel = 20;

/// Groups of taps of a form.
inline double winograd_groups(const ContractionShape& shape, const WinogradForm& form) {
  double groups = double(shape.walk[0].tap_count);
  for (int i = 1; i < kAxes; ++i) {
    const Walk& walk = shape.walk[i];
    groups *= double(form.axis(i).groups(walk.tap_count, walk.step));
  }
  return groups;
}

/// Whether rows or columns have a stride.
inline bool has_stride(const ContractionShape& shape) {
  return shape.walk[1].step > 1 || shape.walk[2].step > 1;
}

/// What a form takes, in multiply-adds for each pair of channels: its products, as `used` of the
/// registers hold any; transforms of tiles, those of the source for each group of taps; and of
/// kernels, at `kernel` each.
inline double winograd_cost(const ContractionShape& shape, const WinogradForm& form, double used,
                            double kernel) {
  const double groups = winograd_groups(shape, form);
  double products = double(shape.walk[0].tap_count);
  for (int i = 1; i < kAxes; ++i) {
    products *= double(form.axis(i).products(shape.walk[i].tap_count, shape.walk[i].step));
  }
  const double apart = has_stride(shape) ? kStridedTransform : 1;
  const double source = apart * kTileTransform / double(shape.rows);
  const double dest = kTileTransform / double(shape.depth);
  const double tile = products / used + double(form.points()) * (groups * source + dest);
  return winograd_tiles(shape, form) * tile + groups * kernel;
}

/// Multiply-adds for each pair of channels of direct sums that leave padding out; with `whole_rows`
/// only rows of it.
inline double direct_cost(const ContractionShape& shape, bool whole_rows = false) {
  const double left_out = padding_share(shape, whole_rows ? kAxes - 1 : kAxes);
  return double(shape.taps()) * shape.batch * shape.pixels() * (1 - left_out);
}

/// The same of dot products of pairs, which leave out rows of padding.
inline double paired_cost(const ContractionShape& shape, double of_tile, double of_kernel) {
  const double each = kDotProduct + of_tile / (double(shape.depth) * double(shape.rows));
  return direct_cost(shape, true) * each + of_kernel * double(shape.taps());
}

/// True for groups with channels enough. Taps must not be too many, and along rows and columns not
/// far apart, or neighbours where destinations are.
inline bool winograd_takes(const ContractionShape& shape) {
  if (shape.taps() == 1 || shape.taps() > kMaxWinogradTaps) return false;
  for (int i = 1; i < kAxes; ++i) {
    const Walk& walk = shape.walk[i];
    const int64_t distance = walk.tap_distance();
    if (walk.step > 1 ? walk.step > kMaxWinogradStep || distance > 1
                      : distance > kMaxWinogradDilation) {
      return false;
    }
  }
  return shape.depth >= kMinWinogradChannels && shape.rows >= kMinWinogradChannels &&
         shape.depth * shape.rows >= kMinWinogradPairs;
}

/// A form, or -1 for direct sums, and what it takes.
struct FormChoice {
  int form;
  double cost;
};

/// The form that takes least, where direct sums, at `direct`, do not.
inline FormChoice cheapest_form(const ContractionShape& shape, double used,
                                const KernelTransform& kernel, double direct) {
  FormChoice best{-1, direct};
  for (int i = 0; i < kWinogradFormCount; ++i) {
    const WinogradForm& form = kWinogradForms[i];
    // A tile of several outputs is for axes of several taps.
    if (form.rows.taps > 1 && shape.walk[1].tap_count == 1) continue;
    if (form.columns.taps > 1 && shape.walk[2].tap_count == 1) continue;
    const int64_t of_group = form.rows.taps * form.columns.taps;
    if (winograd_groups(shape, form) * double(of_group) > double(kMaxGroupedTaps)) continue;
    const double of_kernel = kernel.cost(form, has_stride(shape));
    const double cost = winograd_cost(shape, form, used, of_kernel);
    if (cost < best.cost) best = {i, cost};
  }
  return best;
}

/// So large a transformed weight of few tiles is faster made anew, in cache, than fetched.
constexpr int64_t kMaxKeptBytes = 2 << 20, kFewTilePixels = 96 * 16;

/// Whether a prepared weight of so many bytes saves time when it is kept between calls.
inline bool worth_keeping(Algorithm algorithm, const ContractionShape& shape, int64_t bytes) {
  return algorithm != Algorithm::winograd || bytes <= kMaxKeptBytes ||
         shape.batch * shape.pixels() > kFewTilePixels;
}

/// True where the kernel can read whole registers: along channels or along the width.
inline bool winograd_reads(const Strides& strides) {
  return strides.channel == 1 || strides.axis[2] == 1;
}
/// True where it can store them, or every second element of two: a phase of a stride.
inline bool winograd_stores(const Strides& strides) {
  return winograd_reads(strides) || strides.axis[2] == 2;
}

/// Whether Winograd kernels take a contraction of this shape.
template <class T>
bool suits_winograd(const ContractionShape& shape) {
  return std::is_same_v<Accumulator<T>, float> && winograd_takes(shape);
}

/// The form of Winograd's tiles that computes `p`, or -1 where another kernel does.
template <class T>
int winograd_form(const Contraction<T>& p, int64_t lanes) {
  if (!suits_winograd<T>(p) || !winograd_reads(p.source_strides) ||
      !winograd_stores(p.dest_strides)) {
    return -1;
  }
  // Of pixels, either side of the weight may be what lies side by side.
  const bool weight_lies = p.weight_strides.depth == 1 || p.weight_strides.row == 1;
  const bool in_place = p.dest_strides.channel == 1 && weight_lies;
  const bool transposes = !in_place && !has_stride(p);
  const double direct = suits_dot_products<T>(p)
                            ? paired_cost(p, kPairedTile, kPairedKernel)
                            : direct_cost(p) * (transposes ? kTransposedRows : 1);
  const int form = cheapest_form(p, filled(p.rows, lanes), kKernelTransform, direct).form;
  return form < 0 || allows_winograd() ? form : -1;
}

/// The same for the gradient of a weight.
template <class T>
int winograd_form(const WeightContraction<T>& p, bool channels_last, int64_t lanes) {
  if (!suits_winograd<T>(p) || !winograd_reads(p.source_strides) ||
      !winograd_reads(p.grad_strides)) {
    return -1;
  }
  const bool transposes = !channels_last && !has_stride(p);
  const double direct = suits_dot_products<T>(p)
                            ? paired_cost(p, channels_last ? kPairedTile : kTurnedTile, 0)
                            : direct_cost(p, !channels_last) * (transposes ? kTransposedSums : 1);
  const int form = cheapest_form(p, filled(p.depth, lanes), kGradientTransform, direct).form;
  return form < 0 || allows_winograd() ? form : -1;
}

}  // namespace cnnops::plan
