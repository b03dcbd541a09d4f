// Windows of (N, C, D, H, W) on a grid of stride 1 or 2 along W, reduced to one value each.
//
// A band is a run of output rows, of one plane or of several. The input rows under each of its rows
// are reduced to one row of columns, with what padding counts as on both sides, and then the rows
// of columns along W: a tap of neighbouring outputs is a run of columns, or with stride 2 the even
// elements of two registers. A window of kh x kw costs kh + kw operations, and nothing is stepped
// over at borders. Columns stay in the first-level cache; both loops run over the whole band, for a
// vector that is loaded from two that were just stored waits for them. Longer rows go in segments.

/// Columns of a band.
constexpr int64_t kBandColumns = 2048;

/// How the columns of output rows lie in memory.
struct BandColumns {
  int64_t segment;  // outputs of a row at a time
  int64_t pitch;    // from row to row
  int64_t rows;     // of a band

  BandColumns(const PoolWindows& axis, int64_t lanes) {
    segment = axis.output;
    pitch = pitch_of(axis, segment, lanes);
    if (pitch > kBandColumns) {
      segment = (kBandColumns - pitch_of(axis, 0, lanes)) / (axis.stride * lanes) * lanes;
      pitch = kBandColumns;
    }
    rows = kBandColumns / pitch;
  }

  /// Enough for `outputs` windows, and for the registers that begin among their columns.
  static int64_t pitch_of(const PoolWindows& axis, int64_t outputs, int64_t lanes) {
    const int64_t columns = outputs * axis.stride + (axis.kernel - 1) * axis.dilation;
    return round_up(columns + lanes, lanes);
  }
};

/// The inputs along depth or height under the outputs of this axis: `count` from `first` on.
struct InputRun {
  int64_t first, count;

  static InputRun* list(const PoolWindows& axis, InputRun* to) {
    for (int64_t o = 0; o < axis.output; ++o) {
      *to++ = {axis.begin[o], round_up(axis.end[o] - axis.begin[o], axis.dilation) / axis.dilation};
    }
    return to;
  }
};

inline int64_t band_list_bytes(const PoolProblem& p) {
  return sizeof(InputRun) * (p.axis[0].output + p.axis[1].output);
}

/// The types whose windows pool_rolling.h reduces, lane by lane.
template <class T>
constexpr bool kRolls = CNNOPS_VECTOR_BYTES == 64 && kFloats<T>;

/// Input rows under all output rows, and some to fill up the last turns of rolling rows.
inline int64_t rolling_lines(const PoolWindows& height) {
  return (height.output + (height.kernel - 1) / height.stride) * height.stride;
}
inline int64_t rolling_list_bytes(const PoolProblem& p) {
  return sizeof(InputRun) * p.axis[0].output + sizeof(int64_t) * rolling_lines(p.axis[1]);
}

/// How a pooling is done by bands: what is the same for all of them.
template <class T>
struct Bands {
  static constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolProblem& p;
  const T *input, *end;  // of the tensor
  BandColumns cut;
  const InputRun *depth, *height;

  /// Fills `lists`.
  Bands(const PoolProblem& problem, const T* from, InputRun* lists)
      : p(problem),
        input(from),
        end(from + p.batch * p.channels * input_plane(p)),
        cut(p.axis[2], kCount),
        depth(lists),
        height(InputRun::list(p.axis[0], lists)) {
    InputRun::list(p.axis[1], lists + p.axis[0].output);
  }
};

/// to[0, count) = the reduction of the rows at from, from + step, ... What is read beyond a row, of
/// the next one, does no harm: padding overwrites it.
template <bool kWhole, class T, class Reduction>
[[gnu::always_inline]] inline void reduce_source_rows(const T* from, int64_t rows, int64_t step,
                                                      int64_t count, bool first, Compute<T>* to,
                                                      const Reduction& reduce) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const auto read = [](const T* at, int64_t left) {
    return kWhole ? load_compute(at) : load_first(at, left);
  };
  if (count <= 4 * kCount && first) {
    for (int64_t i = 0; i < count; i += kCount) {
      const T* at = from + i;
      Vec<Compute<T>> value = read(at, count - i);
      for (int64_t r = 1; r < rows; ++r) value = reduce(value, read(at += step, count - i));
      store(to + i, value);
    }
    return;
  }
  // One row after the other: the processor looks ahead along one, not along several in turns.
  for (int64_t r = 0; r < rows; ++r, from += step, first = false) {
    if (first) {
      for (int64_t i = 0; i < count; i += kCount) store(to + i, read(from + i, count - i));
      continue;
    }
    for (int64_t i = 0; i < count; i += kCount) {
      store(to + i, reduce(load(to + i), read(from + i, count - i)));
    }
  }
}

/// The columns of outputs [first, first + count) of output rows [begin, end).
template <class T, class Reduction>
[[gnu::always_inline]] inline void columns_of_band(const Bands<T>& bands, int64_t begin,
                                                   int64_t end, int64_t first, int64_t count,
                                                   Compute<T>* to, const Reduction& reduce) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  constexpr Compute<T> kIdentity = Reduction::template identity<T>();
  const PoolProblem& p = bands.p;
  const PoolWindows& axis = p.axis[2];
  const int64_t columns = (count - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
  const int64_t x = first * axis.stride - axis.padding;
  const int64_t before = least(most(-x, 0), columns);
  const int64_t within = most(least(columns, axis.input - x) - before, 0);
  const int64_t step = p.axis[1].dilation * axis.input, plane = p.axis[1].input * axis.input;
  Row row(p.axis[0].output, p.axis[1].output, begin);
  for (int64_t r = begin; r < end; ++r, row.advance(p.axis[0].output, p.axis[1].output)) {
    const InputRun planes = bands.depth[row.d], rows = bands.height[row.h];
    const T* from = bands.input + x + before + rows.first * axis.input +
                    (row.outer * p.axis[0].input + planes.first) * plane;
    const int64_t inside = rows.count > 0 && planes.count > 0 ? within : 0;
    for (int64_t i = 0; i < before; i += kCount) store(to + i, broadcast(kIdentity));
    for (int64_t z = 0; z < planes.count && inside > 0; ++z) {
      if (from + (rows.count - 1) * step + inside + kCount <= bands.end) {
        reduce_source_rows<true>(from, rows.count, step, inside, z == 0, to + before, reduce);
      } else {
        reduce_source_rows<false>(from, rows.count, step, inside, z == 0, to + before, reduce);
      }
      from += p.axis[0].dilation * plane;
    }
    for (int64_t i = before + inside; i < columns; i += kCount) store(to + i, broadcast(kIdentity));
    to += bands.cut.pitch;
  }
}

/// Outputs [first, first + count) of rows [begin, end), of windows of kTaps columns or, with 0, as
/// many as there are.
template <int kStride, int kTaps, class T, class Reduction, class FinishFor>
void reduce_band(const Bands<T>& bands, int64_t begin, int64_t end, int64_t first, int64_t count,
                 Compute<T>* columns, T* output, const Reduction& reduce,
                 const FinishFor& finish_for) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  columns_of_band(bands, begin, end, first, count, columns, reduce);
  const PoolWindows& axis = bands.p.axis[2];
  const int64_t taps = kTaps > 0 ? kTaps : axis.kernel, dilation = axis.dilation;
  const auto read = [](const Compute<T>* from) {
    if constexpr (kStride == 1) return load(from);
    Vec<Compute<T>> even, odd;
    deinterleave<Compute<T>>(load(from), load(from + kCount), &even, &odd);
    return even;
  };
  const int64_t depth = bands.p.axis[0].output, height = bands.p.axis[1].output;
  T* to = output + begin * axis.output + first;
  Row row(depth, height, begin);
  for (int64_t r = begin; r < end; ++r, row.advance(depth, height)) {
    const auto finish = finish_for(row.d, row.h);
    for (int64_t i = 0; i < count; i += kCount) {
      const Compute<T>* from = columns + kStride * i;
      Vec<Compute<T>> value = read(from);
#pragma GCC unroll 4
      for (int64_t tap = 1; tap < taps; ++tap) value = reduce(value, read(from + tap * dilation));
      store_first(to + i, finish(value, first + i), count - i);
    }
    columns += bands.cut.pitch;
    to += axis.output;
  }
}

/// reduce_band for windows of `taps` columns.
template <int kStride, class T, class Reduction, class FinishFor>
auto band_of(int64_t taps) {
  return taps == 2   ? reduce_band<kStride, 2, T, Reduction, FinishFor>
         : taps == 3 ? reduce_band<kStride, 3, T, Reduction, FinishFor>
                     : reduce_band<kStride, 0, T, Reduction, FinishFor>;
}

/// All rows of a problem. `finish_for(d, h)` gives what finishes an output row.
template <class T, class Reduction, class FinishFor>
void reduce_bands(const PoolProblem& p, const T* input, T* output, const Reduction& reduce,
                  const FinishFor& finish_for) {
  const PoolWindows& axis = p.axis[2];
  const Scratch lists(band_list_bytes(p));
  const Bands<T> bands(p, input, lists.as<InputRun>());
  const int64_t segment = bands.cut.segment, together = bands.cut.rows;
  const auto run = axis.stride == 1 ? band_of<1, T, Reduction, FinishFor>(axis.kernel)
                                    : band_of<2, T, Reduction, FinishFor>(axis.kernel);
  const int64_t rows = p.batch * p.channels * p.axis[0].output * p.axis[1].output;
  parallel_for(rows, grain_of(axis.output * work_of(p)), [&](int64_t begin, int64_t end) {
    // The last registers of a row reach beyond its pitch.
    alignas(CNNOPS_VECTOR_BYTES) Compute<T> columns[kBandColumns + 4 * kLanes<Compute<T>>];
    for (int64_t r = begin; r < end; r += together) {
      for (int64_t first = 0; first < axis.output; first += segment) {
        run(bands, r, least(r + together, end), first, least(segment, axis.output - first), columns,
            output, reduce, finish_for);
      }
    }
  });
}
