// The forms of Winograd's minimal filtering that there are kernels for, by what they save.
//
// F(m, r) computes m neighbouring outputs of r taps from m + r - 1 products. A form takes two axes,
// rows and columns; F(1, 1) leaves an axis to a sum over its taps, and so is an axis of more taps
// than its form has: each group of r of them is a sum of its own, as each tap of the depth is.
#pragma once

#include <iterator>

#include "contraction.h"

namespace cnnops {

/// F(outputs, taps) along an axis.
struct MinimalFilter {
  int64_t outputs, taps;

  constexpr int64_t points() const { return outputs + taps - 1; }
  /// Groups of taps along an axis of `count` of them; the last may be filled up with zeros.
  constexpr int64_t groups(int64_t count) const { return (count + taps - 1) / taps; }
};

/// A filter for each of the two axes that tiles lie in, and the names of the kernels for it.
struct WinogradForm {
  MinimalFilter rows, columns;
  const char *name, *weight_name;

  constexpr int64_t points() const { return rows.points() * columns.points(); }
  const MinimalFilter& axis(int i) const { return i == 1 ? rows : columns; }
};

#define CNNOPS_WINOGRAD_FORM(m, n, r, s) \
  {{m, r}, {n, s}, "winograd_" #m "x" #n "_" #r "x" #s, "weight_winograd_" #m "x" #n "_" #r "x" #s}

/// The more outputs, the fewer products, and the larger the rounding errors: with eight points
/// along both axes they would be 1e-5 of the largest output.
constexpr WinogradForm kWinogradForms[] = {
    CNNOPS_WINOGRAD_FORM(2, 2, 3, 3),  // 16 products for 36: small maps
    CNNOPS_WINOGRAD_FORM(3, 3, 3, 3),  // 25 for 81: the phases of far dilations
    CNNOPS_WINOGRAD_FORM(4, 4, 3, 3),  // 36 for 144
    CNNOPS_WINOGRAD_FORM(2, 4, 5, 5),  // 48 for 200
    CNNOPS_WINOGRAD_FORM(1, 4, 1, 3),  // 6 for 12: short rows
    CNNOPS_WINOGRAD_FORM(1, 6, 1, 3),  // 8 for 18
    CNNOPS_WINOGRAD_FORM(1, 4, 1, 5),  // 8 for 20
    CNNOPS_WINOGRAD_FORM(1, 4, 1, 7),  // 10 for 28
    CNNOPS_WINOGRAD_FORM(4, 1, 3, 1),  // the same along the other axis
    CNNOPS_WINOGRAD_FORM(6, 1, 3, 1), CNNOPS_WINOGRAD_FORM(4, 1, 5, 1),
    CNNOPS_WINOGRAD_FORM(4, 1, 7, 1),
};
#undef CNNOPS_WINOGRAD_FORM

constexpr int kWinogradFormCount = int(std::size(kWinogradForms));

}  // namespace cnnops
