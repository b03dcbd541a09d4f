// Weight gradient for few source channels in a group, vectors along the width.
//
// An item is a group, or some destination channels of it, and a fixed share of the images. For
// every band (band.h) of source rows, and every two destination channels, which share what they
// read of it, grad is read once for up to kTapsOfRows taps of a kernel row, whose sums stay in
// registers; each tap reads the source band at its own shift. A channel alone, as in depthwise
// convolutions, shares source rows among kernel rows instead (weight_windows.h). Rows of grad that
// are accumulators side by side are read in place, others from a copy of the band. Lanes are added
// up at the end, shares in order.

constexpr int kTapsAtOnce = 8;

/// Taps whose sums for kRows channels stay in registers.
template <int kRows>
constexpr int kTapsOfRows = kRows == 1                  ? kTapsAtOnce
                            : CNNOPS_VECTOR_BYTES == 64 ? 12
                                                        : 6;

/// Destination channels of an item, unless there are fewer: each item gathers the source again.
constexpr int64_t kRowsOfItem = 64;

/// Pixels of a row that all channels of an item meet before the next: the source under so many
/// stays in L1 for any stride.
constexpr int64_t kPixelsInL1 = 512;

/// Rows of grad of a channel or two next to each other, and where the sums of a tap are.
template <class A, int kRows>
struct GradRows {
  const A* from[kRows];
  int64_t pitch;
  int64_t next;  // elements to those that are read next, which are fetched; else 0
  A* sums[kRows];
};

/// sums[t] += grad row * shifted source row over `rows` rows of `width` elements, for kTaps taps of
/// each channel from `tap` on.
template <class A, int kRows, int kTaps>
inline void correlate_rows(const A* source, int64_t source_row, const int64_t* starts, int64_t tap,
                           const GradRows<A, kRows>& grad, int64_t rows, int64_t width) {
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kRows][kTaps];
#pragma GCC unroll 2
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 12
    for (int t = 0; t < kTaps; ++t) sum[m][t] = load(grad.sums[m] + (tap + t) * lanes);
  }
  const int64_t whole = width / lanes * lanes;
  Vec<typename IndexOf<sizeof(A)>::type> lane;
  for (int i = 0; i < lanes; ++i) lane[i] = i;
  const auto valid = lane < broadcast(typename IndexOf<sizeof(A)>::type(width - whole));
  for (int64_t r = 0; r < rows; ++r, source += source_row) {
    const int64_t at = r * grad.pitch;
    Vec<A> g[kRows];
    for (int64_t w = 0; w < whole; w += lanes) {
#pragma GCC unroll 2
      for (int m = 0; m < kRows; ++m) {
        g[m] = load(grad.from[m] + at + w);
        // Rows are short beside what the processor's prefetchers take to see that one follows.
        if constexpr (kRows > 1) __builtin_prefetch(grad.from[m] + at + w + grad.next, 0, 2);
      }
#pragma GCC unroll 12
      for (int t = 0; t < kTaps; ++t) {
        const Vec<A> x = load(source + starts[tap + t] + w);
#pragma GCC unroll 2
        for (int m = 0; m < kRows; ++m) sum[m][t] += g[m] * x;
      }
    }
    if (whole == width) continue;
    // What lies behind the row is not part of the sum, and times a zero it could still be a NaN.
#pragma GCC unroll 2
    for (int m = 0; m < kRows; ++m) g[m] = load_partial(grad.from[m] + at + whole, width - whole);
#pragma GCC unroll 12
    for (int t = 0; t < kTaps; ++t) {
      const Vec<A> x = load(source + starts[tap + t] + whole);
#pragma GCC unroll 2
      for (int m = 0; m < kRows; ++m) sum[m][t] += g[m] * (valid ? x : Vec<A>{});
    }
  }
#pragma GCC unroll 2
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 12
    for (int t = 0; t < kTaps; ++t) store(grad.sums[m] + (tap + t) * lanes, sum[m][t]);
  }
}

/// The same for all taps of the width, as many at a time. What is read next is fetched once.
template <class A, int kRows>
inline void correlate_taps(const A* source, int64_t source_row, const int64_t* starts, int64_t taps,
                           GradRows<A, kRows>& grad, int64_t rows, int64_t width) {
  constexpr int kMost = kTapsOfRows<kRows>;
  const int64_t step = even_part(taps, kMost);
  for (int64_t tap = 0; tap < taps; tap += step, grad.next = 0) {
    const int64_t some = taps - tap < step ? taps - tap : step;
    with_count<kMost>(some, [&](auto count) {
      constexpr int kTaps = decltype(count)::value;
      correlate_rows<A, kRows, kTaps>(source, source_row, starts, tap, grad, rows, width);
    });
  }
}

/// Pixels [w, w + width) of destination rows [first, first + count).
struct BandPiece {
  int64_t first, count, w, width;
};

/// What the items of a weight gradient share.
template <class T>
struct DirectCorrelation {
  using A = Accumulator<T>;
  const WeightContraction<T>& p;
  const BandLayout& band;
  const int64_t* starts;  // for each tap of the width: where it starts in a row
  int64_t grad_row;       // elements of a gathered row of grad
  WindowSteps steps;      // of kernel rows

  /// Whether rows of grad are read where they lie.
  bool in_place() const { return __is_same(T, A) && p.grad_strides.axis[2] == 1; }

  /// A piece of rows of grad at depth `d` of one channel, in place or copied to `to`.
  Rows<const A> rows_of_grad(int64_t image, int64_t channel, int64_t d, const BandPiece& piece,
                             A* to) const {
    const Strides& strides = p.grad_strides;
    const T* from = p.grad + image * strides.batch + channel * strides.channel +
                    d * strides.axis[0] + piece.first * strides.axis[1] + piece.w * strides.axis[2];
    if (in_place()) return {reinterpret_cast<const A*>(from), strides.axis[1]};
    for (int64_t h = 0; h < piece.count; ++h, from += strides.axis[1]) {
      copy_strided(from, strides.axis[2], piece.width, to + h * grad_row);
    }
    return {to, grad_row};
  }

  /// Adds a piece of the planes of a band to the sums of kRows channels of grad from `channel` on.
  template <int kRows>
  void add_planes(int64_t image, int64_t channel, int64_t d, const BandPiece& piece, const A* rows,
                  int64_t planes, A* grad, A* sums, int64_t sums_of_row) const {
    const Walk* walk = p.walk;
    const int64_t taps_w = walk[2].tap_count;
    GradRows<A, kRows> of_grad;
    of_grad.next = in_place() ? kRows * p.grad_strides.channel : 0;
    for (int m = 0; m < kRows; ++m) {
      const Rows<const A> of_channel =
          rows_of_grad(image, channel + m, d, piece, grad + m * band.max_rows * grad_row);
      of_grad.from[m] = of_channel.data, of_grad.pitch = of_channel.pitch;
      of_grad.sums[m] = sums + m * sums_of_row;
    }
    for (int64_t plane = 0; plane < planes; ++plane) {
      const A* of_plane = rows + plane * band.plane + piece.w;
      for (int64_t th = 0, height; th < walk[1].tap_count; th += height) {
        const A* from = of_plane + (walk[1].taps[th].offset - band.low[0]) * band.row;
        height = kRows == 1 && steps.phases > 0 ? window_rows(walk[1].tap_count - th) : 1;
        if (height > 1) {
          steps.correlate<A>(height,
                             {of_grad.from[0], of_grad.pitch, from, band.row, starts, piece.count},
                             piece.width, of_grad.sums[0], taps_w);
        } else {
          correlate_taps(from, walk[1].step * band.row, starts, taps_w, of_grad, piece.count,
                         piece.width);
        }
        for (int m = 0; m < kRows; ++m) of_grad.sums[m] += height * taps_w * kLanes<A>;
      }
    }
  }

  /// Adds the part of rows [first, first + count) at depth `d` of an image to the sums of channels
  /// [begin, end) of a group, [row][source channel][tap][lanes]. `rows` and `grad` are space for
  /// the two bands.
  void add_band(int64_t group, int64_t begin, int64_t end, int64_t image, int64_t d, int64_t first,
                int64_t count, A* rows, A* grad, A* sums) const {
    constexpr int lanes = kLanes<A>;
    const int64_t of_channel = p.taps() * lanes, of_row = p.depth * of_channel;
    const T* source =
        p.source + image * p.source_strides.batch + group * p.depth * p.source_strides.channel;
    for (int64_t c = 0; c < p.depth; c += band.depth) {
      const int64_t channels = p.depth - c < band.depth ? p.depth - c : band.depth;
      const int64_t planes = channels * p.walk[0].tap_count;
      gather_band(p, band, source + c * p.source_strides.channel, p.source_strides, channels, d,
                  first, count, rows);
      const int64_t width = p.walk[2].count, step = round_up(even_part(width, kPixelsInL1), lanes);
      for (int64_t w = 0; w < width; w += step) {
        const BandPiece piece{first, count, w, width - w < step ? width - w : step};
        A* sum = sums + c * of_channel;
        int64_t m = begin;
        for (; m + 2 <= end; m += 2, sum += 2 * of_row) {
          add_planes<2>(image, group * p.rows + m, d, piece, rows, planes, grad, sum, of_row);
        }
        if (m < end) {
          add_planes<1>(image, group * p.rows + m, d, piece, rows, planes, grad, sum, of_row);
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
  int64_t row_block, row_blocks;  // destination channels of an item, and such parts of a group
  int64_t item_sums, set;         // sums of an item, of all
  int64_t splits, images;         // shares of the batch, images of one
  int64_t tile_rows;
  int64_t table_bytes, sum_bytes;  // of the call
  int64_t buffer_bytes;            // of each thread: bands of source and grad, sums

  explicit WeightDirectPlanarBlocking(const WeightContraction<T>& p) : band(lay_out_band<A>(p, 1)) {
    const int64_t taps = p.taps(), taps_w = p.walk[2].tap_count;
    band_size = band.size(p);
    grad_row = round_up(p.walk[2].count, kLanes<A>);
    grad_size = (p.rows > 1 ? 2 : 1) * band.max_rows * grad_row;
    row_block = even_part(p.rows, kRowsOfItem);
    row_blocks = ceil_div(p.rows, row_block);
    item_sums = row_block * p.depth * taps;
    set = p.groups * p.rows * p.depth * taps;
    splits = choose_splits(p.groups * row_blocks, p.batch, sizeof(A) * set);
    images = ceil_div(p.batch, splits);
    const int64_t at_once = p.rows > 1 ? kTapsOfRows<2> : kTapsOfRows<1>;
    tile_rows = taps_w < at_once ? taps_w : at_once;
    table_bytes = sizeof(int64_t) * (taps_w + taps);
    sum_bytes = sizeof(A) * splits * set;
    buffer_bytes = sizeof(A) * (band_size + grad_size + item_sums * kLanes<A>);
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
  const WeightStrides& strides = p.dest_strides;
  int64_t i = 0;
  for (int64_t row = 0; row < p.groups * p.rows; ++row) {
    T* of_row = p.dest + row / p.rows * strides.group + row % p.rows * strides.row;
    for (int64_t channel = 0; channel < p.depth; ++channel, of_row += strides.depth) {
      for (int64_t tap = 0; tap < taps; ++tap, ++i) {
        Accumulator<T> sum = 0;
        for (int64_t s = 0; s < splits; ++s) sum += sums[s * set + i];
        of_row[offsets[tap]] = narrow<T>(sum);
      }
    }
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
  const int64_t row_block = blocking.row_block, row_blocks = blocking.row_blocks;
  const int64_t splits = blocking.splits, images = blocking.images;

  Scratch tables(blocking.table_bytes);
  int64_t* starts = tables.as<int64_t>();
  for (int64_t t = 0; t < taps_w; ++t) starts[t] = band.start(walk[2], t);
  Scratch workspace(blocking.sum_bytes);
  const DirectCorrelation<T> correlation{p, band, starts, blocking.grad_row, WindowSteps(walk[1])};
  const int64_t grain = ceil_div(kSmallestWork, images * p.pixels() * blocking.item_sums);
  parallel_for(p.groups * row_blocks * splits, grain, [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    A* rows = buffer.as<A>();
    A* grad = rows + blocking.band_size;
    A* sums = grad + blocking.grad_size;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / row_blocks % p.groups, split = item / row_blocks / p.groups;
      const int64_t row = item % row_blocks * row_block;
      const int64_t last_row = row + row_block < p.rows ? row + row_block : p.rows;
      const int64_t some_sums = (last_row - row) * p.depth * p.taps();
      const int64_t last = (split + 1) * images < p.batch ? (split + 1) * images : p.batch;
      fill(sums, some_sums * lanes, A(0));
      for (int64_t image = split * images; image < last; ++image) {
        for (int64_t d = 0; d < walk[0].count; ++d) {
          for (int64_t first = 0; first < walk[1].count; first += band.max_rows) {
            const int64_t left = walk[1].count - first;
            const int64_t count = left < band.max_rows ? left : band.max_rows;
            correlation.add_band(group, row, last_row, image, d, first, count, rows, grad, sums);
          }
        }
      }
      A* out =
          workspace.as<A>() + split * blocking.set + (group * p.rows + row) * p.depth * p.taps();
      add_up_lanes(sums, some_sums, out);
    }
  });

  int64_t* offsets = starts + taps_w;
  tap_offsets(p, p.dest_strides, offsets);
  add_splits(p, workspace.as<A>(), splits, offsets);
}
