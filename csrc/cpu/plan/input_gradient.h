// The plan of an input gradient as a whole, before it is taken apart into phases.
#pragma once

#include "cpu/plan/folding.h"
#include "cpu/plan/groups.h"
#include "cpu/plan/phases.h"
#include "cpu/plan/products.h"

namespace cnnops {

/// The plan of `p`; no kernel where its phases are better run one by one.
template <class T>
Plan<InputGradient<T>> plan_of(const InputGradient<T>& p, bool channels_last) {
  constexpr Plan<InputGradient<T>> none{{Algorithm::fold_taps_planar, ""}, {"", nullptr, nullptr}};
  const ConvKernels<T>& kernels = conv_kernels<T>();
  const bool in_place = !channels_last && plan::suits_phased_rows_in_place(p);
  if (plan::suits_phased_groups(p, kernels.lanes)) {
    if (channels_last) {
      return {{Algorithm::phased_channels_last, "a register of channels holds whole groups"},
              kernels.phased_channels_last};
    }
    const bool narrow = !in_place || !plan::fills_phased_row(p.axis[2], kernels.lanes);
    if (narrow && plan::suits_phased_blocks(p, kernels.lanes)) {
      return {{Algorithm::phased_blocks, "rows too narrow for registers, channels fill them"},
              kernels.phased_blocks};
    }
  }
  if (in_place) {
    return {{Algorithm::phased_rows, "few taps of stride 2, rows are read where they lie"},
            kernels.phased_rows};
  }
  if (!channels_last && plan::suits_phased_rows(p)) {
    return {{Algorithm::phased_planar, "few channels in a group: whole rows of all phases"},
            kernels.phased_planar};
  }
  if ((plan::suits_matrix_unit<T>(p) || plan::suits_dot_products<T>(p)) &&
      (channels_last || p.axis[2].stride <= plan::kMaxPairedStride)) {
    return none;
  }
  if (!plan::suits_folding(p, channels_last, kernels.lanes)) return none;
  if (plan::suits_winograd_phases(p, channels_last, kernels.lanes)) return none;
  const char* reason = "phases and taps share products with the source";
  if (channels_last) {
    return {{Algorithm::fold_taps_channels_last, reason}, kernels.fold_taps_channels_last};
  }
  if (planes_are_dense(p.source_strides, {1, p.axis[1].output, p.axis[2].output}) &&
      plan::rows_are_dense(p)) {
    return {{Algorithm::fold_taps_planar, reason}, kernels.fold_taps_planar};
  }
  return none;
}

}  // namespace cnnops
