// Dense and grouped convolution of planar tensors with vectors along destination channels:
// dest^T[pixels x rows] = im2col^T[pixels x K] * weight^T[K x rows], K = taps * source channels.
//
// The source rows under a chunk of destination pixels are transposed, each once and in the order in
// which they lie, a slab of channels at a time, so that a pixel is a run of channels. There a tile
// takes one pointer for each pixel and tap, as it does in channels_last tensors, and what lies in
// padding costs nothing: its pointer is to a row of zeros, and a tap that no pixel of a tile reads
// is skipped. Transposing pays when many channels share it on both sides. Weights are packed once
// per call as [group][column block][tap][channel][columns of the block]; or, where a single chunk
// meets them, slice by slice by the item that comes to it, [tap][channel][columns]: packed in
// advance they would go to memory and back. Items are (group, chunk, some column blocks); their
// sums wait in scratch and are transposed as they are stored.

/// Pixels of a chunk: so many share each slice of packed weights, and their sums stay in L2. A map
/// of 14x14 is one chunk.
constexpr int64_t kTransposedPixels = 256;

/// The source rows of a slab take about so much of L2.
constexpr int64_t kTransposedBytes = 768 << 10;

/// Items for a few cores: those of one chunk may each have to transpose its rows.
constexpr int64_t kTransposedItems = 4;

/// Source channels of a slice of weights, times taps: with 64 columns about so many fit L2 beside
/// the slab. At least a register of channels are transposed at a time.
constexpr int64_t kSliceInner = 288;

/// Rows of which all but so large a part is read are transposed as they lie, one behind the other.
constexpr int64_t kUnreadOfRow = 8;

/// Source rows, each once, in the order in which they lie.
template <class T>
struct SourceRows {
  const T** rows;
  int64_t count = 0;

  void insert(const T* row) {
    int64_t at = count;
    while (at > 0 && rows[at - 1] > row) --at;
    if (at > 0 && rows[at - 1] == row) return;
    for (int64_t i = count++; i > at; --i) rows[i] = rows[i - 1];
    rows[at] = row;
  }
  /// The place of one that was inserted.
  int64_t find(const T* row) const {
    int64_t low = 0, high = count - 1;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (rows[middle] < row) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
  /// How many from `first` on lie `distance` apart.
  int64_t run(int64_t first, int64_t distance) const {
    int64_t end = first + 1;
    while (end < count && rows[end] - rows[end - 1] == distance) ++end;
    return end - first;
  }
};

/// How a call is cut, and the scratch that it takes.
template <class T>
struct TransposedPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  Strips strips;
  EvenBlocks<A> blocks;  // of destination channels
  int64_t taps, inner;   // inner is K
  int64_t row_width;     // source pixels of a row
  bool whole_rows;       // are transposed
  int64_t source_rows;   // of a chunk, at most
  int64_t slab;          // channels
  int64_t item_blocks, parts;
  bool packs_slices;                              // of the weights, unless they are packed already
  int64_t slice;                                  // source channels of one
  int64_t weight_bytes, table_bytes, zero_bytes;  // of the call
  int64_t slab_bytes, pointer_bytes, row_bytes, sum_bytes;  // of each thread
  int64_t slice_bytes;

  /// Source pixels under so many destinations of a row.
  static int64_t source_width(const Contraction<T>& p, int64_t destinations) {
    const Walk& width = p.walk[2];
    const int64_t positions = width.positions(destinations);
    return positions < width.size ? positions : width.size;
  }
  /// Source rows under so many neighbouring destination rows, at most: those of a plane share what
  /// lies between them.
  static int64_t rows_under(const Contraction<T>& p, int64_t destinations) {
    const Walk& height = p.walk[1];
    const int64_t each = height.tap_count * destinations;
    const int64_t beside = height.high() - height.low() + 1 - height.step;
    const int64_t planes = (destinations - 1) / height.count + 2;
    const int64_t shared = destinations * height.step + planes * beside;
    return p.walk[0].tap_count * (beside >= 0 && shared < each ? shared : each);
  }
  /// Pixels of a chunk that leave room for a slab of kChannelBlock channels.
  static int64_t pixels_of(const Contraction<T>& p) {
    const Walk& height = p.walk[1];
    const int64_t channels = p.depth < kChannelBlock ? p.depth : kChannelBlock;
    const int64_t lines = height.step < height.tap_count ? height.step : height.tap_count;
    const int64_t of_pixel = p.walk[0].tap_count * lines * p.walk[2].step;
    const int64_t fit = kTransposedBytes / int64_t(sizeof(A)) / (of_pixel * channels);
    return fit < kPixelBlock ? kPixelBlock : fit < kTransposedPixels ? fit : kTransposedPixels;
  }

  explicit TransposedPlanarBlocking(const Contraction<T>& p)
      : strips(p, pixels_of(p), false), blocks(p.rows), taps(p.taps()), inner(p.depth * taps) {
    constexpr int lanes = kLanes<A>;
    row_width = source_width(p, strips.width);
    const int64_t size = p.walk[2].size;
    whole_rows = strips.pieces == 1 && size - row_width <= size / kUnreadOfRow;
    if (whole_rows) row_width = size;
    source_rows = rows_under(p, strips.rows);
    const int64_t of_channel = sizeof(A) * source_rows * row_width;
    const int64_t fit = kTransposedBytes / of_channel / lanes * lanes;
    const int64_t most = fit < lanes ? lanes : fit < kChannelBlock ? fit : kChannelBlock;
    slab = round_up(even_part(p.depth, most), lanes);
    const int64_t wanted = ceil_div(kTransposedItems, p.groups * strips.chunks());
    item_blocks = ceil_div(blocks.count, wanted < blocks.count ? wanted : blocks.count);
    parts = ceil_div(blocks.count, item_blocks);

    weight_bytes = sizeof(A) * p.groups * blocks.registers * lanes * inner;
    packs_slices = strips.chunks() == 1;
    slice = round_up(ceil_div(kSliceInner, taps), lanes);
    slice_bytes = packs_slices ? sizeof(A) * slice * taps * columns : 0;
    table_bytes = sizeof(int64_t) * taps;
    zero_bytes = sizeof(A) * slab;
    const int64_t pixels = round_up(strips.rows * strips.width, kTileRows);
    slab_bytes = of_channel * slab;
    pointer_bytes = sizeof(A*) * pixels * taps;
    row_bytes = sizeof(T*) * source_rows;
    sum_bytes = sizeof(A) * pixels * item_blocks * columns;
  }

  /// Of the weights, unless they are packed already.
  int64_t packed_bytes() const { return packs_slices ? 0 : weight_bytes; }

  Footprint footprint() const {
    return {kTileRows, columns, packed_bytes() + table_bytes + zero_bytes,
            slab_bytes + pointer_bytes + row_bytes + sum_bytes + slice_bytes};
  }
};

/// Adds the bias to the sums of `count` pixels, `pitch` apart, and stores `channels` destination
/// channels of them, each a run of neighbours.
template <class T>
void store_pixels_as_planes(const Accumulator<T>* sums, int64_t pitch, const T* bias,
                            int64_t channels, int64_t count, T* to, int64_t channel) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  for (int64_t c = 0; c < channels; c += lanes) {
    const int64_t channels_here = channels - c < lanes ? channels - c : lanes;
    const Vec<A> add = bias != nullptr ? load_partial(bias + c, channels_here) : Vec<A>{};
    for (int64_t i = 0; i < count; i += lanes) {
      const int64_t pixels = count - i < lanes ? count - i : lanes;
      Vec<A> square[lanes] = {};
      for (int64_t j = 0; j < pixels; ++j) square[j] = load(sums + (i + j) * pitch + c) + add;
      store_transposed(square, channels_here, pixels, to + c * channel + i, channel);
    }
  }
}

/// A chunk of destination pixels of a group.
template <class T>
struct TransposedChunk {
  using A = Accumulator<T>;
  const Contraction<T>& p;
  const TransposedPlanarBlocking<T>& blocking;
  const T* source;  // of the group
  Strips::Chunk chunk;
  int64_t x_begin, x_end;  // source pixels of a row that are transposed

  TransposedChunk(const Contraction<T>& p, const TransposedPlanarBlocking<T>& blocking,
                  int64_t group, int64_t index)
      : p(p),
        blocking(blocking),
        source(p.source + group * p.depth * p.source_strides.channel),
        chunk(blocking.strips.chunk(index)),
        x_begin(0),
        x_end(p.walk[2].size) {
    if (blocking.whole_rows) return;
    const Walk& width = p.walk[2];
    const int64_t low = chunk.x * width.step + width.low();
    const int64_t end = low + width.positions(chunk.width);
    if (low > 0) x_begin = low < x_end ? low : x_end;
    if (end < x_end) x_end = end > x_begin ? end : x_begin;
  }

  const T* source_row(int64_t row, int64_t line) const {
    return blocking.strips.source_row(source, p.source_strides, chunk.row + row, line);
  }

  /// Finds the source rows of all kernel lines, and points all pixels, [tile][tap][kTileRows], at
  /// where these are going to be.
  void point(SourceRows<T>& under, const A* transposed, const A* zeros, const A** pointers) const {
    const Walk& width = p.walk[2];
    const int64_t lines = blocking.strips.lines(), taps = blocking.taps, slab = blocking.slab;
    under.count = 0;
    for (int64_t r = 0; r < chunk.rows; ++r) {
      for (int64_t line = 0; line < lines; ++line) {
        const T* row = source_row(r, line);
        if (row != nullptr) under.insert(row);
      }
    }
    for (int64_t r = 0; r < chunk.rows; ++r) {
      for (int64_t line = 0; line < lines; ++line) {
        const T* from = source_row(r, line);
        const int64_t place = from != nullptr ? under.find(from) : 0;
        const A* row = transposed + place * blocking.row_width * slab;
        for (int64_t i = 0; i < chunk.width; ++i) {
          const int64_t pixel = r * chunk.width + i;
          const A** to = pointers + pixel % kTileRows +
                         (pixel / kTileRows * taps + line * width.tap_count) * kTileRows;
          for (int64_t t = 0; t < width.tap_count; ++t, to += kTileRows) {
            const int64_t x = (chunk.x + i) * width.step + width.taps[t].offset;
            const bool inside = from != nullptr && x >= 0 && x < width.size;
            *to = inside ? row + (x - x_begin) * slab : zeros;
          }
        }
      }
    }
  }

  /// Transposes channels [first, first + channels) of these rows; those that follow one another
  /// without a gap are one.
  void transpose_rows(const SourceRows<T>& under, int64_t first, int64_t channels,
                      A* transposed) const {
    const int64_t channel = p.source_strides.channel, count = x_end - x_begin;
    const int64_t pitch = blocking.row_width * blocking.slab;
    for (int64_t row = 0; row < under.count;) {
      const int64_t rows = count == blocking.row_width ? under.run(row, count) : 1;
      load_planes(under.rows[row] + first * channel + x_begin, channel, channels, 1, rows * count,
                  transposed + row * pitch, blocking.slab);
      row += rows;
    }
  }

  /// Stores the sums of destination channels [first, first + channels) of the tensor, `pitch` apart
  /// from pixel to pixel, with the bias.
  void store(const A* sums, int64_t pitch, int64_t first, int64_t channels) const {
    const T* bias = p.bias != nullptr ? p.bias + first : nullptr;
    T* dest = p.dest + first * p.dest_strides.channel;
    const bool joined = chunk.width == p.walk[2].count && p.dest_strides.axis[1] == chunk.width;
    for (int64_t r = 0; r < chunk.rows;) {
      const PixelPlace at(p, blocking.strips.first_pixel(chunk) + r * chunk.width);
      const int64_t left = chunk.rows - r, of_plane = p.walk[1].count - at.h;
      const int64_t rows = !joined ? 1 : left < of_plane ? left : of_plane;
      store_pixels_as_planes(sums + r * chunk.width * pitch, pitch, bias, channels,
                             rows * chunk.width, dest + at.offset(p.dest_strides),
                             p.dest_strides.channel);
      r += rows;
    }
  }
};

/// An item: some column blocks of a chunk of pixels.
struct TransposedItem {
  int64_t group;
  int64_t chunk;  // which one, counted over groups
  int64_t block_begin, block_end;
};

/// What the threads of a call share.
template <class T>
struct TransposedPlanarCall {
  using A = Accumulator<T>;
  const Contraction<T>& p;
  const TransposedPlanarBlocking<T>& blocking;
  const A* weights;        // packed; null: a slice at a time
  const int64_t* offsets;  // of the taps in the weight
  const A* zeros;          // as many as a slab has channels

  /// Item `index` of groups * chunks * parts.
  TransposedItem item(int64_t index) const {
    const int64_t chunk = index / blocking.parts, chunks = blocking.strips.chunks();
    const int64_t begin = index % blocking.parts * blocking.item_blocks;
    const int64_t last = begin + blocking.item_blocks, count = blocking.blocks.count;
    return {chunk / chunks, chunk, begin, last < count ? last : count};
  }
};

/// What a thread makes items with.
template <class T>
class TransposedPlanarThread {
  using A = Accumulator<T>;

  /// Some source channels, all that are transposed at a time.
  struct Slab {
    int64_t first, channels;
  };

 public:
  explicit TransposedPlanarThread(const TransposedPlanarCall<T>& call)
      : call_(call),
        p_(call.p),
        blocking_(call.blocking),
        blocks_(call.blocking.blocks),
        slab_(blocking_.slab_bytes),
        pointers_(blocking_.pointer_bytes),
        rows_(blocking_.row_bytes),
        sums_(blocking_.sum_bytes),
        slice_(call.weights == nullptr ? blocking_.slice_bytes : 0),
        under_{rows_.as<const T*>()} {}

  void make(const TransposedItem& item) {
    const int64_t number = item.chunk % blocking_.strips.chunks();
    const TransposedChunk<T> chunk(p_, blocking_, item.group, number);
    const int64_t pixels = chunk.chunk.pixels();
    const bool same_chunk = item.chunk == pointed_;
    if (!same_chunk) chunk.point(under_, slab_.as<A>(), call_.zeros, pointers_.as<const A*>());
    pointed_ = item.chunk;
    for (int64_t c = 0; c < p_.depth; c += blocking_.slab) {
      const int64_t left = p_.depth - c;
      const Slab slab{c, left < blocking_.slab ? left : blocking_.slab};
      if (!same_chunk || blocking_.slab < p_.depth) {
        chunk.transpose_rows(under_, c, slab.channels, slab_.as<A>());
      }
      for (int64_t block = item.block_begin; block < item.block_end; ++block) {
        if (blocking_.packs_slices) {
          multiply_slices(item, block, slab, pixels);
        } else {
          multiply_taps(item, block, slab, pixels);
        }
      }
    }
    for (int64_t block = item.block_begin; block < item.block_end; ++block) {
      const int64_t column = blocks_.begin(block), wide = blocks_.width(block),
                    left = p_.rows - column;
      chunk.store(sums(item, block, pixels), wide, item.group * p_.rows + column,
                  left < wide ? left : wide);
    }
  }

 private:
  A* sums(const TransposedItem& item, int64_t block, int64_t pixels) const {
    return sums_.as<A>() + (blocks_.begin(block) - blocks_.begin(item.block_begin)) * pixels;
  }
  /// The packed weights of a block of columns.
  const A* weights(const TransposedItem& item, int64_t block) const {
    const int64_t padded_rows = blocks_.registers * kLanes<A>;
    return call_.weights + (item.group * padded_rows + blocks_.begin(block)) * blocking_.inner;
  }

  /// All taps of a slice of channels at a time, which is packed now unless all weights are packed:
  /// in the same order, so that results are the same.
  void multiply_slices(const TransposedItem& item, int64_t block, const Slab& slab,
                       int64_t pixels) {
    const int64_t wide = blocks_.width(block), taps = blocking_.taps;
    for (int64_t k = 0; k < slab.channels; k += blocking_.slice) {
      const int64_t left = slab.channels - k, first = slab.first + k;
      const int64_t some = left < blocking_.slice ? left : blocking_.slice;
      TileOperands<A> tile{nullptr, k, taps, some, 1, slice_.as<A>(), wide};
      if (call_.weights != nullptr) {
        tile.b = weights(item, block) + first * wide;
        tile.b_tap = p_.depth * wide;
      } else {
        for (int64_t i = 0; i < wide; i += kLanes<A>) {
          pack_weight_register(p_, call_.offsets, item.group, blocks_.begin(block) + i, first, some,
                               wide, slice_.as<A>() + i);
        }
      }
      multiply_pixels(item, block, tile, 0, pixels, first > 0);
    }
  }

  /// All channels of the slab at a time, and taps for about kChannelBlock of K.
  void multiply_taps(const TransposedItem& item, int64_t block, const Slab& slab, int64_t pixels) {
    const int64_t wide = blocks_.width(block), taps = blocking_.taps;
    const int64_t tap_block = ceil_div(kChannelBlock, blocking_.slab);
    for (int64_t tap = 0; tap < taps; tap += tap_block) {
      const int64_t left = taps - tap;
      TileOperands<A> tile{
          nullptr,       0, left < tap_block ? left : tap_block,
          slab.channels, 1, weights(item, block) + (tap * p_.depth + slab.first) * wide,
          wide};
      tile.b_tap = p_.depth * wide;
      multiply_pixels(item, block, tile, tap, pixels, slab.first > 0 || tap > 0);
    }
  }

  /// Multiplies the weights of `tile` with all pixels of the chunk, from tap `tap` on.
  void multiply_pixels(const TransposedItem& item, int64_t block, TileOperands<A>& tile,
                       int64_t tap, int64_t pixels, bool adds) const {
    const int64_t wide = blocks_.width(block);
    A* to = sums(item, block, pixels);
    tile.zeros = call_.zeros;
    for (int64_t i = 0; i < pixels; i += kTileRows) {
      const int rows = int(pixels - i < kTileRows ? pixels - i : kTileRows);
      tile.rows = pointers_.as<const A*>() + i * blocking_.taps + tap * kTileRows;
      multiply<A>(tile, to + i * wide, wide, adds, rows, vectors_for<A>(wide));
    }
  }

  const TransposedPlanarCall<T>& call_;
  const Contraction<T>& p_;
  const TransposedPlanarBlocking<T>& blocking_;
  const EvenBlocks<A>& blocks_;
  Scratch slab_, pointers_, rows_, sums_, slice_;
  SourceRows<T> under_;
  int64_t pointed_ = -1;
};

template <class T>
void transposed_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const TransposedPlanarBlocking<T> blocking(p);
  const PackedColumns<T> packed(p, blocking.packed_bytes());
  Scratch table(blocking.table_bytes);
  tap_offsets(p, p.weight_strides, table.as<int64_t>());
  Scratch zeros(blocking.zero_bytes);
  fill(zeros.as<A>(), blocking.slab, A(0));
  const bool packs_slices = blocking.packs_slices && p.prepared == nullptr;
  const TransposedPlanarCall<T> call{p, blocking, packs_slices ? nullptr : packed.data(),
                                     table.as<int64_t>(), zeros.as<A>()};
  const int64_t items = p.groups * blocking.strips.chunks() * blocking.parts;
  parallel_threads(items, 1, [&](ThreadItems& of_thread) {
    TransposedPlanarThread<T> thread(call);
    of_thread.for_each([&](int64_t i, bool) { thread.make(call.item(i)); });
  });
}
