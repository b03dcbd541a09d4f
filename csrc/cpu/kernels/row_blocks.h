// Blocks of destination rows of a convolution with one source channel in a group, depthwise first
// of all, from source rows as they lie. Included where registers are shifted by one instruction.
//
// Such a kernel has one FMA for each register of the source that a tap reads, and loads that are
// shifted by single elements cross cache lines: loads would be its limit and not FMAs. So a source
// row is loaded once, what its taps read is shifted in registers, and serves all rows of the block:
// up to kBlockRows rows of up to kBlockVectors registers. Zeros around the source are masked loads,
// and rows that are left out. Rows of a block need not be neighbours: those of a dilated kernel
// read the same source rows when they are as far apart as its taps.

/// Rows and registers of a row of a block: their sums, what is loaded, and the lanes that taps read
/// fit 32 registers.
constexpr int kBlockRows = 4;
constexpr int kBlockVectors = 4;

/// How the rows of a height are put into blocks. Row i of a block reads its source row
/// i * advance + t with tap t of the height, taps ascending.
struct RowGroups {
  int64_t taps;
  int64_t distance;         // between the rows of a block
  int64_t source_distance;  // between its source rows
  int64_t advance;
  int64_t rows;  // of a block, at most

  explicit RowGroups(const Walk& height)
      : taps(height.tap_count),
        distance(height.sharing_distance()),
        source_distance(height.tap_distance()),
        advance(height.step / (source_distance / distance)) {
    // One source row at least is read by all rows.
    rows = (taps - 1) / advance + 1;
    if (rows > kBlockRows) rows = kBlockRows;
  }

  /// Source rows under `count` rows of a block.
  int64_t lines(int64_t count) const { return (count - 1) * advance + taps; }
};

/// What the blocks of a channel share.
template <class A>
struct RowTaps {
  const A* weight;  // [tap of the depth][of the height][of the width], height and width ascending
  int64_t planes;   // taps of the depth
  int64_t taps_h;
  int64_t advance;
  int64_t tap_distance;  // of the width; 1 where a step takes the row apart
  A bias;
};

/// Some registers of a row: destinations [begin, begin + count), and of the source registers from
/// the one on that starts where `begin` reads with the lowest tap, which lanes lie in the source.
struct RowPiece {
  int64_t vectors, begin, count, source;
  uint32_t masks[2 * (kBlockVectors + 1)];
};

/// What the taps of a width read of a source row: registers of each phase of the step.
template <class T, int kStep, int kVectors>
struct SourceRow {
  using A = Accumulator<T>;
  Vec<A> phase[kStep][kVectors + 1];

  [[gnu::always_inline]] inline SourceRow(const T* from, const uint32_t* masks) {
    constexpr int lanes = kLanes<A>;
    // The first register, and the last destinations and what follows them, reach into the padding.
    const auto read = [&](int i) {
      const bool inner = i > 0 && i < (kVectors - 1) * kStep;
      const T* at = from + i * lanes;
      return inner ? load_wide(at) : load_wide_masked(at, masks[i]);
    };
#pragma GCC unroll 5
    for (int j = 0; j <= kVectors; ++j) {
      if constexpr (kStep == 1) {
        phase[0][j] = read(j);
      } else {
        deinterleave<A>(read(2 * j), read(2 * j + 1), &phase[0][j], &phase[1][j]);
      }
    }
  }
};

/// sums += the taps of `count` source rows for rows kFirst to kLast of a block. `weight` are those
/// of row 0, those of row i are `pitch` * i before; both pointers move on. Inlined, so that sums
/// are registers.
template <int kStep, int kTaps, int kFirst, int kLast, class T, class A, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_source_rows(
    const T* const*& lines, int64_t count, const RowPiece& piece,
    const Vec<typename IndexOf<sizeof(A)>::type> (&shift)[kTaps], const A*& weight, int64_t pitch,
    Vec<A> (&sums)[kRows][kVectors]) {
  for (; count > 0; --count, ++lines, weight += kTaps) {
    if (*lines == nullptr) continue;
    const SourceRow<T, kStep, kVectors> row(*lines + piece.source, piece.masks);
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
      Vec<A> x[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const auto& of = row.phase[t % kStep];
        x[j] = t < kStep ? of[j] : __builtin_shuffle(of[j], of[j + 1], shift[t]);
      }
#pragma GCC unroll 4
      for (int i = kFirst; i <= kLast; ++i) {
        const Vec<A> value = broadcast(weight[t - i * pitch]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[i][j] += value * x[j];
      }
    }
  }
}

/// The source rows from kPart * advance on: those that rows 0 to kPart read, ..., those of all,
/// ..., those of the last ones.
template <int kStep, int kTaps, int kPart, class T, class A, int kRows, int kVectors>
[[gnu::always_inline]] inline void add_parts(
    const RowTaps<A>& in, const T* const*& lines, const RowPiece& piece,
    const Vec<typename IndexOf<sizeof(A)>::type> (&shift)[kTaps], const A*& weight,
    Vec<A> (&sums)[kRows][kVectors]) {
  constexpr int first = kPart < kRows ? 0 : kPart - kRows + 1;
  constexpr int last = kPart < kRows ? kPart : kRows - 1;
  const int64_t count = kPart == kRows - 1 ? in.taps_h - (kRows - 1) * in.advance : in.advance;
  add_source_rows<kStep, kTaps, first, last>(lines, count, piece, shift, weight, in.advance * kTaps,
                                             sums);
  if constexpr (kPart + 1 < 2 * kRows - 1) {
    add_parts<kStep, kTaps, kPart + 1>(in, lines, piece, shift, weight, sums);
  }
}

/// A piece of kVectors registers of the rows of a block. `lines` are the source rows under it, of
/// each plane, null where all of one is zeros. The rows of the destination are `to_row` elements
/// apart.
template <class T, int kStep, int kTaps, int kRows, int kVectors>
void row_block(const RowTaps<Accumulator<T>>& in, const T* const* lines, const RowPiece& piece,
               T* to, int64_t to_row) {
  using A = Accumulator<T>;
  using Index = typename IndexOf<sizeof(A)>::type;
  constexpr int lanes = kLanes<A>;
  Vec<Index> shift[kTaps];
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
    for (int i = 0; i < lanes; ++i) shift[t][i] = i;
    shift[t] += broadcast(Index(t / kStep * in.tap_distance));
  }
  Vec<A> sums[kRows][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sums[i][j] = broadcast(in.bias);
  }
  for (int64_t plane = 0; plane < in.planes; ++plane) {
    const A* weight = in.weight + plane * in.taps_h * kTaps;
    add_parts<kStep, kTaps, 0>(in, lines, piece, shift, weight, sums);
  }
  to += piece.begin;
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      T* at = to + i * to_row + j * lanes;
      if (j + 1 < kVectors || piece.count == kVectors * lanes) {
        store_narrow(at, sums[i][j]);
      } else {
        store_partial(at, sums[i][j], piece.count - j * lanes);
      }
    }
  }
}
