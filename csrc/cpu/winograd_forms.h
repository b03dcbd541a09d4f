// The forms of Winograd's minimal filtering that there are kernels for, by what they save.
//
// F(m, r) computes m neighbouring outputs of r taps from m + r - 1 products. A form takes two axes,
// rows and columns; F(1, 1) leaves an axis to a sum over its taps, and so is an axis of more taps
// than its form has: each group of r of them is a sum of its own, as each tap of the depth is.
//
// With a stride of s every s-th tap meets every s-th position: an axis is a sum over s kernels of
// its taps, each of stride 1 over positions of its own. A 3x3 kernel of stride 2 has 2x2, 2x1, 1x2
// and 1x1 of them.
#pragma once

#include <iterator>

#include "contraction.h"

namespace cnnops {

/// F(outputs, taps) along an axis.
struct MinimalFilter {
  int64_t outputs, taps;

  constexpr int64_t points() const { return outputs + taps - 1; }
  /// Groups of taps along an axis of `count` of them, every `step`-th in a kernel of its own. The
  /// last of a kernel may be filled up with zeros.
  constexpr int64_t groups(int64_t count, int64_t step) const {
    int64_t all = 0;
    for (int64_t first = 0; first < step; ++first) all += groups_of(count, step, first);
    return all;
  }
  /// The points of all groups where a transformed kernel is not zero.
  constexpr int64_t products(int64_t count, int64_t step) const {
    int64_t zeros = 0;
    for (int64_t first = 0; has_infinity() && first < step; ++first) {
      const int64_t groups = groups_of(count, step, first);
      zeros += groups > 0 && (groups * taps - 1) * step + first >= count;
    }
    return groups(count, step) * points() - zeros;
  }
  /// Whether infinity is one of the points: there a kernel is its last tap.
  constexpr bool has_infinity() const { return points() % 2 == 0; }

 private:
  /// Groups of the taps first, first + step, ... of `count`.
  constexpr int64_t groups_of(int64_t count, int64_t step, int64_t first) const {
    return first < count ? ((count - 1 - first) / step + taps) / taps : 0;
  }
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
    CNNOPS_WINOGRAD_FORM(3, 3, 2, 2),  // 16 for 36: phases of strides, small maps
    CNNOPS_WINOGRAD_FORM(4, 4, 2, 2),  // 25 for 64
    CNNOPS_WINOGRAD_FORM(5, 5, 2, 2),  // 36 for 100
    CNNOPS_WINOGRAD_FORM(2, 4, 5, 5),  // 48 for 200
    CNNOPS_WINOGRAD_FORM(1, 5, 1, 2),  // 6 for 10: phases of strides
    CNNOPS_WINOGRAD_FORM(1, 4, 1, 3),  // 6 for 12: short rows
    CNNOPS_WINOGRAD_FORM(1, 6, 1, 3),  // 8 for 18
    CNNOPS_WINOGRAD_FORM(1, 4, 1, 5),  // 8 for 20
    CNNOPS_WINOGRAD_FORM(1, 4, 1, 7),  // 10 for 28
    CNNOPS_WINOGRAD_FORM(5, 1, 2, 1),  // the same along the other axis
    CNNOPS_WINOGRAD_FORM(4, 1, 3, 1), CNNOPS_WINOGRAD_FORM(6, 1, 3, 1),
    CNNOPS_WINOGRAD_FORM(4, 1, 5, 1), CNNOPS_WINOGRAD_FORM(4, 1, 7, 1),
};
#undef CNNOPS_WINOGRAD_FORM

constexpr int kWinogradFormCount = int(std::size(kWinogradForms));

}  // namespace cnnops
