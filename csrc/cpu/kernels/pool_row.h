// Reduces windows of (N, C, D, H, W) tensors to one value each: maximum or mean, no indices.
//
// One output row at a time: the input rows under it are first reduced vertically, into one row of
// columns (contiguous vectors), then that row is reduced horizontally. A window of kh x kw costs
// kh + kw operations an output instead of kh * kw. Output rows are the unit of parallel work.

/// Reduces `count` contiguous elements.
template <class T, class Reduction>
inline Compute<T> reduce_run(const T* from, int64_t count, const Reduction& reduce) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  Compute<T> result = Reduction::template identity<T>();
  int64_t i = 0;
  if (count >= kCount) {
    Vec<Compute<T>> lanes = load_compute(from);
    for (i = kCount; i + kCount <= count; i += kCount) {
      lanes = reduce(lanes, load_compute(from + i));
    }
    result = reduce_lanes<Compute<T>>(lanes, reduce);
  }
  for (; i < count; ++i) result = reduce(result, load_one(from + i));
  return result;
}

/// Reduces the elements from[begin, end) that are `step` apart.
template <class T, class Reduction>
inline Compute<T> reduce_window(const T* from, int64_t begin, int64_t end, int64_t step,
                                const Reduction& reduce) {
  if (step == 1) return reduce_run(from + begin, end - begin, reduce);
  Compute<T> result = Reduction::template identity<T>();
  for (int64_t x = begin; x < end; x += step) result = reduce(result, load_one(from + x));
  return result;
}

/// Outputs whose windows lie in `columns` neighbouring inputs, and which inputs these are. A window
/// wider than that makes a group of its own.
struct WindowGroup {
  int64_t begin;
  int64_t end;
  int64_t count;

  WindowGroup(const PoolWindows& axis, int64_t first, int64_t limit, int64_t columns)
      : begin(axis.begin[first]), end(axis.end[first]), count(1) {
    // With dilation, a window that starts in the padding can begin after the next one.
    for (; count < limit && first + count < axis.output; ++count) {
      const int64_t low = least(begin, axis.begin[first + count]);
      const int64_t high = most(end, axis.end[first + count]);
      if (high - low > columns) break;
      begin = low;
      end = high;
    }
  }
};

/// Any windows: the input columns of as many outputs as fit a buffer are reduced vertically, then
/// each window is reduced on its own. A window wider than the buffer goes in pieces.
template <class T, class Reduction, class Finish>
void reduce_row_by_windows(const PoolProblem& p, const T* plane, int64_t d, int64_t h, T* output,
                           const Reduction& reduce, const Finish& finish) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  constexpr int64_t kColumns = 2048;
  constexpr Compute<T> kIdentity = Reduction::template identity<T>();
  const PoolWindows& axis = p.axis[2];
  int64_t rows = 0, only_row = 0;
  for_each_row(p, d, h, [&](int64_t row) {
    ++rows;
    only_row = row;
  });
  alignas(CNNOPS_VECTOR_BYTES) Compute<T> columns[kColumns];
  const auto reduce_columns = [&](int64_t begin, int64_t count) {
    bool started = false;
    for_each_row(p, d, h, [&](int64_t row) {
      const T* from = plane + row + begin;
      int64_t i = 0;
      if (started) {
        for (; i + kCount <= count; i += kCount) {
          store(columns + i, reduce(load(columns + i), load_compute(from + i)));
        }
        for (; i < count; ++i) columns[i] = reduce(columns[i], load_one(from + i));
      } else {
        for (; i + kCount <= count; i += kCount) store(columns + i, load_compute(from + i));
        for (; i < count; ++i) columns[i] = load_one(from + i);
      }
      started = true;
    });
  };
  Compute<T> values[kCount];
  for (int64_t first = 0; first < axis.output;) {
    const WindowGroup group(axis, first, kCount, kColumns);
    const int64_t begin = group.begin, count = group.count, span = group.end - begin;
    for (int64_t i = 0; i < kCount; ++i) values[i] = kIdentity;
    if (rows == 1) {
      for (int64_t i = 0; i < count; ++i) {
        values[i] = reduce_window(plane + only_row, axis.begin[first + i], axis.end[first + i],
                                  axis.dilation, reduce);
      }
    } else if (rows > 1 && span <= kColumns) {
      reduce_columns(begin, span);
      for (int64_t i = 0; i < count; ++i) {
        values[i] = reduce_window(columns, axis.begin[first + i] - begin,
                                  axis.end[first + i] - begin, axis.dilation, reduce);
      }
    } else if (rows > 1) {
      for_each_row(p, d, h, [&](int64_t row) {
        values[0] = reduce(values[0],
                           reduce_window(plane + row, begin, begin + span, axis.dilation, reduce));
      });
    }
    store_first(output + first, finish(load(values), first), count);
    first += count;
  }
}

/// All rows of the problem. `finish_for(d, h)` gives the `finish` of one output row.
template <class T, class Reduction, class FinishFor>
void reduce_rows(const PoolProblem& p, const T* input, T* output, const Reduction& reduce,
                 const FinishFor& finish_for) {
  const int64_t width = p.axis[2].output;
  const int64_t depth = p.axis[0].output, height = p.axis[1].output;
  if (p.algorithm == PoolAlgorithm::rows_by_phases) {
    return reduce_bands(p, input, output, reduce, finish_for);
  }
#if defined(CNNOPS_TARGET_AVX512)
  if constexpr (kRolls<T>) {
    if (p.algorithm == PoolAlgorithm::rolling_rows) {
      return roll_all(p, input, output, reduce, finish_for);
    }
  }
#endif
  parallel_for(p.batch * p.channels * depth * height, grain_of(width * work_of(p)),
               [&](int64_t begin, int64_t end) {
                 if (p.algorithm == PoolAlgorithm::whole_rows) {
                   const auto finish = finish_for(0, 0);
                   for (int64_t r = begin; r < end; ++r) {
                     const Compute<T> value =
                         reduce_run(input + r * p.axis[2].input, p.axis[2].input, reduce);
                     store_first(output + r, finish(broadcast(value), 0), 1);
                   }
                   return;
                 }
                 Row row(depth, height, begin);
                 for (int64_t r = begin; r < end; ++r, row.advance(depth, height)) {
                   const T* plane = input + row.outer * input_plane(p);
                   const auto finish = finish_for(row.d, row.h);
                   reduce_row_by_windows(p, plane, row.d, row.h, output + r * width, reduce,
                                         finish);
                 }
               });
}
