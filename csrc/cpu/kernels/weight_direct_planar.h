// Weight gradient for few source channels in a group, vectors along the width.
//
// An item is a group and a fixed share of the images. For every band (band.h) of source rows, and
// every destination channel, grad is read once for up to kTapsAtOnce taps of a kernel row, whose
// sums stay in registers; each tap reads the source band at its own shift. Rows of grad that are
// accumulators side by side are read in place, others from a copy of the band. Lanes are added up
// at the end, shares in order.

constexpr int kTapsAtOnce = 8;

/// sums[t] += grad row * shifted source row over `rows` rows of `width` elements, for kTaps taps.
template <class A, int kTaps>
inline void correlate_rows(const A* source, int64_t source_row, const int64_t* starts,
                           const A* grad, int64_t grad_row, int64_t rows, int64_t width, A* sums) {
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kTaps];
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) sum[t] = load(sums + t * lanes);
  const int64_t whole = width / lanes * lanes;
  Vec<typename IndexOf<sizeof(A)>::type> lane;
  for (int i = 0; i < lanes; ++i) lane[i] = i;
  const auto valid = lane < broadcast(typename IndexOf<sizeof(A)>::type(width - whole));
  for (int64_t r = 0; r < rows; ++r, source += source_row, grad += grad_row) {
    for (int64_t w = 0; w < whole; w += lanes) {
      const Vec<A> g = load(grad + w);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) sum[t] += g * load(source + starts[t] + w);
    }
    if (whole == width) continue;
    // What lies behind the row is not part of the sum, and times a zero it could still be a NaN.
    const Vec<A> g = load_partial(grad + whole, width - whole);
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
      const Vec<A> x = load(source + starts[t] + whole);
      sum[t] += g * (valid ? x : Vec<A>{});
    }
  }
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) store(sums + t * lanes, sum[t]);
}

template <class A>
inline void correlate_taps(const A* source, int64_t source_row, const int64_t* starts, int64_t taps,
                           const A* grad, int64_t grad_row, int64_t rows, int64_t width, A* sums) {
  constexpr int lanes = kLanes<A>;
  for (; taps >= kTapsAtOnce; taps -= kTapsAtOnce) {
    correlate_rows<A, kTapsAtOnce>(source, source_row, starts, grad, grad_row, rows, width, sums);
    starts += kTapsAtOnce;
    sums += kTapsAtOnce * lanes;
  }
  switch (taps) {
    case 1:
      return correlate_rows<A, 1>(source, source_row, starts, grad, grad_row, rows, width, sums);
    case 2:
      return correlate_rows<A, 2>(source, source_row, starts, grad, grad_row, rows, width, sums);
    case 3:
      return correlate_rows<A, 3>(source, source_row, starts, grad, grad_row, rows, width, sums);
    case 4:
      return correlate_rows<A, 4>(source, source_row, starts, grad, grad_row, rows, width, sums);
    case 5:
      return correlate_rows<A, 5>(source, source_row, starts, grad, grad_row, rows, width, sums);
    case 6:
      return correlate_rows<A, 6>(source, source_row, starts, grad, grad_row, rows, width, sums);
    case 7:
      return correlate_rows<A, 7>(source, source_row, starts, grad, grad_row, rows, width, sums);
    default: return;
  }
}

/// What the items of a weight gradient share.
template <class T>
struct DirectCorrelation {
  using A = Accumulator<T>;
  const WeightContraction<T>& p;
  const BandLayout& band;
  const int64_t* starts;  // for each tap of the width: where it starts in a row
  int64_t grad_row;       // elements of a gathered row of grad

  /// Rows [first, first + count) at depth `d` of one channel of grad, in place or copied to `to`.
  Rows<const A> rows_of_grad(int64_t image, int64_t channel, int64_t d, int64_t first,
                             int64_t count, A* to) const {
    const Strides& strides = p.grad_strides;
    const T* from = p.grad + image * strides.batch + channel * strides.channel +
                    d * strides.axis[0] + first * strides.axis[1];
    if (__is_same(T, A) && strides.axis[2] == 1) {
      return {reinterpret_cast<const A*>(from), strides.axis[1]};
    }
    for (int64_t h = 0; h < count; ++h, from += strides.axis[1]) {
      copy_strided(from, strides.axis[2], p.walk[2].count, to + h * grad_row);
    }
    return {to, grad_row};
  }

  /// Adds the part of rows [first, first + count) at depth `d` of an image to the sums of a group,
  /// [row][source channel][tap][lanes]. `rows` and `grad` are space for the two bands.
  void add_band(int64_t group, int64_t image, int64_t d, int64_t first, int64_t count, A* rows,
                A* grad, A* sums) const {
    constexpr int lanes = kLanes<A>;
    const Walk* walk = p.walk;
    const int64_t taps = p.taps(), taps_w = walk[2].tap_count;
    const T* source =
        p.source + image * p.source_strides.batch + group * p.depth * p.source_strides.channel;
    for (int64_t c = 0; c < p.depth; c += band.depth) {
      const int64_t channels = p.depth - c < band.depth ? p.depth - c : band.depth;
      gather_band(p, band, source + c * p.source_strides.channel, p.source_strides, channels, d,
                  first, count, rows);
      for (int64_t m = 0; m < p.rows; ++m) {
        const Rows<const A> of_grad =
            rows_of_grad(image, group * p.rows + m, d, first, count, grad);
        A* sum = sums + (m * p.depth + c) * taps * lanes;
        for (int64_t plane = 0; plane < channels * walk[0].tap_count; ++plane) {
          for (int64_t th = 0; th < walk[1].tap_count; ++th, sum += taps_w * lanes) {
            const A* from =
                rows + plane * band.plane + (walk[1].taps[th].offset - band.low[0]) * band.row;
            correlate_taps(from, walk[1].step * band.row, starts, taps_w, of_grad.data,
                           of_grad.pitch, count, walk[2].count, sum);
          }
        }
      }
    }
  }
};

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightDirectPlanarBlocking {
  using A = Accumulator<T>;
  BandLayout band;
  int64_t band_size, grad_row, grad_size;
  int64_t group_sums, set;  // sums of a group, of all
  int64_t splits, images;   // shares of the batch, images of one
  int64_t tile_rows;
  int64_t table_bytes, sum_bytes;  // of the call
  int64_t buffer_bytes;            // of each thread: bands of source and grad, sums

  explicit WeightDirectPlanarBlocking(const WeightContraction<T>& p) : band(lay_out_band<A>(p, 1)) {
    const int64_t taps = p.taps(), taps_w = p.walk[2].tap_count;
    band_size = band.size(p);
    grad_row = round_up(p.walk[2].count, kLanes<A>);
    grad_size = band.max_rows * grad_row;
    group_sums = p.rows * p.depth * taps;
    set = p.groups * group_sums;
    splits = choose_splits(p.groups, p.batch, sizeof(A) * set);
    images = ceil_div(p.batch, splits);
    tile_rows = taps_w < kTapsAtOnce ? taps_w : kTapsAtOnce;
    table_bytes = sizeof(int64_t) * (taps_w + taps);
    sum_bytes = sizeof(A) * splits * set;
    buffer_bytes = sizeof(A) * (band_size + grad_size + group_sums * kLanes<A>);
  }

  Footprint footprint() const {
    return {tile_rows, kLanes<A>, table_bytes + sum_bytes, buffer_bytes};
  }
};

/// Adds the splits of `sums`, [splits][group][row][source channel][tap], and stores them as
/// weights; `offsets` are those of the taps.
template <class T>
void add_splits(const WeightContraction<T>& p, const Accumulator<T>* sums, int64_t splits,
                const int64_t* offsets) {
  const int64_t taps = p.taps(), set = p.groups * p.rows * p.depth * taps;
  for (int64_t i = 0; i < set; ++i) {
    Accumulator<T> sum = 0;
    for (int64_t s = 0; s < splits; ++s) sum += sums[s * set + i];
    const int64_t tap = i % taps, channel = i / taps % p.depth, row = i / taps / p.depth;
    p.dest[row / p.rows * p.dest_strides.group + row % p.rows * p.dest_strides.row +
           channel * p.dest_strides.depth + offsets[tap]] = narrow<T>(sum);
  }
}

template <class T>
void weight_direct_planar(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const Walk* walk = p.walk;
  const int64_t taps_w = walk[2].tap_count;
  const WeightDirectPlanarBlocking<T> blocking(p);
  const BandLayout& band = blocking.band;
  const int64_t group_sums = blocking.group_sums, set = blocking.set;
  const int64_t splits = blocking.splits, images = blocking.images;

  Scratch tables(blocking.table_bytes);
  int64_t* starts = tables.as<int64_t>();
  for (int64_t t = 0; t < taps_w; ++t) starts[t] = band.start(walk[2], t);
  Scratch workspace(blocking.sum_bytes);
  const DirectCorrelation<T> correlation{p, band, starts, blocking.grad_row};
  const int64_t grain = ceil_div(kSmallestWork, images * p.pixels() * group_sums);
  parallel_for(p.groups * splits, grain, [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    A* rows = buffer.as<A>();
    A* grad = rows + blocking.band_size;
    A* sums = grad + blocking.grad_size;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item % p.groups, split = item / p.groups;
      const int64_t last = (split + 1) * images < p.batch ? (split + 1) * images : p.batch;
      fill(sums, group_sums * lanes, A(0));
      for (int64_t image = split * images; image < last; ++image) {
        for (int64_t d = 0; d < walk[0].count; ++d) {
          for (int64_t first = 0; first < walk[1].count; first += band.max_rows) {
            const int64_t left = walk[1].count - first;
            const int64_t count = left < band.max_rows ? left : band.max_rows;
            correlation.add_band(group, image, d, first, count, rows, grad, sums);
          }
        }
      }
      A* out = workspace.as<A>() + split * set + group * group_sums;
      for (int64_t i = 0; i < group_sums; ++i) out[i] = sum_lanes<A>(load(sums + i * lanes));
    }
  });

  int64_t* offsets = starts + taps_w;
  tap_offsets(p, p.dest_strides, offsets);
  add_splits(p, workspace.as<A>(), splits, offsets);
}
