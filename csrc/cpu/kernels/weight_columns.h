// Reading weights as registers of destination channels, whatever their layout in memory: for the
// kernels whose vectors run along those channels.

/// Fetches the cache line `lines` after the one at `from` ahead of its use. Rows of weights lie too
/// far apart for the hardware to see that their neighbours come next.
template <class T>
inline void fetch_ahead(const T* from, int64_t lines) {
  __builtin_prefetch(from + lines * (64 / int64_t(sizeof(T))), 0, 2);
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

/// Calls put(tap, register) for the taps of `lanes` kernels that lie side by side, `row` elements
/// each. Squares of kernels and of neighbouring places go through registers: gathering the taps one
/// by one takes several times as long.
template <class T, class Put>
inline void read_kernels(const T* from, int64_t row, const int64_t* places, const Put& put) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  for (int64_t first = 0; first < row; first += lanes) {
    const int64_t count = row - first < lanes ? row - first : lanes;
    Vec<A> square[lanes];
#pragma GCC unroll 16
    for (int r = 0; r < lanes; ++r) {
      const T* at = from + r * row + first;
      const int64_t left = (lanes - r) * row - first;
      square[r] = left >= lanes ? load_wide(at) : load_partial(at, left);
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
  const auto element = [&](int64_t tap, int64_t c) {
    alignas(64) A values[lanes] = {};
    const T* at = from + taps[tap] + c * depth;
    for (int64_t r = 0; r < rows; ++r) values[r] = widen(at[r * row]);
    put(tap, c, load(values));
  };
  int64_t places[kMostTapsOfRun];
  const bool side_by_side =
      row != 1 && tap_count > 1 && places_of_taps(taps, tap_count, row, places);
  const int64_t squares = rows < lanes ? 0 : (channel_end - channel_begin) / lanes * lanes;
  int64_t c = channel_begin;
  if (depth == 1) {
    // Tap by tap: neighbouring channels of a tap are neighbours in memory.
    for (int64_t tap = 0; tap < tap_count; ++tap) {
      for (int64_t k = c; k < c + squares; k += lanes) {
        Vec<A> square[lanes];
#pragma GCC unroll 16
        for (int r = 0; r < lanes; ++r) {
          const T* at = from + taps[tap] + k + r * row;
          fetch_ahead(at, 1);
          square[r] = load_wide(at);
        }
        transpose<A>(square);
#pragma GCC unroll 16
        for (int r = 0; r < lanes; ++r) put(tap, k + r, square[r]);
      }
    }
    c += squares;
  }
  for (; c < channel_begin + squares; c += lanes) {
    if (row == 1) {
      for (int64_t tap = 0; tap < tap_count; ++tap) {
        for (int64_t r = c; r < c + lanes; ++r) {
          const T* at = from + taps[tap] + r * depth;
          fetch_ahead(at, 1);
          put(tap, r, load_wide(at));
        }
      }
    } else if (depth == tap_count && taps_are_contiguous(p, p.weight_strides)) {
      // (channel, tap) is one contiguous run of lanes * tap_count elements per row.
      int64_t tap = 0, channel = c;
      for (int64_t k = 0; k < lanes * tap_count; k += lanes) {
        Vec<A> square[lanes];
#pragma GCC unroll 16
        for (int r = 0; r < lanes; ++r) {
          const T* at = from + c * depth + k + r * row;
          fetch_ahead(at, 8);
          square[r] = load_wide(at);
        }
        transpose<A>(square);
#pragma GCC unroll 16
        for (int r = 0; r < lanes; ++r) {
          put(tap, channel, square[r]);
          if (++tap == tap_count) tap = 0, ++channel;
        }
      }
    } else if (side_by_side) {
      for (int64_t r = c; r < c + lanes; ++r) {
        for (int64_t line = 0; line < row; ++line) fetch_ahead(from + (r + 1) * depth, line);
        read_kernels(from + r * depth, row, places, [&](int64_t tap, Vec<A> v) { put(tap, r, v); });
      }
    } else {
      for (int64_t r = c; r < c + lanes; ++r) {
        for (int64_t tap = 0; tap < tap_count; ++tap) {
          const T* at = from + r * depth;
          fetch_ahead(at, tap_count + tap);
          put(tap, r, load_strided(at + taps[tap], row));
        }
      }
    }
  }
  for (int64_t tap = 0; tap < tap_count; ++tap) {
    for (int64_t rest = c; rest < channel_end; ++rest) element(tap, rest);
  }
}
