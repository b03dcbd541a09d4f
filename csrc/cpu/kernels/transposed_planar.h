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

template <class T>
void transposed_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const TransposedPlanarBlocking<T> blocking(p);
  const Strips& strips = blocking.strips;
  const EvenBlocks<A>& blocks = blocking.blocks;
  const int64_t taps = blocking.taps, slab = blocking.slab, parts = blocking.parts;
  const int64_t padded_rows = blocks.registers * kLanes<A>;

  const bool packs_slices = blocking.packs_slices && p.prepared == nullptr;
  const PackedColumns<T> packed(p, blocking.packed_bytes());
  const A* weights = packed.data();
  Scratch table(blocking.table_bytes);
  int64_t* offsets = table.as<int64_t>();
  tap_offsets(p, p.weight_strides, offsets);
  Scratch zeros(blocking.zero_bytes);
  fill(zeros.as<A>(), slab, A(0));

  parallel_for(p.groups * strips.chunks() * parts, 1, [&](int64_t begin, int64_t end) {
    Scratch slab_buffer(blocking.slab_bytes);
    Scratch pointer_buffer(blocking.pointer_bytes);
    Scratch row_buffer(blocking.row_bytes);
    Scratch sum_buffer(blocking.sum_bytes);
    Scratch slice_buffer(packs_slices ? blocking.slice_bytes : 0);
    A* transposed = slab_buffer.as<A>();
    const A** pointers = pointer_buffer.as<const A*>();
    SourceRows<T> under{row_buffer.as<const T*>()};
    int64_t pointed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / parts / strips.chunks();
      const TransposedChunk<T> chunk(p, blocking, group, item / parts % strips.chunks());
      const int64_t block_begin = item % parts * blocking.item_blocks;
      const int64_t block_last = block_begin + blocking.item_blocks;
      const int64_t block_end = block_last < blocks.count ? block_last : blocks.count;
      const int64_t pixels = chunk.chunk.pixels();
      const bool same_chunk = pointed == item / parts;
      if (!same_chunk) chunk.point(under, transposed, zeros.as<A>(), pointers);
      pointed = item / parts;

      const int64_t first_column = blocks.begin(block_begin);
      for (int64_t c = 0; c < p.depth; c += slab) {
        const int64_t channels = p.depth - c < slab ? p.depth - c : slab;
        if (!same_chunk || slab < p.depth) chunk.transpose_rows(under, c, channels, transposed);
        // About kChannelBlock of K at a time, all pixels of the chunk.
        const int64_t tap_block = ceil_div(kChannelBlock, slab);
        for (int64_t block = block_begin; block < block_end; ++block) {
          const int64_t column = blocks.begin(block), wide = blocks.begin(block + 1) - column;
          A* sums = sum_buffer.as<A>() + (column - first_column) * pixels;
          const auto multiply_pixels = [&](TileOperands<A> tile, int64_t tap, bool adds) {
            tile.zeros = zeros.as<A>();
            for (int64_t i = 0; i < pixels; i += kTileRows) {
              const int rows = int(pixels - i < kTileRows ? pixels - i : kTileRows);
              tile.rows = pointers + i * taps + tap * kTileRows;
              multiply<A>(tile, sums + i * wide, wide, adds, rows, vectors_for<A>(wide));
            }
          };
          const A* of_block = weights + (group * padded_rows + column) * blocking.inner;
          if (blocking.packs_slices) {
            // In this order with packed weights as well: results are the same.
            for (int64_t k = 0; k < channels; k += blocking.slice) {
              const int64_t left = channels - k;
              const int64_t some = left < blocking.slice ? left : blocking.slice;
              TileOperands<A> tile{nullptr, k, taps, some, 1, nullptr, wide};
              if (packs_slices) {
                A* slice = slice_buffer.as<A>();
                for (int64_t i = 0; i < wide; i += kLanes<A>) {
                  pack_weight_register(p, offsets, group, column + i, c + k, some, wide, slice + i);
                }
                tile.b = slice;
              } else {
                tile.b = of_block + (c + k) * wide;
                tile.b_tap = p.depth * wide;
              }
              multiply_pixels(tile, 0, c + k > 0);
            }
            continue;
          }
          for (int64_t tap = 0; tap < taps; tap += tap_block) {
            const int64_t tap_count = taps - tap < tap_block ? taps - tap : tap_block;
            TileOperands<A> tile{nullptr, 0, tap_count, channels, 1, nullptr, wide};
            tile.b = of_block + (tap * p.depth + c) * wide;
            tile.b_tap = p.depth * wide;
            multiply_pixels(tile, tap, c > 0 || tap > 0);
          }
        }
      }

      for (int64_t block = block_begin; block < block_end; ++block) {
        const int64_t column = blocks.begin(block), wide = blocks.begin(block + 1) - column;
        const int64_t channels = p.rows - column < wide ? p.rows - column : wide;
        chunk.store(sum_buffer.as<A>() + (column - first_column) * pixels, wide,
                    group * p.rows + column, channels);
      }
    }
  });
}
