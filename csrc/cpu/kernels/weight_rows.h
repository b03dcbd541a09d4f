// Weights as rows of K for each destination channel: where they lie, or packed.

/// The weights as matrices [groups][rows][K] of accumulators, K in runs: neighbours within a run
/// lie side by side.
template <class A>
struct WeightMatrix {
  const A* data;
  int64_t group;       // elements from group to group
  int64_t row;         // elements from row to row
  int64_t run;         // elements of K in a run
  int64_t run_stride;  // elements from run to run

  /// Points to runs [first, first + count) of `rows` rows: [run][kTileRows].
  void point(int64_t in_group, int64_t first_row, int rows, int64_t first, int64_t count,
             const A** to) const {
    const A* from = data + in_group * group + first_row * row + first * run_stride;
    for (int64_t i = 0; i < count; ++i, from += run_stride, to += kTileRows) {
      for (int r = 0; r < rows; ++r) to[r] = from + r * row;
    }
  }
};

/// Element offsets of all taps in the weight, in the order of the virtual matrix.
inline void tap_offsets(const ContractionShape& shape, const WeightStrides& strides, int64_t* to) {
  const Walk* walk = shape.walk;
  for (int64_t d = 0; d < walk[0].tap_count; ++d) {
    for (int64_t h = 0; h < walk[1].tap_count; ++h) {
      for (int64_t w = 0; w < walk[2].tap_count; ++w) {
        *to++ = walk[0].taps[d].kernel * strides.axis[0] +
                walk[1].taps[h].kernel * strides.axis[1] + walk[2].taps[w].kernel * strides.axis[2];
      }
    }
  }
}

/// Packs the weights as [groups][rows][channel][tap]. A piece is a few rows, so that whichever of
/// the two channels is the inner one in memory, whole cache lines are used on both sides.
template <class T>
void pack_weight_rows(const Contraction<T>& p, const int64_t* taps, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  constexpr int64_t kRowsOfPiece = 16;
  const int64_t tap_count = p.taps(), inner = p.depth * tap_count;
  const int64_t pieces = ceil_div(p.rows, kRowsOfPiece);
  const bool contiguous = taps_are_contiguous(p, p.weight_strides);
  const bool whole_rows = contiguous && (p.depth == 1 || p.weight_strides.depth == tap_count);
  parallel_for(p.groups * pieces, ceil_div(1024, inner), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces, first = i % pieces * kRowsOfPiece;
      const int64_t left = p.rows - first, rows = left < kRowsOfPiece ? left : kRowsOfPiece;
      const T* from = p.weight + group * p.weight_strides.group + first * p.weight_strides.row;
      A* out = to + (group * p.rows + first) * inner;
      if (whole_rows) {
        for (int64_t r = 0; r < rows; ++r) {
          copy_strided(from + r * p.weight_strides.row, 1, inner, out + r * inner);
        }
        continue;
      }
      int64_t squares = 0;
      if (tap_count == 1 && p.weight_strides.row == 1) {
        squares = p.depth / lanes * lanes;
        for (int64_t c = 0; c < squares; c += lanes) {
          for (int64_t r = 0; r < rows; r += lanes) {
            const int64_t count = rows - r < lanes ? rows - r : lanes;
            Vec<A> square[lanes];
            for (int j = 0; j < lanes; ++j) {
              square[j] =
                  load_partial(from + (c + j) * p.weight_strides.depth + r + taps[0], count);
            }
            transpose<A>(square);
            for (int64_t j = 0; j < count; ++j) store(out + (r + j) * inner + c, square[j]);
          }
        }
      }
      for (int64_t c = squares; c < p.depth; ++c) {
        for (int64_t r = 0; r < rows; ++r) {
          const T* at = from + c * p.weight_strides.depth + r * p.weight_strides.row;
          A* row = out + r * inner + c * tap_count;
          if (contiguous) {
            copy_strided(at, 1, tap_count, row);
          } else {
            for (int64_t t = 0; t < tap_count; ++t) row[t] = widen(at[taps[t]]);
          }
        }
      }
    }
  });
}
