// The gradient for the input (transposed convolution) of planes with one channel on both sides of a
// group and square kernels with stride 2, a source row after another.
//
// It is to rolling_rows.h what spreading is to gathering. A source row is loaded once, shifted in
// registers, and multiplied with all taps of all kernel rows: so many destination rows are under
// way, in two registers for each of the source, those at even and at odd positions. After its turn
// the two oldest of them are done; both phases are shuffled into one row, and two new ones begin.
//
// A tap w reaches the destinations 2 * x + w - padding: those of one phase, shifted. Both follow
// from whether the padding is odd.

/// Where tap `w` of `taps` of a width ends up: the phase of its destinations, and how far past the
/// lowest source position of all taps theirs are.
struct PhaseOfTap {
  int phase, shift;

  constexpr PhaseOfTap(int taps, int odd, int w)
      : phase((w + odd) % 2), shift(half(odd - w + 1) - half(odd - taps + 2)) {}

  /// n / 2, rounded down.
  static constexpr int half(int n) { return n >= 0 ? n / 2 : -((1 - n) / 2); }
};

/// Source positions that a destination and its neighbour read along the width.
constexpr int positions_of_phases(int taps, int odd) { return PhaseOfTap(taps, odd, 0).shift + 1; }

/// Registers of the source in a piece of a row: 20 of sums for five taps leave room for no more.
constexpr int kPhasesVectors = 2;

/// What the pieces of a plane share.
template <class T>
struct RollingPhases {
  const Accumulator<T>* weight;  // [tap of the depth][of the height][of the width]
  const T* const* source;        // a plane for each tap of the depth; null where it reaches none
  int64_t planes;
  const int64_t* rows;  // of each turn and kRollingAhead more, where its source row begins;
                        // negative for zeros
  int64_t first;        // destination row that the first turn finishes, and the next one
  int64_t begin, end;   // destination rows that are stored
  int64_t width;        // destinations of a row
  Accumulator<T> bias;
};

/// The destinations of a piece of kVectors registers of the source, of rows `to_row` apart.
template <class T, int kTaps, int kOdd, int kVectors>
void roll_phases(const RollingPhases<T>& in, const RowPiece& piece, T* to, int64_t to_row) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>, positions = positions_of_phases(kTaps, kOdd);
  using Source = ShiftedRow<A, 1, positions, kVectors>;
  const typename Source::Shifts shifts(1);
  uint32_t masks[Source::kRegisters];
  for (int i = 0; i < Source::kRegisters; ++i) masks[i] = piece.masks[i];
  const Vec<A> bias = broadcast(in.bias);
  Vec<A> sums[kTaps][kVectors][2];
#pragma GCC unroll 8
  for (auto& row : sums) {
#pragma GCC unroll 4
    for (auto& vector : row) vector[0] = vector[1] = bias;
  }
  const int64_t* rows = in.rows;
  const int64_t width = in.width - 2 * piece.begin;
  int64_t done = in.first;
  to += 2 * piece.begin + (in.first - in.begin) * to_row;

  // The sums of a row of which the last source row is added.
  const auto finish = [&](Vec<A>(&row)[kVectors][2]) __attribute__((always_inline)) {
    if (done >= in.begin && done < in.end) {
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        __builtin_prefetch(to + 2 * kRollingAhead * to_row + 2 * j * lanes, 1);
        __builtin_prefetch(to + 2 * kRollingAhead * to_row + (2 * j + 1) * lanes, 1);
        Vec<A> part[2];
        interleave<A>(row[j][0], row[j][1], &part[0], &part[1]);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          const int64_t left = width - (2 * j + i) * lanes;
          if (left >= lanes) {
            store_narrow(to + (2 * j + i) * lanes, part[i]);
          } else if (left > 0) {
            store_partial(to + (2 * j + i) * lanes, part[i], left);
          }
        }
      }
    }
#pragma GCC unroll 4
    for (auto& vector : row) vector[0] = vector[1] = bias;
    ++done;
    to += to_row;
  };
  // Adds a source row and stores two rows. Those that it is the first of have the sums 2 * kTurn
  // and on, modulo kTaps. Whether there is another turn.
  const auto turn = [&]<int kTurn>() __attribute__((always_inline)) {
    const A* weight = in.weight;
    for (int64_t z = 0; z < in.planes && *rows >= 0; ++z, weight += kTaps * kTaps) {
      if (in.source[z] == nullptr) continue;
      const T* source = in.source[z] + piece.source;
      if (const int64_t ahead = rows[kRollingAhead]; ahead >= 0) {
#pragma GCC unroll 8
        for (int j = 1; j <= kVectors; ++j) __builtin_prefetch(source + ahead + j * lanes);
      }
      const Source row = load_rolling_row<T, 1, positions, kVectors>(source + *rows, masks);
#pragma GCC unroll 8
      for (int w = 0; w < kTaps; ++w) {
        const PhaseOfTap place(kTaps, kOdd, w);
        Vec<A> x[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) x[j] = row.tap(place.shift, j, shifts);
#pragma GCC unroll 8
        for (int h = 0; h < kTaps; ++h) {
          const Vec<A> value = broadcast(weight[h * kTaps + w]);
#pragma GCC unroll 4
          for (int j = 0; j < kVectors; ++j) {
            sums[(2 * kTurn + h) % kTaps][j][place.phase] += value * x[j];
          }
        }
      }
    }
    ++rows;
    finish(sums[2 * kTurn % kTaps]);
    finish(sums[(2 * kTurn + 1) % kTaps]);
    return done < in.end;
  };
  take_turns<kTaps % 2 == 0 ? kTaps / 2 : kTaps>(turn);
}
