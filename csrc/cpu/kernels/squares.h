// Squares: as many registers as a register has lanes, transposed in registers. So elements move
// between planes, where pixels are neighbours, and rows of channels.

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
