// Storing the sums of weight gradients whose vectors run along grad channels: [tap][source channel]
// registers of them become rows of the weight.

/// For each element of a dense row of the weight, in the order of memory, the position that it has
/// in the order of sums, (tap, source channel).
inline void order_of_rows(const ContractionShape& shape, const WeightStrides& strides,
                          const int64_t* offsets, int64_t* to) {
  for (int64_t tap = 0; tap < shape.taps(); ++tap) {
    for (int64_t c = 0; c < shape.depth; ++c) {
      to[offsets[tap] + c * strides.depth] = tap * shape.depth + c;
    }
  }
}

/// How sums, [tap][source channel][pitch], become weights.
template <class T>
struct WeightSums {
  using A = Accumulator<T>;
  const WeightContraction<T>& p;
  int64_t pitch;
  int64_t splits, split;   // sets of sums, which are added in order, and their distance
  const int64_t* offsets;  // of taps in the weight
  const int64_t* order;    // of dense rows, or null

  /// Fills `table`, which has table_elements(p).
  WeightSums(const WeightContraction<T>& p, int64_t pitch, int64_t splits, int64_t split,
             int64_t* table)
      : p(p), pitch(pitch), splits(splits), split(split), offsets(table), order(nullptr) {
    tap_offsets(p, p.dest_strides, table);
    if (!weight_rows_are_dense(p, p.dest_strides)) return;
    order_of_rows(p, p.dest_strides, offsets, table + p.taps());
    order = table + p.taps();
  }
  static int64_t table_elements(const ContractionShape& shape) {
    return shape.taps() * (1 + shape.depth);
  }

  /// Stores the weights of up to a register of grad channels, whose rows are `row` elements apart.
  void store(const A* from, int64_t rows, T* to, int64_t row) const {
    constexpr int lanes = kLanes<A>;
    const int64_t inner = p.depth * p.taps();
    const auto read = [&](int64_t k) {
      Vec<A> sum = load(from + k * pitch);
      for (int64_t s = 1; s < splits; ++s) sum += load(from + k * pitch + s * split);
      return sum;
    };
    if (order != nullptr) {
      for (int64_t i = 0; i < inner; i += lanes) {
        const int64_t count = inner - i < lanes ? inner - i : lanes;
        Vec<A> square[lanes] = {};
        for (int64_t j = 0; j < count; ++j) square[j] = read(order[i + j]);
        store_transposed(square, rows, count, to + i, row);
      }
      return;
    }
    for (int64_t tap = 0; tap < p.taps(); ++tap) {
      for (int64_t c = 0; c < p.depth; ++c) {
        const Vec<A> sum = read(tap * p.depth + c);
        T* at = to + offsets[tap] + c * p.dest_strides.depth;
        if (row == 1) {
          store_partial(at, sum, rows);
          continue;
        }
        for (int64_t r = 0; r < rows; ++r) at[r * row] = narrow<T>(sum[r]);
      }
    }
  }
};
