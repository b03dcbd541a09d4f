// What weight_gemm_planar multiplies: strips of source channels (strips.h), or the source where it
// lies, and pointers of tiles to them.

/// Registers of destination channels that are too few for the tile of tile.h, whose six sums of a
/// register do not hide the latency of an FMA.
constexpr int64_t kFewRegisters = 1;

/// Copies the strips of channels [first, first + count) of a group whose channel 0 is at `source`,
/// [channel][line][row].
template <class T>
void copy_strips(const WeightContraction<T>& p, const Strips& strips, const Strips::Chunk& chunk,
                 const T* source, int64_t first, int64_t count, Accumulator<T>* strip) {
  const int64_t strip_row = strips.positions(chunk.width), lines = strips.lines();
  const int64_t rows = lines * chunk.rows;
  for (int64_t line = 0; line < lines; ++line) {
    const Strips::Line walk = strips.line(line);
    for (int64_t r = 0; r < chunk.rows; ++r) {
      const T* row = strips.source_row(source, p.source_strides, chunk.row + r, line);
      if (row != nullptr) row += first * p.source_strides.channel;
      strips.copy_plane_rows(walk, row, p.source_strides, count, chunk.x, chunk.width,
                             rows * strip_row, strip + (line * chunk.rows + r) * strip_row);
    }
  }
}

/// Points each row of K to the strips of `count` channels: [tile][run][kTileRows].
template <class A>
void point_to_strips(const Strips& strips, const Strips::Chunk& chunk, int64_t count, int64_t runs,
                     const A* strip, const A** to) {
  const int64_t strip_row = strips.positions(chunk.width), line_taps = strips.line_taps;
  for (int64_t k = 0; k < count * strips.lines() * line_taps; ++k) {
    const A* from = strip + k / line_taps * chunk.rows * strip_row;
    const A** at = to + k / kTileRows * kTileRows * runs + k % kTileRows;
    for (int64_t r = 0; r < runs; ++r) {
      at[r * kTileRows] = from + r * strip_row + strips.start(k % line_taps);
    }
  }
}

/// Points the first channels to the rows of their first strip: [row][kTileRows].
template <class A>
void point_to_channels(const Strips& strips, const Strips::Chunk& chunk, const A* strip,
                       const A** to) {
  const int64_t strip_row = strips.positions(chunk.width);
  const int64_t of_channel = strips.lines() * chunk.rows * strip_row;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    for (int64_t i = 0; i < kTileRows; ++i) *to++ = strip + i * of_channel + r * strip_row;
  }
}

/// Multiplies the strips of `channels` with a panel of grad, [pixel][width], tap by tap: a tile is
/// of six channels, and what its tap reads in padding is left out. `pointers` are those of
/// point_to_channels.
template <class T>
void multiply_taps(const WeightContraction<T>& p, const Strips& strips, const Strips::Chunk& chunk,
                   const T* source, int64_t channels, const Accumulator<T>* const* pointers,
                   const Accumulator<T>* grad, int64_t width, const Rows<Accumulator<T>>& sums,
                   bool adds) {
  using A = Accumulator<T>;
  const int64_t strip_row = strips.positions(chunk.width), lines = strips.lines();
  const int64_t taps = p.taps(), of_line = chunk.rows * strip_row;
  for (int64_t line = 0; line < lines; ++line) {
    const auto reads_row = [&](int64_t r) {
      return strips.source_row(source, p.source_strides, chunk.row + r, line) != nullptr;
    };
    int64_t first = 0, last = chunk.rows;
    while (first < last && !reads_row(first)) ++first;
    while (first < last && !reads_row(last - 1)) --last;
    for (int64_t tap = 0; tap < strips.line_taps; ++tap) {
      const Inside reads = strips.reads_inside(line, tap, chunk);
      const int64_t start = strips.start(tap) + reads.begin * strips.step;
      TileOperands<A> tile{pointers + first * kTileRows,
                           0,
                           last - first,
                           reads.end - reads.begin,
                           strips.step,
                           grad + (first * chunk.width + reads.begin) * width,
                           width};
      tile.b_tap = chunk.width * width;
      for (int64_t c = 0; c < channels; c += kTileRows) {
        const int rows = int(channels - c < kTileRows ? channels - c : kTileRows);
        tile.start = (c * lines + line) * of_line + start;
        multiply<A>(tile, sums.at(c * taps + line * strips.line_taps + tap), taps * sums.pitch,
                    adds, rows, vectors_for<A>(width));
      }
    }
  }
}

/// Where row `r` of a chunk reads channel 0 of the source, in place.
template <class T>
const T* run_in_place(const WeightContraction<T>& p, const Strips& strips,
                      const Strips::Chunk& chunk, const T* source, int64_t r) {
  return strips.source_row(source, p.source_strides, chunk.row + r, 0) + chunk.x +
         p.walk[2].taps[0].offset;
}

/// Points each channel [first, first + count) to its runs of the source: [tile][run][kTileRows].
template <class T>
void point_to_source(const WeightContraction<T>& p, const Strips& strips,
                     const Strips::Chunk& chunk, const T* source, int64_t first, int64_t count,
                     const Accumulator<T>** to) {
  for (int64_t r = 0; r < chunk.rows; ++r) {
    const T* row = run_in_place(p, strips, chunk, source, r);
    for (int64_t c = 0; c < count; ++c) {
      to[(c / kTileRows * chunk.rows + r) * kTileRows + c % kTileRows] =
          reinterpret_cast<const Accumulator<T>*>(row + (first + c) * p.source_strides.channel);
    }
  }
}

/// Multiplies channels [first, first + count) of the source, where they lie, with a panel of grad,
/// [pixel][width]: a tile is of as many channels as the registers hold. `starts` is space for where
/// the runs start.
template <class T>
void multiply_even_channels(const WeightContraction<T>& p, const Strips& strips,
                            const Strips::Chunk& chunk, const T* source, int64_t first,
                            int64_t count, const Accumulator<T>* grad, int64_t width,
                            const Rows<Accumulator<T>>& sums, bool adds, int64_t* starts) {
  using A = Accumulator<T>;
  const int vectors = vectors_for<A>(width);
  const A* channels = reinterpret_cast<const A*>(source) + first * p.source_strides.channel;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    starts[r] = run_in_place(p, strips, chunk, source, r) - source;
  }
  alignas(64) const A zeros[kFewRegisters * kLanes<A>] = {};
  const int64_t step = even_part(count, affine_rows(vectors));
  for (int64_t i = 0; i < count; i += step) {
    A* to = sums.at(i);
    const AffineOperands<A> tile{channels + i * p.source_strides.channel,
                                 p.source_strides.channel,
                                 starts,
                                 chunk.rows,
                                 chunk.width,
                                 1,
                                 grad,
                                 width};
    const AffineResult<A> result{to, sums.pitch, kLanes<A>, adds ? to : zeros,
                                 adds ? sums.pitch : 0};
    multiply_affine<A>(tile, result, count - i < step ? count - i : step, vectors);
  }
}
