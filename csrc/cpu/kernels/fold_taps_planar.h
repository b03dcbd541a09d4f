// The gradient for the input (transposed convolution) of planar tensors, from products with all
// taps (fold_taps.h): products[(channel, tap) x pixels] = weight * source[K x pixels], where source
// is a matrix as it lies, and then dest[channel] = their sum at each position.
//
// An item is a block of source pixels and a block of destination channels, whose rows of products
// are kFoldRows or more: enough to pay for reading the source again for each. Panels of
// kTileColumns pixels are read in place, or copied where they are no whole registers of one run or
// where planes compete for the same lines of a cache, once for all items of a thread if they are
// few. A weight that only a few panels meet is read where it lies. Folding runs along destination
// rows (folded_rows.h); of kernels that lie side by side products are destinations (tiled_dest.h).

/// Rows of products of an item.
constexpr int64_t kFoldRows = 8 * kTileRows;

/// Source channels that are multiplied at a time: 128 x 64 floats and the weights of a tile stay in
/// a large L1.
constexpr int64_t kFoldDepth = 128;

/// Source channels of a weight that are read side by side, each along its rows.
constexpr int64_t kTapStreams = 16;

/// Panels of all source channels that a thread keeps for its next items have at most so many bytes.
constexpr int64_t kKeptPanelBytes = 1 << 19;

/// Where so few panels meet the weight, packing it takes longer than reading it in pieces of a
/// tile's rows, which are pages apart.
constexpr int64_t kPanelsInPlace = 2;

/// How tiles read the weight: packed for the call, or by each thread, or each block of channels by
/// its only item; or where it lies.
enum class TapWeights { packed, packed_by_item, in_place };

/// How a call is cut, and the scratch that it takes.
template <class T>
struct FoldTapsPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  static constexpr int64_t lanes = kLanes<A>;
  int64_t taps;  // of a depth
  int64_t channel_block, channel_blocks;
  FoldBlocks blocks;
  int64_t tiles;          // of the rows of a block, for one tap of the depth
  int64_t depth_block;    // of the source channels
  bool at_once;           // are the products of a panel stored before those of the next are made?
  int64_t pitch;          // of products: those of a panel, or of a block
  int64_t line;           // elements of a destination row of a block, in whole registers
  int64_t block_weights;  // of a block of channels, packed
  TapWeights weights;
  bool keeps_panels;  // of all source channels, for the items that follow
  PackedWeight packed;
  int64_t panel_bytes, product_bytes, line_bytes, tap_bytes, block_bytes;

  explicit FoldTapsPlanarBlocking(const InputGradient<T>& p)
      : taps(p.axis[1].kernel * p.axis[2].kernel),
        channel_block(channels_of(p, taps)),
        channel_blocks(ceil_div(p.rows, channel_block)),
        blocks(p, p.axis, channel_blocks, channel_block * taps * int64_t(sizeof(A))) {
    depth_block = p.depth < kFoldDepth ? p.depth : kFoldDepth;
    at_once = taps_tile_dest(p);
    pitch = at_once ? columns : round_up(blocks.pixels(), lanes);
    const ConvAxis& width = p.axis[2];
    line = round_up(ceil_div(blocks.width.step, width.stride), lanes) * width.stride;
    tiles = ceil_div(channel_block * taps, kTileRows);
    block_weights = p.axis[0].kernel * tiles * kTileRows * p.depth;
    const int64_t panels = EvenBlocks<A>(blocks.pixels()).count;
    const int64_t kept_bytes = sizeof(A) * columns * panels * p.depth;
    const int64_t pixel_blocks = blocks.count() * p.axis[0].input;
    const int64_t block_weight_bytes = sizeof(A) * block_weights;
    const int64_t all_bytes = p.groups * channel_blocks * block_weight_bytes;
    keeps_panels = p.axis[0].kernel == 1 && kept_bytes <= kKeptPanelBytes;
    const bool in_place = panels <= kPanelsInPlace && __is_same(T, A);
    weights = pixel_blocks != 1 ? TapWeights::packed
              : in_place        ? TapWeights::in_place
                                : TapWeights::packed_by_item;
    if (weights == TapWeights::packed) {
      packed = packed_weight(all_bytes, p.groups, pixel_blocks, channel_blocks);
    }
    block_bytes = weights == TapWeights::packed_by_item ? block_weight_bytes : 0;
    panel_bytes = keeps_panels ? kept_bytes : sizeof(A) * columns * depth_block;
    // A register before the first row and one after the last: see sum_taps.
    product_bytes = sizeof(A) * (channel_block * taps * pitch + 2 * lanes);
    line_bytes = sizeof(A) * line;
    tap_bytes = sizeof(WidthTap) * width.kernel + sizeof(int64_t) * (width.stride + 1) +
                sizeof(int64_t) * p.axis[1].kernel;
  }

  static int64_t channels_of(const Channels& p, int64_t taps) {
    const int64_t wanted = ceil_div(kFoldRows, taps);
    return even_part(p.rows, wanted);
  }

  Footprint footprint() const {
    return {
        kTileRows, columns, packed.of_call(),
        panel_bytes + product_bytes + line_bytes + tap_bytes + block_bytes + packed.of_thread()};
  }
};

/// The rows of the weight, a (channel, tap) each, of a block of channels.
template <class T>
struct TapRows {
  const InputGradient<T>& p;
  const FoldTapsPlanarBlocking<T>& blocking;
  const T* from;
  int64_t rows;  // of a tap of the depth

  /// Those of block `block`, counted over groups.
  TapRows(const InputGradient<T>& p, const FoldTapsPlanarBlocking<T>& blocking, int64_t block)
      : p(p), blocking(blocking) {
    const int64_t group = block / blocking.channel_blocks;
    const int64_t number = block % blocking.channel_blocks;
    from = p.weight + group * p.weight_strides.group +
           number * blocking.channel_block * p.weight_strides.row;
    rows = channels_of_block(p, blocking.channel_block, number) * blocking.taps;
  }

  /// Where row `row` of tap `kd` of the depth lies, from that of row 0 of tap 0 on.
  int64_t offset(int64_t row, int64_t kd) const {
    return (row / blocking.taps * p.axis[0].kernel + kd) * blocking.taps + row % blocking.taps;
  }

  /// Points a tile to rows [row, row + count) of tap `kd` of the depth where they lie, at K `k`.
  void point(int64_t row, int count, int64_t kd, int64_t k, const Accumulator<T>** to) const {
    const T* at = from + k * p.weight_strides.depth;
    for (int r = 0; r < count; ++r) {
      to[r] = reinterpret_cast<const Accumulator<T>*>(at + offset(row + r, kd));
    }
  }

  /// Packs kTapStreams source channels from `first` on, or what is left of them, as [tap of the
  /// depth][tile][K][kTileRows]: rows of a tile, which mostly are neighbours in memory, stay
  /// neighbours.
  void pack(int64_t first, Accumulator<T>* to) const {
    const int64_t last = first + kTapStreams < p.depth ? first + kTapStreams : p.depth;
    for (int64_t kd = 0; kd < p.axis[0].kernel; ++kd) {
      Accumulator<T>* tile = to + kd * blocking.tiles * kTileRows * p.depth;
      for (int64_t row = 0; row < rows; row += kTileRows, tile += kTileRows * p.depth) {
        const int64_t some = rows - row < kTileRows ? rows - row : kTileRows;
        int64_t offsets[kTileRows];
        for (int64_t r = 0; r < some; ++r) offsets[r] = offset(row + r, kd);
        const bool dense = offsets[some - 1] - offsets[0] == some - 1;
        for (int64_t c = first; c < last; ++c) {
          const T* at = from + c * p.weight_strides.depth;
          if (dense) {
            copy_strided(at + offsets[0], 1, some, tile + c * kTileRows);
          } else {
            for (int64_t r = 0; r < some; ++r) tile[c * kTileRows + r] = widen(at[offsets[r]]);
          }
        }
      }
    }
  }
  /// The same for all source channels.
  void pack(Accumulator<T>* to) const {
    for (int64_t c = 0; c < p.depth; c += kTapStreams) pack(c, to);
  }
};

/// Packs all blocks.
template <class T>
void pack_tap_rows(const InputGradient<T>& p, const FoldTapsPlanarBlocking<T>& blocking,
                   Accumulator<T>* to) {
  const int64_t slices = ceil_div(p.depth, kTapStreams);
  const int64_t blocks = p.groups * blocking.channel_blocks;
  const int64_t work = kTapStreams * blocking.channel_block * blocking.taps * p.axis[0].kernel;
  parallel_for(slices * blocks, ceil_div(16384, work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t block = i % blocks, first = i / blocks * kTapStreams;
      TapRows<T>(p, blocking, block).pack(first, to + block * blocking.block_weights);
    }
  });
}

/// What the tiles of an item read.
template <class T>
struct FoldTapsPlanarOperands {
  const FoldItem& item;
  FoldSource<T> source;
  EvenBlocks<Accumulator<T>> panels;  // of the source pixels
  bool copies;                        // panels that cannot be read in place
  TapRows<T> rows, following;         // of the weight, and of the item that comes next
  bool fetches;                       // brings the latter
  const Accumulator<T>* packed;       // rows, unless they are read in place

  TiledDest<T> dest() const { return {source, item.first_channel}; }
};

/// Some pixels of an item; and some source channels of one of the depths that reach it.
struct FoldPanel {
  int64_t index, first, count;
};
struct FoldSlice {
  int64_t tap, z;  // of the depth
  int64_t k, depth;
  bool last;  // of the channels
};

/// What a thread makes items with.
template <class T>
class FoldTapsPlanarThread {
  using A = Accumulator<T>;
  static constexpr int lanes = kLanes<A>;

 public:
  /// `packed` is the weight, where it is packed for the call.
  FoldTapsPlanarThread(const InputGradient<T>& p, const FoldTapsPlanarBlocking<T>& blocking,
                       const A* packed)
      : p_(p),
        blocking_(blocking),
        packed_(packed),
        panels_(blocking.panel_bytes),
        products_(blocking.product_bytes),
        line_(blocking.line_bytes),
        taps_(blocking.tap_bytes),
        weights_(blocking.packed.of_thread() + blocking.block_bytes) {
    if (blocking.packed.of_thread() == 0) return;
    pack_tap_rows(p, blocking, weights_.as<A>());
    packed_ = weights_.as<A>();
  }

  /// Makes an item, after which comes the next unless it is the `last`.
  void make(const FoldItem& item, bool last) {
    const FoldTapsPlanarOperands<T> in = operands(item, last);
    const int64_t pixels = item.block.pixels();
    for (int64_t i = 0; i < in.panels.count; ++i) {
      const int64_t first = in.panels.begin(i), next = in.panels.begin(i + 1);
      const FoldPanel panel{i, first, (next < pixels ? next : pixels) - first};
      multiply_panel(in, panel);
      if (blocking_.at_once) {
        in.dest().store(panel.first, panel.count, item.channels, products(), blocking_.pitch);
      }
    }
    if (!blocking_.at_once) fold(item);
  }

 private:
  /// After a register that may be read.
  A* products() const { return products_.as<A>() + lanes; }

  FoldTapsPlanarOperands<T> operands(const FoldItem& item, bool last) {
    const TapRows<T> rows(p_, blocking_, item.channel_block);
    const A* packed = weights_.as<A>();
    if (blocking_.weights == TapWeights::packed_by_item) rows.pack(weights_.as<A>());
    if (blocking_.weights == TapWeights::packed) {
      packed = packed_ + item.channel_block * blocking_.block_weights;
    }
    const bool copies = !blocking_.keeps_panels || item.of_pixels != copied_;
    copied_ = item.of_pixels;
    const bool fetches = blocking_.weights != TapWeights::packed && !last;
    const EvenBlocks<A> panels(item.block.pixels());
    fetched_ = 0;
    return {item,    FoldSource<T>(p_, item.block),
            panels,  copies,
            rows,    TapRows<T>(p_, blocking_, fetches ? item.channel_block + 1 : 0),
            fetches, packed};
  }

  /// All products of a panel.
  void multiply_panel(const FoldTapsPlanarOperands<T>& in, const FoldPanel& panel) {
    bool accumulate = false;
    for_each_reaching(p_.axis[0], in.item.block.depth, [&](int64_t tap, int64_t z) {
      for (int64_t k = 0; k < p_.depth; k += blocking_.depth_block) {
        const int64_t left = p_.depth - k;
        const bool last = left <= blocking_.depth_block;
        multiply_slice(in, panel, {tap, z, k, last ? left : blocking_.depth_block, last},
                       accumulate);
        accumulate = true;
      }
    });
  }

  void multiply_slice(const FoldTapsPlanarOperands<T>& in, const FoldPanel& panel,
                      const FoldSlice& slice, bool accumulate) {
    const int64_t taps = blocking_.taps, rows = in.item.channels * taps;
    const int vectors = vectors_for<A>(panel.count);
    const bool in_place = blocking_.weights == TapWeights::in_place;
    TileOperands<A> tile{
        nullptr,        0, 1, slice.depth, in_place ? p_.weight_strides.depth : kTileRows, nullptr,
        vectors * lanes};
    point_to_source(in, panel, slice, tile);
    const A* packed = in.packed + (slice.tap * blocking_.tiles * p_.depth + slice.k) * kTileRows;
    A* to = products() + (blocking_.at_once ? 0 : panel.first);
    for (int64_t row = 0; row < rows; row += kTileRows) {
      const int some = int(rows - row < kTileRows ? rows - row : kTileRows);
      const A* weights[kTileRows];
      if (in_place) {
        in.rows.point(row, some, slice.tap, slice.k, weights);
      } else {
        for (int r = 0; r < some; ++r) weights[r] = packed + row * p_.depth + r;
      }
      tile.rows = weights;
      if (blocking_.at_once && slice.last) {
        // Those of the channels that begin in these rows are stored before long.
        in.dest().fetch(panel.first, panel.count, ceil_div(row, taps), ceil_div(row + some, taps));
      }
      if (in.fetches) fetch_following(in);
      multiply<A>(tile, to + row * blocking_.pitch, blocking_.pitch, accumulate, some, vectors);
    }
  }

  /// Points a tile to the channels of a slice: in place, or copied.
  void point_to_source(const FoldTapsPlanarOperands<T>& in, const FoldPanel& panel,
                       const FoldSlice& slice, TileOperands<A>& tile) {
    const int64_t channel = p_.source_strides.channel;
    if (in.source.in_place(panel.first, panel.count)) {
      const T* pixel = in.source.at(slice.z, panel.first) + slice.k * channel;
      tile.b = reinterpret_cast<const A*>(pixel), tile.b_step = channel;
      return;
    }
    const int64_t before = blocking_.keeps_panels ? panel.index * p_.depth + slice.k : 0;
    A* copy = panels_.as<A>() + before * blocking_.columns;
    if (in.copies) {
      in.source.copy(slice.z, panel.first, panel.count, slice.k, slice.depth, copy, tile.b_step);
    }
    tile.b = copy;
  }

  /// Brings a part of the weight that the next item reads, of as many as this item has tiles.
  void fetch_following(const FoldTapsPlanarOperands<T>& in) {
    const int64_t slices = ceil_div(p_.depth, blocking_.depth_block);
    const int64_t parts = in.panels.count * slices * blocking_.tiles;
    fetch_rows(in.following.from, p_.weight_strides.depth, p_.depth,
               in.following.rows * p_.axis[0].kernel, fetched_++, parts);
  }

  /// Adds up the products of an item, row by row.
  void fold(const FoldItem& item) {
    const FoldBlock& block = item.block;
    const ConvAxis &high = p_.axis[1], &wide = p_.axis[2];
    WidthTap* width_taps = taps_.as<WidthTap>();
    int64_t* first_tap = reinterpret_cast<int64_t*>(width_taps + wide.kernel);
    int64_t* offsets = first_tap + wide.stride + 1;
    list_width_taps(wide, block.width, width_taps, first_tap);
    const bool reached = is_reached(p_.axis[0], block.depth);

    const int64_t strides = ceil_div(block.width.count(), wide.stride), pitch = blocking_.pitch;
    A* line = line_.as<A>();
    for (int64_t h = block.height.begin; h < block.height.end; ++h) {
      FoldedRow<A> row{nullptr, offsets, 0, pitch};
      for_each_reaching(high, h, [&](int64_t kh, int64_t y) {
        if (!reached) return;
        offsets[row.count++] =
            kh * wide.kernel * pitch + (y - block.height.low) * block.width.sources();
      });
      for (int64_t i = 0; i < block.images; ++i) {
        T* to = p_.dest + (block.image + i) * p_.dest_strides.batch +
                item.first_channel * p_.dest_strides.channel +
                block.depth * p_.dest_strides.axis[0] + h * p_.dest_strides.axis[1] +
                block.width.begin * p_.dest_strides.axis[2];
        for (int64_t m = 0; m < item.channels; ++m, to += p_.dest_strides.channel) {
          const A bias = p_.bias != nullptr ? widen(p_.bias[item.first_channel + m]) : A(0);
          row.products = products() + m * blocking_.taps * pitch + i * block.plane();
          fold_row(row, width_taps, first_tap, strides, line, wide.stride);
          store_run(line, bias, block.width.count(), to, p_.dest_strides.axis[2]);
        }
      }
    }
  }

  const InputGradient<T>& p_;
  const FoldTapsPlanarBlocking<T>& blocking_;
  const A* packed_;
  Scratch panels_, products_, line_, taps_, weights_;
  int64_t copied_ = -1;  // the block of pixels whose panels are there
  int64_t fetched_ = 0;  // parts of the weight of the next item
};

template <class T>
void fold_taps_planar(const InputGradient<T>& p) {
  using A = Accumulator<T>;
  const FoldTapsPlanarBlocking<T> blocking(p);
  Scratch packed(blocking.packed.of_call());
  if (blocking.packed.of_call() > 0) pack_tap_rows(p, blocking, packed.as<A>());

  const int64_t items =
      p.groups * p.axis[0].input * blocking.blocks.count() * blocking.channel_blocks;
  const int64_t work = blocking.channel_block * blocking.taps * p.depth * blocking.blocks.pixels();
  parallel_threads(items, ceil_div(kSmallestWork, work), [&](ThreadItems& of_thread) {
    FoldTapsPlanarThread<T> thread(p, blocking, packed.as<A>());
    of_thread.for_each([&](int64_t i, bool last) {
      thread.make(FoldItem(p, p.axis, blocking.blocks, blocking.channel_block, i), last);
    });
  });
}
