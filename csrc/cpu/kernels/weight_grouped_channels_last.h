// Weight gradient in groups of equally many (1, 2, 4 or 8) source and destination channels, vectors
// along channels; lanes and shuffles as in grouped_channels_last.
//
// An item is one register of channels and a fixed share of the images, which it walks over row by
// row, so that what the rows of a kernel share is still in cache. A few taps of a kernel row keep
// their sums, one register for each source channel of a group, in registers along the row; pixels
// whose taps all read inside the source run without checks. Sums are closed for every image, so
// that long reductions lose no more than short ones; shares are added in order.

/// Taps whose sums are kept in registers together, by the channels of a group.
constexpr int grouped_taps(int64_t group) { return group == 1 ? kTapsAtOnce : group <= 4 ? 3 : 1; }

/// sum[c] += grad * source channel c of the group, for channels kChannel and on.
template <class A, int kGroup, int kChannel>
inline void correlate_channels(Vec<A> grad, Vec<A> x, Vec<A> (&sum)[kGroup]) {
  sum[kChannel] += grad * spread<A, kGroup, kChannel>(x);
  if constexpr (kChannel + 1 < kGroup) correlate_channels<A, kGroup, kChannel + 1>(grad, x, sum);
}

/// Adds grad * source over destination pixels of one row to the sums of kTaps taps, [tap][source
/// channel][lanes]; with kPartial of the first `count` channels.
template <class T, int kGroup, int kTaps, bool kPartial>
inline void correlate_pixels(const Walk& walk, int64_t first_tap, const T* grad, int64_t grad_pixel,
                             const T* line, int64_t source_pixel, int64_t count,
                             Accumulator<T>* sums) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const auto read = [count](const T* from) {
    return kPartial ? load_partial(from, count) : load_wide(from);
  };
  Vec<A> sum[kTaps][kGroup];
  int64_t offset[kTaps];
  int64_t begin = 0, end = walk.count;
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
    for (int c = 0; c < kGroup; ++c) sum[t][c] = load(sums + (t * kGroup + c) * lanes);
    offset[t] = walk.taps[first_tap + t].offset;
    const int64_t from = walk.inside_begin(offset[t]), until = walk.inside_end(offset[t]);
    begin = from > begin ? from : begin;
    end = until < end ? until : end;
  }
  if (end < begin) end = begin;
  const auto border = [&](int64_t from, int64_t until) {
    for (int64_t w = from; w < until; ++w) {
      const Vec<A> g = read(grad + w * grad_pixel);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        const int64_t x = walk.resolve(w * walk.step + offset[t]);
        if (x >= 0) correlate_channels<A, kGroup, 0>(g, read(line + x * source_pixel), sum[t]);
      }
    }
  };
  border(0, begin);
  for (int64_t w = begin; w < end; ++w) {
    const Vec<A> g = read(grad + w * grad_pixel);
    const T* from = line + w * walk.step * source_pixel;
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
      correlate_channels<A, kGroup, 0>(g, read(from + offset[t] * source_pixel), sum[t]);
    }
  }
  border(end, walk.count);
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
    for (int c = 0; c < kGroup; ++c) store(sums + (t * kGroup + c) * lanes, sum[t][c]);
  }
}

/// The same for all taps of a kernel row.
template <class T, int kGroup, bool kPartial>
inline void correlate_row_taps(const Walk& walk, const T* grad, int64_t grad_pixel, const T* line,
                               int64_t source_pixel, int64_t count, Accumulator<T>* sums) {
  constexpr int several = grouped_taps(kGroup);
  constexpr int few = several < 3 ? several : 3;
  constexpr int sums_of_tap = kGroup * kLanes<Accumulator<T>>;
  int64_t tap = 0;
  for (; tap + several <= walk.tap_count; tap += several) {
    correlate_pixels<T, kGroup, several, kPartial>(walk, tap, grad, grad_pixel, line, source_pixel,
                                                   count, sums + tap * sums_of_tap);
  }
  for (; tap + few <= walk.tap_count; tap += few) {
    correlate_pixels<T, kGroup, few, kPartial>(walk, tap, grad, grad_pixel, line, source_pixel,
                                               count, sums + tap * sums_of_tap);
  }
  for (; tap < walk.tap_count; ++tap) {
    correlate_pixels<T, kGroup, 1, kPartial>(walk, tap, grad, grad_pixel, line, source_pixel, count,
                                             sums + tap * sums_of_tap);
  }
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGroupedChannelsLastBlocking {
  using A = Accumulator<T>;
  int64_t pieces, piece_sums, set;  // registers of channels, sums of one, of all
  int64_t splits, images;           // shares of the batch, images of one
  int64_t tile_rows;                // sums of a register of channels that stay in registers
  int64_t sum_bytes, table_bytes;   // of the call
  int64_t buffer_bytes;             // of each thread

  explicit WeightGroupedChannelsLastBlocking(const WeightContraction<T>& p) {
    pieces = ceil_div(p.groups * p.depth, kLanes<A>);
    piece_sums = p.taps() * p.depth * kLanes<A>;
    set = pieces * piece_sums;
    splits = choose_splits(pieces, p.batch, sizeof(A) * set);
    images = ceil_div(p.batch, splits);
    sum_bytes = sizeof(A) * splits * set;
    table_bytes = sizeof(int64_t) * p.taps();
    buffer_bytes = sizeof(A) * piece_sums;
    const int64_t taps_w = p.walk[2].tap_count, most = grouped_taps(p.depth);
    tile_rows = (taps_w < most ? taps_w : most) * p.depth;
  }

  Footprint footprint() const {
    return {tile_rows, kLanes<A>, sum_bytes + table_bytes, buffer_bytes};
  }
};

/// Sets `sums` to those of one image: `count` channels, whose source and grad start at `source` and
/// `grad` and have stride 1.
template <class T, int kGroup>
void correlate_image(const WeightContraction<T>& p, const T* grad, const T* source, int64_t count,
                     Accumulator<T>* sums) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  const Walk* walk = p.walk;
  const Strides &of_source = p.source_strides, &of_grad = p.grad_strides;
  const int64_t taps_w = walk[2].tap_count;
  fill(sums, p.taps() * kGroup * lanes, Accumulator<T>(0));
  const auto correlate =
      count == lanes ? correlate_row_taps<T, kGroup, false> : correlate_row_taps<T, kGroup, true>;
  for (int64_t row = 0; row < walk[0].count * walk[1].count; ++row) {
    const int64_t h = row % walk[1].count, d = row / walk[1].count;
    const T* g = grad + d * of_grad.axis[0] + h * of_grad.axis[1];
    Accumulator<T>* of_line = sums;
    for (int64_t td = 0; td < walk[0].tap_count; ++td) {
      const int64_t z = walk[0].resolve(d * walk[0].step + walk[0].taps[td].offset);
      for (int64_t th = 0; th < walk[1].tap_count; ++th, of_line += taps_w * kGroup * lanes) {
        const int64_t y = walk[1].resolve(h * walk[1].step + walk[1].taps[th].offset);
        if (z < 0 || y < 0) continue;
        const T* line = source + z * of_source.axis[0] + y * of_source.axis[1];
        correlate(walk[2], g, of_grad.axis[2], line, of_source.axis[2], count, of_line);
      }
    }
  }
}

/// Adds up correlate(image, first channel, channels, scratch, sums) over the images and stores the
/// sums as weights. The scratch is `extra_bytes` of each thread.
template <class T, int kGroup, class F>
void correlate_groups(const WeightContraction<T>& p, int64_t extra_bytes, const F& correlate) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t taps = p.taps(), channels = p.groups * kGroup;
  const WeightGroupedChannelsLastBlocking<T> blocking(p);
  const int64_t pieces = blocking.pieces, piece_sums = blocking.piece_sums, set = blocking.set;
  const int64_t splits = blocking.splits, images = blocking.images;

  Scratch workspace(blocking.sum_bytes);
  const int64_t grain = ceil_div(kSmallestWork, images * p.pixels() * piece_sums);
  parallel_for(pieces * splits, grain, [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    Scratch extra(extra_bytes);
    A* image_sums = buffer.as<A>();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t piece = item % pieces, split = item / pieces, first = piece * lanes;
      const int64_t count = channels - first < lanes ? channels - first : lanes;
      A* sums = workspace.as<A>() + split * set + piece * piece_sums;
      fill(sums, piece_sums, A(0));
      for (int64_t image = split * images; image < p.batch && image < (split + 1) * images;
           ++image) {
        correlate(image, first, count, extra.as<T>(), image_sums);
        for (int64_t i = 0; i < piece_sums; i += lanes) {
          store(sums + i, load(sums + i) + load(image_sums + i));
        }
      }
    }
  });

  Scratch table(blocking.table_bytes);
  int64_t* offsets = table.as<int64_t>();
  tap_offsets(p, p.dest_strides, offsets);
  for (int64_t channel = 0; channel < channels; ++channel) {
    T* to =
        p.dest + channel / kGroup * p.dest_strides.group + channel % kGroup * p.dest_strides.row;
    const A* of_channel = workspace.as<A>() + channel / lanes * piece_sums + channel % lanes;
    for (int64_t i = 0; i < taps * kGroup; ++i) {
      A sum = 0;
      for (int64_t s = 0; s < splits; ++s) sum += of_channel[s * set + i * lanes];
      to[offsets[i / kGroup] + i % kGroup * p.dest_strides.depth] = narrow<T>(sum);
    }
  }
}

template <class T, int kGroup>
void correlate_channels_last(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  const auto correlate = [&](int64_t image, int64_t first, int64_t count, T*, A* sums) {
    correlate_image<T, kGroup>(p, p.grad + image * p.grad_strides.batch + first,
                               p.source + image * p.source_strides.batch + first, count, sums);
  };
  correlate_groups<T, kGroup>(p, 0, correlate);
}

template <class T>
void weight_grouped_channels_last(const WeightContraction<T>& p) {
  with_group<Accumulator<T>>(p.depth, [&]<int kGroup>() { correlate_channels_last<T, kGroup>(p); });
}
