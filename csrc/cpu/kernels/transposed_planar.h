// Dense and grouped convolution of planar tensors with vectors along destination channels:
// dest^T[pixels x rows] = im2col^T[pixels x K] * weight^T[K x rows], K = taps * source channels.
//
// The source rows under a chunk of destination pixels are transposed once for each kernel line, a
// slab of channels at a time, into a strip where a pixel is a run of channels. There a tile takes
// one pointer for each pixel and tap, as it does in channels_last tensors, and what lies in padding
// costs nothing: its pointer is to a row of zeros, and a tap that no pixel of a tile reads is
// skipped. Transposing pays when many channels share it on both sides. Weights are packed once per
// call as [group][column block][tap][channel][columns of the block]. Items are (group, chunk, some
// column blocks); their sums wait in scratch and are transposed as they are stored.

/// Pixels of a chunk: so many share each slice of packed weights, and their sums stay in L2.
constexpr int64_t kTransposedPixels = 4 * kPixelBlock;

/// Strips of a slab take about so much of L2.
constexpr int64_t kTransposedBytes = 768 << 10;

/// Items for a few cores: those of one chunk may each have to transpose its strips.
constexpr int64_t kTransposedItems = 4;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct TransposedPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  Strips strips;
  EvenBlocks<A> blocks;  // of destination channels
  int64_t taps, inner;   // inner is K
  int64_t row_width;     // source pixels of a strip's row
  int64_t slab;          // channels
  int64_t item_blocks, parts;
  int64_t weight_bytes, table_bytes, zero_bytes;  // of the call
  int64_t strip_bytes, pointer_bytes, sum_bytes;  // of each thread

  /// Source pixels under so many destinations of a row.
  static int64_t source_width(const Contraction<T>& p, int64_t destinations) {
    const Walk& width = p.walk[2];
    const int64_t positions = width.positions(destinations);
    return positions < width.size ? positions : width.size;
  }
  /// Pixels of a chunk that leave room for a slab of kChannelBlock channels.
  static int64_t pixels_of(const Contraction<T>& p) {
    const int64_t lines = p.walk[0].tap_count * p.walk[1].tap_count;
    const int64_t channels = p.depth < kChannelBlock ? p.depth : kChannelBlock;
    const int64_t fit = kTransposedBytes / int64_t(sizeof(A)) / (lines * channels * p.walk[2].step);
    return fit < kPixelBlock ? kPixelBlock : fit < kTransposedPixels ? fit : kTransposedPixels;
  }

  explicit TransposedPlanarBlocking(const Contraction<T>& p)
      : strips(p, pixels_of(p), false), blocks(p.rows), taps(p.taps()), inner(p.depth * taps) {
    constexpr int lanes = kLanes<A>;
    row_width = source_width(p, strips.width);
    const int64_t row_bytes = sizeof(A) * strips.lines() * strips.rows * row_width;
    const int64_t fit = kTransposedBytes / row_bytes / lanes * lanes;
    const int64_t most = fit < lanes ? lanes : fit < kChannelBlock ? fit : kChannelBlock;
    slab = round_up(even_part(p.depth, most), lanes);
    const int64_t wanted = ceil_div(kTransposedItems, p.groups * strips.chunks());
    item_blocks = ceil_div(blocks.count, wanted < blocks.count ? wanted : blocks.count);
    parts = ceil_div(blocks.count, item_blocks);

    weight_bytes = sizeof(A) * p.groups * blocks.registers * lanes * inner;
    table_bytes = sizeof(int64_t) * taps;
    zero_bytes = sizeof(A) * slab;
    const int64_t pixels = round_up(strips.rows * strips.width, kTileRows);
    strip_bytes = row_bytes * slab;
    pointer_bytes = sizeof(A*) * pixels * taps;
    sum_bytes = sizeof(A) * pixels * item_blocks * columns;
  }

  Footprint footprint() const {
    return {kTileRows, columns, weight_bytes + table_bytes + zero_bytes,
            strip_bytes + pointer_bytes + sum_bytes};
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

template <class T>
void transposed_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const TransposedPlanarBlocking<T> blocking(p);
  const Strips& strips = blocking.strips;
  const EvenBlocks<A>& blocks = blocking.blocks;
  const Walk& width = p.walk[2];
  const int64_t taps = blocking.taps, taps_w = width.tap_count, slab = blocking.slab;
  const int64_t lines = strips.lines(), row_width = blocking.row_width, parts = blocking.parts;
  const int64_t padded_rows = blocks.registers * kLanes<A>;

  const PackedColumns<T> packed(p, blocking.weight_bytes);
  const A* weights = packed.data();
  Scratch zeros(blocking.zero_bytes);
  fill(zeros.as<A>(), slab, A(0));

  parallel_for(p.groups * strips.chunks() * parts, 1, [&](int64_t begin, int64_t end) {
    Scratch strip_buffer(blocking.strip_bytes);
    Scratch pointer_buffer(blocking.pointer_bytes);
    Scratch sum_buffer(blocking.sum_bytes);
    A* strip = strip_buffer.as<A>();
    const A** pointers = pointer_buffer.as<const A*>();
    int64_t pointed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / parts / strips.chunks();
      const Strips::Chunk chunk = strips.chunk(item / parts % strips.chunks());
      const int64_t block_begin = item % parts * blocking.item_blocks;
      const int64_t block_last = block_begin + blocking.item_blocks;
      const int64_t block_end = block_last < blocks.count ? block_last : blocks.count;
      const int64_t pixels = chunk.pixels();
      // Source pixels [x_begin, x_end) of a row are what its taps read.
      const int64_t low = chunk.x * width.step + strips.low;
      const int64_t high = (chunk.x + chunk.width - 1) * width.step + strips.low + strips.span;
      const int64_t x_begin = low < 0 ? 0 : low < width.size ? low : width.size;
      const int64_t x_end = high < x_begin ? x_begin : high < width.size ? high + 1 : width.size;

      const T* source = p.source + group * p.depth * p.source_strides.channel;
      const bool same_chunk = pointed == item / parts;
      pointed = item / parts;
      for (int64_t r = 0; r < chunk.rows && !same_chunk; ++r) {
        for (int64_t line = 0; line < lines; ++line) {
          const bool reads =
              strips.source_row(source, p.source_strides, chunk.row + r, line) != nullptr;
          const A* row = strip + (line * chunk.rows + r) * row_width * slab;
          for (int64_t i = 0; i < chunk.width; ++i) {
            const int64_t pixel = r * chunk.width + i;
            const A** to = pointers + (pixel / kTileRows * taps + line * taps_w) * kTileRows +
                           pixel % kTileRows;
            for (int64_t t = 0; t < taps_w; ++t, to += kTileRows) {
              const int64_t x = (chunk.x + i) * width.step + width.taps[t].offset;
              const bool inside = reads && x >= 0 && x < width.size;
              *to = inside ? row + (x - x_begin) * slab : zeros.as<A>();
            }
          }
        }
      }

      const int64_t first_column = blocks.begin(block_begin);
      for (int64_t c = 0; c < p.depth; c += slab) {
        const int64_t channels = p.depth - c < slab ? p.depth - c : slab;
        const bool there = same_chunk && slab >= p.depth;
        for (int64_t line = 0; line < lines && !there; ++line) {
          for (int64_t r = 0; r < chunk.rows; ++r) {
            const T* row = strips.source_row(source, p.source_strides, chunk.row + r, line);
            if (row == nullptr) continue;
            load_planes(row + c * p.source_strides.channel + x_begin, p.source_strides.channel,
                        channels, 1, x_end - x_begin,
                        strip + (line * chunk.rows + r) * row_width * slab, slab);
          }
        }
        // About kChannelBlock of K at a time, all pixels of the chunk.
        const int64_t tap_block = ceil_div(kChannelBlock, slab);
        for (int64_t block = block_begin; block < block_end; ++block) {
          const int64_t column = blocks.begin(block), wide = blocks.begin(block + 1) - column;
          A* sums = sum_buffer.as<A>() + (column - first_column) * pixels;
          for (int64_t tap = 0; tap < taps; tap += tap_block) {
            const int64_t tap_count = taps - tap < tap_block ? taps - tap : tap_block;
            TileOperands<A> tile{nullptr, 0, tap_count, channels, 1, nullptr, wide};
            tile.b = weights + (group * padded_rows + column) * blocking.inner +
                     (tap * p.depth + c) * wide;
            tile.b_tap = p.depth * wide;
            tile.zeros = zeros.as<A>();
            for (int64_t i = 0; i < pixels; i += kTileRows) {
              const int rows = int(pixels - i < kTileRows ? pixels - i : kTileRows);
              tile.rows = pointers + i * taps + tap * kTileRows;
              multiply<A>(tile, sums + i * wide, wide, c > 0 || tap > 0, rows,
                          vectors_for<A>(wide));
            }
          }
        }
      }

      for (int64_t block = block_begin; block < block_end; ++block) {
        const int64_t column = blocks.begin(block), wide = blocks.begin(block + 1) - column;
        const A* sums = sum_buffer.as<A>() + (column - first_column) * pixels;
        const int64_t channels = p.rows - column < wide ? p.rows - column : wide;
        const T* bias = p.bias != nullptr ? p.bias + group * p.rows + column : nullptr;
        T* dest = p.dest + (group * p.rows + column) * p.dest_strides.channel;
        for (int64_t r = 0; r < chunk.rows; ++r) {
          const PixelPlace at(p, strips.first_pixel(chunk) + r * chunk.width);
          store_pixels_as_planes(sums + r * chunk.width * wide, wide, bias, channels, chunk.width,
                                 dest + at.offset(p.dest_strides), p.dest_strides.channel);
        }
      }
    }
  });
}
