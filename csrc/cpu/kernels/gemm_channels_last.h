// Dense and grouped convolution with vectors along destination channels: dest[pixels x rows] =
// im2col[pixels x K] * weight[K x rows] for each group, K = taps * source channels.
//
// The pixels are never copied where the tensor already holds accumulators: a tile takes one pointer
// per pixel and tap, straight into the source, or to a row of zeros where padding is read. Pixels
// of 16-bit elements are widened once for all column blocks. Weights are packed once per call as
// [group][column block][tap][channel][columns of the block] and shared by all threads; or an item
// packs each slice of them that it comes to, where the pixels are few or the weights large. Items
// are (group, block of pixels, column block, or all of these where the weights are few); K is cut
// so that the slice of packed weights stays in L2 while all pixel tiles of the item use it. Tiles
// write the destination, unless its elements are narrower than accumulators or its pixels lie
// unevenly. With few source channels (images) the taps of a kernel row, which lie side by side in
// the source, count as one tap of more channels.

/// Pixels of an item, which share each slice of packed weights: the more, the less often weights
/// that do not fit L2 are fetched, but there must be items for all threads.
constexpr int64_t kPixelBlock = 8 * kTileRows;
constexpr int64_t kMaxPixelBlock = 4 * kPixelBlock;

/// The weights of a group up to this size stay in L2 while tile after tile of pixels meets all of
/// them, and writes whole pixels of the destination.
constexpr int64_t kSharedWeightBytes = int64_t(256) << 10;

/// Pointers to the taps of so many pixels stay in L1 beside what the tiles read.
constexpr int64_t kMaxPointers = 2048;

/// K up to which kernel rows count as one tap: border pixels copy all of theirs.
constexpr int64_t kMaxMergedInner = 4096;

/// From so many taps on a block is one tile of pixels, to bound the table of pointers.
constexpr int64_t kManyTaps = 1024;

/// Pixels of 16-bit elements are widened a block at a time: as many as so many bytes of L2 hold,
/// though no fewer than a tile.
constexpr int64_t kWidenedBytes = int64_t(1) << 20;

/// Adds the bias to the sums of pixels [first, first + count), `pitch` apart, and stores `channels`
/// destination channels of each from `channel` on.
template <class T>
void store_pixels(const Contraction<T>& p, int64_t channel, int64_t channels, int64_t first,
                  int64_t count, const Accumulator<T>* sums, int64_t pitch) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  A bias[kTileColumns<A>];
  for (int64_t c = 0; c < pitch; ++c) {
    bias[c] = p.bias != nullptr && c < channels ? widen(p.bias[channel + c]) : A(0);
  }
  PixelPlace at(p, first);
  for (int64_t i = 0; i < count; ++i, sums += pitch, at.step(p)) {
    T* to = p.dest + at.offset(p.dest_strides) + channel;
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) store_narrow(to + c, load(sums + c) + load(bias + c));
    if (c < channels) store_partial(to + c, load(sums + c) + load(bias + c), channels - c);
  }
}

/// So few pixels do not pay for packing the weights where they can be read as they lie.
constexpr int64_t kPixelsWorthPacking = 4 * kPixelBlock;

/// Whether tiles can read the weight of a 1x1 kernel where it lies: whole registers of neighbouring
/// destination channels.
template <class T>
bool weight_columns_in_place(const Contraction<T>& p) {
  return __is_same(T, Accumulator<T>) && p.taps() == 1 && p.weight_strides.row == 1 &&
         p.rows % kLanes<Accumulator<T>> == 0;
}

/// Blocks of so many pixels, most of them, meet slices of weights that are packed just before, or
/// copied by the first tile: what is packed in advance goes to memory and back. One block leaves
/// only the column blocks to be items; more than one pack all slices again, which weights pay for
/// that are too large for L2.
constexpr int64_t kPixelsOfSlices = 512, kLargeWeightBytes = 1 << 20;

/// Each thread packs what it multiplies (kOwnBytes), all pixels with one part of the columns before
/// the next part: those must be few enough to stay in cache, unless one part is all there is.
constexpr int64_t kOwnWeightPixels = 512;

/// How tiles find weights: where they lie; packed, for the call or by the thread that multiplies
/// them; or packed, or copied, a slice of K at a time.
enum class ColumnWeights { in_place, packed, packed_by_thread, in_slices };

/// Pixels of an item: as many as leave kWantedItems items, from the least that uses a slice of
/// weights well to kMaxPixelBlock.
inline int64_t choose_pixel_block(int64_t pixels, int64_t taps, int64_t items_each) {
  if (taps >= kManyTaps) return kTileRows;
  // Few pixels: fetching weights is most of the work, and twice would be twice of it.
  if (pixels <= 2 * kPixelBlock && items_each > 1) return round_up(pixels, kTileRows);
  int64_t block = kPixelBlock;
  while (block < kMaxPixelBlock && 2 * block * taps <= kMaxPointers &&
         ceil_div(pixels, 2 * block) * items_each >= kWantedItems) {
    block *= 2;
  }
  return block;
}

/// An item: some column blocks of pixels [first, first + count) of a group.
struct GemmItem {
  int64_t group;
  int64_t block;  // of pixels: which one, counted over groups
  int64_t first, count;
  int64_t column_begin, column_end;  // blocks
};

/// Some channels of one tap, or all channels of some taps: elements of K from `k` on.
struct GemmSlice {
  int64_t tap, taps;
  int64_t channel, channels;
  int64_t k;
  bool first, last;

  int64_t inner() const { return taps * channels; }
};

/// How a call is cut, and the scratch that it takes.
template <class T>
struct GemmChannelsLastBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  static constexpr bool reads_source = __is_same(T, A);  // it holds accumulators
  bool merged;                                           // the taps of a kernel row are one tap
  int64_t groups, taps, depth, inner;                    // of the merged taps
  int64_t pixels, pixel_block, pixel_blocks;
  int64_t padded_rows, column_blocks;
  int64_t item_blocks, column_parts;  // column blocks of an item, items of a block of pixels
  int64_t run, tap_block;  // a slice of K: some channels of one tap, or all channels of some taps
  ColumnWeights weights;   // unless they are packed already
  WeightSlices slices;
  bool stores;                                    // tiles write the destination
  int64_t weight_bytes, table_bytes, zero_bytes;  // of the call
  int64_t pointer_bytes, sum_bytes, border_bytes, widened_bytes, copied_bytes;  // of each thread

  explicit GemmChannelsLastBlocking(const Contraction<T>& p) {
    merged = p.depth * p.taps() <= kMaxMergedInner && kernel_rows_are_runs(p, p.source_strides);
    const PixelPointers<T> counts{p, merged, nullptr, nullptr};
    taps = counts.taps();
    depth = counts.depth();
    inner = taps * depth;
    groups = p.groups;
    pixels = p.batch * p.pixels();
    column_blocks = EvenBlocks<A>(p.rows).count;
    padded_rows = round_up(p.rows, kLanes<A>);
    stores = reads_source && pixels_are_even(p.dest_strides, p.batch,
                                             {p.walk[0].count, p.walk[1].count, p.walk[2].count});
    const bool few_weights = sizeof(A) * padded_rows * inner <= kSharedWeightBytes &&
                             p.groups * ceil_div(pixels, kPixelBlock) >= kWantedItems;
    item_blocks = stores && few_weights ? column_blocks : 1;
    column_parts = ceil_div(column_blocks, item_blocks);
    pixel_block = choose_pixel_block(pixels, taps, p.groups * column_parts);
    const bool columns_in_place = weight_columns_in_place(p);
    slices = weight_slices(p);
    const int64_t most = even_part(pixels, kPixelsOfSlices);
    const int64_t least_items = pixels <= 2 * kPixelBlock ? 2 : kFewItems;
    const bool pays =
        pixels <= kPixelsOfSlices || int64_t(sizeof(A)) * padded_rows * inner >= kLargeWeightBytes;
    const bool in_slices = reads_source && item_blocks == 1 && pays &&
                           most * taps <= 2 * kMaxPointers &&
                           p.groups * column_parts * ceil_div(pixels, most) >= least_items &&
                           slices != WeightSlices::none;
    if (in_slices) pixel_block = most;
    if (!reads_source) {
      const int64_t fits = kWidenedBytes / int64_t(sizeof(A)) / inner / kTileRows * kTileRows;
      pixel_block = fits > pixel_block ? pixel_block : fits < kTileRows ? kTileRows : fits;
    }
    pixel_blocks = ceil_div(pixels, pixel_block);
    if (reads_source) pixel_block = round_up(ceil_div(pixels, pixel_blocks), kTileRows);
    run = depth < kChannelBlock ? depth : kChannelBlock;
    tap_block = depth > run ? 1 : ceil_div(kChannelBlock, run);

    const int64_t item_rows = columns * item_blocks;
    const int64_t own_bytes =
        sizeof(A) * (item_rows < padded_rows ? item_rows : padded_rows) * inner;
    const bool apart = (pixels <= kOwnWeightPixels || column_parts == 1) && own_bytes <= kOwnBytes;
    weights = in_slices                                           ? ColumnWeights::in_slices
              : columns_in_place && pixels <= kPixelsWorthPacking ? ColumnWeights::in_place
              : apart                                             ? ColumnWeights::packed_by_thread
                                                                  : ColumnWeights::packed;
    const bool in_place = weights == ColumnWeights::in_place;
    weight_bytes = in_place ? 0 : sizeof(A) * p.groups * padded_rows * inner;
    table_bytes = sizeof(int64_t) * p.taps();
    zero_bytes = sizeof(A) * depth;
    pointer_bytes = sizeof(T*) * (pixel_block * taps * (reads_source ? 1 : 2) + counts.lines());
    sum_bytes = sizeof(A) * pixel_block * columns;
    border_bytes = merged ? sizeof(T) * pixel_block * inner : 0;
    const int64_t copied_depth = in_slices ? run * tap_block : in_place ? run * item_blocks : 0;
    copied_bytes =
        weights == ColumnWeights::packed_by_thread ? own_bytes : sizeof(A) * copied_depth * columns;
    widened_bytes = reads_source ? 0 : sizeof(A) * pixel_block * inner;
  }

  int64_t items() const { return groups * pixel_blocks * column_parts; }
  /// Item `index` of these: those that share pixels follow each other, or those that share weights
  /// which their thread packs.
  GemmItem item(int64_t index) const {
    int64_t block = index / column_parts, part = index % column_parts;
    if (weights == ColumnWeights::packed_by_thread) {
      const int64_t rest = index / pixel_blocks;
      block = rest / column_parts * pixel_blocks + index % pixel_blocks, part = rest % column_parts;
    }
    const int64_t first = block % pixel_blocks * pixel_block, left = pixels - first;
    return {block / pixel_blocks,
            block,
            first,
            left < pixel_block ? left : pixel_block,
            part * item_blocks,
            (part + 1) * item_blocks};
  }
  /// The slice of K from this channel of this tap on.
  GemmSlice slice(int64_t tap, int64_t channel) const {
    const int64_t taps_left = taps - tap, left = depth - channel;
    const int64_t taps_here = taps_left < tap_block ? taps_left : tap_block;
    const int64_t channels = left < run ? left : run;
    return {tap,
            taps_here,
            channel,
            channels,
            tap * depth + channel,
            tap == 0 && channel == 0,
            taps_here == taps_left && channels == left};
  }

  /// Of the weights, unless they are packed already.
  int64_t packed_bytes() const { return weights == ColumnWeights::packed ? weight_bytes : 0; }

  Footprint footprint() const {
    return {kTileRows, columns, packed_bytes() + table_bytes + zero_bytes,
            pointer_bytes + sum_bytes + border_bytes + widened_bytes + copied_bytes};
  }
};

/// What the threads of a call share.
template <class T>
struct GemmChannelsLastCall {
  using A = Accumulator<T>;
  const Contraction<T>& p;
  const GemmChannelsLastBlocking<T>& blocking;
  EvenBlocks<A> columns;  // blocks of them
  ColumnWeights kind;
  const A* weights;        // packed for the call, or where they lie
  const int64_t* offsets;  // of the taps in the weight
  const A* zeros;          // as many as a tap has channels

  /// The columns of an item.
  int64_t width(const GemmItem& item) const {
    return columns.begin(item.column_end) - columns.begin(item.column_begin);
  }
  /// Those of the weight from `k` on, `inner` elements of K, where they lie.
  WeightSlice<T> slice_of(const GemmItem& item, int64_t k, int64_t inner) const {
    const int64_t column = columns.begin(item.column_begin);
    return {p, blocking.slices, offsets, item.group, column, width(item), k, inner};
  }
};

/// The weights of a slice for the columns of an item, and which tiles read, copy and bring them.
template <class T>
struct SliceWeights {
  WeightSlice<T> here, following;  // where they lie; none: they need not be packed, or brought
  bool first_copies;               // the first tile: what others read
  int64_t copying, tiles;          // tiles that copy, and all after them
  bool evenly;                     // each brings a part of `following` as it multiplies

  /// Part `tile` of what follows, for a tile that has time for it.
  LineFetches<Accumulator<T>> fetches(int64_t tile) const {
    const bool brings = evenly && tile >= copying && following.from != nullptr;
    return brings ? following.part(tile - copying, tiles) : LineFetches<Accumulator<T>>{};
  }
  /// The same before the tile multiplies, where these are more lines than the tile has products.
  /// Inlined, as GCC drops calls that have no effect.
  [[gnu::always_inline]] void fetch(int64_t tile) const {
    if (evenly || tile < copying) return;
    fetch_rows(following.from, following.step, following.rows, following.count, tile - copying,
               tiles);
  }
};

/// What a thread makes items with.
template <class T>
class GemmChannelsLastThread {
  using A = Accumulator<T>;
  static constexpr bool in_place = GemmChannelsLastBlocking<T>::reads_source;

 public:
  explicit GemmChannelsLastThread(const GemmChannelsLastCall<T>& call)
      : call_(call),
        p_(call.p),
        blocking_(call.blocking),
        pointer_table_(blocking_.pointer_bytes),
        sums_(blocking_.sum_bytes),
        border_(blocking_.border_bytes),
        widened_(blocking_.widened_bytes),
        copied_(blocking_.copied_bytes),
        // A tap of zeros is one of narrower elements as well.
        pointers_{p_, blocking_.merged, reinterpret_cast<const T*>(call.zeros), border_.as<T>()},
        pixels_(pointer_table_.as<const T*>()),
        rows_(reinterpret_cast<const A**>(pixels_)) {
    if (!in_place) rows_ += blocking_.pixel_block * blocking_.taps;
  }

  /// Makes an item, after which comes `next`, if any.
  void make(const GemmItem& item, const GemmItem* next) {
    point(item);
    if (call_.kind == ColumnWeights::packed_by_thread) pack(item);
    for (int64_t tap = 0; tap < blocking_.taps; tap += blocking_.tap_block) {
      for (int64_t channel = 0; channel < blocking_.depth; channel += blocking_.run) {
        multiply_slice(item, blocking_.slice(tap, channel), next);
      }
    }
    if (blocking_.stores) return;
    const int64_t column = call_.columns.begin(item.column_begin), width = call_.width(item);
    const int64_t left = p_.rows - column;
    store_pixels(p_, item.group * p_.rows + column, left < width ? left : width, item.first,
                 item.count, sums_.as<A>(), width);
  }

 private:
  /// Points tiles to the pixels of an item, unless those of the item before are the same.
  void point(const GemmItem& item) {
    if (item.block == pointed_) return;
    pointed_ = item.block;
    const T** lines = reinterpret_cast<const T**>(rows_) + blocking_.pixel_block * blocking_.taps;
    pointers_.point(p_.source + item.group * p_.depth, item.first, item.count, lines, pixels_);
    if constexpr (!in_place) {
      widen_pixels<T>(pixels_, item.count, blocking_.taps, blocking_.depth, pointers_.zeros,
                      call_.zeros, widened_.as<A>(), rows_);
    }
  }

  /// Packs the weights of an item, unless those of the item before are the same.
  void pack(const GemmItem& item) {
    const int64_t columns = item.group * blocking_.column_blocks + item.column_begin;
    if (columns == packed_) return;
    packed_ = columns;
    const int64_t first = call_.columns.begin(item.column_begin);
    const int64_t last = call_.columns.begin(item.column_end);
    for (int64_t column = first; column < last; column += kLanes<A>) {
      pack_weight_piece(p_, call_.offsets, item.group, column / kLanes<A>, copied_.as<A>(), first);
    }
  }

  /// Multiplies a slice of K of all pixels of an item.
  void multiply_slice(const GemmItem& item, const GemmSlice& slice, const GemmItem* next) {
    const SliceWeights<T> weights = weights_of(item, slice, next);
    for (int64_t i = 0; i < item.count; i += kTileRows) {
      weights.fetch(i / kTileRows);
      for (int64_t block = item.column_begin; block < item.column_end; ++block) {
        multiply_block(item, slice, weights, i, block);
      }
    }
  }

  /// The weights of a slice, which are packed unless a tile copies them.
  SliceWeights<T> weights_of(const GemmItem& item, const GemmSlice& slice, const GemmItem* next) {
    // Rows of a weight in place are pages apart: the first of several tiles copies what others
    // read, of rows that are whole registers, if it reads more than padding itself.
    bool reads = false;
    for (int r = 0; r < kTileRows && item.count > kTileRows; ++r) {
      reads |= rows_[slice.tap * kTileRows + r] != call_.zeros;
    }
    SliceWeights<T> weights{};
    const int64_t inner = slice.inner();
    if (call_.kind == ColumnWeights::in_slices) {
      weights.here = call_.slice_of(item, slice.k, inner);
      const int64_t width = call_.width(item);
      weights.first_copies = weights.here.across && weights.here.count == width && reads;
      if (!weights.first_copies) weights.here.pack(copied_.as<A>(), width);
      const int64_t k = slice.last ? 0 : slice.k + inner, left = blocking_.inner - k;
      const GemmItem* following = slice.last ? next : &item;
      if (following != nullptr) {
        weights.following = call_.slice_of(*following, k, left < inner ? left : inner);
      }
    } else {
      weights.first_copies = call_.kind == ColumnWeights::in_place && reads;
    }
    weights.copying = weights.first_copies;
    weights.tiles = ceil_div(item.count, kTileRows) - weights.copying;
    weights.evenly = weights.following.lines() <= weights.tiles * inner;
    return weights;
  }

  /// Multiplies a slice of K of a tile of pixels, from pixel `i` of the item on, for a block of
  /// columns.
  void multiply_block(const GemmItem& item, const GemmSlice& slice, const SliceWeights<T>& weights,
                      int64_t i, int64_t block) {
    const int64_t column = call_.columns.begin(block), left = item.count - i;
    const int64_t width = call_.columns.width(block);
    const int64_t channel = item.group * p_.rows + column;
    TileOperands<A> tile{rows_ + i * blocking_.taps + slice.tap * kTileRows,
                         slice.channel,
                         slice.taps,
                         slice.channels,
                         1,
                         nullptr,
                         0};
    tile.zeros = call_.zeros;
    point_to_weights(item, slice, weights, i, block, tile);
    tile.fetches = weights.fetches(i / kTileRows);
    if (tile.fetches.from == nullptr && block == item.column_begin) {
      tile.fetches = next_pixels(item, slice, i);
    }
    Rows<A> to{sums_.as<A>(), width};
    if (blocking_.stores) {
      to.pitch = p_.dest_strides.axis[2];
      to.data = reinterpret_cast<A*>(p_.dest) + item.first * to.pitch + channel;
      if (column + width > p_.rows) tile.last = p_.rows % kLanes<A>;
      if (slice.last && p_.bias != nullptr) {
        tile.column_bias = reinterpret_cast<const A*>(p_.bias) + channel;
      }
    }
    multiply<A>(tile, to.at(i), to.pitch, !slice.first, int(left < kTileRows ? left : kTileRows),
                int(width / kLanes<A>));
  }

  /// Points a tile to the weights of a block of columns: packed, where they lie, or copied.
  void point_to_weights(const GemmItem& item, const GemmSlice& slice,
                        const SliceWeights<T>& weights, int64_t i, int64_t block,
                        TileOperands<A>& tile) const {
    const int64_t column = call_.columns.begin(block);
    const int64_t width = call_.columns.width(block);
    const int64_t before = column - call_.columns.begin(item.column_begin);
    A* copy = copied_.as<A>() + before * slice.channels;
    const bool copies = weights.first_copies && i == 0;
    if (copies) tile.copy = copy;
    tile.b_step = width;
    if (weights.first_copies && !copies) {
      tile.b = copy;
      return;
    }
    switch (call_.kind) {
      case ColumnWeights::in_place:
        tile.b_step = p_.weight_strides.depth;
        tile.b = call_.weights + item.group * p_.weight_strides.group + column;
        tile.b += slice.k * tile.b_step;
        return;
      case ColumnWeights::packed:
        tile.b = call_.weights + (item.group * blocking_.padded_rows + column) * blocking_.inner +
                 slice.k * width;
        return;
      case ColumnWeights::packed_by_thread:
        tile.b = copied_.as<A>() + before * blocking_.inner + slice.k * width;
        return;
      case ColumnWeights::in_slices:
        tile.b = copies ? weights.here.in_place() : copy;
        if (copies) tile.b_step = weights.here.step;
    }
  }

  /// The pixels of the tile after that from pixel `i` on, where they are one run that no slice
  /// cuts.
  LineFetches<A> next_pixels(const GemmItem& item, const GemmSlice& slice, int64_t i) const {
    const bool runs = in_place && blocking_.taps == 1 && slice.channels == blocking_.depth;
    if (!runs || i + kTileRows >= item.count) return {};
    return {rows_[i + kTileRows], kTileRows};
  }

  const GemmChannelsLastCall<T>& call_;
  const Contraction<T>& p_;
  const GemmChannelsLastBlocking<T>& blocking_;
  Scratch pointer_table_, sums_, border_, widened_, copied_;
  PixelPointers<T> pointers_;
  const T** pixels_;  // those of an item
  const A** rows_;    // the same as accumulators
  int64_t pointed_ = -1, packed_ = -1;
};

template <class T>
void gemm_channels_last(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const GemmChannelsLastBlocking<T> blocking(p);
  const PackedColumns<T> packed(p, blocking.packed_bytes());
  Scratch offsets(blocking.table_bytes);
  tap_offsets(p, p.weight_strides, offsets.as<int64_t>());
  Scratch zeros(blocking.zero_bytes);
  memset(zeros.as<void>(), 0, blocking.zero_bytes);
  const ColumnWeights kind = p.prepared != nullptr ? ColumnWeights::packed : blocking.weights;
  const A* in_place = reinterpret_cast<const A*>(p.weight) + *offsets.as<int64_t>();
  const GemmChannelsLastCall<T> call{p,
                                     blocking,
                                     EvenBlocks<A>(p.rows),
                                     kind,
                                     kind == ColumnWeights::in_place ? in_place : packed.data(),
                                     offsets.as<int64_t>(),
                                     zeros.as<A>()};
  parallel_threads(blocking.items(), 1, [&](ThreadItems& items) {
    GemmChannelsLastThread<T> thread(call);
    items.for_each([&](int64_t i, bool last) {
      const GemmItem next = blocking.item(i + 1);
      thread.make(blocking.item(i), last ? nullptr : &next);
    });
  });
}
