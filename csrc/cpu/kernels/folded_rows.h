// Destination rows of planar tensors from products with all taps (fold_taps.h): the phases of the
// width are registers of sums, shuffled into the order of the row.

/// The products that make a destination row of one channel: for each tap of the height that reaches
/// it where the row of the first tap of the width starts, `pitch` elements before that of the next.
template <class A>
struct FoldedRow {
  const A* products;
  const int64_t* offsets;
  int64_t count;
  int64_t pitch;
};

/// The sums of taps [tap, end) for the destinations of a phase from j on, zero where no tap
/// reaches. Reads up to a register before and after what a tap reaches, and leaves it out.
template <class A>
inline Vec<A> sum_taps(const FoldedRow<A>& row, const WidthTap* tap, const WidthTap* end,
                       int64_t j) {
  constexpr int lanes = kLanes<A>;
  using Index = typename IndexOf<sizeof(A)>::type;
  Vec<A> sum{};
  for (; tap < end; ++tap) {
    if (tap->begin >= j + lanes || tap->end <= j) continue;
    const int64_t at = tap->kernel * row.pitch + tap->offset + j;
    Vec<A> part{};
    for (int64_t i = 0; i < row.count; ++i) part += load(row.products + row.offsets[i] + at);
    if (tap->begin > j || tap->end < j + lanes) {
      Vec<Index> lane;
      for (int i = 0; i < lanes; ++i) lane[i] = i;
      const int64_t left = tap->end - j < lanes ? tap->end - j : lanes;
      part = (lane >= Index(tap->begin > j ? tap->begin - j : 0)) & (lane < Index(left)) ? part
                                                                                         : Vec<A>{};
    }
    sum += part;
  }
  return sum;
}

/// Sums of a destination row of `strides` strides, in order; those of phase i come from the taps
/// [first[i], first[i + 1]).
template <int kPhases, class A>
void fold_row(const FoldedRow<A>& row, const WidthTap* taps, const int64_t* first, int64_t strides,
              A* to) {
  constexpr int lanes = kLanes<A>;
  for (int64_t j = 0; j < strides; j += lanes) {
    Vec<A> phase[kPhases];
#pragma GCC unroll 16
    for (int i = 0; i < kPhases; ++i) {
      phase[i] = sum_taps(row, taps + first[i], taps + first[i + 1], j);
    }
    interleave_all<kPhases, A>(phase);
#pragma GCC unroll 16
    for (int i = 0; i < kPhases; ++i) store(to + j * kPhases + i * lanes, phase[i]);
  }
}

/// The same for `phases` phases, whatever their number.
template <class A>
void fold_row(const FoldedRow<A>& row, const WidthTap* taps, const int64_t* first, int64_t strides,
              A* to, int64_t phases) {
  switch (phases) {
    case 1: return fold_row<1, A>(row, taps, first, strides, to);
    case 2: return fold_row<2, A>(row, taps, first, strides, to);
    case 3: return fold_row<3, A>(row, taps, first, strides, to);
    case 4: return fold_row<4, A>(row, taps, first, strides, to);
    case 8: return fold_row<8, A>(row, taps, first, strides, to);
    case 16: return fold_row<16, A>(row, taps, first, strides, to);
  }
  for (int64_t j = 0; j < strides; j += kLanes<A>) {
    for (int64_t i = 0; i < phases; ++i) {
      store_strided(to + j * phases + i, sum_taps(row, taps + first[i], taps + first[i + 1], j),
                    phases);
    }
  }
}
