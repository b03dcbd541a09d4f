// Windows of (N, C, D, H, W) as high as they are wide, a few columns, on a grid of stride 1 or 2,
// reduced to one value each. Included where registers are shifted by one instruction.
//
// What bands (pool_bands.h) do in memory is done in registers here. An input row is loaded once and
// added to all rows of columns it belongs to, those of the output rows under way: as many as
// windows are high. After its turn the oldest of them is complete; its registers, shifted, are what
// the taps along W read. As many turns as there are rows under way are unrolled, so that columns
// never move. Padding is lanes that a load leaves out, and rows that are left out.

/// Registers of outputs of a piece: with stride 2, twice as many of columns.
constexpr int kRollingVectors = 4;

/// Output rows of a task.
constexpr int64_t kRollingRows = 64;

/// Like load for the lanes whose bit of `mask` is set; the others are those of `other`.
template <class T>
[[gnu::always_inline]] inline Vec<T> load_lanes(const T* from, uint32_t mask, Vec<T> other) {
  if constexpr (sizeof(T) == 8) {
    return (Vec<T>)_mm512_mask_loadu_epi64((__m512i)other, __mmask8(mask), from);
  } else {
    return (Vec<T>)_mm512_mask_loadu_epi32((__m512i)other, __mmask16(mask), from);
  }
}

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
  static constexpr T identity() {
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
  const PoolWindows& width;
};

/// Outputs [first, first + kVectors registers) of these rows, of which the first kLoaded registers
/// of inputs may be other than padding. False where `reduce` had its doubts.
template <int kStep, int kTaps, int kVectors, int kLoaded, class T, class Reduction,
          class FinishFor>
bool roll_windows(const RollingWindows<T>& in, int64_t first, T* to, const Reduction& reduce,
                  const FinishFor& finish_for) {
  using Columns = ShiftedRow<T, kStep, kTaps, kVectors>;
  constexpr int64_t lanes = kLanes<T>;
  constexpr int registers = Columns::kRegisters, under_way = rows_under_way(kStep, kTaps);
  constexpr bool doubtful = __is_same(Reduction, LargestNumber);
  const typename Columns::Shifts shifts(1);
  const int64_t x = first * kStep - in.width.padding;
  const Vec<T> identity = broadcast(Reduction::template identity<T>());
  uint32_t masks[kLoaded], doubts = 0;
  for (int i = 0; i < kLoaded; ++i) {
    const int64_t at = x + i * lanes;
    const int64_t high = least(most(in.width.input - at, 0), lanes);
    const int64_t low = least(most(-at, 0), high);
    masks[i] = uint32_t((1u << high) - (1u << low));
  }
  Vec<T> sums[under_way][registers];
#pragma GCC unroll 8
  for (auto& row : sums) {
#pragma GCC unroll 16
    for (auto& column : row) column = identity;
  }
  const int64_t* rows = in.rows;
  int64_t done = in.begin + 1 - under_way;  // the row that a turn finishes: none at first
  const int64_t count = in.width.output - first;
  to += first;

  // Row r has the columns (r - begin) % under_way. Whether there is another turn.
  const auto turn = [&]<int kTurn>() __attribute__((always_inline)) {
#pragma GCC unroll 2
    for (int s = 0; s < kStep; ++s, ++rows) {
      if (*rows < 0) continue;
      const T* source = in.source + *rows + x;
      for (int64_t z = 0; z < in.planes; ++z, source += in.plane) {
        Vec<T> row[kLoaded];
#pragma GCC unroll 16
        for (int i = 0; i < kLoaded; ++i) {
          row[i] = load_lanes(source + i * lanes, masks[i], identity);
        }
        if constexpr (doubtful) {
#pragma GCC unroll 16
          for (int i = 0; i < kLoaded; i += 2) {
            doubts |= Reduction::doubts(row[i], row[i + 1 < kLoaded ? i + 1 : i]);
          }
        }
#pragma GCC unroll 8
        for (int h = s; h < kTaps; h += kStep) {
          auto& sum = sums[(kTurn + under_way - h / kStep) % under_way];
#pragma GCC unroll 16
          for (int i = 0; i < kLoaded; ++i) sum[i] = reduce(sum[i], row[i]);
        }
      }
    }
    auto& complete = sums[(kTurn + 1) % under_way];
    if (done >= in.begin) {
      const Columns columns(complete);
      const auto finish = finish_for(done);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        Vec<T> value = columns.tap(0, j, shifts);
#pragma GCC unroll 8
        for (int t = 1; t < kTaps; ++t) value = reduce(value, columns.tap(t, j, shifts));
        store_first(to + j * lanes, finish(value, first + j * lanes), count - j * lanes);
      }
      to += in.width.output;
    }
#pragma GCC unroll 16
    for (Vec<T>& column : complete) column = identity;
    return ++done < in.end;
  };
  take_turns<under_way>(turn);
  return doubts == 0;
}

/// The same by the fastest reduction that is exact.
template <int kStep, int kTaps, int kVectors, int kLoaded, class T, class Reduction,
          class FinishFor>
void roll_piece(const RollingWindows<T>& in, int64_t first, T* to, const Reduction& reduce,
                const FinishFor& finish_for) {
  if constexpr (__is_same(Reduction, Maximum)) {
    const LargestNumber faster;
    if (roll_windows<kStep, kTaps, kVectors, kLoaded>(in, first, to, faster, finish_for)) return;
  }
  roll_windows<kStep, kTaps, kVectors, kLoaded>(in, first, to, reduce, finish_for);
}

/// The rows from output `first` on, in pieces of kVectors registers and what is left.
template <int kStep, int kTaps, int kVectors, class T, class Reduction, class FinishFor>
void roll_pieces(const RollingWindows<T>& in, int64_t first, T* to, const Reduction& reduce,
                 const FinishFor& finish_for) {
  constexpr int64_t lanes = kLanes<T>, together = kVectors * lanes;
  constexpr int registers = ShiftedRow<T, kStep, kTaps, kVectors>::kRegisters;
  if constexpr (kVectors == 1 && kStep == 2) {
    if (first == 0 && in.width.input + in.width.padding <= lanes) {
      return roll_piece<kStep, kTaps, 1, 1>(in, first, to, reduce, finish_for);
    }
  }
  for (; in.width.output - first > together - lanes; first += together) {
    roll_piece<kStep, kTaps, kVectors, registers>(in, first, to, reduce, finish_for);
  }
  if constexpr (kVectors > 1) {
    roll_pieces<kStep, kTaps, kVectors - 1>(in, first, to, reduce, finish_for);
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
  const int64_t parts = (height.output + kRollingRows - 1) / kRollingRows;
  const int64_t work = least(height.output, kRollingRows) * width.output * work_of(p);
  const int64_t tasks = p.batch * p.channels * deep.output * parts;
  parallel_for(tasks, grain_of(work), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task % parts * kRollingRows, plane = task / parts;
      const int64_t d = plane % deep.output;
      const InputRun planes = depth[d];
      const RollingWindows<T> in{input + (plane / deep.output * deep.input + planes.first) * size,
                                 planes.count,
                                 deep.dilation * size,
                                 lines + first * kStep,
                                 first,
                                 least(first + kRollingRows, height.output),
                                 width};
      T* to = output + (plane * height.output + first) * width.output;
      roll_pieces<kStep, kTaps, kRollingVectors>(in, 0, to, reduce,
                                                 [&](int64_t h) { return finish_for(d, h); });
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
