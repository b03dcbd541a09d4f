// Weight gradient of a dense 3x3, stride-1 convolution, dilated or not, by Winograd's minimal
// filtering (winograd_transform.h): for each of the 36 points e of tiles of 4x4 outputs
//   product[e][row][channel] = sum over tiles of  grad[e][tile][row] * input[e][tile][channel],
// a quarter of the multiply-adds, and the gradient of a kernel is 36 products transformed back.
//
// The products are GEMMs of the register tile (tile.h): it broadcasts neighbouring rows of grad,
// its registers are channels of the input, and the sum runs from tile to tile. So the tiles of a
// point lie densely, [chunk][point][tile][channel], and a block of kWeightTiles of them is
// transformed at a time, on all threads. Then items of work, (rows, channels) of the weight,
// multiply the block for all points, which for one item fit an L2 cache, and transform the products
// back. It is these results that blocks add up, in order: products are larger than what is left of
// them, so errors of long sums of products would be as well.

/// Tiles of a block: of 64 channels and one point they fit L1.
constexpr int64_t kWeightTiles = 64;

/// Tiles that are transformed at a time.
constexpr int64_t kWeightTilePiece = 16;

/// Rows of an item at most, a multiple of the tile's, and chunks of channels: 36 x 48 x 128
/// products take 864 KB.
constexpr int64_t kWeightItemRows = 8 * kTileRows, kWeightItemChunks = 2;

struct WeightWinogradBlocking {
  static constexpr int kOut = 4;
  static constexpr int lanes = kLanes<float>, points = kWinogradPoints<kOut>;
  static constexpr int64_t squared = points * points, columns = kTileColumns<float>;
  static constexpr int64_t bytes = sizeof(float);
  static constexpr Tap kHere{0, 0};

  const WeightContraction<float>& p;
  Walk grad_walk[kAxes];  // outputs, as they lie
  KernelTaps taps;
  WinogradTiles<InputTransform<kOut>> input;
  WinogradTiles<GradientTransform<kOut>> grad;
  int64_t offsets[9];                         // of the taps in the weight, in the walk's order
  bool contiguous;                            // all of a source channel are neighbours there
  int64_t block, blocks;                      // tiles of a block
  int64_t item_rows, row_items, chunk_items;  // items of work
  int64_t item_elements;                      // of one, for each point or tap: [row][channel]
  int64_t tile_bytes, product_bytes;          // of a block; of an item
  int64_t sum_bytes;                          // of all items: [item][tap][row][channel]

  explicit WeightWinogradBlocking(const WeightContraction<float>& contraction)
      : p(contraction),
        grad_walk{outputs(p.walk[0]), outputs(p.walk[1]), outputs(p.walk[2])},
        taps(p),
        input(p.source, p.source_strides, p.walk, taps.dilation, p.batch, p.depth),
        grad(p.grad, p.grad_strides, grad_walk, taps.dilation, p.batch, p.rows) {
    tap_offsets(p, p.dest_strides, offsets);
    contiguous = p.dest_strides.depth == 9 && taps_are_contiguous(p, p.dest_strides);
    block = even_part(input.tiles, kWeightTiles);
    blocks = ceil_div(input.tiles, block);
    chunk_items = ceil_div(input.chunks, kWeightItemChunks);
    // Fewer rows, though not below three tiles of them, are for having kWantedItems items.
    const int64_t wanted = round_up(p.rows * chunk_items / kWantedItems, kTileRows);
    const int64_t least = 3 * kTileRows;
    const int64_t most = wanted < least             ? least
                         : wanted > kWeightItemRows ? kWeightItemRows
                                                    : wanted;
    item_rows = round_up(even_part(p.rows, most), kTileRows);
    row_items = ceil_div(p.rows, item_rows);
    item_elements = item_rows * item_channels();
    tile_bytes =
        bytes * (chunk_elements(input) * input.chunks + chunk_elements(grad) * grad.chunks);
    product_bytes = bytes * squared * item_elements;
    sum_bytes = blocks > 1 ? bytes * 9 * item_elements * row_items * chunk_items : 0;
  }

  Footprint footprint() const {
    return {kTileRows, columns, tile_bytes + sum_bytes, product_bytes};
  }

  /// Elements of a point, and of a chunk, of a block of transformed tiles.
  template <class Tiles>
  int64_t point_elements(const Tiles& tiles) const {
    return block * tiles.pitch + kPointGap;
  }
  template <class Tiles>
  int64_t chunk_elements(const Tiles& tiles) const {
    return squared * point_elements(tiles);
  }
  int64_t item_channels() const {
    return input.pitch * (input.chunks < kWeightItemChunks ? input.chunks : kWeightItemChunks);
  }

  /// Transforms `count` tiles from `first` on, on all threads.
  void transform_tiles(int64_t first, int64_t count, float* inputs, float* grads) const {
    const int64_t pieces = ceil_div(count, kWeightTilePiece);
    const int64_t all = input.chunks + grad.chunks;
    parallel_for(pieces * all, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t chunk = i / pieces, tile = i % pieces * kWeightTilePiece;
        const int64_t left = count - tile, some = left < kWeightTilePiece ? left : kWeightTilePiece;
        if (chunk < input.chunks) {
          transform(input, first, tile, some, chunk, inputs);
        } else {
          transform(grad, first, tile, some, chunk - input.chunks, grads);
        }
      }
    });
  }

  /// The products [point][row][channel] of `count` tiles for an item.
  void multiply_points(const float* inputs, const float* grads, int64_t count, int64_t row_item,
                       int64_t chunk_item, float* products) const {
    const int64_t row_begin = row_item * item_rows;
    const int64_t rows_left = p.rows - row_begin;
    const int64_t row_end = row_begin + (rows_left < item_rows ? rows_left : item_rows);
    const int64_t chunk_begin = chunk_item * kWeightItemChunks;
    for (int64_t point = 0; point < squared; ++point) {
      for (int64_t c = 0; c < kWeightItemChunks && chunk_begin + c < input.chunks; ++c) {
        const int64_t chunk = chunk_begin + c, width = input.chunk_channels(chunk);
        const float* panel = inputs + (chunk * squared + point) * point_elements(input);
        for (int64_t column = 0; column < width; column += columns) {
          const int64_t left = width - column;
          const int vectors = vectors_for<float>(left < columns ? left : columns);
          float* to = products + point * item_elements + c * input.pitch + column;
          for (int64_t row = row_begin; row < row_end; row += kTileRows) {
            const int rows = int(row_end - row < kTileRows ? row_end - row : kTileRows);
            const float* from[kTileRows];
            for (int r = 0; r < rows; ++r) from[r] = grad_row(grads, point, row + r);
            multiply<float>({from, 0, 1, count, grad.pitch, panel + column, input.pitch},
                            to + (row - row_begin) * item_channels(), item_channels(), false, rows,
                            vectors);
          }
        }
      }
    }
  }

  /// Transforms the products of an item back, adds those of earlier blocks from `sums` and, after
  /// the last one, stores the weights.
  void store_weights(const float* products, int64_t row_item, int64_t chunk_item, bool first,
                     bool last, float* sums) const {
    const int64_t row_begin = row_item * item_rows, rows_left = p.rows - row_begin;
    const int64_t rows = rows_left < item_rows ? rows_left : item_rows;
    const int64_t channel_begin = chunk_item * kWeightItemChunks * kWinogradChannels;
    const int64_t pitch = item_channels(), channels_left = p.depth - channel_begin;
    const int64_t channels = channels_left < pitch ? channels_left : pitch;
    for (int64_t row = 0; row < rows; ++row) {
      float* to =
          p.dest + (row_begin + row) * p.dest_strides.row + channel_begin * p.dest_strides.depth;
      for (int64_t c = 0; c < channels; c += lanes) {
        const int64_t at = row * pitch + c, left = channels - c;
        Vec<float> kernels[9];
        transform_weight_products<kOut>(
            [&](int i, int j) { return load(products + (i * points + j) * item_elements + at); },
            [&](int i, int j, Vec<float> v) {
              const int64_t tap = taps.at[i][j];
              float* sum = sums + tap * item_elements + at;
              kernels[tap] = first ? v : v + load(sum);
              if (!last) store(sum, kernels[tap]);
            });
        if (!last) continue;
        store_kernels(kernels, left < lanes ? left : lanes, to + c * p.dest_strides.depth);
      }
    }
  }

 private:
  /// The walk over the outputs of an axis themselves.
  static Walk outputs(const Walk& walk) {
    return {walk.count, 1, walk.count, PaddingMode::zeros, &kHere, 1};
  }

  template <class Tiles>
  void transform(const Tiles& tiles, int64_t first, int64_t tile, int64_t count, int64_t chunk,
                 float* to) const {
    tiles.transform(first + tile, count, chunk, chunk + 1,
                    {tiles.pitch, chunk_elements(tiles), point_elements(tiles)},
                    to + tile * tiles.pitch);
  }

  /// Stores the taps of `count` source channels.
  void store_kernels(const Vec<float> (&kernels)[9], int64_t count, float* to) const {
    const int64_t depth = p.dest_strides.depth;
    if (contiguous && lanes >= 9) {
      Vec<float> square[lanes] = {};
#pragma GCC unroll 9
      for (int tap = 0; tap < 9; ++tap) square[tap] = kernels[tap];
      return store_transposed<float>(square, count, 9, to, 9);
    }
    for (int tap = 0; tap < 9; ++tap) {
      if (depth == 1) {
        store_partial(to + offsets[tap], kernels[tap], count);
      } else {
        for (int64_t c = 0; c < count; ++c) to[c * depth + offsets[tap]] = kernels[tap][c];
      }
    }
  }

  /// Where a row of a point of grad starts.
  const float* grad_row(const float* grads, int64_t point, int64_t row) const {
    const int64_t chunk = row / kWinogradChannels;
    return grads + (chunk * squared + point) * point_elements(grad) + row % kWinogradChannels;
  }
};

inline Footprint weight_winograd_footprint(const WeightContraction<float>& p) {
  return WeightWinogradBlocking(p).footprint();
}

inline void weight_winograd(const WeightContraction<float>& p) {
  const WeightWinogradBlocking blocking(p);
  const int64_t tiles = blocking.input.tiles, block = blocking.block;
  Scratch tile_buffer(blocking.tile_bytes);
  Scratch sums(blocking.sum_bytes);
  float* inputs = tile_buffer.as<float>();
  float* grads = inputs + blocking.chunk_elements(blocking.input) * blocking.input.chunks;
  for (int64_t first = 0; first < tiles; first += block) {
    const int64_t count = tiles - first < block ? tiles - first : block;
    blocking.transform_tiles(first, count, inputs, grads);
    parallel_for(blocking.row_items * blocking.chunk_items, 1, [&](int64_t begin, int64_t end) {
      Scratch products(blocking.product_bytes);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t row_item = item % blocking.row_items;
        const int64_t chunk_item = item / blocking.row_items;
        blocking.multiply_points(inputs, grads, count, row_item, chunk_item, products.as<float>());
        blocking.store_weights(products.as<float>(), row_item, chunk_item, first == 0,
                               first + count == tiles,
                               sums.as<float>() + item * 9 * blocking.item_elements);
      }
    });
  }
}
