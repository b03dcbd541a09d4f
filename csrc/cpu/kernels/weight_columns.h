// Reading weights as registers of destination channels, whatever their layout in memory: for the
// kernels whose vectors run along those channels.

/// Fetches the cache line `lines` after the one at `from` ahead of its use. Rows of weights lie too
/// far apart for the hardware to see that their neighbours come next.
template <class T>
inline void fetch_ahead(const T* from, int64_t lines) {
  __builtin_prefetch(from + lines * (64 / int64_t(sizeof(T))), 0, 2);
}

/// Brings to L2 part `part` of `parts` of rows of `count` elements, `step` apart. Inlined, as GCC
/// drops calls that have no effect.
template <class T>
[[gnu::always_inline]] inline void fetch_rows(const T* from, int64_t step, int64_t rows,
                                              int64_t count, int64_t part, int64_t parts) {
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  const int64_t end = (part + 1) * rows / parts;
  for (int64_t r = part * rows / parts; r < end; ++r) {
    for (int64_t i = 0; i < count; i += line) __builtin_prefetch(from + r * step + i, 0, 2);
  }
}

/// The longest run of the taps of a kernel that is read as squares of taps and channels.
constexpr int64_t kMostTapsOfRun = 64;

/// Which taps lie at the offsets [0, row), from one kernel to the next: -1 where there is none.
/// False where some lie elsewhere.
inline bool places_of_taps(const int64_t* taps, int64_t count, int64_t row, int64_t* places) {
  if (row > kMostTapsOfRun) return false;
  for (int64_t i = 0; i < row; ++i) places[i] = -1;
  for (int64_t tap = 0; tap < count; ++tap) {
    if (taps[tap] < 0 || taps[tap] >= row) return false;
    places[taps[tap]] = tap;
  }
  return true;
}

/// Reads `count` neighbouring elements from `from` on of each of `rows` rows, `row` elements apart,
/// and transposes them; what is left of the square becomes zero. Brings the line `lines` behind.
template <class T>
inline void read_square(const T* from, int64_t row, int64_t rows, int64_t count, int64_t lines,
                        Vec<Accumulator<T>> (&square)[kLanes<Accumulator<T>>]) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  if (rows == lanes && count == lanes) {
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) {
      fetch_ahead(from + r * row, lines);
      square[r] = load_wide(from + r * row);
    }
  } else {
#pragma GCC unroll 1
    for (int r = 0; r < lanes; ++r) {
      square[r] = r < rows ? load_partial(from + r * row, count) : Vec<A>{};
    }
  }
  transpose<A>(square);
}

/// Calls put(tap, register) for the taps of `rows` kernels that lie side by side, `row` elements
/// each, of which `before` lie before those from `from` on. Squares of kernels and of neighbouring
/// places go through registers: gathering the taps one by one takes several times as long.
template <class T, class Put>
inline void read_kernels(const T* from, int64_t row, int64_t rows, int64_t before,
                         const int64_t* places, const Put& put) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  for (int64_t first = 0; first < row; first += lanes) {
    const int64_t count = row - first < lanes ? row - first : lanes;
    Vec<A> square[lanes];
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) {
      const T* at = from + r * row + first;
      const int64_t left = (rows - r) * row - before - first;
      square[r] = left >= lanes ? load_wide(at) : load_partial(at, left > 0 ? left : 0);
    }
    transpose<A>(square);
#pragma GCC unroll 16
    for (int i = 0; i < lanes; ++i) {
      if (i < count && places[first + i] >= 0) put(places[first + i], square[i]);
    }
  }
}

/// Calls put(tap, channel, register) for `lanes` destination channels from `first` on, every tap
/// and the source channels [channel_begin, channel_end) of a group; channels past the last are
/// zero. `taps` are the offsets of the taps in the weight. Squares of lanes x lanes go through
/// registers where K, one of the channels or the taps of a kernel are contiguous.
template <class T, class Put>
inline void read_weight_columns(const Contraction<T>& p, const int64_t* taps, int64_t group,
                                int64_t first, int64_t channel_begin, int64_t channel_end,
                                const Put& put) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t tap_count = p.taps(), row = p.weight_strides.row, depth = p.weight_strides.depth;
  const T* from = p.weight + group * p.weight_strides.group + first * row;
  const int64_t rows = p.rows - first < lanes ? p.rows - first : lanes;
  if (depth == 1) {
    // Tap by tap: neighbouring channels of a tap are neighbours in memory.
    for (int64_t tap = 0; tap < tap_count; ++tap) {
      for (int64_t c = channel_begin; c < channel_end; c += lanes) {
        const int64_t count = channel_end - c < lanes ? channel_end - c : lanes;
        Vec<A> square[lanes];
        read_square(from + taps[tap] + c, row, rows, count, 1, square);
#pragma GCC unroll 16
        for (int r = 0; r < lanes; ++r) {
          if (r < count) put(tap, c + r, square[r]);
        }
      }
    }
    return;
  }
  if (row == 1) {
    for (int64_t c = channel_begin; c < channel_end; ++c) {
      for (int64_t tap = 0; tap < tap_count; ++tap) {
        const T* at = from + taps[tap] + c * depth;
        fetch_ahead(at, 1);
        put(tap, c, rows == lanes ? load_wide(at) : load_partial(at, rows));
      }
    }
    return;
  }
  if (depth == tap_count && taps_are_contiguous(p, p.weight_strides)) {
    // (channel, tap) is one contiguous run for each row.
    int64_t tap = 0, channel = channel_begin;
    const int64_t end = channel_end * tap_count;
    for (int64_t k = channel_begin * tap_count; k < end; k += lanes) {
      const int64_t count = end - k < lanes ? end - k : lanes;
      Vec<A> square[lanes];
      read_square(from + k, row, rows, count, 8, square);
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r) {
        if (r >= count) continue;
        put(tap, channel, square[r]);
        if (++tap == tap_count) tap = 0, ++channel;
      }
    }
    return;
  }
  int64_t places[kMostTapsOfRun];
  if (tap_count > 1 && places_of_taps(taps, tap_count, row, places)) {
    for (int64_t c = channel_begin; c < channel_end; ++c) {
      for (int64_t line = 0; line < row; ++line) fetch_ahead(from + (c + 1) * depth, line);
      // The channels of a kernel lie in its row, or rows of one channel follow each other.
      read_kernels(from + c * depth, row, rows, depth < row ? c * depth : 0, places,
                   [&](int64_t tap, Vec<A> v) { put(tap, c, v); });
    }
    return;
  }
  for (int64_t c = channel_begin; c < channel_end; ++c) {
    for (int64_t tap = 0; tap < tap_count; ++tap) {
      const T* at = from + c * depth + taps[tap];
      fetch_ahead(at - taps[tap], tap_count + tap);
      if (rows == lanes) {
        put(tap, c, load_strided(at, row));
        continue;
      }
      alignas(64) A values[lanes] = {};
      for (int64_t r = 0; r < rows; ++r) values[r] = widen(at[r * row]);
      put(tap, c, load(values));
    }
  }
}
