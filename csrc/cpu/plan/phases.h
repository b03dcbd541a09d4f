// Input gradients with a stride whose phases are computed together, each from its own taps.
#pragma once

#include "cpu/dispatch.h"
#include "cpu/plan/groups.h"
#include "cpu/plan/limits.h"
#include "cpu/plan/rows.h"
#include "walks.h"

namespace cnnops::plan {

/// Channels on either side, of which phases are computed a row at a time, and pairs of them of
/// narrow rows.
constexpr int64_t kMaxPhasedChannels = 16, kMaxNarrowPairs = 64;

/// Whether the phases of an input gradient are best computed a row at a time: few channels meet in
/// a destination, and what reads and stores cost is most of the work.
template <class T>
bool suits_phased_rows(const InputGradient<T>& p) {
  const int64_t stride = p.axis[2].stride;
  if (stride != 2 && stride != 3 && stride != 4 && stride != 8) return false;
  if (p.depth > kMaxPhasedChannels || p.rows > kMaxPhasedChannels) return false;
  // Two destination channels share what they load, and pairs of them load it again, which a narrow
  // row is worst at.
  if (p.depth > kFewChannels && p.rows == 1) return false;
  const int64_t strides = (p.axis[2].input - 1) / stride + 1;
  if (p.rows * p.depth > kMaxNarrowPairs && strides <= kNarrowRow) return false;
  if (p.dest_strides.axis[2] != 1) return false;
  int64_t span[kAxes];
  for (int i = 0; i < kAxes; ++i) {
    const ConvAxis& axis = p.axis[i];
    // Checked before anything is multiplied, as above.
    if (axis.kernel > kMaxFoldedTaps || axis.stride > kMaxFoldedStride) return false;
    if (axis.dilation > kMaxDirectSpan || axis.output == 0) return false;
    span[i] = (axis.kernel - 1) * axis.dilation / axis.stride + 1;
    if (span[i] > kMaxDirectSpan) return false;
  }
  const int64_t row = strides + span[2];
  return row < kMaxBandElements &&
         row * (span[1] + 1) * p.depth * p.axis[0].kernel <= kMaxBandElements;
}

/// Whether all phases of an input gradient with one source channel in a group are computed from
/// source rows as they lie.
template <class T>
bool suits_phased_rows_in_place(const InputGradient<T>& p) {
  if (conv_kernels<T>().phased_rows.run == nullptr) return false;
  if (p.depth > 1 || p.rows > kMaxRowsInPlace) return false;
  if (p.source_strides.axis[2] != 1 || p.dest_strides.axis[2] != 1) return false;
  for (const ConvAxis& axis : {p.axis[1], p.axis[2]}) {
    if (axis.kernel < 3 || axis.kernel > 5 || axis.kernel != p.axis[2].kernel) return false;
    if (axis.stride != 2 || axis.dilation != 1 || axis.output == 0) return false;
  }
  const ConvAxis& deep = p.axis[0];
  if (deep.kernel > kMaxFoldedTaps || deep.stride > kMaxFoldedStride) return false;
  return deep.dilation <= kMaxDirectSpan && deep.output > 0 &&
         p.axis[2].input <= kLongestRollingRow;
}

/// Whether registers of channels hold whole groups of an input gradient with a stride, all phases
/// of which have taps.
template <class T>
bool suits_phased_groups(const InputGradient<T>& p, int64_t lanes) {
  int64_t phases = 1;
  for (const ConvAxis& axis : p.axis) {
    // Checked before anything is multiplied, as above.
    if (axis.kernel > kMaxFoldedTaps || axis.stride > kMaxPhases) return false;
    if (axis.kernel < axis.stride || axis.input < axis.stride || axis.output == 0) return false;
    if (axis.dilation > 1 && axis.stride > 1) return false;
    phases *= axis.stride;
  }
  return groups_fill_registers(p, lanes) && phases > 1 && phases <= kMaxPhases;
}

/// Whether a register's worth of its planes is best transposed.
template <class T>
bool suits_phased_blocks(const InputGradient<T>& p, int64_t lanes) {
  const ConvAxis* axis = p.axis;
  if (!planes_are_dense(p.source_strides, {axis[0].output, axis[1].output, axis[2].output}) ||
      !planes_are_dense(p.dest_strides, {axis[0].input, axis[1].input, axis[2].input})) {
    return false;
  }
  const int64_t narrow = p.depth == 1 ? kNarrowRowOfWindows : kNarrowRow;
  int64_t of_source = 1, of_dest = 1, taps = 1;
  for (int i = 0; i < kAxes; ++i) {
    if (axis[i].input > kMaxBlockElements || axis[i].output > kMaxBlockElements) {
      return false;
    }
    of_source *= axis[i].output;
    of_dest *= axis[i].input;
    taps *= axis[i].kernel;
  }
  return axis[2].output <= narrow && p.groups * p.depth >= lanes &&
         (of_source + of_dest) * lanes <= most_block_elements(taps);
}

}  // namespace cnnops::plan
