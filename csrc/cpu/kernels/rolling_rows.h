// Planes of a convolution with one source channel in a group whose kernels are square, row by row.
// Included where registers are shifted by one instruction.
//
// A source row is loaded once, and what its taps read is shifted in registers. It belongs to as
// many destination rows as the kernel is high, those under way, and all of their sums are in
// registers: with its last source row a row is stored, and the sums of another begin in its place.
// As many turns as there are rows under way are unrolled, so that sums never move. Zeros around the
// source are masked loads, and rows that are left out. The processor looks ahead along rows and not
// down a piece of them, so what the turns to come read and write is fetched here.

/// Turns from fetching a row to adding it.
constexpr int kRollingAhead = 3;

/// Registers of a row: its sums for each row under way, what is loaded, what a tap reads and the
/// shifts fit 32 registers.
constexpr int rolling_vectors(int64_t step, int64_t taps) {
  const int under_way = rows_under_way(step, taps);
  return under_way <= (step == 1 ? 4 : 2) ? 4 : under_way <= 5 ? 3 : 2;
}

/// What the pieces of a plane share.
template <class T>
struct RollingPlane {
  const Accumulator<T>* weight;  // [tap of the depth][of the height][of the width], ascending
  const T* const* source;        // a plane for each tap of the depth; null where it is zeros
  int64_t planes;
  const int64_t* rows;   // of each turn and kRollingAhead more, where a step of source rows begin;
                         // negative for zeros
  int64_t count;         // destination rows
  int64_t tap_distance;  // of the width; 1 where a step takes the row apart
  Accumulator<T> bias;
};

/// A source row in registers. The first of them, and those of the last destinations and beyond,
/// reach into the padding.
template <class T, int kStep, int kTaps, int kVectors>
[[gnu::always_inline]] inline ShiftedRow<Accumulator<T>, kStep, kTaps, kVectors> load_rolling_row(
    const T* from, const uint32_t* masks) {
  using A = Accumulator<T>;
  constexpr int registers = ShiftedRow<A, kStep, kTaps, kVectors>::kRegisters;
  Vec<A> row[registers];
#pragma GCC unroll 16
  for (int i = 0; i < registers; ++i) {
    const bool inner = i > 0 && i < (kVectors - 1) * kStep;
    const T* at = from + i * kLanes<A>;
    row[i] = inner ? load_wide(at) : load_wide_masked(at, masks[i]);
  }
  return ShiftedRow<A, kStep, kTaps, kVectors>(row);
}

/// A piece of kVectors registers of all rows of a plane, which are `to_row` elements apart.
template <class T, int kStep, int kTaps, int kVectors>
void roll_piece(const RollingPlane<T>& in, const RowPiece& piece, T* to, int64_t to_row) {
  using A = Accumulator<T>;
  using Source = ShiftedRow<A, kStep, kTaps, kVectors>;
  constexpr int lanes = kLanes<A>, under_way = rows_under_way(kStep, kTaps);
  const typename Source::Shifts shifts(in.tap_distance);
  uint32_t masks[Source::kRegisters];
  for (int i = 0; i < Source::kRegisters; ++i) masks[i] = piece.masks[i];
  const Vec<A> bias = broadcast(in.bias);
  Vec<A> sums[under_way][kVectors];
#pragma GCC unroll 8
  for (auto& row : sums) {
#pragma GCC unroll 4
    for (Vec<A>& sum : row) sum = bias;
  }
  const int64_t* rows = in.rows;
  int64_t done = 1 - under_way;  // the row that a turn finishes: none at first
  const int64_t last = piece.count - (kVectors - 1) * lanes;
  to += piece.begin;

  // Adds a step of source rows and stores a row. Row r has the sums r % under_way. Whether there is
  // another turn.
  const auto turn = [&]<int kTurn>() __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int s = 0; s < kStep; ++s, ++rows) {
      if (*rows < 0) continue;
      const A* weight = in.weight;
      for (int64_t z = 0; z < in.planes; ++z, weight += kTaps * kTaps) {
        if (in.source[z] == nullptr) continue;
        const T* source = in.source[z] + piece.source;
        if (const int64_t ahead = rows[kRollingAhead * kStep]; ahead >= 0) {
#pragma GCC unroll 8
          for (int j = 1; j <= kStep * kVectors; ++j)
            __builtin_prefetch(source + ahead + j * lanes);
        }
        const Source row = load_rolling_row<T, kStep, kTaps, kVectors>(source + *rows, masks);
#pragma GCC unroll 8
        for (int t = 0; t < kTaps; ++t) {
          Vec<A> x[kVectors];
#pragma GCC unroll 4
          for (int j = 0; j < kVectors; ++j) x[j] = row.tap(t, j, shifts);
#pragma GCC unroll 8
          for (int h = s; h < kTaps; h += kStep) {
            auto& sum = sums[(kTurn + under_way - h / kStep) % under_way];
            const Vec<A> value = broadcast(weight[h * kTaps + t]);
#pragma GCC unroll 4
            for (int j = 0; j < kVectors; ++j) sum[j] += value * x[j];
          }
        }
      }
    }
    auto& row = sums[(kTurn + 1) % under_way];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      __builtin_prefetch(to + kRollingAhead * to_row + j * lanes, 1);
    }
    if (done >= 0) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        if (j + 1 < kVectors || last == lanes) {
          store_narrow(to + j * lanes, row[j]);
        } else {
          store_partial(to + j * lanes, row[j], last);
        }
      }
      to += to_row;
    }
#pragma GCC unroll 4
    for (Vec<A>& sum : row) sum = bias;
    return ++done < in.count;
  };
  take_turns<under_way>(turn);
}

/// A piece of up to kVectors registers.
template <class T, int kStep, int kTaps, int kVectors = rolling_vectors(kStep, kTaps)>
void roll_plane(const RollingPlane<T>& in, const RowPiece& piece, T* to, int64_t to_row) {
  if constexpr (kVectors > 1) {
    if (piece.vectors < kVectors) {
      return roll_plane<T, kStep, kTaps, kVectors - 1>(in, piece, to, to_row);
    }
  }
  roll_piece<T, kStep, kTaps, kVectors>(in, piece, to, to_row);
}
