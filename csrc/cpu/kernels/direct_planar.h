// Convolution with few channels in a group on one side or both (depthwise, multipliers, small
// groups, first layers and their input gradients): no GEMM, vectors along the width.
//
// An item is a band (band.h) of destination rows of one image, group and depth; where these are
// few, some destination channels of it. The band is gathered once and then read from cache by every
// tap and destination channel. Per block, kChannels x kVectors accumulators stay in registers over
// all taps, which are one flat list of offsets: one channel for depthwise, up to four where the
// group has them, so that a loaded vector serves four FMAs, and up to eight for rows of a single
// register, which would not hide the FMA latency otherwise. With a single destination channel rows
// go in pairs (paired_rows.h). Where the source channels of a group do not fit a band they come in
// turns, and the sums of a block of destination channels wait in scratch.

constexpr int64_t kDirectChannels = 4;
constexpr int64_t kDirectChannelsOfNarrowRows = 8;

/// What all blocks of an item's destination channels share.
template <class T>
struct DirectRows {
  using A = Accumulator<T>;
  const int64_t* offsets;  // for each source channel and tap of the band: where it starts
  int64_t count;           // of offsets
  bool first, last;        // the band holds the first, the last source channels
  int64_t width;           // destinations of a row
  const A* bias;           // of the destination channels
  int64_t sums_pitch;      // elements between the waiting sums of neighbouring channels
  int64_t dest_pitch;      // elements between neighbouring destination channels
  int64_t dest_stride;     // elements between neighbouring destinations of a row
};

/// Packs the weights as [group][block of destination channels][source channel][tap][channel of the
/// block], blocks of `most` channels: one stream of broadcasts for a block.
template <class T>
void pack_weight_blocks(const Contraction<T>& p, const int64_t* taps, int64_t most,
                        Accumulator<T>* to) {
  const int64_t tap_count = p.taps(), inner = p.depth * tap_count;
  for (int64_t group = 0; group < p.groups; ++group) {
    for (int64_t row = 0; row < p.rows; row += most) {
      const int64_t channels = p.rows - row < most ? p.rows - row : most;
      const T* from = p.weight + group * p.weight_strides.group + row * p.weight_strides.row;
      for (int64_t k = 0; k < inner; ++k) {
        const T* at = from + k / tap_count * p.weight_strides.depth + taps[k % tap_count];
        for (int64_t i = 0; i < channels; ++i) *to++ = widen(at[i * p.weight_strides.row]);
      }
    }
  }
}

/// kVectors registers of consecutive destinations of kChannels destination channels, from `w` on.
template <class T, int kChannels, int kVectors>
inline void direct_block(const DirectRows<T>& in, int64_t w, const Accumulator<T>* rows,
                         const Accumulator<T>* weight, Accumulator<T>* sums, T* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kChannels][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kChannels; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = in.first ? broadcast(in.bias[i]) : load(sums + i * in.sums_pitch + w + j * lanes);
    }
  }
  for (int64_t k = 0; k < in.count; ++k, weight += kChannels) {
    Vec<A> x[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) x[j] = load(rows + in.offsets[k] + w + j * lanes);
#pragma GCC unroll 8
    for (int i = 0; i < kChannels; ++i) {
      const Vec<A> value = broadcast(weight[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sum[i][j] += value * x[j];
    }
  }
  const bool direct = in.last && in.dest_stride == 1;
#pragma GCC unroll 8
  for (int i = 0; i < kChannels; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const int64_t at = w + j * lanes;
      if (!direct) {
        store(sums + i * in.sums_pitch + at, sum[i][j]);
      } else if (at + lanes <= in.width) {
        store_narrow(to + i * in.dest_pitch + at, sum[i][j]);
      } else {
        store_partial(to + i * in.dest_pitch + at, sum[i][j], in.width - at);
      }
    }
  }
}

/// One destination row of kChannels destination channels.
template <class T, int kChannels>
inline void direct_row(const DirectRows<T>& in, const Accumulator<T>* rows,
                       const Accumulator<T>* weight, Accumulator<T>* sums, T* to) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  constexpr int most = kChannels > 1 && CNNOPS_VECTOR_BYTES < 64 ? 2 : kBandVectors;
  for (int64_t w = 0; w < in.width;) {
    const int64_t left = vectors_for<Accumulator<T>>(in.width - w);
    if (left >= most) {
      direct_block<T, kChannels, most>(in, w, rows, weight, sums, to);
      w += most * lanes;
    } else if (left >= 2) {
      direct_block<T, kChannels, 2>(in, w, rows, weight, sums, to);
      w += 2 * lanes;
    } else {
      direct_block<T, kChannels, 1>(in, w, rows, weight, sums, to);
      w += lanes;
    }
  }
}

/// One destination row of 1 to kDirectChannels destination channels, or of up to
/// kDirectChannelsOfNarrowRows where the row fits a register.
template <class T>
inline void direct_channels(const DirectRows<T>& in, int64_t channels, const Accumulator<T>* rows,
                            const Accumulator<T>* weight, Accumulator<T>* sums, T* to) {
  switch (channels) {
    case 1: return direct_row<T, 1>(in, rows, weight, sums, to);
    case 2: return direct_row<T, 2>(in, rows, weight, sums, to);
    case 3: return direct_row<T, 3>(in, rows, weight, sums, to);
    case 4: return direct_row<T, 4>(in, rows, weight, sums, to);
    case 5: return direct_block<T, 5, 1>(in, 0, rows, weight, sums, to);
    case 6: return direct_block<T, 6, 1>(in, 0, rows, weight, sums, to);
    case 7: return direct_block<T, 7, 1>(in, 0, rows, weight, sums, to);
    default: return direct_block<T, 8, 1>(in, 0, rows, weight, sums, to);
  }
}

/// The least destination channels of an item, unless there are fewer, since each item gathers its
/// band; and the items that are enough where elements of that lie so far apart that they are
/// gathered one by one.
constexpr int64_t kLeastPart = 16, kEnoughItems = 2;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct DirectPlanarBlocking {
  using A = Accumulator<T>;
  BandLayout layout;
  int64_t bands;
  int64_t width;        // elements of a row of sums
  int64_t most;         // destination channels of a block, if there are so many
  int64_t part, parts;  // destination channels of an item, and such parts of a group
  int64_t items;        // parts of bands
  int64_t pitch;        // elements of sums of one destination channel
  int64_t tile_rows, tile_columns;
  bool pairs;                         // rows are computed in pairs
  int64_t table_bytes, weight_bytes;  // of the call
  int64_t buffer_bytes;               // of each thread: sums and a band

  explicit DirectPlanarBlocking(const Contraction<T>& p)
      : layout(lay_out_band<A>(p, p.source_strides.axis[2])) {
    bands = ceil_div(p.walk[1].count, layout.max_rows);
    width = round_up(p.walk[2].count, kLanes<A>);
    most = width == kLanes<A> ? kDirectChannelsOfNarrowRows : kDirectChannels;
    pitch = layout.max_rows * width;
    const int64_t all_bands = p.batch * p.groups * p.walk[0].count * bands;
    const int64_t enough = p.walk[2].step > 2 ? kEnoughItems : kWantedItems;
    const int64_t wanted = ceil_div(p.rows, ceil_div(enough, all_bands));
    part = round_up(wanted < kLeastPart ? kLeastPart : wanted, most);
    parts = ceil_div(p.rows, part);
    items = all_bands * parts;
    pairs = p.rows == 1 && layout.depth == p.depth && layout.max_rows > 1;
    const int64_t inner = p.depth * p.taps();
    const int64_t pair_tables = pairs ? 4 * inner + p.walk[1].tap_count : 0;
    table_bytes = sizeof(int64_t) * (p.taps() + layout.depth * p.taps() + pair_tables);
    weight_bytes = sizeof(A) * p.groups * (p.rows + (pairs ? 2 : 0)) * inner;
    buffer_bytes = sizeof(A) * (layout.size(p) + most * pitch);
    tile_rows = p.rows < most ? p.rows : most;
    tile_columns = (width < kBandVectors * kLanes<A> ? width : kBandVectors * kLanes<A>);
  }

  Footprint footprint() const {
    return {tile_rows, tile_columns, table_bytes + weight_bytes, buffer_bytes};
  }
};

/// An item: destination channels [row_begin, row_end) of a group, and rows of a plane, a band.
struct DirectItem {
  int64_t image, group, d;
  int64_t first, count;  // rows
  int64_t row_begin, row_end;
};

/// What the threads of a call share.
template <class T>
struct DirectPlanarCall {
  using A = Accumulator<T>;
  const Contraction<T>& p;
  const DirectPlanarBlocking<T>& blocking;
  const int64_t* offsets;  // of source channels and taps in a band
  const A* weights;        // packed
  PairedTaps paired;       // where rows go in pairs,
  const A* pair_weights;   // and their weights

  /// Item `index` of blocking.items.
  DirectItem item(int64_t index) const {
    const Walk* walk = p.walk;
    const int64_t row = index % blocking.parts * blocking.part, row_end = row + blocking.part;
    const int64_t band = index / blocking.parts / p.groups, plane = band / blocking.bands;
    const int64_t first = band % blocking.bands * blocking.layout.max_rows;
    const int64_t left = walk[1].count - first;
    return {plane / walk[0].count,
            index / blocking.parts % p.groups,
            plane % walk[0].count,
            first,
            left < blocking.layout.max_rows ? left : blocking.layout.max_rows,
            row,
            row_end < p.rows ? row_end : p.rows};
  }
};

/// What a thread makes items with.
template <class T>
class DirectPlanarThread {
  using A = Accumulator<T>;

  /// Neighbouring destination channels of a group.
  struct Block {
    int64_t row, channels;
    T* to;  // where the first row of the band goes in the first of them
  };

 public:
  explicit DirectPlanarThread(const DirectPlanarCall<T>& call)
      : call_(call), p_(call.p), blocking_(call.blocking), buffer_(blocking_.buffer_bytes) {}

  void make(const DirectItem& item) {
    const Strides& dest = p_.dest_strides;
    for (int64_t row = item.row_begin; row < item.row_end; row += blocking_.most) {
      const int64_t left = p_.rows - row;
      const Block block{row, left < blocking_.most ? left : blocking_.most,
                        p_.dest + item.image * dest.batch +
                            (item.group * p_.rows + row) * dest.channel + item.d * dest.axis[0] +
                            item.first * dest.axis[1]};
      for (int64_t c = 0; c < p_.depth; c += blocking_.layout.depth) {
        const bool gathered = row > item.row_begin && blocking_.layout.depth == p_.depth;
        add_channels(item, block, c, !gathered);
      }
      if (dest.axis[2] != 1) store(item, block);
    }
  }

 private:
  A* sums() const { return buffer_.as<A>(); }
  A* band() const { return sums() + blocking_.most * blocking_.pitch; }

  /// Adds the source channels of a band, from `first` on, to a block of destination channels;
  /// `gathers` them before.
  void add_channels(const DirectItem& item, const Block& block, int64_t first, bool gathers) {
    const BandLayout& layout = blocking_.layout;
    const Walk* walk = p_.walk;
    const int64_t left = p_.depth - first, some = left < layout.depth ? left : layout.depth;
    const int64_t taps = p_.taps(), channel = item.group * p_.rows + block.row;
    if (gathers) {
      const T* source = p_.source + item.image * p_.source_strides.batch +
                        (item.group * p_.depth + first) * p_.source_strides.channel;
      gather_band(p_, layout, source, p_.source_strides, some, item.d, item.first, item.count,
                  band());
    }
    A bias[kDirectChannelsOfNarrowRows];
    for (int64_t i = 0; i < block.channels; ++i) {
      bias[i] = p_.bias != nullptr ? widen(p_.bias[channel + i]) : A(0);
    }
    const Strides& dest = p_.dest_strides;
    const int64_t row_step = walk[1].step * layout.row;
    if (blocking_.pairs && item.count > 1) {
      const PairedTaps& paired = call_.paired;
      const PairedRows<T> pair{paired,          call_.pair_weights + item.group * paired.weights(),
                               bias[0],         row_step,
                               walk[2].count,   dest.axis[2] == 1,
                               blocking_.width, dest.axis[1]};
      return paired_rows(pair, item.count, band(), sums(), block.to);
    }
    const DirectRows<T> in{call_.offsets, some * taps, first == 0,      first + some == p_.depth,
                           walk[2].count, bias,        blocking_.pitch, dest.channel,
                           dest.axis[2]};
    const A* weight = call_.weights + channel * p_.depth * taps + first * taps * block.channels;
    for (int64_t h = 0; h < item.count; ++h) {
      direct_channels(in, block.channels, band() + h * row_step, weight,
                      sums() + h * blocking_.width, block.to + h * dest.axis[1]);
    }
  }

  /// Stores sums that do not lie side by side in the destination.
  void store(const DirectItem& item, const Block& block) const {
    const Strides& dest = p_.dest_strides;
    for (int64_t i = 0; i < block.channels; ++i) {
      for (int64_t h = 0; h < item.count; ++h) {
        store_run(sums() + i * blocking_.pitch + h * blocking_.width, A(0), p_.walk[2].count,
                  block.to + i * dest.channel + h * dest.axis[1], dest.axis[2]);
      }
    }
  }

  const DirectPlanarCall<T>& call_;
  const Contraction<T>& p_;
  const DirectPlanarBlocking<T>& blocking_;
  Scratch buffer_;
};

template <class T>
void direct_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const Walk* walk = p.walk;
  const int64_t taps = p.taps(), inner = p.depth * taps;
  const DirectPlanarBlocking<T> blocking(p);
  const BandLayout& layout = blocking.layout;

  Scratch tables(blocking.table_bytes);
  int64_t* offsets = tables.as<int64_t>() + taps;
  for (int64_t k = 0; k < layout.depth * taps; ++k) {
    const int64_t tw = k % walk[2].tap_count, rest = k / walk[2].tap_count;
    const int64_t th = rest % walk[1].tap_count, plane = rest / walk[1].tap_count;
    offsets[k] = plane * layout.plane + layout.start(walk[1], th, walk[2], tw);
  }
  tap_offsets(p, p.weight_strides, tables.as<int64_t>());
  Scratch weights(blocking.weight_bytes);
  pack_weight_blocks(p, tables.as<int64_t>(), blocking.most, weights.as<A>());
  PairedTaps paired{};
  A* pair_weights = weights.as<A>() + p.groups * p.rows * inner;
  if (blocking.pairs) {
    int64_t* merged = offsets + layout.depth * taps;
    int64_t *order = merged + 2 * inner, *next = order + 2 * inner;
    pair_taps(walk[1], next);
    paired = merge_taps(p, offsets, inner, walk[1].step * layout.row, next, merged, order);
    for (int64_t i = 0; i < p.groups * paired.weights(); ++i) {
      const int64_t group = i / paired.weights();
      pair_weights[i] = weights.as<A>()[group * inner + order[i % paired.weights()]];
    }
  }

  const DirectPlanarCall<T> call{p, blocking, offsets, weights.as<A>(), paired, pair_weights};
  const int64_t work = layout.max_rows * walk[2].count * p.rows * inner / blocking.parts;
  parallel_threads(blocking.items, ceil_div(kSmallestWork, work), [&](ThreadItems& items) {
    DirectPlanarThread<T> thread(call);
    items.for_each([&](int64_t i, bool) { thread.make(call.item(i)); });
  });
}
