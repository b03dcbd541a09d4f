// Limits that rules of several families of kernels share.
#pragma once

#include "contraction.h"
#include "cpu/conv_kernels.h"

namespace cnnops::plan {

/// Direct kernels gather whole source rows, the phases of the stride apart: with far dilations most
/// of a gathered row would go unused. Such shapes, and far strides, go to the GEMM.
constexpr int64_t kMaxDirectSpan = 512;

/// A band of one source channel and destination row must not be much larger than an L2 cache.
constexpr int64_t kMaxBandElements = int64_t(1) << 19;

/// With so few channels on one side of a group a GEMM spends more on gathering im2col than it
/// saves.
constexpr int64_t kFewChannels = 8;

/// Rows up to this width leave vectors along them mostly empty, and little work for each.
constexpr int64_t kNarrowRow = 16;

/// Transposing planes of grad takes about as long as multiplying them with so many elements of K.
constexpr int64_t kMinBroadcastInner = 24;

/// Taps, and strides of an axis, of input gradients whose phases are computed together: products
/// that are folded hold all taps of a channel in a block. Checked before anything is multiplied.
constexpr int64_t kMaxFoldedTaps = 1024, kMaxFoldedStride = 64;

/// Phases that are computed together have tables of their own each.
constexpr int64_t kMaxPhases = 64;

/// A plane of four 512-bit registers of floats; the panels of a GEMM hold pixels of several images.
constexpr int64_t kMinPlane = 64;

/// How much of whole registers `count` elements fill.
inline double filled(int64_t count, int64_t lanes) {
  return double(count) / in_registers(count, lanes);
}

}  // namespace cnnops::plan
