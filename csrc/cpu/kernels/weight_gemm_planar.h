// Weight gradient with vectors along destination channels: sums[K x rows] = im2col[K x pixels] *
// grad^T[pixels x rows] for each group, K = source channels * taps.
//
// Pixels go in chunks of about kPixelChunk. For a chunk the source rows of a block of channels are
// copied once for each kernel line (strips.h), or read where they lie under a 1x1 kernel, and a
// tile broadcasts from six places in them, or from as many channels as the registers hold where
// these meet few destination channels; with much padding from six channels for one tap, so that
// padding can be left out. grad is transposed through registers. Items are (group, block of
// channels, block of rows, split): a split is a fixed share of the chunks with its own sums, used
// where there are too few blocks, and the splits are added in order. Without splits an item stores
// its part of the weight while its sums are in cache.

constexpr int64_t kPixelChunk = 256;

/// Pixels of a chunk that few destination channels make narrow: more of a plane is read at a time.
constexpr int64_t kLongPixelChunk = 1024;

/// About so much of K is in a block of channels, for each of which grad is transposed again.
constexpr int64_t kInnerBlock = 64 * kTileRows;

/// Destination channels of a chunk of grad: 2 MB of floats; and from how many on two blocks may be.
constexpr int64_t kGradRows = 2048;
constexpr int64_t kRowsWorthHalving = 128;

/// Writes grad of channels [0, rows) over the runs of a chunk as blocks [pixel][columns of the
/// block].
template <class T>
void transpose_grad(const T* grad, const Strides& strides, int64_t rows, const DestRun* runs,
                    int64_t run_count, int64_t pixels, Accumulator<T>* to) {
  using A = Accumulator<T>;
  const EvenBlocks<A> blocks(rows);
  for (int64_t block = 0; block < blocks.count; ++block) {
    const int64_t column = blocks.begin(block), width = blocks.width(block);
    const int64_t left = rows - column, channels = left < width ? left : width;
    for (int64_t r = 0; r < run_count; ++r) {
      const DestRun& run = runs[r];
      load_planes(grad + column * strides.channel + run.offset, strides.channel, channels,
                  strides.axis[2], run.length, to + column * pixels + run.column * width, width);
    }
  }
}

/// Whether sums can be the weight itself: one set of whole registers of neighbouring destination
/// channels.
template <class T>
bool sums_are_weights(const WeightContraction<T>& p, int64_t splits) {
  return __is_same(T, Accumulator<T>) && splits == 1 && p.taps() == 1 && p.dest_strides.row == 1 &&
         p.rows % kLanes<Accumulator<T>> == 0;
}

/// Whether a tile can read runs of the source where they lie: a 1x1 kernel without padding, over
/// neighbours.
template <class T>
bool reads_runs_in_place(const WeightContraction<T>& p) {
  bool inside = p.taps() == 1 && p.walk[2].step == 1 && p.source_strides.axis[2] == 1;
  for (const Walk& walk : p.walk) inside &= walk.reads_inside();
  return __is_same(T, Accumulator<T>) && inside;
}

/// Planes at a multiple of so many bytes share the sets of L1.
constexpr int64_t kBytesOfSets = 4096;

/// Whether tiles take as many channels of a source in place as the registers hold: there are few
/// destination channels, and planes do not share the sets of L1.
template <class T>
bool suits_even_channels(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  return p.rows <= kFewRegisters * kLanes<A> && p.depth > kTileRows &&
         p.source_strides.channel * int64_t(sizeof(A)) % kBytesOfSets != 0;
}

/// From this share of padding on it is left out, although tiles of one tap each may be less full.
constexpr double kMuchPadding = 0.15;

/// An item: some channels of the source, of the group's, and some rows of grad, for a share of the
/// pixels.
struct WeightPlanarItem {
  int64_t group, split;
  int64_t channel, channels;
  int64_t first_row, rows;
};

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGemmPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  bool in_place;  // the source is read where it lies,
  bool even;      // many channels to a tile
  Strips strips;
  int64_t taps, inner, channel_block, blocks;  // inner is K
  int64_t padded_rows, row_block, row_blocks;
  bool by_tap;                           // tiles keep to a tap, and leave padding out
  int64_t set, splits, chunks_of_split;  // elements of one set of sums
  bool direct;                           // the sums are the weight,
  bool stores_items;                     // or each item stores its own
  int64_t sum_bytes, offset_bytes;       // of the call
  int64_t item_sum_bytes;                // of each thread
  int64_t strip_bytes, grad_bytes, pointer_bytes, segment_bytes;  // of each thread

  explicit WeightGemmPlanarBlocking(const WeightContraction<T>& p)
      : in_place(reads_runs_in_place(p)),
        even(in_place && suits_even_channels(p)),
        strips(p, even ? kLongPixelChunk : kPixelChunk, true) {
    taps = p.taps();
    inner = p.depth * taps;
    // Blocks of about as many channels each. They may be larger where there are no strips to keep
    // in cache, and pixels enough for items.
    const bool large = in_place && p.batch * p.pixels() >= 2 * kMinSplitPixels;
    const int64_t wanted = large ? 2 * kInnerBlock : kInnerBlock;
    const int64_t most = taps < wanted ? wanted / taps : 1;
    channel_block = even_part(p.depth, most);
    blocks = ceil_div(p.depth, channel_block);
    padded_rows = round_up(p.rows, kLanes<A>);
    // Two blocks of rows cost another copy of the strips, but no other set of sums.
    const bool halves = p.groups * blocks < kWantedItems && padded_rows >= kRowsWorthHalving;
    row_blocks = ceil_div(padded_rows, kGradRows);
    if (halves && row_blocks == 1) row_blocks = 2;
    row_block = round_up(ceil_div(padded_rows, row_blocks), kLanes<A>);
    by_tap = !in_place && padding_share(p) > kMuchPadding;
    set = p.groups * inner * padded_rows;
    splits =
        choose_product_splits(p, p.groups * blocks * row_blocks, strips.chunks(), set * sizeof(A));
    chunks_of_split = ceil_div(strips.chunks(), splits);
    direct = sums_are_weights(p, splits);
    stores_items = splits == 1 && !direct && p.dest_strides.row != 1;

    sum_bytes = direct || stores_items ? 0 : sizeof(A) * splits * set;
    item_sum_bytes = stores_items ? sizeof(A) * channel_block * taps * row_block : 0;
    offset_bytes = sizeof(int64_t) * taps;
    const int64_t pixels = strips.rows * strips.width;
    strip_bytes =
        in_place ? 0
                 : sizeof(A) * channel_block * strips.lines() * strips.rows * strips.positions();
    grad_bytes = sizeof(A) * pixels * row_block;
    pointer_bytes = sizeof(A*) * round_up(channel_block * taps, kTileRows) * strips.rows;
    segment_bytes = pixels * (sizeof(Segment) + sizeof(DestRun));
  }

  /// Item `index` of groups * row_blocks * blocks * splits.
  WeightPlanarItem item(const WeightContraction<T>& p, int64_t index) const {
    const int64_t of_rows = index / splits / blocks;
    const int64_t channel = index / splits % blocks * channel_block;
    const int64_t first_row = of_rows % row_blocks * row_block;
    const int64_t channels = p.depth - channel, rows = p.rows - first_row;
    return {of_rows / row_blocks,
            index % splits,
            channel,
            channels < channel_block ? channels : channel_block,
            first_row,
            rows < row_block ? rows : row_block};
  }

  Footprint footprint() const {
    return {kTileRows, columns, sum_bytes + offset_bytes,
            item_sum_bytes + strip_bytes + grad_bytes + pointer_bytes + segment_bytes};
  }
};

/// What a thread makes items with.
template <class T>
class WeightGemmPlanarThread {
  using A = Accumulator<T>;

  /// What tiles read of a chunk of pixels.
  struct ChunkOperands {
    Strips::Chunk chunk;
    const T* source;  // of the group
    int64_t runs;     // of rows of strips, which are one where they follow without a gap
    bool adds;        // to the sums of chunks before
  };

 public:
  /// `sums` are those of all splits.
  WeightGemmPlanarThread(const WeightContraction<T>& p, const WeightGemmPlanarBlocking<T>& blocking,
                         const WeightPlaces<T>& places, A* sums)
      : p_(p),
        blocking_(blocking),
        strips_(blocking.strips),
        places_(places),
        all_sums_(sums),
        item_sums_(blocking.item_sum_bytes),
        strip_(blocking.strip_bytes),
        grad_(blocking.grad_bytes),
        pointers_(blocking.pointer_bytes),
        segments_(blocking.segment_bytes) {}

  void make(const WeightPlanarItem& item) {
    const EvenBlocks<A> columns(item.rows);
    const int64_t k = item.channel * blocking_.taps, count = item.channels * blocking_.taps;
    const Rows<A> sums = sums_of(item);
    const SplitRange range(item.split, blocking_.chunks_of_split, strips_.chunks());
    for (int64_t i = 0; range.begin >= range.end && i < count; ++i) {
      fill(sums.at(i), columns.registers * kLanes<A>, A(0));
    }
    for (int64_t i = range.begin; i < range.end; ++i) {
      const ChunkOperands in = read(item, strips_.chunk(i), i > range.begin);
      transpose(item, in.chunk);
      for (int64_t block = 0; block < columns.count; ++block) {
        const int64_t column = columns.begin(block), width = columns.width(block);
        multiply_panel(item, in, grad_.as<A>() + column * in.chunk.pixels(), width,
                       {sums.data + column, sums.pitch});
      }
    }
    for (int64_t row = 0; blocking_.stores_items && row < item.rows; row += kLanes<A>) {
      places_.store_register(item.group, item.first_row + row, k, k + count, sums.data + row,
                             sums.pitch, 0, 1);
    }
  }

 private:
  const A** pointers() const { return pointers_.as<const A*>(); }

  /// Where the sums of an item are, a row for each element of K.
  Rows<A> sums_of(const WeightPlanarItem& item) const {
    const int64_t k = item.channel * blocking_.taps;
    if (blocking_.stores_items) return {item_sums_.as<A>(), blocking_.row_block};
    if (blocking_.direct) {
      T* to = p_.dest + item.group * p_.dest_strides.group + k * p_.dest_strides.depth;
      return {reinterpret_cast<A*>(to) + item.first_row, p_.dest_strides.depth};
    }
    const int64_t row = item.group * blocking_.inner + k, pitch = blocking_.padded_rows;
    return {all_sums_ + item.split * blocking_.set + row * pitch + item.first_row, pitch};
  }

  /// Copies the strips of a chunk, or finds them in place, and points to them.
  ChunkOperands read(const WeightPlanarItem& item, const Strips::Chunk& chunk, bool adds) {
    const T* source = p_.source + item.group * p_.depth * p_.source_strides.channel;
    ChunkOperands in{chunk, source, chunk.rows, adds};
    if (blocking_.in_place) {
      if (!blocking_.even) {
        point_to_source(p_, strips_, chunk, source, item.channel, item.channels, pointers());
      }
      return in;
    }
    if (strips_.positions(chunk.width) == chunk.width * strips_.step) in.runs = 1;
    A* strip = strip_.as<A>();
    copy_strips(p_, strips_, chunk, source, item.channel, item.channels, strip);
    if (blocking_.by_tap) {
      point_to_channels(strips_, chunk, strip, pointers());
    } else {
      point_to_strips(strips_, chunk, item.channels, in.runs, strip, pointers());
    }
    return in;
  }

  /// Copies the rows of grad under a chunk as panels.
  void transpose(const WeightPlanarItem& item, const Strips::Chunk& chunk) {
    Segment* segments = segments_.as<Segment>();
    DestRun* runs = reinterpret_cast<DestRun*>(segments + strips_.rows * strips_.width);
    const int64_t pixels = chunk.pixels();
    const int64_t found = cut_into_segments(p_, strips_.first_pixel(chunk), pixels, segments);
    const int64_t run_count = join_runs(p_.grad_strides, segments, found, runs);
    const int64_t channel = item.group * p_.rows + item.first_row;
    transpose_grad(p_.grad + channel * p_.grad_strides.channel, p_.grad_strides, item.rows, runs,
                   run_count, pixels, grad_.as<A>());
  }

  /// Multiplies all of K of an item with a panel of grad, [pixel][width].
  void multiply_panel(const WeightPlanarItem& item, const ChunkOperands& in, const A* grad,
                      int64_t width, const Rows<A>& sums) {
    if (blocking_.even) {
      return multiply_even_channels<T>(p_, strips_, in.chunk, in.source, item.channel,
                                       item.channels, grad, width, sums, in.adds,
                                       pointers_.as<int64_t>());
    }
    if (blocking_.by_tap) {
      return multiply_taps<T>(p_, strips_, in.chunk, in.source, item.channels, pointers(), grad,
                              width, sums, in.adds);
    }
    const int64_t count = item.channels * blocking_.taps;
    TileOperands<A> tile{nullptr,      0,    in.runs, in.chunk.pixels() / in.runs,
                         strips_.step, grad, width};
    for (int64_t i = 0; i < count; i += kTileRows) {
      const int rows = int(count - i < kTileRows ? count - i : kTileRows);
      tile.rows = pointers() + i * in.runs;
      multiply<A>(tile, sums.at(i), sums.pitch, in.adds, rows, vectors_for<A>(width));
    }
  }

  const WeightContraction<T>& p_;
  const WeightGemmPlanarBlocking<T>& blocking_;
  const Strips& strips_;
  const WeightPlaces<T>& places_;
  A* all_sums_;
  Scratch item_sums_, strip_, grad_, pointers_, segments_;
};

template <class T>
void weight_gemm_planar(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  const WeightGemmPlanarBlocking<T> blocking(p);
  Scratch sums(blocking.sum_bytes);
  Scratch table(blocking.offset_bytes);
  const WeightPlaces<T> places(p, table.as<int64_t>());
  const int64_t items = p.groups * blocking.blocks * blocking.row_blocks * blocking.splits;
  parallel_threads(items, 1, [&](ThreadItems& of_thread) {
    WeightGemmPlanarThread<T> thread(p, blocking, places, sums.as<A>());
    of_thread.for_each([&](int64_t i, bool) { thread.make(blocking.item(p, i)); });
  });
  if (blocking.direct || blocking.stores_items) return;
  const auto store_weights =
      p.dest_strides.row == 1 ? store_weight_rows<T> : store_weight_planar<T>;
  store_weights(p, sums.as<A>(), blocking.splits);
}
