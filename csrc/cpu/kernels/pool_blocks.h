// Pooling of (N, C, D, H, W) where vectors along W do badly, since rows are short or windows lie
// irregularly or far apart: planes are transposed, so that vectors run across planes.
//
// An item is a box of destinations (outputs, or inputs for a gradient) in a register's worth of
// planes. The sources under it are transposed into scratch, [pixel][plane], where any window is a
// matter of whole registers, whatever its stride or dilation. They are reduced along W first, each
// source row once for all windows that it lies in, and then across rows; both are runs of
// registers that neighbour each other in cache. Results are transposed back. The order of a maximum
// is that of memory, so places come out as torch's do: the first of the equal, the last NaN.

/// Destinations or sources [begin, end) along each axis.
struct Box {
  int64_t begin[3];
  int64_t end[3];

  int64_t size(int axis) const { return end[axis] - begin[axis]; }
  int64_t rows() const { return size(0) * size(1); }
  int64_t pixels() const { return rows() * size(2); }
  /// Number of the row (z, y) among those of the box.
  int64_t row(int64_t z, int64_t y) const { return (z - begin[0]) * size(1) + y - begin[1]; }
};

/// Calls f(first pixel in the plane, first pixel in the box, pixels) for the runs of neighbouring
/// pixels of a plane that a box consists of.
template <class F>
inline void for_each_box_run(const Box& box, int64_t height, int64_t width, const F& f) {
  int64_t rows = 1;  // in a run
  if (box.size(2) == width) rows = box.size(1) == height ? box.rows() : box.size(1);
  for (int64_t row = 0; row < box.rows(); row += rows) {
    const int64_t z = box.begin[0] + row / box.size(1), y = box.begin[1] + row % box.size(1);
    f((z * height + y) * width + box.begin[2], row * box.size(2), rows * box.size(2));
  }
}

/// What an item works on: a box in neighbouring planes, and the sources under it.
struct PoolBlock {
  int64_t plane, planes;
  Box to, from;

  /// Item number `item` of the problem in registers of `lanes` planes.
  PoolBlock(const PoolProblem& p, int64_t lanes, int64_t item) {
    int64_t tile[3], tiles[3];
    for (int i = 0; i < 3; ++i) {
      tiles[i] = (spans_of(p, i).to - 1) / p.cut.tile[i] + 1;
    }
    for (int i = 2; i >= 0; --i) {
      tile[i] = item % tiles[i];
      item /= tiles[i];
    }
    plane = item * lanes;
    planes = least(lanes, p.batch * p.channels - plane);
    for (int i = 0; i < 3; ++i) {
      const PoolSpans spans = spans_of(p, i);
      to.begin[i] = tile[i] * p.cut.tile[i];
      to.end[i] = least(to.begin[i] + p.cut.tile[i], spans.to);
      spans.hull(to.begin[i], to.end[i], &from.begin[i], &from.end[i]);
    }
  }

  static int64_t items(const PoolProblem& p, int64_t lanes) {
    int64_t items = (p.batch * p.channels - 1) / lanes + 1;
    for (int i = 0; i < 3; ++i) items *= (spans_of(p, i).to - 1) / p.cut.tile[i] + 1;
    return items;
  }
};

/// Registers [pixel] of planes `plane` apart, out of the first `count` pixels from `from` on.
template <class T>
inline void load_square(const T* from, int64_t plane, int64_t planes, int64_t count,
                        Compute<T>* to) {
  constexpr int kCount = kLanes<Compute<T>>;
  Vec<Compute<T>> square[kCount];
  if (planes == kCount && count == kCount) {
#pragma GCC unroll 16
    for (int c = 0; c < kCount; ++c) square[c] = load_compute(from + c * plane);
    transpose<Compute<T>>(square);
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) store(to + i * kCount, square[i]);
    return;
  }
#pragma GCC unroll 16
  for (int c = 0; c < kCount; ++c) {
    square[c] = c < planes ? load_first(from + c * plane, count) : Vec<Compute<T>>{};
  }
  transpose<Compute<T>>(square);
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) {
    if (i < count) store(to + i * kCount, square[i]);
  }
}

/// The way back: `store_run(to, register, count)` stores the first lanes of a register, which are
/// pixels of one plane.
template <class Lane, class Out, class StoreRun>
inline void store_square(const Lane* from, int64_t count, Out* to, int64_t plane, int64_t planes,
                         const StoreRun& store_run) {
  constexpr int kCount = kLanes<Lane>;
  Vec<Lane> square[kCount];
  if (planes == kCount && count == kCount) {
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i) square[i] = load(from + i * kCount);
    transpose<Lane>(square);
#pragma GCC unroll 16
    for (int c = 0; c < kCount; ++c) store_run(to + c * plane, square[c], kCount);
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kCount; ++i) square[i] = i < count ? load(from + i * kCount) : Vec<Lane>{};
  transpose<Lane>(square);
#pragma GCC unroll 16
  for (int c = 0; c < kCount; ++c) {
    if (c < planes) store_run(to + c * plane, square[c], count);
  }
}

/// Transposes the sources of a block out of `tensor`.
template <class T>
void load_block(const PoolProblem& p, const PoolBlock& block, const T* tensor, Compute<T>* to) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const int64_t height = spans_of(p, 1).from, width = spans_of(p, 2).from;
  const int64_t plane = spans_of(p, 0).from * height * width;
  for_each_box_run(block.from, height, width, [&](int64_t first, int64_t at, int64_t count) {
    const T* from = tensor + block.plane * plane + first;
    for (int64_t i = 0; i < count; i += kCount) {
      load_square<T>(from + i, plane, block.planes, least(kCount, count - i),
                     to + (at + i) * kCount);
    }
  });
}

/// The way back for the destinations.
template <class Lane, class Out, class StoreRun>
void store_block(const PoolProblem& p, const PoolBlock& block, const Lane* from, Out* tensor,
                 const StoreRun& store_run) {
  constexpr int64_t kCount = kLanes<Lane>;
  const int64_t height = spans_of(p, 1).to, width = spans_of(p, 2).to;
  const int64_t plane = spans_of(p, 0).to * height * width;
  for_each_box_run(block.to, height, width, [&](int64_t first, int64_t at, int64_t count) {
    Out* to = tensor + block.plane * plane + first;
    for (int64_t i = 0; i < count; i += kCount) {
      store_square(from + (at + i) * kCount, least(kCount, count - i), to + i, plane, block.planes,
                   store_run);
    }
  });
}
template <class T>
void store_block(const PoolProblem& p, const PoolBlock& block, const Compute<T>* from, T* tensor) {
  store_block(p, block, from, tensor,
              [](T* to, Vec<Compute<T>> values, int64_t count) { store_first(to, values, count); });
}

/// Memory of a thread for blocks: sources, source rows reduced along W, and destinations; with
/// places, as many numbers beside the last two.
template <class T>
struct BlockMemory {
  Compute<T>*source, *rows, *to;
  Offset<T>*row_places, *places;

  static int64_t bytes(const PoolCut& cut, bool with_places) {
    const int64_t reduced = (cut.rows + cut.to) * (with_places ? 2 : 1);
    return int64_t(sizeof(Compute<T>)) * kLanes<Compute<T>> * (cut.source + reduced);
  }
  BlockMemory(const PoolCut& cut, void* memory) {
    constexpr int64_t kCount = kLanes<Compute<T>>;
    source = static_cast<Compute<T>*>(memory);
    rows = source + cut.source * kCount;
    to = rows + cut.rows * kCount;
    row_places = reinterpret_cast<Offset<T>*>(to + cut.to * kCount);
    places = row_places + cut.rows * kCount;
  }
};

/// Calls f(block, memory) for all items.
template <class T, class F>
void for_each_block(const PoolProblem& p, bool with_places, const F& f) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  parallel_for(PoolBlock::items(p, kCount), grain_of((p.cut.source + p.cut.rows) * kCount),
               [&](int64_t begin, int64_t end) {
                 Scratch scratch(BlockMemory<T>::bytes(p.cut, with_places));
                 const BlockMemory<T> memory(p.cut, scratch.as<void>());
                 for (int64_t item = begin; item < end; ++item) {
                   f(PoolBlock(p, kCount, item), memory);
                 }
               });
}

/// Windows along W that lie inside the input, whose taps are all there: [first, last) of those of a
/// box, which are none where windows lie on no grid.
struct WholeWindows {
  int64_t first, last;

  WholeWindows(const PoolProblem& p, const Box& to) : first(to.end[2]), last(to.end[2]) {
    const PoolWindows& axis = p.axis[2];
    if (p.inverse || axis.stride == 0) return;
    const int64_t reach = (axis.kernel - 1) * axis.dilation;
    first = most(to.begin[2], least(to.end[2], (axis.padding + axis.stride - 1) / axis.stride));
    const int64_t room = axis.input - reach + axis.padding;
    last = room <= 0 ? first : most(first, least(to.end[2], (room - 1) / axis.stride + 1));
  }
};

/// Calls f.operator()<taps>() for small numbers of taps, f.operator()<0>() for others.
template <class F>
inline void with_taps(int64_t taps, const F& f) {
  if (taps == 2) return f.template operator()<2>();
  if (taps == 3) return f.template operator()<3>();
  f.template operator()<0>();
}

/// One source row of a block reduced along W.
template <class T, class Reduction>
void reduce_block_row(const PoolProblem& p, const PoolBlock& block, const WholeWindows& whole,
                      const Compute<T>* source, Compute<T>* to, const Reduction& reduce) {
  using V = Vec<Compute<T>>;
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolSpans spans = spans_of(p, 2);
  const int64_t origin = block.from.begin[2];
  const auto one_by_one = [&](int64_t first, int64_t last) {
    for (int64_t w = first; w < last; ++w, to += kCount) {
      int64_t x = spans.begin[w] - origin;
      const int64_t end = spans.end[w] - origin;
      V value = broadcast(Reduction::template identity<T>());
      if (x < end) value = load(source + x * kCount);
      for (x += spans.step; x < end; x += spans.step) {
        value = reduce(value, load(source + x * kCount));
      }
      store(to, value);
    }
  };
  one_by_one(block.to.begin[2], whole.first);
  if (whole.first < whole.last) {
    const PoolWindows& axis = p.axis[2];
    with_taps(axis.kernel, [&]<int kTaps>() {
      const Compute<T>* from = source + (axis.start(whole.first) - origin) * kCount;
      const int64_t taps = kTaps > 0 ? kTaps : axis.kernel, step = axis.dilation * kCount;
      for (int64_t w = whole.first; w < whole.last; ++w, to += kCount) {
        V value = load(from);
        for (int64_t tap = 1; tap < taps; ++tap) value = reduce(value, load(from + tap * step));
        store(to, value);
        from += axis.stride * kCount;
      }
    });
  }
  one_by_one(whole.last, block.to.end[2]);
}

/// Calls f.operator()<registers>(column) for a row of columns, some at a time.
template <class F>
inline void for_each_column_run(int64_t columns, const F& f) {
  int64_t w = 0;
  for (; w + 4 <= columns; w += 4) f.template operator()<4>(w);
  for (; w < columns; ++w) f.template operator()<1>(w);
}

/// Reduces the source rows of a block along W, and those rows to destinations. `finish_for(d, h)`
/// gives a function that turns a register of reduced values of column w into results.
template <class T, class Reduction, class FinishFor>
void reduce_block(const PoolProblem& p, const PoolBlock& block, const BlockMemory<T>& memory,
                  const Reduction& reduce, const FinishFor& finish_for) {
  using V = Vec<Compute<T>>;
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const Box &from = block.from, &to = block.to;
  const int64_t columns = to.size(2);
  const WholeWindows whole(p, to);
  for (int64_t row = 0; row < from.rows(); ++row) {
    reduce_block_row<T>(p, block, whole, memory.source + row * from.size(2) * kCount,
                        memory.rows + row * columns * kCount, reduce);
  }
  SourceRows rows;
  const auto row_of = [&](int64_t z, int64_t y) { return from.row(z, y); };
  Compute<T>* result = memory.to;
  for (int64_t d = to.begin[0]; d < to.end[0]; ++d) {
    for (int64_t h = to.begin[1]; h < to.end[1]; ++h, result += columns * kCount) {
      rows.find(p, d, h, row_of, [](int64_t, int64_t) { return 0; });
      const auto finish = finish_for(d, h);
      for_each_column_run(columns, [&]<int kVectors>(int64_t w) {
        V value[kVectors];
        for (V& v : value) v = broadcast(Reduction::template identity<T>());
        for (int64_t r = 0; r < rows.count; ++r) {
          const Compute<T>* next = memory.rows + (rows.row[r] * columns + w) * kCount;
#pragma GCC unroll 4
          for (int i = 0; i < kVectors; ++i) value[i] = reduce(value[i], load(next + i * kCount));
        }
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) {
          store(result + (w + i) * kCount, finish(value[i], to.begin[2] + w + i));
        }
      });
    }
  }
}

/// All blocks of a pooling without places.
template <class T, class Reduction, class FinishFor>
void reduce_blocks(const PoolProblem& p, const T* input, T* output, const Reduction& reduce,
                   const FinishFor& finish_for) {
  for_each_block<T>(p, false, [&](const PoolBlock& block, const BlockMemory<T>& memory) {
    load_block(p, block, input, memory.source);
    reduce_block<T>(p, block, memory, reduce, finish_for);
    store_block<T>(p, block, memory.to, output);
  });
}

/// The same for maxima with their places: the number of the tap in a byte, or the int64 position in
/// the plane. Reduced rows keep where along W their maxima are, which the second step completes.
template <class T, class Place>
void max_block(const PoolProblem& p, const PoolBlock& block, const BlockMemory<T>& memory) {
  using V = Vec<Compute<T>>;
  using O = Vec<Offset<T>>;
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolWindows &depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];
  const Box &from = block.from, &to = block.to;
  const int64_t columns = to.size(2);
  const WholeWindows whole(p, to);
  // What places along W count from, of window w.
  const auto origin = [&](int64_t w) { return kIsTap<Place> ? width.start(w) : from.begin[2]; };
  for (int64_t row = 0; row < from.rows(); ++row) {
    const Compute<T>* source = memory.source + row * from.size(2) * kCount;
    int64_t i = row * columns * kCount;
    // Taps from column x on, the first of which is number `place`, `step` apart.
    const auto reduce = [&](int64_t x, int64_t taps, int64_t place, int64_t step) {
      const Compute<T>* tap = source + (x - from.begin[2]) * kCount;
      V best = broadcast(lowest<T>());
      O at = broadcast(Offset<T>(place));
      if (taps > 0) best = load(tap);
      for (int64_t t = 1; t < taps; ++t) {
        tap += width.dilation * kCount;
        place += step;
        const V value = load(tap);
        const auto wins = Maximum::wins(value, best);
        best = wins ? value : best;
        at = wins ? broadcast(Offset<T>(place)) : at;
      }
      store(memory.rows + i, best);
      store(memory.row_places + i, at);
      i += kCount;
    };
    const auto one_by_one = [&](int64_t first, int64_t last) {
      for (int64_t w = first; w < last; ++w) {
        const int64_t x = width.begin[w];
        reduce(x, taps_of(width, w), x - origin(w), width.dilation);
      }
    };
    one_by_one(to.begin[2], whole.first);
    with_taps(width.kernel, [&]<int kTaps>() {
      for (int64_t w = whole.first; w < whole.last; ++w) {
        const int64_t x = width.start(w);
        reduce(x, kTaps > 0 ? kTaps : width.kernel, x - origin(w), width.dilation);
      }
    });
    one_by_one(whole.last, to.end[2]);
  }
  const auto place_of_row = [&](int64_t d, int64_t h, int64_t z, int64_t y) {
    if (kIsTap<Place>) return tap_of_row(p, d, h, z, y);
    return ((z - from.begin[0]) * height.input + y - from.begin[1]) * width.input;
  };
  SourceRows rows;
  const auto row_of = [&](int64_t z, int64_t y) { return from.row(z, y); };
  int64_t result = 0;
  for (int64_t d = to.begin[0]; d < to.end[0]; ++d) {
    for (int64_t h = to.begin[1]; h < to.end[1]; ++h, result += columns * kCount) {
      rows.find(p, d, h, row_of, [&](int64_t z, int64_t y) { return place_of_row(d, h, z, y); });
      const int64_t corner = place_of_row(d, h, depth.begin[d], height.begin[h]);
      for_each_column_run(columns, [&]<int kVectors>(int64_t w) {
        V best[kVectors];
        O at[kVectors];
        for (int i = 0; i < kVectors; ++i) {
          best[i] = broadcast(lowest<T>());
          const int64_t o = to.begin[2] + w + i;
          at[i] = broadcast(Offset<T>(corner + width.begin[o] - origin(o)));
        }
        for (int64_t r = 0; r < rows.count; ++r) {
          const int64_t next = (rows.row[r] * columns + w) * kCount;
          const O row = broadcast(Offset<T>(rows.place[r]));
#pragma GCC unroll 4
          for (int i = 0; i < kVectors; ++i) {
            const V value = load(memory.rows + next + i * kCount);
            const O place = load(memory.row_places + next + i * kCount) + row;
            const auto wins = Maximum::wins(value, best[i]);
            best[i] = wins ? value : best[i];
            at[i] = wins ? place : at[i];
          }
        }
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) {
          store(memory.to + result + (w + i) * kCount, best[i]);
          store(memory.places + result + (w + i) * kCount, at[i]);
        }
      });
    }
  }
}

/// All blocks of a max pooling with places.
template <class T, class Place>
void max_blocks(const PoolProblem& p, const T* input, T* output, Place* places) {
  for_each_block<T>(p, true, [&](const PoolBlock& block, const BlockMemory<T>& memory) {
    load_block(p, block, input, memory.source);
    max_block<T, Place>(p, block, memory);
    store_block<T>(p, block, memory.to, output);
    const Box& from = block.from;
    const int64_t origin =
        (from.begin[0] * p.axis[1].input + from.begin[1]) * p.axis[2].input + from.begin[2];
    store_block(p, block, memory.places, places, [=](Place* to, Vec<Offset<T>> at, int64_t count) {
      store_places<T>(to, at, origin, count);
    });
  });
}
