// Rows of two planes in one register, half of it for each: those that are too short to fill one
// (rows_are_twins). Included where registers are shifted by one instruction.

/// The positions that are loaded of a row: from `begin` on, which is negative where the step takes
/// the row apart, padding and all, those that lie in the source.
struct TwinColumns {
  int64_t begin;
  uint32_t mask;

  /// Of a row of `input` whose first destination reads from `low` on.
  TwinColumns(int64_t step, int64_t low, int64_t input, int64_t lanes)
      : begin(step == 1 ? 0 : low), mask(lanes_inside(begin, input, lanes)) {}
};

/// What the taps of neighbouring destinations read of such rows: the interface of ShiftedRow.
template <class A, int kStep, int kTaps>
struct TwinRow {
  using Index = typename IndexOf<sizeof(A)>::type;
  static constexpr int kRegisters = kStep, kHalf = kLanes<A> / 2;
  Vec<A> phase[kStep], outside;

  /// The lane that each tap reads, those past the last for what is outside of the row.
  struct Shifts {
    Vec<Index> lanes[kTaps];

    /// For destinations that read from `low` on, in a row of `input`.
    Shifts(int64_t low, int64_t input) {
      for (int t = 0; t < kTaps; ++t) {
        for (int lane = 0; lane < kLanes<A>; ++lane) {
          const int64_t column = lane % kHalf;
          const int64_t at = kStep == 1 ? column + low + t : column + t / kStep;
          const bool inside = at >= 0 && at < (kStep == 1 ? input : kHalf);
          lanes[t][lane] = inside ? Index(lane - column + at) : Index(kLanes<A>);
        }
      }
    }
  };

  /// Registers as load_columns gives them.
  [[gnu::always_inline]] inline TwinRow(const Vec<A> (&columns)[kRegisters], Vec<A> outside)
      : outside(outside) {
    if constexpr (kStep == 1) {
      phase[0] = columns[0];
    } else {
      deinterleave<A>(columns[0], columns[1], &phase[0], &phase[1]);
    }
  }

  /// The rows as they lie: side by side in one register, or with a step each in its own, whose
  /// phases then lie side by side.
  template <class T>
  [[gnu::always_inline]] static inline void load_columns(const T* row, const T* twin,
                                                         const TwinColumns& columns, Vec<A> outside,
                                                         Vec<A> (&to)[kRegisters]) {
    to[0] = load_wide_masked(row + columns.begin, columns.mask, outside);
    if constexpr (kStep == 1) {
      to[0] = load_wide_masked(twin - kHalf, columns.mask << kHalf, to[0]);
    } else {
      to[1] = load_wide_masked(twin + columns.begin, columns.mask, outside);
    }
  }

  /// What the destinations read with tap t. They are one register: j is 0.
  [[gnu::always_inline]] inline Vec<A> tap(int t, int, const Shifts& shifts) const {
    if (kStep > 1 && t < kStep) return phase[t];
    return __builtin_shuffle(phase[t % kStep], outside, shifts.lanes[t]);
  }
};

/// Stores the first `count` lanes of each half.
template <class T>
[[gnu::always_inline]] inline void store_twins(T* to, T* twin, Vec<Accumulator<T>> both,
                                               int64_t count) {
  constexpr int half = kLanes<Accumulator<T>> / 2;
  const uint32_t mask = (1u << count) - 1;
  store_narrow_masked(to, both, mask);
  store_narrow_masked(twin - half, both, mask << half);
}
