// Sums of weight gradients, [K][rows], to the weight.

/// Rows of a weight lie pages apart, often in the same sets of a cache: their lines are fetched so
/// many squares before they are stored.
constexpr int64_t kSquaresAhead = 4;

/// Adds the splits of `sums`, [splits][groups][K][padded rows], and stores them as weights whose
/// destination channels are neighbours.
template <class T>
void store_weight_rows(const WeightContraction<T>& p, const Accumulator<T>* sums, int64_t splits) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t taps = p.taps(), inner = p.depth * taps, padded_rows = round_up(p.rows, lanes);
  const int64_t split = p.groups * inner * padded_rows;
  Scratch table(sizeof(int64_t) * taps);
  int64_t* offsets = table.as<int64_t>();
  tap_offsets(p, p.dest_strides, offsets);
  parallel_for(p.groups * inner, ceil_div(16384, padded_rows), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / inner, k = i % inner;
      T* to = p.dest + group * p.dest_strides.group + k / taps * p.dest_strides.depth +
              offsets[k % taps];
      for (int64_t row = 0; row < p.rows; row += lanes) {
        Vec<A> sum{};
        for (int64_t s = 0; s < splits; ++s) {
          sum += load(sums + s * split + i * padded_rows + row);
        }
        if (row + lanes <= p.rows) {
          store_narrow(to + row, sum);
        } else {
          store_partial(to + row, sum, p.rows - row);
        }
      }
    }
  });
}

/// Where the elements of a weight lie whose K is dense, or else anyhow.
template <class T>
struct WeightPlaces {
  const WeightContraction<T>& p;
  const int64_t* offsets;  // of the taps
  bool contiguous;         // K

  WeightPlaces(const WeightContraction<T>& of, int64_t* space)
      : p(of),
        offsets(space),
        contiguous(of.dest_strides.depth == of.taps() && taps_are_contiguous(of, of.dest_strides)) {
    tap_offsets(p, p.dest_strides, space);
  }

  /// Adds `splits` sets of sums, `split` elements apart, of K [k_begin, k_end) and a register of
  /// channels from `first` on, `pitch` elements from one k to the next, and stores them.
  void store_register(int64_t group, int64_t first, int64_t k_begin, int64_t k_end,
                      const Accumulator<T>* from, int64_t pitch, int64_t split,
                      int64_t splits) const {
    using A = Accumulator<T>;
    constexpr int lanes = kLanes<A>;
    const int64_t rows = p.rows - first < lanes ? p.rows - first : lanes, taps = p.taps();
    T* to = p.dest + group * p.dest_strides.group + first * p.dest_strides.row;
    for (int64_t k = k_begin; k < k_end; k += lanes, from += lanes * pitch) {
      const int64_t count = k_end - k < lanes ? k_end - k : lanes;
      Vec<A> square[lanes] = {};
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t s = 0; s < splits; ++s) square[j] += load(from + s * split + j * pitch);
      }
      if (contiguous) {
        for (int64_t r = 0; r < rows; ++r) {
          __builtin_prefetch(to + r * p.dest_strides.row + k + kSquaresAhead * lanes, 1);
        }
        store_transposed(square, rows, count, to + k, p.dest_strides.row);
        continue;
      }
      transpose<A>(square);
      for (int64_t r = 0; r < rows; ++r) {
        T* row = to + r * p.dest_strides.row;
        for (int64_t j = 0; j < count; ++j) {
          const int64_t channel = (k + j) / taps, tap = (k + j) % taps;
          row[channel * p.dest_strides.depth + offsets[tap]] = narrow<T>(square[r][j]);
        }
      }
    }
  }
};

/// Adds the splits of `sums`, [splits][groups][K][padded rows], and stores them as weights.
template <class T>
void store_weight_planar(const WeightContraction<T>& p, const Accumulator<T>* sums,
                         int64_t splits) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  const int64_t inner = p.depth * p.taps(), padded_rows = round_up(p.rows, lanes);
  Scratch table(sizeof(int64_t) * p.taps());
  const WeightPlaces<T> places(p, table.as<int64_t>());
  const int64_t pieces = padded_rows / lanes;
  parallel_for(p.groups * pieces, ceil_div(16384, inner * lanes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces, first = i % pieces * lanes;
      places.store_register(group, first, 0, inner, sums + group * inner * padded_rows + first,
                            padded_rows, p.groups * inner * padded_rows, splits);
    }
  });
}
