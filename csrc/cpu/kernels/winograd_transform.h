// Winograd's minimal filtering in registers: F(m, r), m outputs of a correlation with r taps from
// m + r - 1 products instead of m r, along one axis or nested along two, so that 4x4 outputs of a
// 3x3 kernel take 36 products instead of 144 (winograd_forms.h has the forms there are).
//
// In one dimension Y = A^T [(G g) * (B^T d)]: the polynomials with coefficients g and d are taken
// at m + r - 1 points, multiplied there and interpolated. Two dimensions nest it. All
// lanes of a register hold the same position of different tiles or channels.
//
// The gradient of the weight is the transpose of this in g: G^T [(A y) * (B^T d)] for the gradient
// y of Y, which meets the same points.
//
// The points are 0, pairs of opposites, which share their even and odd parts, and, where their
// number is even, infinity, which takes the highest coefficient. They decide the rounding error:
// against float64, relative to the largest output, for 256 channels, F(4x4, 3x3) with the
// textbook's 1 and 2 is off by 8e-6, with 3/4 and 3/2 by 2e-6. Along one axis, F(6, 3), F(4, 5)
// with 1/2, 1, 2 are off by 2e-6, and F(4, 7), with the pairs below, by 6e-6. All of them are
// dyadic, so that the coefficients of A and B are exact.

/// The pairs of opposite points of kPairs of them.
template <int kPairs>
constexpr float kWinogradPairs[] = {};
template <>
constexpr float kWinogradPairs<1>[] = {1};
template <>
constexpr float kWinogradPairs<2>[] = {0.75f, 1.5f};
template <>
constexpr float kWinogradPairs<3>[] = {0.5f, 1, 2};
template <>
constexpr float kWinogradPairs<4>[] = {0.375f, 0.875f, 1.25f, 2.25f};

/// A matrix of coefficients.
template <int kRows, int kColumns>
struct Coefficients {
  float at[kRows][kColumns] = {};
};

/// The product of x^2 - p^2 over all pairs p, in row kPairs, and without one of them, in its row.
template <int kPairs>
constexpr auto pair_products() {
  Coefficients<kPairs + 1, kPairs + 1> table;
  for (int without = 0; without <= kPairs; ++without) {
    double product[kPairs + 2] = {1};
    for (int i = 0; i < kPairs; ++i) {
      if (i == without) continue;
      const double square = double(kWinogradPairs<kPairs>[i]) * kWinogradPairs<kPairs>[i];
      for (int k = kPairs; k >= 0; --k) {
        product[k] = (k > 0 ? product[k - 1] : 0) - square * product[k];
      }
    }
    for (int k = 0; k <= kPairs; ++k) table.at[without][k] = float(product[k]);
  }
  return table;
}

/// One over the product of a point's distances to all others: of the points of each pair, and, in
/// row kPairs, of zero; times the powers of the point. Without `scaled` the powers alone.
template <int kPairs, int kPowers, bool scaled>
constexpr auto pair_powers() {
  Coefficients<kPairs + 1, kPowers> table;
  for (int i = 0; i <= kPairs; ++i) {
    const double point = i < kPairs ? double(kWinogradPairs<kPairs>[i]) : 0;
    double distances = i < kPairs ? 2 * point * point : 1;
    for (int j = 0; j < kPairs; ++j) {
      const double other = kWinogradPairs<kPairs>[j];
      if (j != i) distances *= point * point - other * other;
    }
    double power = scaled ? 1 / distances : 1;
    for (int k = 0; k < kPowers; ++k, power *= point) table.at[i][k] = float(power);
  }
  return table;
}

/// The transforms of one axis, in place of matrices. Points come in this order: 0, the two of each
/// pair, infinity.
template <int kOutputs, int kTaps>
struct AxisTransform {
  static constexpr int outputs = kOutputs, taps = kTaps, points = kOutputs + kTaps - 1;
  static constexpr int pairs = (points - 1) / 2;
  static constexpr bool infinity = points % 2 == 0;

  /// B^T d: the rows are the coefficients of x times all x^2 - p^2 without one factor each, that of
  /// infinity of all of it.
  template <class V>
  static inline void input(const V (&d)[points], V (&out)[points]) {
    constexpr auto products = pair_products<pairs>();
    const auto sum = [&](const float (&factors)[pairs + 1], int first, int count) {
      V total = d[first] * factors[0];
#pragma GCC unroll 8
      for (int k = 1; k < count; ++k) total += d[first + 2 * k] * factors[k];
      return total;
    };
    out[0] = sum(products.at[pairs], 0, pairs + 1);
    if constexpr (infinity) out[points - 1] = sum(products.at[pairs], 1, pairs + 1);
#pragma GCC unroll 8
    for (int i = 0; i < pairs; ++i) {
      const V even = sum(products.at[i], 2, pairs), odd = sum(products.at[i], 1, pairs);
      out[1 + 2 * i] = even + odd * kWinogradPairs<pairs>[i];
      out[2 + 2 * i] = even - odd * kWinogradPairs<pairs>[i];
    }
  }
  /// G g: g at each point p, divided by the product of p's distances to the other points.
  template <class V>
  static inline void weight(const V (&g)[taps], V (&out)[points]) {
    evaluate<taps, true>(g, out);
  }
  /// A^T m.
  template <class V>
  static inline void output(const V (&m)[points], V (&out)[outputs]) {
    gather<outputs, false>(m, out);
  }
  /// A y, the transpose of `output`: y at each point.
  template <class V>
  static inline void gradient(const V (&y)[outputs], V (&out)[points]) {
    evaluate<outputs, false>(y, out);
  }
  /// G^T m, the transpose of `weight`.
  template <class V>
  static inline void weight_gradient(const V (&m)[points], V (&out)[taps]) {
    gather<taps, true>(m, out);
  }

 private:
  /// The polynomial with these coefficients at each point.
  template <int kCount, bool scaled, class V>
  static inline void evaluate(const V (&from)[kCount], V (&out)[points]) {
    constexpr auto powers = pair_powers<pairs, kCount, scaled>();
    out[0] = from[0] * powers.at[pairs][0];
    if constexpr (infinity) out[points - 1] = from[kCount - 1];
#pragma GCC unroll 8
    for (int i = 0; i < pairs; ++i) {
      V even = from[0] * powers.at[i][0], odd = from[1] * powers.at[i][1];
#pragma GCC unroll 8
      for (int k = 2; k < kCount; k += 2) even += from[k] * powers.at[i][k];
#pragma GCC unroll 8
      for (int k = 3; k < kCount; k += 2) odd += from[k] * powers.at[i][k];
      out[1 + 2 * i] = even + odd;
      out[2 + 2 * i] = even - odd;
    }
  }
  /// The transpose of `evaluate`.
  template <int kCount, bool scaled, class V>
  static inline void gather(const V (&m)[points], V (&out)[kCount]) {
    constexpr auto powers = pair_powers<pairs, kCount, scaled>();
    V even[pairs], odd[pairs];
#pragma GCC unroll 8
    for (int i = 0; i < pairs; ++i) {
      even[i] = m[1 + 2 * i] + m[2 + 2 * i];
      odd[i] = m[1 + 2 * i] - m[2 + 2 * i];
    }
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k) {
      const V(&parts)[pairs] = k % 2 == 0 ? even : odd;
      V total = parts[0] * powers.at[0][k];
#pragma GCC unroll 8
      for (int i = 1; i < pairs; ++i) total += parts[i] * powers.at[i][k];
      if (k == 0) total += m[0] * powers.at[pairs][0];
      if (infinity && k == kCount - 1) total += m[points - 1];
      out[k] = total;
    }
  }
};

/// An axis that is left alone.
template <>
struct AxisTransform<1, 1> {
  static constexpr int outputs = 1, taps = 1, points = 1;
  template <class V>
  static inline void input(const V (&d)[1], V (&out)[1]) {
    out[0] = d[0];
  }
  template <class V>
  static inline void weight(const V (&g)[1], V (&out)[1]) {
    out[0] = g[0];
  }
  template <class V>
  static inline void output(const V (&m)[1], V (&out)[1]) {
    out[0] = m[0];
  }
  template <class V>
  static inline void gradient(const V (&y)[1], V (&out)[1]) {
    out[0] = y[0];
  }
  template <class V>
  static inline void weight_gradient(const V (&m)[1], V (&out)[1]) {
    out[0] = m[0];
  }
};

/// R x C^T for the matrices R and C that the passes multiply by: read(i, j) gives the elements of x
/// and put(i, j, register) takes the results.
template <int kFromRows, int kFromColumns, int kToRows, int kToColumns, class PassRows,
          class PassColumns, class Read, class Put>
[[gnu::always_inline]] inline void transform_patch(const PassRows& pass_rows,
                                                   const PassColumns& pass_columns,
                                                   const Read& read, const Put& put) {
  Vec<float> half[kToRows][kFromColumns];
#pragma GCC unroll 10
  for (int j = 0; j < kFromColumns; ++j) {
    Vec<float> from[kFromRows], column[kToRows];
#pragma GCC unroll 10
    for (int i = 0; i < kFromRows; ++i) from[i] = read(i, j);
    pass_rows(from, column);
#pragma GCC unroll 10
    for (int i = 0; i < kToRows; ++i) half[i][j] = column[i];
  }
#pragma GCC unroll 10
  for (int i = 0; i < kToRows; ++i) {
    Vec<float> row[kToColumns];
    pass_columns(half[i], row);
#pragma GCC unroll 10
    for (int j = 0; j < kToColumns; ++j) put(i, j, row[j]);
  }
}

/// The transforms of a form, of registers of channels. Patches are given by the elements from row
/// to row and column to column; results and products of points lie `pitch` elements apart.
struct FormTransforms {
  const WinogradForm& form;
  /// B^T d B for `count` channels of a patch, side by side.
  void (*input)(const float* from, int64_t row, int64_t column, int64_t count, int64_t pitch,
                float* to);
  /// A y A^T, likewise.
  void (*gradient)(const float* from, int64_t row, int64_t column, int64_t count, int64_t pitch,
                   float* to);
  /// G g G^T of `count` registers of kernels, `step` elements apart, results `to_step`; tap (i, j)
  /// lies at taps[i * columns + j].
  void (*weight)(const float* kernels, int64_t step, int64_t count, const int64_t* taps,
                 int64_t pitch, int64_t to_step, float* to);
  /// A^T m A, and the bias.
  void (*output)(const float* products, int64_t pitch, const Vec<float>& bias, int64_t row,
                 int64_t column, float* to);
  /// G^T m G: put one after another.
  void (*weight_gradient)(const float* products, int64_t pitch, Vec<float>* taps);
};

template <class Rows, class Columns>
struct PatchTransforms {
  static constexpr int lanes = kLanes<float>;

  template <int kFromRows, int kFromColumns, class PassRows, class PassColumns>
  static inline void to_points(const PassRows& pass_rows, const PassColumns& pass_columns,
                               const float* from, int64_t row, int64_t column, int64_t count,
                               int64_t pitch, float* to) {
    for (int64_t c = 0; c < count; c += lanes, from += lanes, to += lanes) {
      const auto transform = [&](const auto& read) {
        transform_patch<kFromRows, kFromColumns, Rows::points, Columns::points>(
            pass_rows, pass_columns, read,
            [&](int i, int j, Vec<float> v) { store(to + (i * Columns::points + j) * pitch, v); });
      };
      if (c + lanes <= count) {
        transform([&](int i, int j) { return load(from + i * row + j * column); });
      } else {
        transform(
            [&](int i, int j) { return load_partial(from + i * row + j * column, count - c); });
      }
    }
  }

  static void input(const float* from, int64_t row, int64_t column, int64_t count, int64_t pitch,
                    float* to) {
    to_points<Rows::points, Columns::points>(
        [](const auto& d, auto& out) { Rows::input(d, out); },
        [](const auto& d, auto& out) { Columns::input(d, out); }, from, row, column, count, pitch,
        to);
  }
  static void gradient(const float* from, int64_t row, int64_t column, int64_t count, int64_t pitch,
                       float* to) {
    to_points<Rows::outputs, Columns::outputs>(
        [](const auto& y, auto& out) { Rows::gradient(y, out); },
        [](const auto& y, auto& out) { Columns::gradient(y, out); }, from, row, column, count,
        pitch, to);
  }
  static void weight(const float* kernels, int64_t step, int64_t count, const int64_t* taps,
                     int64_t pitch, int64_t to_step, float* to) {
    for (int64_t k = 0; k < count; ++k, kernels += step, to += to_step) {
      transform_patch<Rows::taps, Columns::taps, Rows::points, Columns::points>(
          [](const auto& g, auto& out) { Rows::weight(g, out); },
          [](const auto& g, auto& out) { Columns::weight(g, out); },
          [&](int i, int j) { return load(kernels + taps[i * Columns::taps + j]); },
          [&](int i, int j, Vec<float> v) { store(to + (i * Columns::points + j) * pitch, v); });
    }
  }
  static void output(const float* products, int64_t pitch, const Vec<float>& bias, int64_t row,
                     int64_t column, float* to) {
    transform_patch<Rows::points, Columns::points, Rows::outputs, Columns::outputs>(
        [](const auto& m, auto& out) { Rows::output(m, out); },
        [](const auto& m, auto& out) { Columns::output(m, out); },
        [&](int i, int j) { return load(products + (i * Columns::points + j) * pitch); },
        [&](int i, int j, Vec<float> v) { store(to + i * row + j * column, v + bias); });
  }
  static void weight_gradient(const float* products, int64_t pitch, Vec<float>* taps) {
    transform_patch<Rows::points, Columns::points, Rows::taps, Columns::taps>(
        [](const auto& m, auto& out) { Rows::weight_gradient(m, out); },
        [](const auto& m, auto& out) { Columns::weight_gradient(m, out); },
        [&](int i, int j) { return load(products + (i * Columns::points + j) * pitch); },
        [&](int i, int j, Vec<float> v) { taps[i * Columns::taps + j] = v; });
  }
};

template <int kForm>
using PatchOf = PatchTransforms<
    AxisTransform<kWinogradForms[kForm].rows.outputs, kWinogradForms[kForm].rows.taps>,
    AxisTransform<kWinogradForms[kForm].columns.outputs, kWinogradForms[kForm].columns.taps>>;
template <int kForm>
constexpr FormTransforms form_transforms{kWinogradForms[kForm],    PatchOf<kForm>::input,
                                         PatchOf<kForm>::gradient, PatchOf<kForm>::weight,
                                         PatchOf<kForm>::output,   PatchOf<kForm>::weight_gradient};
