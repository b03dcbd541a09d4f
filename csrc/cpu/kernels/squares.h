// Squares: as many registers as a register has lanes, transposed in registers. So elements move
// between planes, where pixels are neighbours, and rows of channels; or the lanes of each are added
// up.

/// Copies `count` pixels of `channels` planes, `channel` and `stride` apart, to rows of channels,
/// `pitch` elements a row; what is left of the last register of a row becomes zero.
template <class T>
inline void load_planes(const T* from, int64_t channel, int64_t channels, int64_t stride,
                        int64_t count, Accumulator<T>* to, int64_t pitch) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  for (int64_t first = 0; first < channels; first += lanes) {
    for (int64_t i = 0; i < count; i += lanes) {
      const int64_t some = count - i < lanes ? count - i : lanes;
      Vec<A> square[lanes];
      for (int64_t c = 0; c < lanes; ++c) {
        if (first + c >= channels) {
          square[c] = Vec<A>{};
          continue;
        }
        const T* at = from + (first + c) * channel + i * stride;
        if (stride == 1) {
          square[c] = some == lanes ? load_wide(at) : load_partial(at, some);
        } else {
          alignas(64) A values[lanes] = {};
          for (int64_t j = 0; j < some; ++j) values[j] = widen(at[j * stride]);
          square[c] = load(values);
        }
      }
      transpose<A>(square);
      for (int64_t j = 0; j < some; ++j) store(to + (i + j) * pitch + first, square[j]);
    }
  }
}

/// Transposes a square and stores the first `count` lanes of its first `rows` registers, `pitch`
/// elements apart, neighbours `step` apart, 1 or 2.
template <class T>
inline void store_transposed(Vec<Accumulator<T>> (&square)[kLanes<Accumulator<T>>], int64_t rows,
                             int64_t count, T* to, int64_t pitch, int64_t step = 1) {
  transpose<Accumulator<T>>(square);
  for (int64_t r = 0; r < rows; ++r, to += pitch) {
    if (step == 2) {
      store_every_second(to, square[r], count);
    } else if (count == kLanes<Accumulator<T>>) {
      store_narrow(to, square[r]);
    } else {
      store_partial(to, square[r], count);
    }
  }
}

/// to[i] = the lanes of all[i], added up; stores whole registers.
template <class A, int kCount>
inline void store_sums(const Vec<A> (&all)[kCount], A* to) {
  constexpr int lanes = kLanes<A>;
#pragma GCC unroll 8
  for (int first = 0; first < kCount; first += lanes) {
    Vec<A> square[lanes] = {};
#pragma GCC unroll 16
    for (int j = 0; j < lanes; ++j) {
      if (first + j < kCount) square[j] = all[first + j];
    }
    store(to + first, sum_each<A>(square));
  }
}

/// to[j * step] = the lanes of from[j], added up, for `count` registers.
template <class A>
void add_up_lanes(const A* from, int64_t count, A* to, int64_t step = 1) {
  constexpr int lanes = kLanes<A>;
  for (int64_t first = 0; first < count; first += lanes, from += lanes * lanes) {
    const int64_t some = count - first < lanes ? count - first : lanes;
    Vec<A> square[lanes] = {};
    for (int64_t j = 0; j < some; ++j) square[j] = load(from + j * lanes);
    const Vec<A> sums = sum_each<A>(square);
    if (step == 1) {
      store_partial(to + first, sums, some);
    } else {
      for (int64_t j = 0; j < some; ++j) to[(first + j) * step] = sums[j];
    }
  }
}
