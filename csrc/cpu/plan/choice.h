// What a plan is: an algorithm, why it was chosen, and its kernel.
#pragma once

#include "cpu/dispatch.h"

namespace cnnops {

enum class Algorithm {
  gemm_planar,              // vectors along pixels; any strides, any geometry
  shifted_planar,           // several taps on long rows; vectors along pixels of shifted rows
  transposed_planar,        // several taps of many channels; vectors along channels
  pointwise_planar,         // 1x1 kernels on planes as they lie; vectors along pixels
  gemm_channels_last,       // vectors along channels
  matrix_unit,              // bfloat16, on a CPU with AMX
  dot_products,             // bfloat16, on a CPU whose AVX512_BF16 is faster than its multiply-adds
  broadcast_pixels,         // few channels in a group; vectors along destination channels
  few_channels_last,        // few destination channels; vectors along source channels
  few_pixels,               // few destination pixels; vectors along the weight as it lies
  direct_planar,            // few channels in a group; vectors along the width
  depthwise_planar,         // one source channel in a group, few taps of the width; the same
  grouped_channels_last,    // 1, 2, 4 or 8 channels in and out of a group; vectors along channels
  grouped_planar,           // the same on transposed blocks of planes
  winograd,                 // stride 1, sums in float; in tiles of one of winograd_forms.h
  fold_taps_planar,         // input gradients from products with all taps; vectors along pixels
  fold_taps_channels_last,  // the same; vectors along channels
  phased_rows,              // input gradients of depthwise kernels, rows read where they lie
  phased_planar,            // input gradients with few channels in a group, all phases of a row
  phased_blocks,            // the same of 1, 2, 4 or 8 channels, on transposed blocks of planes
  phased_channels_last,     // the same; vectors along channels
};

/// What a contraction runs, and why.
struct Choice {
  Algorithm algorithm;
  const char* reason;
};

/// How a contraction is computed.
template <class Problem>
struct Plan {
  Choice choice;
  Kernel<Problem> kernel;
};

}  // namespace cnnops
