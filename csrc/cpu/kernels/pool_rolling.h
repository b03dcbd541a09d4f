// Windows of (N, C, D, H, W) as high as they are wide, a few columns, on a grid of stride 1 or 2,
// reduced to one value each. Included where registers are shifted by one instruction.
//
// What bands (pool_bands.h) do in memory is done in registers here. An input row is loaded once and
// added to all rows of columns it belongs to, those of the output rows under way: as many as
// windows are high. After its turn the oldest of them is complete; its registers, shifted, are what
// the taps along W read. As many turns as there are rows under way are unrolled, so that columns
// never move. Padding is lanes that a load leaves out, and rows that are left out. Rows of which
// half a register holds inputs and outputs go two planes at a time.

/// Registers of outputs of a piece: with stride 2, twice as many of columns.
constexpr int kRollingVectors = 4;

/// Output rows of a task.
constexpr int64_t kRollingRows = 64;

/// The maximum of numbers by one instruction, which loses a NaN; `doubts` finds those.
struct LargestNumber {
  template <class V>
  V operator()(V best, V value) const {
    if constexpr (sizeof(best[0]) == 8) {
      return V(_mm512_max_pd(__m512d(value), __m512d(best)));
    } else {
      return V(_mm512_max_ps(__m512(value), __m512(best)));
    }
  }
  template <class V>
  static uint32_t doubts(V a, V b) {
    if constexpr (sizeof(a[0]) == 8) {
      return _mm512_cmp_pd_mask(__m512d(a), __m512d(b), _CMP_UNORD_Q);
    } else {
      return _mm512_cmp_ps_mask(__m512(a), __m512(b), _CMP_UNORD_Q);
    }
  }
  template <class T>
  static constexpr Compute<T> identity() {
    return lowest<T>();
  }
};

/// Some output rows of one plane, and what they read.
template <class T>
struct RollingWindows {
  const T* source;      // the first plane under the windows
  int64_t planes;       // of them
  int64_t plane;        // from one to the next
  const int64_t* rows;  // of each turn, where a stride of input rows begin; negative for padding
  int64_t begin, end;   // output rows
};

/// Outputs [first, first + kVectors registers) of rows, of which the first kLoaded registers of
/// inputs may be other than padding.
template <class T, int kRowStep, int kRowTaps, int kRowVectors, int kRowLoaded>
struct PieceOfWindows {
  using A = Compute<T>;
  static constexpr int kStep = kRowStep, kTaps = kRowTaps, kVectors = kRowVectors;
  static constexpr int kLoaded = kRowLoaded;
  using Columns = ShiftedRow<A, kStep, kTaps, kVectors>;

  typename Columns::Shifts shifts{1};
  int64_t first, x, count;  // output, input, outputs from there on
  uint32_t masks[kLoaded];

  PieceOfWindows(const PoolWindows& width, int64_t first)
      : first(first), x(first * kStep - width.padding), count(width.output - first) {
    for (int i = 0; i < kLoaded; ++i) {
      masks[i] = lanes_inside(x + i * kLanes<A>, width.input, kLanes<A>);
    }
  }
  [[gnu::always_inline]] void load_row(const T* row, Vec<A> identity, Vec<A> (&to)[kLoaded]) const {
#pragma GCC unroll 16
    for (int i = 0; i < kLoaded; ++i) {
      to[i] = load_wide_masked(row + x + i * kLanes<A>, masks[i], identity);
    }
  }
  [[gnu::always_inline]] static Columns columns(const Vec<A> (&row)[Columns::kRegisters], Vec<A>) {
    return Columns(row);
  }
  [[gnu::always_inline]] void store_register(T* row, int j, Vec<A> value) const {
    store_first(row + first + j * kLanes<A>, value, count - j * kLanes<A>);
  }
};

/// Rows of two planes in one register.
template <class T, int kRowStep, int kRowTaps>
struct WindowsOfTwins {
  using A = Compute<T>;
  static constexpr int kStep = kRowStep, kTaps = kRowTaps, kVectors = 1;
  using Columns = TwinRow<A, kStep, kTaps>;
  static constexpr int kLoaded = Columns::kRegisters;

  TwinColumns loaded;
  typename Columns::Shifts shifts;
  int64_t first = 0, count;           // output, outputs of a row
  int64_t in_twin = 0, out_twin = 0;  // from one plane to the other

  explicit WindowsOfTwins(const PoolWindows& width)
      : loaded(kStep, -width.padding, width.input, kLanes<A>),
        shifts(-width.padding, width.input),
        count(width.output) {}
  [[gnu::always_inline]] void load_row(const T* row, Vec<A> identity, Vec<A> (&to)[kLoaded]) const {
    Columns::load_columns(row, row + in_twin, loaded, identity, to);
  }
  [[gnu::always_inline]] static Columns columns(const Vec<A> (&row)[kLoaded], Vec<A> identity) {
    return Columns(row, identity);
  }
  [[gnu::always_inline]] void store_register(T* row, int, Vec<A> value) const {
    store_twins(row, row + out_twin, value, count);
  }
};

/// Rows of `width` outputs; `of` is PieceOfWindows or WindowsOfTwins. False where `reduce` had its
/// doubts.
template <class Row, class T, class Reduction, class FinishFor>
bool roll_windows(const RollingWindows<T>& in, const Row of, T* to, int64_t width,
                  const Reduction& reduce, const FinishFor& finish_for) {
  using A = Compute<T>;
  constexpr int step = Row::kStep, taps = Row::kTaps, loaded = Row::kLoaded;
  constexpr int registers = Row::Columns::kRegisters, under_way = rows_under_way(step, taps);
  constexpr bool doubtful = __is_same(Reduction, LargestNumber);
  const Vec<A> identity = broadcast(Reduction::template identity<T>());
  uint32_t doubts = 0;
  Vec<A> sums[under_way][registers];
#pragma GCC unroll 8
  for (auto& row : sums) {
#pragma GCC unroll 16
    for (auto& column : row) column = identity;
  }
  const int64_t* rows = in.rows;
  int64_t done = in.begin + 1 - under_way;  // the row that a turn finishes: none at first

  // Row r has the columns (r - begin) % under_way. Whether there is another turn.
  const auto turn = [&]<int kTurn>() __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int s = 0; s < step; ++s, ++rows) {
      if (*rows < 0) continue;
      const T* source = in.source + *rows;
      for (int64_t z = 0; z < in.planes; ++z, source += in.plane) {
        Vec<A> row[loaded];
        of.load_row(source, identity, row);
        if constexpr (doubtful) {
#pragma GCC unroll 16
          for (int i = 0; i < loaded; i += 2) {
            doubts |= Reduction::doubts(row[i], row[i + 1 < loaded ? i + 1 : i]);
          }
        }
#pragma GCC unroll 8
        for (int h = s; h < taps; h += step) {
          auto& sum = sums[(kTurn + under_way - h / step) % under_way];
#pragma GCC unroll 16
          for (int i = 0; i < loaded; ++i) sum[i] = reduce(sum[i], row[i]);
        }
      }
    }
    auto& complete = sums[(kTurn + 1) % under_way];
    if (done >= in.begin) {
      const auto columns = Row::columns(complete, identity);
      const auto finish = finish_for(done);
#pragma GCC unroll 4
      for (int j = 0; j < Row::kVectors; ++j) {
        Vec<A> value = columns.tap(0, j, of.shifts);
#pragma GCC unroll 8
        for (int t = 1; t < taps; ++t) value = reduce(value, columns.tap(t, j, of.shifts));
        of.store_register(to, j, finish(value, of.first + j * kLanes<A>));
      }
      to += width;
    }
#pragma GCC unroll 16
    for (Vec<A>& column : complete) column = identity;
    return ++done < in.end;
  };
  take_turns<under_way>(turn);
  return doubts == 0;
}

/// The same by the fastest reduction that is exact.
template <class Row, class T, class Reduction, class FinishFor>
void roll_exactly(const RollingWindows<T>& in, const Row& of, T* to, int64_t width,
                  const Reduction& reduce, const FinishFor& finish_for) {
  if constexpr (__is_same(Reduction, Maximum)) {
    const LargestNumber faster;
    if (roll_windows(in, of, to, width, faster, finish_for)) return;
  }
  roll_windows(in, of, to, width, reduce, finish_for);
}

/// The rows from output `first` on, in pieces of kVectors registers and what is left.
template <int kStep, int kTaps, int kVectors, class T, class Reduction, class FinishFor>
void roll_pieces(const RollingWindows<T>& in, const PoolWindows& width, int64_t first, T* to,
                 const Reduction& reduce, const FinishFor& finish_for) {
  using A = Compute<T>;
  constexpr int64_t lanes = kLanes<A>, together = kVectors * lanes;
  constexpr int registers = ShiftedRow<A, kStep, kTaps, kVectors>::kRegisters;
  const auto roll = [&]<int kLoaded>() {
    const PieceOfWindows<T, kStep, kTaps, kVectors, kLoaded> piece(width, first);
    roll_exactly(in, piece, to, width.output, reduce, finish_for);
  };
  if constexpr (kVectors == 1 && kStep == 2) {
    if (first == 0 && width.input + width.padding <= lanes) return roll.template operator()<1>();
  }
  for (; width.output - first > together - lanes; first += together) {
    roll.template operator()<registers>();
  }
  if constexpr (kVectors > 1) {
    roll_pieces<kStep, kTaps, kVectors - 1>(in, width, first, to, reduce, finish_for);
  }
}

/// All rows of a problem whose windows are kTaps high and wide, kStep apart.
template <int kStep, int kTaps, class T, class Reduction, class FinishFor>
void roll_planes(const PoolProblem& p, const T* input, T* output, const Reduction& reduce,
                 const FinishFor& finish_for) {
  const PoolWindows &deep = p.axis[0], &height = p.axis[1], &width = p.axis[2];
  const int64_t size = height.input * width.input, count = rolling_lines(height);
  const Scratch lists(rolling_list_bytes(p));
  InputRun* depth = lists.as<InputRun>();
  int64_t* lines = reinterpret_cast<int64_t*>(InputRun::list(deep, depth));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t y = i - height.padding;
    lines[i] = y >= 0 && y < height.input ? y * width.input : -1;
  }
  const int64_t planes = p.batch * p.channels,
                together = rows_are_twins(width, kLanes<Compute<T>>) ? 2 : 1;
  const int64_t parts = (height.output + kRollingRows - 1) / kRollingRows;
  const int64_t tasks = (planes + together - 1) / together * deep.output * parts;
  const int64_t rows = least(height.output, kRollingRows) * together;
  parallel_for(tasks, grain_of(rows * width.output * work_of(p)), [&](int64_t begin, int64_t end) {
    WindowsOfTwins<T, kStep, kTaps> twins(width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % parts * kRollingRows, d = task / parts % deep.output;
      const int64_t plane = task / parts / deep.output * together;
      const InputRun of_depth = depth[d];
      const RollingWindows<T> in{input + (plane * deep.input + of_depth.first) * size,
                                 of_depth.count,
                                 deep.dilation * size,
                                 lines + first * kStep,
                                 first,
                                 least(first + kRollingRows, height.output)};
      T* to = output + ((plane * deep.output + d) * height.output + first) * width.output;
      const auto finish_row = [&](int64_t h) { return finish_for(d, h); };
      if (together == 1) {
        roll_pieces<kStep, kTaps, kRollingVectors>(in, width, 0, to, reduce, finish_row);
        continue;
      }
      const bool two = plane + 1 < planes;  // or the last one twice
      twins.in_twin = two ? input_plane(p) : 0;
      twins.out_twin = two ? output_plane(p) : 0;
      roll_exactly(in, twins, to, width.output, reduce, finish_row);
    }
  });
}

/// All rows of a problem that goes by rolling_rows.
template <class T, class Reduction, class FinishFor>
void roll_all(const PoolProblem& p, const T* input, T* output, const Reduction& reduce,
              const FinishFor& finish_for) {
  const PoolWindows& width = p.axis[2];
  if (width.stride == 2) {
    return width.kernel == 2 ? roll_planes<2, 2>(p, input, output, reduce, finish_for)
                             : roll_planes<2, 3>(p, input, output, reduce, finish_for);
  }
  switch (width.kernel) {
    case 2: return roll_planes<1, 2>(p, input, output, reduce, finish_for);
    case 3: return roll_planes<1, 3>(p, input, output, reduce, finish_for);
    default: return roll_planes<1, 5>(p, input, output, reduce, finish_for);
  }
}
