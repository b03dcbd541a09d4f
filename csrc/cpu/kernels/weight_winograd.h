// Weight gradient of a dense stride-1 convolution, dilated or not, by Winograd's minimal filtering
// of one form (winograd_transform.h): for each of its points e
//   product[e][row][channel] = sum over tiles of  grad[e][tile][row] * input[e][tile][channel],
// for 4x4 outputs of a 3x3 kernel a quarter of the multiply-adds, and the gradient of a kernel, or
// of a group of its taps, is the products transformed back.
//
// The products are GEMMs of the register tile (tile.h): it broadcasts neighbouring rows of grad,
// its registers are channels of the input, and the sum runs from tile to tile. So the tiles of a
// point lie densely, [slice][point][tile][channel], and a block of kWeightTiles of them is
// transformed at a time, on all threads. Then items of work, (rows, channels) of the weight,
// multiply the block for all points, which for one item fit an L2 cache, and transform the products
// back. It is these results that blocks add up, in order: products are larger than what is left of
// them, so errors of long sums of products would be as well.
//
// Threads meet twice for each block. Of a single block, unless it is large, each thread transforms
// what its items multiply. Weights of so few rows and channels that these are few items have the
// blocks in shares, each of which a thread takes alone, and whose sums are added in order at the
// end.

/// Tiles of a block: of 64 channels and one point they fit L1.
constexpr int64_t kWeightTiles = 64;

/// Tiles that are transformed at a time.
constexpr int64_t kWeightTilePiece = 16;

/// Rows of an item at most, a multiple of the tile's, and slices: 36 x 48 x 128 products take
/// 864 KB.
constexpr int64_t kWeightItemRows = 8 * kTileRows, kWeightItemSlices = 2;

/// Transformed tiles of so many bytes take less time to make again than to fetch from the thread
/// that has made them.
constexpr int64_t kOwnTileBytes = 2 << 20;

template <class T>
struct WeightWinogradBlocking {
  static constexpr int lanes = kLanes<float>;
  static constexpr int64_t columns = kTileColumns<float>, bytes = sizeof(float);
  static constexpr Tap kHere{0, 0};

  const WeightContraction<T>& p;
  const FormTransforms& transforms;
  Walk grad_walk[kAxes];  // outputs, as they lie
  KernelTaps taps;
  WinogradTiles<T> input, grad;
  int64_t points;                             // of the form
  int64_t slices;                             // of the input: groups of taps of all its chunks
  int64_t offsets[kMaxWinogradTaps];          // of the taps in the weight, in the walk's order
  bool contiguous;                            // all of a source channel are neighbours there
  int64_t block, blocks;                      // tiles of a block
  int64_t shares, share_blocks;               // shares of the blocks, blocks of one
  int64_t item_rows, row_items, slice_items;  // items of work
  int64_t item_elements;                      // of one, for each point or tap: [row][channel]
  int64_t tile_bytes, product_bytes;          // of a block; of an item
  int64_t sum_bytes;                          // [share][item][tap][row][channel]
  bool own_tiles;                             // of each thread

  /// `alone`: no other thread takes part.
  WeightWinogradBlocking(const WeightContraction<T>& contraction, const FormTransforms& transforms,
                         bool alone)
      : p(contraction),
        transforms(transforms),
        grad_walk{outputs(p.walk[0]), outputs(p.walk[1]), outputs(p.walk[2])},
        taps(p, transforms.form),
        input(p.source, p.source_strides, p.walk, input_tiles(transforms), taps, taps.all_groups,
              p.batch, p.depth),
        grad(p.grad, p.grad_strides, grad_walk, output_tiles(transforms), taps, 1, p.batch, p.rows),
        points(transforms.form.points()),
        slices(input.chunks * taps.all_groups) {
    tap_offsets(p, p.dest_strides, offsets);
    contiguous = taps.all_groups == 1 && p.taps() == taps.of_group && taps.of_group <= lanes &&
                 p.dest_strides.depth == taps.of_group && taps_are_contiguous(p, p.dest_strides);
    block = even_part(input.tiles, kWeightTiles);
    blocks = ceil_div(input.tiles, block);
    slice_items = ceil_div(slices, kWeightItemSlices);
    // Fewer rows, though not below three tiles of them, are for having kWantedItems items.
    const int64_t wanted = round_up(p.rows * slice_items / kWantedItems, kTileRows);
    const int64_t least = 3 * kTileRows;
    const int64_t most = wanted < least             ? least
                         : wanted > kWeightItemRows ? kWeightItemRows
                                                    : wanted;
    item_rows = round_up(even_part(p.rows, most), kTileRows);
    row_items = ceil_div(p.rows, item_rows);
    item_elements = item_rows * item_channels();
    tile_bytes = bytes * (slice_elements(input) * slices + slice_elements(grad) * grad.chunks);
    product_bytes = bytes * points * item_elements;
    const int64_t share_bytes = bytes * share_elements();
    const bool few_items = !alone && items() < kWantedItems / 2;
    shares = few_items ? choose_splits(items(), blocks, share_bytes) : 1;
    share_blocks = ceil_div(blocks, shares);
    sum_bytes = blocks > 1 ? share_bytes * shares : 0;
    own_tiles = shares > 1 || (blocks == 1 && tile_bytes <= kOwnTileBytes);
  }

  Footprint footprint() const {
    const int64_t of_thread = own_tiles ? tile_bytes : 0;
    return {kTileRows, columns, tile_bytes - of_thread + sum_bytes, product_bytes + of_thread};
  }

  int64_t items() const { return row_items * slice_items; }
  /// Sums of an item, and of a share.
  int64_t sum_elements() const { return taps.of_group * item_elements; }
  int64_t share_elements() const { return sum_elements() * items(); }

  /// Elements of a point, and of a slice, of a block of transformed tiles.
  int64_t point_elements(const WinogradTiles<T>& tiles) const {
    return block * tiles.pitch + kPointGap;
  }
  int64_t slice_elements(const WinogradTiles<T>& tiles) const {
    return points * point_elements(tiles);
  }
  int64_t item_channels() const {
    return input.pitch * (slices < kWeightItemSlices ? slices : kWeightItemSlices);
  }

  /// Transforms `count` tiles from `first` on, on all threads.
  void transform_tiles(int64_t first, int64_t count, float* inputs, float* grads) const {
    const int64_t pieces = ceil_div(count, kWeightTilePiece);
    const int64_t all = slices + grad.chunks;
    parallel_for(pieces * all, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t slice = i / pieces, tile = i % pieces * kWeightTilePiece;
        const int64_t left = count - tile, some = left < kWeightTilePiece ? left : kWeightTilePiece;
        transform_slice(slice, first, tile, some, inputs, grads);
      }
    });
  }

  /// Transforms all tiles, of a single block, for slices [begin, end): those of the input, and
  /// after them those of grad.
  void transform_slices(int64_t begin, int64_t end, float* inputs, float* grads) const {
    for (int64_t slice = begin; slice < end; ++slice) {
      transform_slice(slice, 0, 0, input.tiles, inputs, grads);
    }
  }

  /// The products [point][row][channel] of `count` tiles for an item.
  void multiply_points(const float* inputs, const float* grads, int64_t count, int64_t item,
                       float* products) const {
    const int64_t row_begin = item % row_items * item_rows;
    const int64_t rows_left = p.rows - row_begin;
    const int64_t row_end = row_begin + (rows_left < item_rows ? rows_left : item_rows);
    const int64_t slice_begin = item / row_items * kWeightItemSlices;
    for (int64_t point = 0; point < points; ++point) {
      for (int64_t s = 0; s < kWeightItemSlices && slice_begin + s < slices; ++s) {
        const int64_t slice = slice_begin + s, width = input.slice_channels(slice);
        const float* panel = inputs + (slice * points + point) * point_elements(input);
        for (int64_t column = 0; column < width; column += columns) {
          const int64_t left = width - column;
          const int vectors = vectors_for<float>(left < columns ? left : columns);
          float* to = products + point * item_elements + s * input.pitch + column;
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
  void store_products(const float* products, int64_t item, bool first, bool last,
                      float* sums) const {
    for_each_register(item, [&](int64_t at, const auto& store_weights) {
      Vec<float> kernels[kMaxTilePositions];
      transforms.weight_gradient(products + at, item_elements, kernels);
      for (int64_t tap = 0; tap < taps.of_group; ++tap) {
        float* sum = sums + tap * item_elements + at;
        if (!first) kernels[tap] += load(sum);
        if (!last) store(sum, kernels[tap]);
      }
      if (last) store_weights(kernels);
    });
  }

  /// Stores the weights of an item, whose sums of the first share are at `sums`.
  void store_shares(const float* sums, int64_t item) const {
    for_each_register(item, [&](int64_t at, const auto& store_weights) {
      Vec<float> kernels[kMaxTilePositions];
      for (int64_t tap = 0; tap < taps.of_group; ++tap) {
        const float* sum = sums + tap * item_elements + at;
        kernels[tap] = load(sum);
        for (int64_t share = 1; share < shares; ++share) {
          kernels[tap] += load(sum + share * share_elements());
        }
      }
      store_weights(kernels);
    });
  }

 private:
  /// The walk over the outputs of an axis themselves.
  static Walk outputs(const Walk& walk) {
    return {walk.count, 1, walk.count, PaddingMode::zeros, &kHere, 1};
  }

  /// Transforms `count` tiles from `tile` on, of a block that starts with tile `first`, for a slice
  /// of the input or, after those, of grad.
  void transform_slice(int64_t slice, int64_t first, int64_t tile, int64_t count, float* inputs,
                       float* grads) const {
    if (slice < slices) {
      transform(input, first, tile, count, slice, inputs);
    } else {
      transform(grad, first, tile, count, slice - slices, grads);
    }
  }

  void transform(const WinogradTiles<T>& tiles, int64_t first, int64_t tile, int64_t count,
                 int64_t slice, float* to) const {
    tiles.transform(first + tile, count, slice, slice + 1,
                    {tiles.pitch, slice_elements(tiles), point_elements(tiles)},
                    to + tile * tiles.pitch);
  }

  /// Calls f(its place in [row][channel], function that stores weights from a register for each
  /// tap) for every register of channels of an item.
  template <class F>
  void for_each_register(int64_t item, const F& f) const {
    const int64_t row_begin = item % row_items * item_rows, rows_left = p.rows - row_begin;
    const int64_t rows = rows_left < item_rows ? rows_left : item_rows;
    const int64_t slice_begin = item / row_items * kWeightItemSlices, pitch = item_channels();
    for (int64_t s = 0; s < kWeightItemSlices && slice_begin + s < slices; ++s) {
      const int64_t chunk = (slice_begin + s) / input.slices;
      int64_t places[kMaxTilePositions];  // of the taps, for all rows and channels
      for (int64_t tap = 0; tap < taps.of_group; ++tap) {
        places[tap] = taps.at((slice_begin + s) % input.slices, tap);
      }
      const int64_t channels = input.slice_channels(slice_begin + s),
                    from = chunk * kWinogradChannels;
      for (int64_t row = 0; row < rows; ++row) {
        T* to = p.dest + (row_begin + row) * p.dest_strides.row + from * p.dest_strides.depth;
        for (int64_t c = 0; c < channels; c += lanes) {
          const int64_t left = channels - c;
          f(row * pitch + s * input.pitch + c, [&](const Vec<float>* kernels) {
            store_kernels(kernels, places, left < lanes ? left : lanes,
                          to + c * p.dest_strides.depth);
          });
        }
      }
    }
  }

  /// Stores the taps of a group, which are at `places`, for `count` source channels.
  void store_kernels(const Vec<float>* kernels, const int64_t* places, int64_t count, T* to) const {
    const int64_t depth = p.dest_strides.depth;
    if (contiguous) {
      Vec<float> square[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) square[i] = Vec<float>{};
      for (int64_t tap = 0; tap < taps.of_group; ++tap) square[places[tap]] = kernels[tap];
      return store_transposed<T>(square, count, taps.of_group, to, depth);
    }
    for (int64_t i = 0; i < taps.of_group; ++i) {
      const int64_t tap = places[i];
      if (tap < 0) continue;
      if (depth == 1) {
        store_partial<T>(to + offsets[tap], kernels[i], count);
      } else {
        for (int64_t c = 0; c < count; ++c) to[c * depth + offsets[tap]] = narrow<T>(kernels[i][c]);
      }
    }
  }

  /// Where a row of a point of grad starts.
  const float* grad_row(const float* grads, int64_t point, int64_t row) const {
    const int64_t chunk = row / kWinogradChannels;
    return grads + (chunk * points + point) * point_elements(grad) + row % kWinogradChannels;
  }
};

/// Transforms and multiplies blocks [begin, end), one after the other.
template <class T>
void weight_winograd_blocks(const WeightWinogradBlocking<T>& blocking, int64_t begin, int64_t end,
                            float* sums) {
  const int64_t block = blocking.block, tiles = blocking.input.tiles;
  Scratch tile_buffer(blocking.tile_bytes);
  float* inputs = tile_buffer.as<float>();
  float* grads = inputs + blocking.slice_elements(blocking.input) * blocking.slices;
  for (int64_t b = begin; b < end; ++b) {
    const int64_t left = tiles - b * block, count = left < block ? left : block;
    blocking.transform_tiles(b * block, count, inputs, grads);
    parallel_for(blocking.items(), 1, [&](int64_t first, int64_t last) {
      Scratch products(blocking.product_bytes);
      for (int64_t item = first; item < last; ++item) {
        blocking.multiply_points(inputs, grads, count, item, products.as<float>());
        blocking.store_products(products.as<float>(), item, b == begin,
                                blocking.shares == 1 && b + 1 == end,
                                sums + item * blocking.sum_elements());
      }
    });
  }
}

/// A single block: each thread transforms all of grad, and the slices of the input that its items
/// multiply.
template <class T>
void weight_winograd_block(const WeightWinogradBlocking<T>& blocking) {
  parallel_threads(blocking.items(), 1, [&](ThreadItems& items) {
    const int64_t slices = blocking.slices, tiles = blocking.input.tiles;
    Scratch tile_buffer(blocking.tile_bytes);
    Scratch products(blocking.product_bytes);
    float* inputs = tile_buffer.as<float>();
    float* grads = inputs + blocking.slice_elements(blocking.input) * slices;
    int64_t transformed = -1;
    items.for_each([&](int64_t item, bool) {
      const int64_t of_slices = item / blocking.row_items, first = of_slices * kWeightItemSlices;
      const int64_t last = first + kWeightItemSlices;
      if (transformed < 0) {
        blocking.transform_slices(slices, slices + blocking.grad.chunks, inputs, grads);
      }
      if (of_slices != transformed) {
        blocking.transform_slices(first, last < slices ? last : slices, inputs, grads);
      }
      transformed = of_slices;
      blocking.multiply_points(inputs, grads, tiles, item, products.as<float>());
      blocking.store_products(products.as<float>(), item, true, true, nullptr);
    });
  });
}

template <class T>
void weight_winograd_group(const WeightWinogradBlocking<T>& blocking) {
  if (blocking.blocks == 1 && blocking.own_tiles) return weight_winograd_block(blocking);
  Scratch sum_buffer(blocking.sum_bytes);
  float* sums = sum_buffer.as<float>();
  parallel_for(blocking.shares, 1, [&](int64_t begin, int64_t end) {
    for (int64_t share = begin; share < end; ++share) {
      const SplitRange range(share, blocking.share_blocks, blocking.blocks);
      weight_winograd_blocks(blocking, range.begin, range.end,
                             sums + share * blocking.share_elements());
    }
  });
  if (blocking.shares == 1) return;
  parallel_for(blocking.items(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      blocking.store_shares(sums + item * blocking.sum_elements(), item);
    }
  });
}

template <class T, int kForm>
Footprint weight_winograd_footprint(const WeightContraction<T>& p) {
  const WeightWinogradBlocking<T> blocking(group_of(p, 0), form_transforms<kForm>,
                                           groups_are_spread(p));
  return footprint_of_groups(p, blocking.footprint());
}

template <class T, int kForm>
void weight_winograd(const WeightContraction<T>& p) {
  for_each_group(p, [&](const WeightContraction<T>& group, int64_t) {
    weight_winograd_group(
        WeightWinogradBlocking<T>(group, form_transforms<kForm>, groups_are_spread(p)));
  });
}
