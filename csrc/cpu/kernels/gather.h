// Reading the virtual im2col matrix, a row at a time, from a planar tensor as it lies.
//
// Columns of that matrix are destination pixels in the order (batch, depth, height, width). A block
// of columns is a list of segments: runs of pixels of one image row. For one source channel and tap
// a segment reads a strided run of one source row; the part inside the tensor moves as whole
// registers, the border goes element by element through the walk's index map. On small maps
// segments are short and many: there the index of every (tap, column) is worked out once for a
// block and serves all source channels through indexed loads.

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

/// The size of parts, `most` at most, that cut `count` evenly and are as few as there can be.
inline int64_t even_part(int64_t count, int64_t most) {
  return ceil_div(count, ceil_div(count, most));
}

/// Columns cut into blocks of at most kTileVectors registers, as even as they get: a tile of one
/// register waits for each of its sums.
template <class A>
struct EvenBlocks {
  int64_t registers, count;

  explicit EvenBlocks(int64_t columns)
      : registers(ceil_div(columns, kLanes<A>)), count(ceil_div(registers, kTileVectors)) {}
  /// The first column of a block.
  int64_t begin(int64_t block) const { return block * registers / count * kLanes<A>; }
  /// Columns of a block, in whole registers.
  int64_t width(int64_t block) const { return begin(block + 1) - begin(block); }
  /// Columns of the widest block.
  int64_t widest() const { return ceil_div(registers, count) * kLanes<A>; }
  /// The block of a register.
  int64_t of(int64_t index) const { return ((index + 1) * count - 1) / registers; }
};

/// `length` consecutive destinations along the width, at `column` of the block.
struct Segment {
  int64_t batch;
  int64_t position[2];  // depth, height
  int64_t width;        // first position
  int64_t length;
  int64_t column;
};

/// Cuts columns [first, first + count) into segments; returns how many. `segments` holds `count`.
inline int64_t cut_into_segments(const ContractionShape& shape, int64_t first, int64_t count,
                                 Segment* segments) {
  const int64_t width = shape.walk[2].count, height = shape.walk[1].count;
  const int64_t depth = shape.walk[0].count;
  int64_t row = first / width, w = first % width, found = 0;
  for (int64_t column = 0; column < count;) {
    const int64_t left = count - column;
    const int64_t length = width - w < left ? width - w : left;
    const int64_t plane = row / height;
    segments[found++] = {plane / depth, {plane % depth, row % height}, w, length, column};
    column += length;
    w = 0;
    ++row;
  }
  return found;
}

/// Copies `count` elements, `stride` apart, into consecutive accumulators.
template <class T>
inline void copy_strided(const T* from, int64_t stride, int64_t count, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  int64_t i = 0;
  if (stride == 1) {
    for (; i + lanes <= count; i += lanes) store(to + i, load_wide(from + i));
    if (i < count) store_partial(to + i, load_partial(from + i, count - i), count - i);
  } else if (stride == 2) {
    // The last element read by the vectors is number 2 * (i + lanes) - 1: one more must follow.
    for (; i + lanes < count; i += lanes) {
      Vec<A> even, odd;
      deinterleave<A>(load_wide(from + 2 * i), load_wide(from + 2 * i + lanes), &even, &odd);
      store(to + i, even);
    }
    if (i < count) {
      const int64_t left = 2 * (count - i) - 1, high = left > lanes ? left - lanes : 0;
      Vec<A> even, odd;
      deinterleave<A>(load_partial(from + 2 * i, left - high),
                      load_partial(from + 2 * i + lanes, high), &even, &odd);
      store_partial(to + i, even, count - i);
    }
  } else {
    for (; i + lanes <= count; i += lanes) store(to + i, load_strided(from + i * stride, stride));
    for (; i < count; ++i) to[i] = widen(from[i * stride]);
  }
}

template <class A>
inline void fill(A* to, int64_t count, A value) {
  constexpr int lanes = kLanes<A>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) store(to + i, broadcast(value));
  for (; i < count; ++i) to[i] = value;
}

/// Destinations [begin, end) of a walk whose reads lie inside the source.
struct Inside {
  int64_t begin;
  int64_t end;

  /// Those of [first, last).
  Inside within(int64_t first, int64_t last) const {
    const int64_t from = begin < first ? first : begin > last ? last : begin;
    return {from, end < from ? from : end > last ? last : end};
  }
};

/// Reads, for destinations [first, first + count) of `walk`, the source positions of a tap. `row`
/// points to position 0, positions are `stride` elements apart.
template <class T>
inline void gather_run(const Walk& walk, const Inside& inside, int64_t offset, int64_t first,
                       int64_t count, const T* row, int64_t stride, Accumulator<T>* to) {
  const int64_t last = first + count;
  const auto [begin, end] = inside.within(first, last);
  const auto border = [&](int64_t from, int64_t until) {
    if (walk.mode == PaddingMode::zeros) {
      for (int64_t j = from; j < until; ++j) to[j - first] = Accumulator<T>(0);
      return;
    }
    for (int64_t j = from; j < until; ++j) {
      to[j - first] = widen(row[walk.resolve(j * walk.step + offset) * stride]);
    }
  };
  border(first, begin);
  if (begin < end) {
    // With one position there is no next one, however far the step says it is.
    const int64_t next = end - begin > 1 ? walk.step * stride : 1;
    copy_strided(row + (begin * walk.step + offset) * stride, next, end - begin,
                 to + (begin - first));
  }
  border(end, last);
}

/// The same for `channels` neighbouring channels of pixels `stride` apart, which go to every
/// `pitch` elements.
template <class T>
inline void gather_pixels(const Walk& walk, const Inside& inside, int64_t offset, int64_t first,
                          int64_t count, const T* row, int64_t stride, int64_t channels,
                          int64_t pitch, Accumulator<T>* to) {
  const int64_t last = first + count;
  const auto [begin, end] = inside.within(first, last);
  const auto border = [&](int64_t from, int64_t until) {
    for (int64_t j = from; j < until; ++j) {
      const int64_t position = walk.resolve(j * walk.step + offset);
      Accumulator<T>* pixel = to + (j - first) * pitch;
      if (position < 0) {
        fill(pixel, channels, Accumulator<T>(0));
      } else {
        copy_strided(row + position * stride, 1, channels, pixel);
      }
    }
  };
  border(first, begin);
  if (begin < end) {
    const T* from = row + (begin * walk.step + offset) * stride;
    Accumulator<T>* pixel = to + (begin - first) * pitch;
    if (channels == pitch && walk.step * stride == channels) {
      copy_strided(from, 1, (end - begin) * channels, pixel);
    } else {
      for (int64_t j = begin; j < end; ++j, from += walk.step * stride, pixel += pitch) {
        copy_strided(from, 1, channels, pixel);
      }
    }
  }
  border(end, last);
}

/// Copies `taps` neighbours from each of `count` positions, `step` apart: what a tap reads goes to
/// a row, `pitch` elements from that of the next. Squares of positions and taps are transposed in
/// registers.
template <class T>
inline void gather_patches(const T* from, int64_t step, int64_t count, int64_t taps,
                           Accumulator<T>* to, int64_t pitch) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t some = count - i < lanes ? count - i : lanes;
    for (int64_t tap = 0; tap < taps; tap += lanes) {
      const int64_t taps_here = taps - tap < lanes ? taps - tap : lanes;
      Vec<A> square[lanes];
#pragma GCC unroll 16
      for (int64_t j = 0; j < lanes; ++j) {
        square[j] = j < some ? load_partial(from + (i + j) * step + tap, taps_here) : Vec<A>{};
      }
      transpose<A>(square);
#pragma GCC unroll 16
      for (int64_t t = 0; t < lanes; ++t) {
        if (t < taps_here) store_partial(to + (tap + t) * pitch + i, square[t], some);
      }
    }
  }
}

/// Positions so far apart, and so many taps of each, are faster transposed than loaded one by one.
constexpr int64_t kMinPatchStep = 3, kMinPatchTaps = CNNOPS_VECTOR_BYTES / 8;

/// From so many segments per register of columns on indexed loads are faster than moving segments.
constexpr int64_t kSegmentsPerIndexedLoad = 1;

/// Channels whose runs of near elements are fetched ahead: each is in a page of its own.
constexpr int64_t kChannelsAhead = 12;

/// Rows of a matrix, `pitch` elements apart.
template <class A>
struct Rows {
  A* data = nullptr;
  int64_t pitch = 0;
  A* at(int64_t row) const { return data + row * pitch; }
};

/// The rows of the virtual im2col matrix of one group, for one block of columns.
template <class T>
struct ColumnGatherer {
  using A = Accumulator<T>;
  const ContractionShape& shape;
  const Strides& strides;
  const Inside* inside;  // for each tap of the width
  Segment* segments;     // space for as many as there are columns
  int32_t* index;        // space for [taps][columns, rounded up to registers]; null: do without
  int64_t segment_count = 0;
  int64_t columns = 0;
  bool indexed = false;

  /// Bytes of the index table of a block, 0 where indexed loads cannot or need not be used.
  static int64_t index_bytes(const ContractionShape& shape, const Strides& strides,
                             int64_t columns) {
    // The table pays when many channels share it, and its entries must fit 32 bits.
    int64_t last = (shape.batch - 1) * strides.batch;
    for (int i = 0; i < kAxes; ++i) last += (shape.walk[i].size - 1) * strides.axis[i];
    const int64_t bytes = shape.taps() * columns * int64_t(sizeof(int32_t));
    return shape.depth < 8 || last >= INT32_MAX || bytes > (int64_t(1) << 19) ? 0 : bytes;
  }

  /// Turns to columns [first, first + count).
  void set_columns(int64_t first, int64_t count) {
    segment_count = cut_into_segments(shape, first, count, segments);
    columns = count;
    indexed = index != nullptr && segment_count > kSegmentsPerIndexedLoad * vectors_for<A>(count);
    if (indexed) fill_index();
  }

  /// Writes matrix rows [first, first + count), where row = ((channel * taps_d + td) * taps_h + th)
  /// * taps_w + tw, to `to`, `pitch` elements a row. `source` is channel 0 of the group in image 0.
  /// What is left of the last register becomes zero: garbage may be slow numbers.
  void gather(const T* source, int64_t first, int64_t count, A* to, int64_t pitch) const {
    if (indexed) return gather_indexed(source, first, count, to, pitch);
    const int64_t width = vectors_for<A>(columns) * kLanes<A>;
    for (int64_t row = 0; width > columns && row < count; ++row) {
      store(to + row * pitch + width - kLanes<A>, Vec<A>{});
    }
    if (shape.taps() == 1) return gather_segments(source, first, count, to, pitch);
    const Walk* walk = shape.walk;
    const int64_t taps_w = walk[2].tap_count, taps_h = walk[1].tap_count;
    int64_t tw = first % taps_w, rest = first / taps_w;
    for (int64_t row = 0; row < count; ++rest, tw = 0) {
      const int64_t run = taps_w - tw < count - row ? taps_w - tw : count - row;
      const int64_t th = rest % taps_h;
      const int64_t td = rest / taps_h % walk[0].tap_count;
      const T* channel = source + rest / taps_h / walk[0].tap_count * strides.channel;
      for (int64_t s = 0; s < segment_count; ++s) {
        const Segment& segment = segments[s];
        A* block = to + row * pitch + segment.column;
        const int64_t line = line_offset(segment, td, th);
        if (line < 0) {
          for (int64_t t = 0; t < run; ++t) fill(block + t * pitch, segment.length, A(0));
          continue;
        }
        if (reads_patches(segment, tw, run)) {
          gather_patches(channel + line + segment.width * walk[2].step + walk[2].taps[tw].offset,
                         walk[2].step, segment.length, run, block, pitch);
          continue;
        }
        for (int64_t t = 0; t < run; ++t) {
          gather_run(walk[2], inside[tw + t], walk[2].taps[tw + t].offset, segment.width,
                     segment.length, channel + line, strides.axis[2], block + t * pitch);
        }
      }
      row += run;
    }
  }

 private:
  /// Matrix rows of 1x1 kernels, those of a segment after those of the one before: where they start
  /// is worked out once for all channels.
  void gather_segments(const T* source, int64_t first, int64_t count, A* to, int64_t pitch) const {
    const Walk& walk = shape.walk[2];
    const int64_t step = walk.step * strides.axis[2], near = step <= 4 ? step : 0;
    for (int64_t s = 0; s < segment_count; ++s) {
      const Segment& segment = segments[s];
      const int64_t line = line_offset(segment, 0, 0);
      const T* from = source + first * strides.channel + line;
      const T* ahead = from + kChannelsAhead * strides.channel + segment.width * step;
      A* block = to + segment.column;
      for (int64_t row = 0; row < count; ++row, block += pitch) {
        if (line < 0) {
          fill(block, segment.length, A(0));
          continue;
        }
        for (int64_t i = 0; i < segment.length * near; i += 64 / int64_t(sizeof(T))) {
          __builtin_prefetch(ahead + i);
        }
        gather_run(walk, inside[0], walk.taps[0].offset, segment.width, segment.length, from,
                   strides.axis[2], block);
        from += strides.channel, ahead += strides.channel;
      }
    }
  }

  /// Where the source row starts that a segment reads for these taps; -1 for padding.
  int64_t line_offset(const Segment& segment, int64_t td, int64_t th) const {
    const Walk* walk = shape.walk;
    const int64_t d = walk[0].resolve(segment.position[0] * walk[0].step + walk[0].taps[td].offset);
    const int64_t h = walk[1].resolve(segment.position[1] * walk[1].step + walk[1].taps[th].offset);
    if (d < 0 || h < 0) return -1;
    return segment.batch * strides.batch + d * strides.axis[0] + h * strides.axis[1];
  }

  /// Whether the taps [first, first + count) of the width read runs of neighbours for a segment,
  /// all inside the source.
  bool reads_patches(const Segment& segment, int64_t first, int64_t count) const {
    const Walk& walk = shape.walk[2];
    if (walk.step < kMinPatchStep || count < kMinPatchTaps || strides.axis[2] != 1) return false;
    for (int64_t t = first; t < first + count; ++t) {
      if (walk.taps[t].offset != walk.taps[first].offset + t - first) return false;
    }
    const Inside *low = &inside[first], *high = &inside[first + count - 1];
    return segment.width >= low->begin && segment.width + segment.length <= high->end;
  }

  void fill_index() {
    const Walk* walk = shape.walk;
    const int64_t pitch = vectors_for<A>(columns) * kLanes<A>;
    int32_t* row = index;
    for (int64_t td = 0; td < walk[0].tap_count; ++td) {
      for (int64_t th = 0; th < walk[1].tap_count; ++th) {
        for (int64_t tw = 0; tw < walk[2].tap_count; ++tw, row += pitch) {
          for (int64_t s = 0; s < segment_count; ++s) {
            const Segment& segment = segments[s];
            const int64_t line = line_offset(segment, td, th);
            int64_t x = segment.width * walk[2].step + walk[2].taps[tw].offset;
            for (int64_t i = 0; i < segment.length; ++i, x += walk[2].step) {
              const int64_t position = walk[2].resolve(x);
              const bool reads = line >= 0 && position >= 0;
              row[segment.column + i] = reads ? int32_t(line + position * strides.axis[2]) : -1;
            }
          }
          for (int64_t i = columns; i < pitch; ++i) row[i] = -1;
        }
      }
    }
  }

  void gather_indexed(const T* source, int64_t first, int64_t count, A* to, int64_t pitch) const {
    constexpr int lanes = kLanes<A>;
    const int64_t taps = shape.taps(), width = vectors_for<A>(columns) * lanes;
    int64_t tap = first % taps;
    const T* channel = source + first / taps * strides.channel;
    for (int64_t row = 0; row < count; ++row, to += pitch) {
      const int32_t* at = index + tap * width;
      for (int64_t i = 0; i < width; i += lanes) store(to + i, load_indexed(channel, at + i));
      if (++tap == taps) {
        tap = 0;
        channel += strides.channel;
      }
    }
  }
};

/// Fills `inside` for each tap of the width.
inline void find_inside(const Walk& walk, Inside* inside) {
  for (int64_t t = 0; t < walk.tap_count; ++t) {
    inside[t] = {walk.inside_begin(walk.taps[t].offset), walk.inside_end(walk.taps[t].offset)};
  }
}
