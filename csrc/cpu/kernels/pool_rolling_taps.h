// The gradient of max pooling by taps, of (N, C, D, H, W) under the windows of pool_rolling.h, a
// row of windows after another. Included where lanes have masks.
//
// It is to pool_rolling.h what spreading is to gathering. The bytes of a row of windows that equal
// the number of a tap are a mask, and under it their gradients are added to the inputs at this tap.
// The sums of all input rows that the windows lie on are in registers, those of even and of odd
// columns apart under a stride of 2. After its turn the first rows, as many as the stride, are
// complete: they are stored, and the sums of others begin in their place.
//
// An input column kStep * cell + phase is tap w of window cell + (phase + padding - w) / kStep. So
// windows and gradients are read from there on, and nothing is shifted.

/// Registers of cells of a piece: their sums, gradients and what is stored fit 32 registers.
constexpr int spread_vectors(int step, int taps) { return step == 2 && taps == 3 ? 3 : 4; }

/// Results of more bytes than this leave L2: then the lines of an input row are fetched so many
/// rows before it is stored, as the processor looks ahead along rows and not down a piece of them.
constexpr int64_t kSpreadBytes = 2 << 20;
constexpr int64_t kSpreadAhead = 10;

/// Where tap `w` of a width goes, as the padding is odd or even.
template <int kStep, int kTaps, int kOdd>
struct PlaceOfTap {
  static constexpr int phase(int w) { return (w + kOdd) % kStep; }
  /// How far its window lies behind that of the last tap.
  static constexpr int position(int w) {
    const int last = kTaps - 1;
    return (phase(w) - w - phase(last) + last) / kStep;
  }
  static constexpr int kPositions = position(0) + 1;
  /// From a cell to the window of which its input is the last tap.
  static int64_t last_window(int64_t padding) {
    return (phase(kTaps - 1) + padding - (kTaps - 1)) / kStep;
  }
};

/// What the pieces of a plane of inputs share, of which rows [begin, end) are wanted: the plane of
/// windows that lie on it with the taps from `first` on. There is none past its `rows`.
template <class T>
struct SpreadRows {
  const T* grads;
  const uint8_t* taps;
  uint8_t first;
  int64_t rows;
  const PoolWindows &height, &width;
  int64_t begin, end;
  bool fetch;  // lines to be stored?
};

/// `lanes` taps less `first`, and what is no tap where `mask` has no bit.
[[gnu::always_inline]] inline __m128i load_taps(const uint8_t* from, uint32_t mask, uint8_t first) {
  const __m128i taps = _mm_mask_loadu_epi8(_mm_set1_epi8(char(kNoTap)), __mmask16(mask), from);
  return _mm_sub_epi8(taps, _mm_set1_epi8(char(first)));
}

/// sum + value where a tap has this number.
template <class T>
[[gnu::always_inline]] inline Vec<T> add_at(Vec<T> sum, Vec<T> value, __m128i taps, int number) {
  const __mmask16 at = _mm_cmpeq_epi8_mask(taps, _mm_set1_epi8(char(number)));
  if constexpr (sizeof(T) == 8) {
    return (Vec<T>)_mm512_mask_add_pd((__m512d)sum, __mmask8(at), (__m512d)sum, (__m512d)value);
  } else {
    return (Vec<T>)_mm512_mask_add_ps((__m512)sum, at, (__m512)sum, (__m512)value);
  }
}

/// The inputs of kVectors registers of cells from `first` on. `to` is their plane.
template <class T, int kStep, int kTaps, int kOdd, int kVectors>
void spread_piece(const SpreadRows<T>& in, int64_t first, T* to) {
  using A = Compute<T>;
  using Place = PlaceOfTap<kStep, kTaps, kOdd>;
  constexpr int lanes = kLanes<A>, positions = Place::kPositions;
  constexpr int period = kTaps % kStep == 0 ? kTaps / kStep : kTaps;
  const int64_t windows = in.width.output, padding = in.height.padding;
  const int64_t start = first + Place::last_window(in.width.padding);
  uint32_t masks[positions][kVectors];
  for (int q = 0; q < positions; ++q) {
    for (int j = 0; j < kVectors; ++j) {
      masks[q][j] = lanes_inside(start + q + j * lanes, windows, lanes);
    }
  }
  const int64_t columns = in.width.input, wanted = columns - first * kStep;
  // The first row of windows that reaches a wanted row, and the row that its first taps lie on.
  int64_t window = most(0, (in.begin + padding - kTaps + kStep) / kStep);
  int64_t row = window * kStep - padding;
  to += row * columns + first * kStep;
  Vec<A> sums[kTaps][kVectors][kStep];
#pragma GCC unroll 8
  for (auto& of_row : sums) {
#pragma GCC unroll 4
    for (auto& of_cells : of_row) {
#pragma GCC unroll 2
      for (Vec<A>& sum : of_cells) sum = Vec<A>{};
    }
  }

  // Adds a row of windows and stores kStep rows. Those that its taps h lie on have the sums
  // (kStep * kTurn + h) % kTaps. Whether there is another turn.
  const auto turn = [&]<int kTurn>() __attribute__((always_inline)) {
    if (window < in.rows) {
      const int64_t from = window * windows + start;
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
#pragma GCC unroll 8
        for (int q = 0; q < positions; ++q) {
          const int64_t at = from + q + j * lanes;
          const __m128i numbers = load_taps(in.taps + at, masks[q][j], in.first);
          const Vec<A> value = load_wide_masked(in.grads + at, masks[q][j]);
#pragma GCC unroll 8
          for (int w = 0; w < kTaps; ++w) {
            if (Place::position(w) != q) continue;
#pragma GCC unroll 8
            for (int h = 0; h < kTaps; ++h) {
              Vec<A>& sum = sums[(kStep * kTurn + h) % kTaps][j][Place::phase(w)];
              sum = add_at<A>(sum, value, numbers, h * kTaps + w);
            }
          }
        }
      }
    }
#pragma GCC unroll 2
    for (int s = 0; s < kStep; ++s, ++row, to += columns) {
      auto& complete = sums[(kStep * kTurn + s) % kTaps];
      if (row >= in.begin && row < in.end) {
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) {
#pragma GCC unroll 2
          for (int i = 0; in.fetch && i < kStep; ++i) {
            __builtin_prefetch(to + kSpreadAhead * columns + (kStep * j + i) * lanes, 1);
          }
          Vec<A> inputs[kStep] = {complete[j][0]};
          if constexpr (kStep == 2) {
            interleave<A>(complete[j][0], complete[j][1], &inputs[0], &inputs[1]);
          }
#pragma GCC unroll 2
          for (int i = 0; i < kStep; ++i) {
            const int64_t x = (kStep * j + i) * lanes;
            if (wanted > x) store_first(to + x, inputs[i], wanted - x);
          }
        }
      }
#pragma GCC unroll 4
      for (auto& of_cells : complete) {
#pragma GCC unroll 2
        for (Vec<A>& sum : of_cells) sum = Vec<A>{};
      }
    }
    ++window;
    return row < in.end;
  };
  take_turns<period>(turn);
}

/// The cells from `first` on, in pieces of kVectors registers and what is left.
template <class T, int kStep, int kTaps, int kOdd, int kVectors = spread_vectors(kStep, kTaps)>
void spread_pieces(const SpreadRows<T>& in, int64_t first, T* to) {
  constexpr int64_t lanes = kLanes<Compute<T>>;
  const int64_t cells = (in.width.input + kStep - 1) / kStep;
  for (; cells - first > (kVectors - 1) * lanes; first += kVectors * lanes) {
    spread_piece<T, kStep, kTaps, kOdd, kVectors>(in, first, to);
  }
  if constexpr (kVectors > 1) {
    spread_pieces<T, kStep, kTaps, kOdd, kVectors - 1>(in, first, to);
  }
}

/// All inputs under windows that are kTaps high and wide, kStep apart, and do not overlap in depth.
template <class T, int kStep, int kTaps, int kOdd>
void spread_windows(const PoolProblem& p, const T* grad_output, const uint8_t* taps,
                    T* grad_input) {
  const PoolWindows &deep = p.axis[0], &height = p.axis[1], &width = p.axis[2];
  const int64_t inputs = height.input * width.input, outputs = height.output * width.output;
  const bool fetch = p.batch * p.channels * deep.input * inputs > kSpreadBytes / int64_t(sizeof(T));
  const int64_t parts = (height.input + kRollingRows - 1) / kRollingRows;
  const int64_t work = least(height.input, kRollingRows) * width.input * kTaps * kTaps / 4;
  parallel_for(
      p.batch * p.channels * deep.input * parts, grain_of(work), [&](int64_t begin, int64_t end) {
        for (int64_t task = begin; task < end; ++task) {
          const int64_t first = task % parts * kRollingRows, plane = task / parts;
          const int64_t d = plane % deep.input + deep.padding, at = d / deep.stride;
          const int64_t tap = d % deep.stride;
          const bool reached = tap < deep.kernel && at < deep.output;
          const int64_t from = reached ? (plane / deep.input * deep.output + at) * outputs : 0;
          const SpreadRows<T> in{grad_output + from,
                                 taps + from,
                                 uint8_t(tap * kTaps * kTaps),
                                 reached ? height.output : 0,
                                 height,
                                 width,
                                 first,
                                 least(first + kRollingRows, height.input),
                                 fetch};
          spread_pieces<T, kStep, kTaps, kOdd>(in, 0, grad_input + plane * inputs);
        }
      });
}

template <class T>
void roll_taps(const PoolProblem& p, const T* grad_output, const uint8_t* taps, T* grad_input) {
  const PoolWindows& width = p.axis[2];
  if (width.stride == 1) return spread_windows<T, 1, 3, 0>(p, grad_output, taps, grad_input);
  if (width.kernel == 2) {
    return width.padding % 2 == 0 ? spread_windows<T, 2, 2, 0>(p, grad_output, taps, grad_input)
                                  : spread_windows<T, 2, 2, 1>(p, grad_output, taps, grad_input);
  }
  return width.padding % 2 == 0 ? spread_windows<T, 2, 3, 0>(p, grad_output, taps, grad_input)
                                : spread_windows<T, 2, 3, 1>(p, grad_output, taps, grad_input);
}
