// Winograd's minimal filtering F(n x n, 3 x 3) in registers: n x n outputs of a 3x3 correlation
// from (n + 2)^2 products instead of 9 n^2, for n = 2 (16 for 36) and n = 4 (36 for 144).
//
// In one dimension Y = A^T [(G g) * (B^T d)]: the polynomials with coefficients g and d are taken
// at n + 1 points and infinity, multiplied there and interpolated. Two dimensions nest it. All
// lanes of a register hold the same position of different tiles or channels.
//
// The gradient of the weight is the transpose of this in g: G^T [(A y) * (B^T d)] for the gradient
// y of Y, which meets the same points.
//
// F(2): points 0, 1, -1: nothing but sums and halves. F(4): 0, a, -a, b, -b with a = 3/4, b = 3/2.
// The points decide the rounding error: with the textbook's 1 and 2 it is four times as large
// (against float64, relative to the largest output: 8e-6 instead of 2e-6 for 256 channels). Pairs
// of opposite points share their even and odd parts, and since a and b are dyadic every coefficient
// of A and B is exact.

/// The transforms of one dimension for kOut outputs, in place of matrices.
template <int kOut>
struct Winograd;

template <>
struct Winograd<2> {
  /// B^T d.
  template <class V>
  static inline void input(const V (&d)[4], V (&out)[4]) {
    out[0] = d[0] - d[2];
    out[1] = d[1] + d[2];
    out[2] = d[2] - d[1];
    out[3] = d[3] - d[1];
  }
  /// G g.
  template <class V>
  static inline void weight(const V (&g)[3], V (&out)[4]) {
    const V even = (g[0] + g[2]) * 0.5f, odd = g[1] * 0.5f;
    out[0] = g[0];
    out[1] = even + odd;
    out[2] = even - odd;
    out[3] = g[2];
  }
  /// A^T m.
  template <class V>
  static inline void output(const V (&m)[4], V (&out)[2]) {
    out[0] = m[0] + m[1] + m[2];
    out[1] = m[1] - m[2] + m[3];
  }
};

template <>
struct Winograd<4> {
  static constexpr float a = 0.75f, b = 1.5f, aa = a * a, bb = b * b;
  // One over the product of a point's distances to the others.
  static constexpr float at_a = 1 / (2 * aa * (aa - bb)), at_b = 1 / (2 * bb * (bb - aa));

  /// B^T d: the rows are the coefficients of x (x^2 - a^2) (x^2 - b^2) without one factor each, the
  /// last of all of it.
  template <class V>
  static inline void input(const V (&d)[6], V (&out)[6]) {
    const V even_a = d[4] - bb * d[2], odd_a = d[3] - bb * d[1];
    const V even_b = d[4] - aa * d[2], odd_b = d[3] - aa * d[1];
    out[0] = d[4] - (aa + bb) * d[2] + aa * bb * d[0];
    out[1] = even_a + a * odd_a;
    out[2] = even_a - a * odd_a;
    out[3] = even_b + b * odd_b;
    out[4] = even_b - b * odd_b;
    out[5] = d[5] - (aa + bb) * d[3] + aa * bb * d[1];
  }
  /// G g: g at each point p, divided by the product of p's distances to the other points.
  template <class V>
  static inline void weight(const V (&g)[3], V (&out)[6]) {
    const V even_a = g[0] * at_a + g[2] * (aa * at_a), odd_a = g[1] * (a * at_a);
    const V even_b = g[0] * at_b + g[2] * (bb * at_b), odd_b = g[1] * (b * at_b);
    out[0] = g[0] * (1 / (aa * bb));
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = g[2];
  }
  /// A^T m: the powers of the points.
  template <class V>
  static inline void output(const V (&m)[6], V (&out)[4]) {
    const V even_a = m[1] + m[2], odd_a = m[1] - m[2];
    const V even_b = m[3] + m[4], odd_b = m[3] - m[4];
    out[0] = m[0] + even_a + even_b;
    out[1] = a * odd_a + b * odd_b;
    out[2] = aa * even_a + bb * even_b;
    out[3] = a * aa * odd_a + b * bb * odd_b + m[5];
  }
  /// A y, the transpose of `output`: y at each point.
  template <class V>
  static inline void gradient(const V (&y)[4], V (&out)[6]) {
    const V even_a = y[0] + aa * y[2], odd_a = a * y[1] + (a * aa) * y[3];
    const V even_b = y[0] + bb * y[2], odd_b = b * y[1] + (b * bb) * y[3];
    out[0] = y[0];
    out[1] = even_a + odd_a;
    out[2] = even_a - odd_a;
    out[3] = even_b + odd_b;
    out[4] = even_b - odd_b;
    out[5] = y[3];
  }
  /// G^T m, the transpose of `weight`.
  template <class V>
  static inline void weight_gradient(const V (&m)[6], V (&out)[3]) {
    const V even_a = (m[1] + m[2]) * at_a, odd_a = (m[1] - m[2]) * (a * at_a);
    const V even_b = (m[3] + m[4]) * at_b, odd_b = (m[3] - m[4]) * (b * at_b);
    out[0] = m[0] * (1 / (aa * bb)) + even_a + even_b;
    out[1] = odd_a + odd_b;
    out[2] = aa * even_a + bb * even_b + m[5];
  }
};

/// Products of a tile in one dimension.
template <int kOut>
constexpr int kWinogradPoints = kOut + 2;

/// P x P^T for the matrix P that pass(from, to) multiplies by: read(i, j) gives x, kFrom x kFrom,
/// and put(i, j, register) takes the kTo x kTo results.
template <int kFrom, int kTo, class Pass, class Read, class Put>
inline void transform_square(const Pass& pass, const Read& read, const Put& put) {
  Vec<float> half[kTo][kFrom];
#pragma GCC unroll 6
  for (int j = 0; j < kFrom; ++j) {
    Vec<float> from[kFrom], column[kTo];
#pragma GCC unroll 6
    for (int i = 0; i < kFrom; ++i) from[i] = read(i, j);
    pass(from, column);
#pragma GCC unroll 6
    for (int i = 0; i < kTo; ++i) half[i][j] = column[i];
  }
#pragma GCC unroll 6
  for (int i = 0; i < kTo; ++i) {
    Vec<float> row[kTo];
    pass(half[i], row);
#pragma GCC unroll 6
    for (int j = 0; j < kTo; ++j) put(i, j, row[j]);
  }
}

/// B^T d B of a tile of the input: what the outputs of one tile read.
template <int kOut>
struct InputTransform {
  static constexpr int step = kOut;                   // positions from tile to tile
  static constexpr int side = kWinogradPoints<kOut>;  // of a tile
  static constexpr int points = kWinogradPoints<kOut>;
  template <class Read, class Put>
  static inline void apply(const Read& read, const Put& put) {
    transform_square<side, points>(
        [](const auto& from, auto& to) { Winograd<kOut>::input(from, to); }, read, put);
  }
};

/// A y A^T of a tile of the gradient of the output.
template <int kOut>
struct GradientTransform {
  static constexpr int step = kOut;
  static constexpr int side = kOut;
  static constexpr int points = kWinogradPoints<kOut>;
  template <class Read, class Put>
  static inline void apply(const Read& read, const Put& put) {
    transform_square<side, points>(
        [](const auto& from, auto& to) { Winograd<kOut>::gradient(from, to); }, read, put);
  }
};

/// G g G^T of a kernel.
template <int kOut, class Read, class Put>
inline void transform_kernel(const Read& read, const Put& put) {
  transform_square<3, kWinogradPoints<kOut>>(
      [](const auto& from, auto& to) { Winograd<kOut>::weight(from, to); }, read, put);
}

/// A^T m A: the outputs of a tile from its products.
template <int kOut, class Read, class Put>
inline void transform_products(const Read& read, const Put& put) {
  transform_square<kWinogradPoints<kOut>, kOut>(
      [](const auto& from, auto& to) { Winograd<kOut>::output(from, to); }, read, put);
}

/// G^T m G: the gradient of a kernel from its products.
template <int kOut, class Read, class Put>
inline void transform_weight_products(const Read& read, const Put& put) {
  transform_square<kWinogradPoints<kOut>, 3>(
      [](const auto& from, auto& to) { Winograd<kOut>::weight_gradient(from, to); }, read, put);
}
