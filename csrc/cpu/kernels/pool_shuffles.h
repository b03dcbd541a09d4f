// Pooling of (N, C, D, H, W) by rows whose windows are picked out of registers with shuffles.
//
// A chunk is a run of destinations of a row (outputs, or inputs for a gradient), a register at
// most, whose sources lie in two neighbouring registers. The source rows under them are reduced to
// these two first, and then tap after tap is shuffled out of them, whatever the stride, the
// dilation or the kind of windows: two loads a row and a shuffle a tap serve up to a register of
// windows, nothing goes through memory in between, and a row of any length is as good as any other.
// On a grid all chunks share one table of lanes; adaptive windows have one for each chunk.

/// Destinations [first, first + count) of a row, and where the two registers of sources begin.
struct PoolChunk {
  int64_t first, count;
  int64_t origin;
  int64_t table;  // of lanes
};

/// How a row is cut into chunks, and which lane of the sources is tap t of each destination: -1
/// where it has no such tap.
template <class T>
struct RowShuffles {
  static constexpr int64_t kCount = kLanes<Compute<T>>;
  PoolChunks cut;
  PoolSpans spans;
  const Offset<T>* lanes;
  const int64_t* origins;  // first destination and origin of each chunk, where they differ
  bool all_taps;           // has every destination all taps?

  static int64_t bytes(const PoolChunks& cut) {
    const int64_t tables = cut.regular ? 1 : cut.chunks;
    return tables * (cut.taps * kCount * int64_t(sizeof(Offset<T>)) + 2 * int64_t(sizeof(int64_t)));
  }

  RowShuffles(const PoolProblem& p, void* memory) : cut(p.chunks), spans(spans_of(p, 2)) {
    const int64_t tables = cut.regular ? 1 : cut.chunks;
    Offset<T>* to = static_cast<Offset<T>*>(memory);
    lanes = to;
    int64_t* chunk = reinterpret_cast<int64_t*>(to + tables * cut.taps * kCount);
    origins = chunk;
    all_taps = cut.regular && !p.inverse;
    if (cut.regular) {
      for (int64_t tap = 0; tap < cut.taps; ++tap) {
        for (int64_t lane = 0; lane < kCount; ++lane) {
          *to++ = Offset<T>(lane < cut.count ? lane_of(p, tap, lane) : 0);
        }
      }
      return;
    }
    for (int64_t first = 0, last; first < spans.to; first = last, chunk += 2) {
      int64_t origin, end;
      last = first + chunk_of(spans, first, kCount, &origin, &end);
      origin = least(origin, most(0, spans.from - cut.reach));  // and nothing lies beyond the row
      chunk[0] = first;
      chunk[1] = origin;
      for (int64_t tap = 0; tap < cut.taps; ++tap) {
        for (int64_t lane = 0; lane < kCount; ++lane) {
          const int64_t o = first + lane, x = o < last ? spans.begin[o] + tap * spans.step : 0;
          *to++ = Offset<T>(o >= last ? 0 : x < spans.end[o] ? x - origin : -1);
        }
      }
    }
  }

  PoolChunk chunk(int64_t c) const {
    if (cut.regular) {
      const int64_t first = c * cut.count;
      return {first, least(cut.count, spans.to - first), cut.origin + c * cut.step, 0};
    }
    const int64_t first = origins[2 * c];
    const int64_t last = c + 1 < cut.chunks ? origins[2 * c + 2] : spans.to;
    return {first, last - first, origins[2 * c + 1], c * cut.taps * kCount};
  }
};

/// The two registers of sources of a chunk, of one source row or of several.
template <class T>
struct Sources {
  Vec<Compute<T>> low, high;

  /// Tap t of each destination, `none` where there is none.
  template <bool kAllTaps>
  Vec<Compute<T>> pick(Vec<Offset<T>> lanes, Compute<T> none) const {
    const Vec<Compute<T>> picked = __builtin_shuffle(low, high, lanes);
    if constexpr (kAllTaps) return picked;
    return lanes < 0 ? broadcast(none) : picked;
  }
};

/// Reads the sources of a chunk; those outside the row count as `padding`. Where windows do not
/// leave the row, what is read beyond it is not used, and need not be replaced.
template <class T>
class SourceReader {
 public:
  static constexpr int64_t kCount = kLanes<Compute<T>>;

  SourceReader(const RowShuffles<T>& rows, const PoolChunk& chunk, Readable<T> readable,
               Compute<T> padding)
      : readable_(readable),
        padding_(padding),
        width_(rows.spans.from),
        origin_(chunk.origin),
        two_(rows.cut.reach > kCount),
        plain_(chunk.origin >= 0 && chunk.origin + rows.cut.reach <= width_) {}

  /// Does it read neither beyond the row, where that matters, nor beyond the tensor?
  bool plain(const T* row) const {
    return plain_ && row + origin_ + (two_ ? 2 : 1) * kCount <= readable_.end;
  }
  Sources<T> read_plain(const T* row) const {
    Sources<T> from;
    from.low = load_compute(row + origin_);
    from.high = two_ ? load_compute(row + origin_ + kCount) : from.low;
    return from;
  }
  Sources<T> read(const T* row) const {
    if (plain(row)) return read_plain(row);
    Sources<T> from;
    from.low = load_columns(row, readable_, width_, origin_, padding_);
    from.high = two_ ? load_columns(row, readable_, width_, origin_ + kCount, padding_) : from.low;
    return from;
  }

 private:
  Readable<T> readable_;
  Compute<T> padding_;
  int64_t width_, origin_;
  bool two_, plain_;
};

/// Leaves sources as they are.
struct Unscaled {
  static int64_t row(int64_t, int64_t) { return 0; }
  template <class T>
  void operator()(Sources<T>*, int64_t, int64_t) const {}
};

/// One destination row. `scale(sources, place of their row, origin)` changes what is read,
/// `finish(values, destination)` what comes out.
template <class T, bool kAllTaps, class Reduction, class Scale, class Finish>
void reduce_row_by_shuffles(const RowShuffles<T>& shuffles, Readable<T> readable, const T* plane,
                            const SourceRows& rows, T* output, const Reduction& reduce,
                            const Scale& scale, const Finish& finish) {
  using V = Vec<Compute<T>>;
  constexpr int64_t kCount = kLanes<Compute<T>>;
  constexpr Compute<T> kIdentity = Reduction::template identity<T>();
  for (int64_t c = 0; c < shuffles.cut.chunks; ++c) {
    const PoolChunk chunk = shuffles.chunk(c);
    const SourceReader<T> reader(shuffles, chunk, readable, kIdentity);
    Sources<T> all{broadcast(kIdentity), broadcast(kIdentity)};
    for (int64_t r = 0; r < rows.count; ++r) {
      Sources<T> next = reader.read(plane + rows.row[r]);
      scale(&next, rows.place[r], chunk.origin);
      all.low = reduce(all.low, next.low);
      all.high = reduce(all.high, next.high);
    }
    const Offset<T>* lanes = shuffles.lanes + chunk.table;
    V value = all.template pick<kAllTaps>(load(lanes), kIdentity);
    for (int64_t tap = 1; tap < shuffles.cut.taps; ++tap) {
      value = reduce(value, all.template pick<kAllTaps>(load(lanes + tap * kCount), kIdentity));
    }
    store_first(output + chunk.first, finish(value, chunk.first), chunk.count);
  }
}

/// The same for maxima with their places, of output row (d, h).
template <class T, bool kAllTaps, class Place>
void max_row_by_shuffles(const PoolProblem& p, const RowShuffles<T>& shuffles, Readable<T> readable,
                         const T* plane, const SourceRows& rows, int64_t d, int64_t h, T* output,
                         Place* places) {
  using V = Vec<Compute<T>>;
  using O = Vec<Offset<T>>;
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolWindows& axis = p.axis[2];
  for (int64_t c = 0; c < shuffles.cut.chunks; ++c) {
    const PoolChunk chunk = shuffles.chunk(c);
    const SourceReader<T> reader(shuffles, chunk, readable, lowest<T>());
    const Offset<T>* lanes = shuffles.lanes + chunk.table;
    // Places count from the first row and, positions, from the origin of the chunk.
    V best = broadcast(lowest<T>());
    O at = load(lanes);
    if constexpr (kIsTap<Place>) at = O{};
    if (chunk.origin < 0) {
      alignas(CNNOPS_VECTOR_BYTES) Offset<T> begin[kCount] = {};
      for (int64_t i = 0; i < chunk.count; ++i) {
        const int64_t o = chunk.first + i;
        begin[i] = Offset<T>(axis.begin[o] - (kIsTap<Place> ? axis.start(o) : chunk.origin));
      }
      at = load(begin);
    }
    if (kIsTap<Place> && rows.count > 0) at += broadcast(Offset<T>(rows.place[0]));
    for (int64_t r = 0; r < rows.count; ++r) {
      const Sources<T> from = reader.read(plane + rows.row[r]);
      for (int64_t tap = 0; tap < shuffles.cut.taps; ++tap) {
        const O lane = load(lanes + tap * kCount);
        const V value = from.template pick<kAllTaps>(lane, lowest<T>());
        const auto wins = Maximum::wins(value, best);
        O place = broadcast(Offset<T>(rows.place[r] + (kIsTap<Place> ? tap : 0)));
        if constexpr (!kIsTap<Place>) place += lane;
        best = wins ? value : best;
        at = wins ? place : at;
      }
    }
    store_first(output + chunk.first, best, chunk.count);
    store_places<T>(places + chunk.first, at, corner_of(p, d, h) + chunk.origin, chunk.count);
  }
}

/// Calls f(shuffles, destination row, d, h, plane) for all destination rows of a problem.
template <class T, class F>
void for_each_shuffled_row(const PoolProblem& p, int64_t work, const F& f) {
  const int64_t depth = spans_of(p, 0).to, height = spans_of(p, 1).to, width = spans_of(p, 2).to;
  const Scratch tables(RowShuffles<T>::bytes(p.chunks));
  const RowShuffles<T> shuffles(p, tables.as<void>());
  parallel_for(p.batch * p.channels * depth * height, grain_of(width * work),
               [&](int64_t begin, int64_t end) {
                 Row row(depth, height, begin);
                 for (int64_t r = begin; r < end; ++r, row.advance(depth, height)) {
                   f(shuffles, r, row);
                 }
               });
}

/// Offset in its plane of source row (z, y).
inline int64_t source_row(const PoolProblem& p, int64_t z, int64_t y) {
  return (z * spans_of(p, 1).from + y) * spans_of(p, 2).from;
}
inline int64_t source_plane(const PoolProblem& p) { return source_row(p, spans_of(p, 0).from, 0); }

/// All rows of a pooling without places. `scale.row(z, y)` is a number of a source row that
/// `scale(sources, number, origin)` gets; `finish_for(d, h)` gives what finishes a destination row.
template <class T, class Reduction, class Scale, class FinishFor>
void reduce_rows_by_shuffles(const PoolProblem& p, int64_t work, const T* from, T* to,
                             const Reduction& reduce, const Scale& scale,
                             const FinishFor& finish_for) {
  const int64_t plane = source_plane(p), width = spans_of(p, 2).to;
  const Readable<T> readable{from, from + p.batch * p.channels * plane};
  for_each_shuffled_row<T>(p, work, [&](const RowShuffles<T>& shuffles, int64_t r, const Row& row) {
    SourceRows rows;
    rows.find(
        p, row.d, row.h, [&](int64_t z, int64_t y) { return source_row(p, z, y); },
        [&](int64_t z, int64_t y) { return scale.row(z, y); });
    const auto run = [&]<bool kAllTaps>() {
      reduce_row_by_shuffles<T, kAllTaps>(shuffles, readable, from + row.outer * plane, rows,
                                          to + r * width, reduce, scale, finish_for(row.d, row.h));
    };
    if (shuffles.all_taps) return run.template operator()<true>();
    run.template operator()<false>();
  });
}

/// All rows of a max pooling with places.
template <class T, class Place>
void max_rows_by_shuffles(const PoolProblem& p, const T* input, T* output, Place* places) {
  const int64_t plane = input_plane(p), width = p.axis[2].output;
  const Readable<T> readable{input, input + p.batch * p.channels * plane};
  for_each_shuffled_row<T>(
      p, work_of(p), [&](const RowShuffles<T>& shuffles, int64_t r, const Row& row) {
        SourceRows rows;
        const int64_t corner = corner_of(p, row.d, row.h);
        rows.find(
            p, row.d, row.h, [&](int64_t z, int64_t y) { return source_row(p, z, y); },
            [&](int64_t z, int64_t y) {
              return kIsTap<Place> ? tap_of_row(p, row.d, row.h, z, y)
                                   : source_row(p, z, y) - corner;
            });
        const auto run = [&]<bool kAllTaps>() {
          max_row_by_shuffles<T, kAllTaps>(p, shuffles, readable, input + row.outer * plane, rows,
                                           row.d, row.h, output + r * width, places + r * width);
        };
        if (shuffles.all_taps) return run.template operator()<true>();
        run.template operator()<false>();
      });
}
