// So few pixels that reading the weight, or storing its gradient, is most of the work.
#pragma once

#include "cpu/plan/limits.h"
#include "walks.h"

namespace cnnops::plan {

/// Whether there are so few destination pixels that reading the weight is most of the work, and the
/// weight can be read where it lies.
template <class T>
bool suits_few_pixels(const Contraction<T>& p) {
  return p.batch * p.pixels() <= kFewPixels && p.rows > 1 && p.depth > 1 &&
         (p.weight_strides.row == 1 || weight_rows_are_dense(p, p.weight_strides));
}

/// The same for the gradient of a weight: storing it is most of the work.
template <class T>
bool suits_few_pixels(const WeightContraction<T>& p) {
  return p.batch * p.pixels() <= kFewPixels && p.depth > 1 &&
         weight_rows_are_dense(p, p.dest_strides);
}

/// Emptier registers of few pixels waste more than packing the weight costs, which is as much as
/// multiplying it with 16 pixels.
constexpr double kMinFilledPixels = 0.8;

/// The same as the first where the rows of the weight are dense: they are broadcast, vectors along
/// the pixels, which fill these.
template <class T>
bool suits_weight_rows(const Contraction<T>& p, int64_t lanes) {
  const int64_t pixels = p.batch * p.pixels();
  return p.taps() == 1 && pixels <= kMinPlane && p.rows >= kMinPlane &&
         filled(pixels, lanes) >= kMinFilledPixels && p.weight_strides.depth == 1 &&
         p.weight_strides.row != 1;
}

/// Whether a 1x1 convolution has so few pixels that packing its weight, which is as large as all
/// else, costs more than storing the destination across its layout: the weight takes the part of
/// the source, vectors along the destination channels.
template <class T>
bool suits_weight_as_pixels(const Contraction<T>& p) {
  return parts_are_alike(p) && p.batch == 1 && p.groups == 1 && p.bias == nullptr &&
         p.walk[2].count <= kMinPlane && p.rows >= kMinPlane && p.source_strides.channel != 1 &&
         p.weight_strides.row == 1;
}

}  // namespace cnnops::plan
