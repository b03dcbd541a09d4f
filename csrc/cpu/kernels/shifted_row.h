// What the taps of neighbouring destinations read of a row that is in registers.
// Included where registers are shifted by one instruction.

/// Destination rows that a source row belongs to.
constexpr int rows_under_way(int64_t step, int64_t taps) { return int((taps - 1) / step + 1); }

/// Turns kTurn to kCount - 1, while they return true.
template <int kCount, int kTurn = 0, class Turn>
[[gnu::always_inline]] inline bool take_round(const Turn& turn) {
  if (!turn.template operator()<kTurn>()) return false;
  if constexpr (kTurn + 1 < kCount) {
    return take_round<kCount, kTurn + 1>(turn);
  } else {
    return true;
  }
}

/// Calls turn<0>, turn<1>, ..., turn<kCount - 1>, and again from the first on, while they return
/// true: what is in registers is where the code of each turn expects it, and need not move.
template <int kCount, class Turn>
[[gnu::always_inline]] inline void take_turns(const Turn& turn) {
  while (take_round<kCount>(turn)) {
  }
}

/// What kVectors registers of destinations read: as many of each phase of the step, and one beyond
/// them, whose first elements are not taken apart.
template <class A, int kStep, int kTaps, int kVectors>
struct ShiftedRow {
  using Index = typename IndexOf<sizeof(A)>::type;
  static constexpr int kRegisters = kStep * kVectors + (kTaps > kStep ? 1 : 0);
  Vec<A> phase[kStep][kVectors], beyond;

  /// The lanes that each tap reads of two registers, and of the last one and the one beyond. Taps
  /// are `tap_distance` apart, which is 1 where the step is not.
  struct Shifts {
    Vec<Index> inner[kTaps], last[kTaps];

    explicit Shifts(int64_t tap_distance) {
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        for (int i = 0; i < kLanes<A>; ++i) inner[t][i] = i;
        if constexpr (kStep == 1) {
          inner[t] += broadcast(Index(t * tap_distance));
          last[t] = inner[t];
        } else {
          const int shift = t / kStep;
          inner[t] += shift;
          for (int i = 0; i < kLanes<A>; ++i) {
            const int past = i + shift - kLanes<A>;
            last[t][i] = past < 0 ? i + shift : kLanes<A> + past * kStep + t % kStep;
          }
        }
      }
    }
  };

  [[gnu::always_inline]] inline explicit ShiftedRow(const Vec<A> (&row)[kRegisters]) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      if constexpr (kStep == 1) {
        phase[0][j] = row[j];
      } else {
        deinterleave<A>(row[2 * j], row[2 * j + 1], &phase[0][j], &phase[1][j]);
      }
    }
    beyond = row[kRegisters - 1];
  }

  /// What register j of a destination reads with tap t.
  [[gnu::always_inline]] inline Vec<A> tap(int t, int j, const Shifts& shifts) const {
    const auto& of = phase[t % kStep];
    if (t < kStep) return of[j];
    return j + 1 < kVectors ? __builtin_shuffle(of[j], of[j + 1], shifts.inner[t])
                            : __builtin_shuffle(of[j], beyond, shifts.last[t]);
  }
};
