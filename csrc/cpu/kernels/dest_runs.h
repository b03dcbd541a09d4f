// Sums of panels of pixels to planar tensors, or any other: by runs of destinations.

/// Adds the bias to `count` sums and stores them `stride` apart.
template <class T>
inline void store_run(const Accumulator<T>* sums, Accumulator<T> bias, int64_t count, T* to,
                      int64_t stride) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  int64_t i = 0;
  const Vec<A> add = broadcast(bias);
  if (stride == 1) {
    for (; i + lanes <= count; i += lanes) store_narrow(to + i, load(sums + i) + add);
    if (i < count) store_partial(to + i, load_partial(sums + i, count - i) + add, count - i);
    return;
  }
  for (; i + lanes <= count; i += lanes) {
    if (stride == 2) {
      store_every_second(to + 2 * i, load(sums + i) + add, lanes);
    } else {
      store_strided(to + i * stride, load(sums + i) + add, stride);
    }
  }
  for (; i < count; ++i) to[i * stride] = narrow<T>(sums[i] + bias);
}

/// The same for `rows` neighbouring channels, whose elements are neighbours in the destination:
/// squares of rows and pixels are transposed in registers.
template <class T>
inline void store_channels(const Rows<Accumulator<T>>& sums, const T* bias, int64_t rows,
                           int64_t count, T* to, int64_t stride) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  for (int64_t row = 0; row < rows; row += lanes) {
    const int64_t rows_here = rows - row < lanes ? rows - row : lanes;
    for (int64_t i = 0; i < count; i += lanes) {
      const int64_t pixels = count - i < lanes ? count - i : lanes;
      Vec<A> square[lanes] = {};
      for (int64_t r = 0; r < rows_here; ++r) {
        const A add = bias != nullptr ? widen(bias[row + r]) : A(0);
        square[r] = load_partial(sums.at(row + r) + i, pixels) + broadcast(add);
      }
      store_transposed(square, pixels, rows_here, to + i * stride + row, stride);
    }
  }
}

/// A run of destination pixels at consecutive addresses, `stride` apart.
struct DestRun {
  int64_t offset;  // of the first, from channel 0 of image 0
  int64_t length;
  int64_t column;
};

/// Destination runs of the segments, neighbours in memory and among the columns joined; returns how
/// many.
inline int64_t join_runs(const Strides& dest, const Segment* segments, int64_t count,
                         DestRun* runs) {
  int64_t found = 0;
  for (int64_t s = 0; s < count; ++s) {
    const Segment& segment = segments[s];
    const int64_t offset = segment.batch * dest.batch + segment.position[0] * dest.axis[0] +
                           segment.position[1] * dest.axis[1] + segment.width * dest.axis[2];
    DestRun* last = found > 0 ? &runs[found - 1] : nullptr;
    const bool follows = last != nullptr && last->column + last->length == segment.column;
    if (follows && last->offset + last->length * dest.axis[2] == offset) {
      last->length += segment.length;
    } else {
      runs[found++] = {offset, segment.length, segment.column};
    }
  }
  return found;
}

/// Whether tiles may write this run of destinations, `width` elements of whole registers,
/// themselves.
template <class T>
inline bool stores_whole_registers(const Contraction<T>& p, const DestRun& run, int64_t width) {
  return __is_same(T, Accumulator<T>) && run.length == width && p.dest_strides.axis[2] == 1;
}
