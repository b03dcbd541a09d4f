// The weight gradient of several kernel rows at a time, vectors along the width: for one channel of
// grad and one of the source.
//
// Row after row of grad, the source rows under its window stay in registers and move up by the
// stride, so that what is loaded for each row of grad is one register of it and those of the
// source rows that are new: of 3 x 3 windows of stride 1 four registers for nine products, which
// tap after tap would be eighteen. Sums take as many registers as the window.

/// Kernel rows of a window, if there are so many left: kernels are mostly odd.
constexpr int64_t window_rows(int64_t left) {
  return left == 7 || left >= 10 ? 7 : left >= 8 || left == 5 ? 5 : left >= 3 ? 3 : 1;
}

/// Taps of the width whose windows of `height` rows leave registers for their sums, a register of
/// grad and one to spare; 3 x 3 are the most common.
constexpr int window_taps(int height) {
  const int most = (kRegisters - 2) / (2 * height);
  return most < 3 ? most : 3;
}

/// Where rows of grad and of the source are.
template <class A>
struct WindowRows {
  const A* grad;
  int64_t pitch;
  const A* source;
  int64_t source_row;   // elements from row to row of a window
  const int64_t* taps;  // where each tap starts in a row
  int64_t count;        // rows of grad
};

/// Adds what a register of the columns from `w` on, or the first `some` of it, has of kTaps taps of
/// windows of kHeight rows that move on by kStep rows.
template <class A, int kStep, int kHeight, int kTaps, bool kWhole>
inline void correlate_columns(const WindowRows<A>& rows, int64_t w, int64_t some,
                              Vec<A> (&sum)[kHeight][kTaps]) {
  const auto read = [&](const A* from) {
    if constexpr (kWhole) return load(from);
    return load_partial(from, some);
  };
  Vec<A> window[kHeight][kTaps];
  const A* source = rows.source + w;
  const auto read_row = [&](int y) {
#pragma GCC unroll 3
    for (int t = 0; t < kTaps; ++t) window[y][t] = read(source + rows.taps[t]);
    source += rows.source_row;
  };
#pragma GCC unroll 7
  for (int y = 0; y < kHeight - kStep; ++y) read_row(y);
  const A* grad = rows.grad + w;
  for (int64_t r = 0; r < rows.count; ++r, grad += rows.pitch) {
#pragma GCC unroll 7
    for (int y = kHeight - kStep; y < kHeight; ++y) read_row(y);
    const Vec<A> g = read(grad);
#pragma GCC unroll 7
    for (int y = 0; y < kHeight; ++y) {
#pragma GCC unroll 3
      for (int t = 0; t < kTaps; ++t) sum[y][t] += g * window[y][t];
    }
#pragma GCC unroll 7
    for (int y = 0; y + kStep < kHeight; ++y) {
#pragma GCC unroll 3
      for (int t = 0; t < kTaps; ++t) window[y][t] = window[y + kStep][t];
    }
  }
}

/// sums[y * taps + t] += the products of grad and of source rows y further on, shifted by tap t;
/// registers of sums.
template <class A, int kStep, int kHeight, int kTaps>
void correlate_windows(const WindowRows<A>& rows, int64_t width, A* sums, int64_t taps) {
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kHeight][kTaps];
#pragma GCC unroll 7
  for (int y = 0; y < kHeight; ++y) {
#pragma GCC unroll 3
    for (int t = 0; t < kTaps; ++t) sum[y][t] = load(sums + (y * taps + t) * lanes);
  }
  int64_t w = 0;
  for (; w + lanes <= width; w += lanes) {
    correlate_columns<A, kStep, kHeight, kTaps, true>(rows, w, lanes, sum);
  }
  // What lies behind the row is not part of the sum, and times a zero it could still be a NaN.
  if (w < width) correlate_columns<A, kStep, kHeight, kTaps, false>(rows, w, width - w, sum);
#pragma GCC unroll 7
  for (int y = 0; y < kHeight; ++y) {
#pragma GCC unroll 3
    for (int t = 0; t < kTaps; ++t) store(sums + (y * taps + t) * lanes, sum[y][t]);
  }
}

/// The same for all `taps` of the width.
template <class A, int kStep, int kHeight>
inline void correlate_all_windows(WindowRows<A> rows, int64_t width, A* sums, int64_t taps) {
  constexpr int kMost = window_taps(kHeight);
  const int64_t step = even_part(taps, kMost);
  for (int64_t t = 0; t < taps; t += step, rows.taps += step, sums += step * kLanes<A>) {
    const int64_t some = taps - t < step ? taps - t : step;
    with_count<kMost>(some, [&](auto count) {
      correlate_windows<A, kStep, kHeight, decltype(count)::value>(rows, width, sums, taps);
    });
  }
}

/// How windows of kernel rows move on from row to row of grad.
struct WindowSteps {
  int64_t phases = 0;  // rows of grad are taken in so many turns; 0: rows of windows do not meet
  int64_t distance;    // of kernel rows
  int64_t step;        // kernel rows that a window moves on by, 1 or 2

  explicit WindowSteps(const Walk& height)
      : distance(height.tap_count > 1 ? height.taps[1].offset - height.taps[0].offset : 0),
        step(1) {
    if (distance <= 0) return;
    if (distance % height.step == 0) {
      phases = distance / height.step;
    } else if (height.step == 2 && distance == 1) {
      phases = 1, step = 2;
    }
  }

  /// Adds the products of `height` kernel rows, one that window_rows names, from `source` on to
  /// sums[height][taps] registers.
  template <class A>
  void correlate(int64_t height, WindowRows<A> rows, int64_t width, A* sums, int64_t taps) const {
    const WindowRows<A> all = rows;
    rows.pitch *= phases, rows.source_row *= distance;
    for (int64_t phase = 0; phase < phases && phase < all.count; ++phase) {
      rows.grad = all.grad + phase * all.pitch;
      rows.source = all.source + phase * (distance / phases) * all.source_row;
      rows.count = (all.count - phase + phases - 1) / phases;
      const auto run = [&](auto moves) {
        constexpr int kStep = decltype(moves)::value;
        switch (height) {
          case 3: return correlate_all_windows<A, kStep, 3>(rows, width, sums, taps);
          case 5: return correlate_all_windows<A, kStep, 5>(rows, width, sums, taps);
          default: return correlate_all_windows<A, kStep, 7>(rows, width, sums, taps);
        }
      };
      step == 1 ? run(Size<1>()) : run(Size<2>());
    }
  }
};
