// Dense 3x3, stride-1 convolution by Winograd's minimal filtering F(n x n, 3 x 3): for each of the
// (n + 2)^2 points e
//   product[e][tile][row] = sum over channels of  input[e][tile][channel] *
//   weight[e][channel][row],
// where a tile is n x n outputs (winograd_transform.h has the transforms, and what they save).
//
// The products are GEMMs of the register tile (tile.h) with vectors along destination channels in
// both memory formats, so that one form of the weights serves both: maps of a few tiles leave no
// lane unused, and only how tiles are read and stored differs. channels_last tensors are read and
// stored in place; planar ones pass through registers transposed, 16 channels by 16 columns at a
// time. Borders are resolved where a tile is read.
//
// Tiles are cut into blocks, rows (destination channels) into groups of kWinogradRows, source
// channels into chunks of kWinogradChannels. With many tiles a block of them is an item of work,
// and all weights are transformed first and shared. With few, the input is transformed first and a
// group is the item: its weights are transformed chunk by chunk where they are used, in L2. Small
// maps come with large weights, whose transform is never written to memory this way.
//
// All points of a tile or kernel lie close together, [tile][chunk][point][channel] and
// [group][chunk][point][channel][row]: matrices of one point far apart would make every store of a
// transform go to another page, which costs more than the transform itself.

/// Destination channels of a group.
constexpr int64_t kWinogradRows = 64;

/// Source channels of a chunk: 64 x 64 floats of the weights of one point stay in L1.
constexpr int64_t kWinogradChannels = 64;

/// Transformed tiles and products of a block take about this much: they stay in L2 with a slice of
/// the weights.
constexpr int64_t kWinogradBlockBytes = 1 << 20;

/// With fewer tiles than the least, weights are fetched more often than they are worth; with more
/// than the most, small inputs make too few items.
constexpr int64_t kLeastTiles = 48, kMostTiles = 96;

/// Up to so many tiles, and bytes of all transformed tiles, groups are the items.
constexpr int64_t kFewTiles = 96, kFewTilesBytes = 8 << 20;

/// Planar tiles are read in bands of about so many columns: 6 x 66 registers stay in L1.
constexpr int64_t kWinogradBandColumns = 64;

/// One cache line between the products of two points, which would otherwise all lie in the same
/// cache sets.
constexpr int64_t kPointGap = 16;

template <int kOut>
struct WinogradConvolution {
  static constexpr int lanes = kLanes<float>;
  static constexpr int points = kWinogradPoints<kOut>;
  static constexpr int64_t squared = points * points;
  static constexpr int64_t columns = kTileColumns<float>;

  const Contraction<float>& p;
  int64_t low[2];        // source position of output 0 under tap 0
  int64_t last[2];       // the last source position that any output needs
  int64_t tap_of[3][3];  // where the walk has the tap at (row, column)
  int64_t offsets[9];    // of the taps in the weight, in the walk's order
  int64_t tile_rows, tile_columns, tiles;
  int64_t chunks;               // of source channels
  int64_t chunk_pitch;          // source channels of a chunk, in whole registers
  int64_t padded_rows, groups;  // destination channels in whole registers; groups of them

  explicit WinogradConvolution(const Contraction<float>& contraction) : p(contraction) {
    int64_t order[2][3];
    for (int axis = 0; axis < 2; ++axis) {
      const Walk& walk = p.walk[1 + axis];
      low[axis] = walk.low();
      last[axis] = walk.count - 1 + walk.high();
      for (int64_t t = 0; t < 3; ++t) order[axis][walk.taps[t].offset - low[axis]] = t;
    }
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) tap_of[i][j] = order[0][i] * 3 + order[1][j];
    }
    tap_offsets(p, p.weight_strides, offsets);
    tile_rows = ceil_div(p.walk[1].count, kOut);
    tile_columns = ceil_div(p.walk[2].count, kOut);
    tiles = p.batch * p.walk[0].count * tile_rows * tile_columns;
    chunks = ceil_div(p.depth, kWinogradChannels);
    chunk_pitch = chunks > 1 ? kWinogradChannels : round_up(p.depth, lanes);
    padded_rows = round_up(p.rows, lanes);
    groups = ceil_div(p.rows, kWinogradRows);
  }

  /// Tiles of a block.
  int64_t block_tiles() const {
    const int64_t bytes = sizeof(float) * (tile_elements() + squared * kWinogradRows);
    const int64_t fit = kWinogradBlockBytes / bytes / kTileRows * kTileRows;
    const int64_t wanted = fit < kLeastTiles ? kLeastTiles : fit > kMostTiles ? kMostTiles : fit;
    return wanted < tiles ? wanted : tiles;
  }

  /// Elements of a transformed tile: [chunk][point][chunk_pitch].
  int64_t tile_elements() const { return chunks * squared * chunk_pitch; }

  // ---- weights: [group][chunk][point][column block][channel][columns of the block] ----

  int64_t group_rows(int64_t group) const {
    const int64_t left = padded_rows - group * kWinogradRows;
    return left < kWinogradRows ? left : kWinogradRows;
  }
  int64_t chunk_channels(int64_t chunk) const {
    const int64_t left = p.depth - chunk * kWinogradChannels;
    return left < kWinogradChannels ? left : kWinogradChannels;
  }
  int64_t chunk_elements(int64_t group, int64_t chunk) const {
    return squared * chunk_channels(chunk) * group_rows(group);
  }
  /// Where the weights of a group and chunk start.
  int64_t weight_offset(int64_t group, int64_t chunk) const {
    return squared *
           (group * kWinogradRows * p.depth + group_rows(group) * chunk * kWinogradChannels);
  }
  int64_t weight_elements() const { return squared * p.depth * padded_rows; }

  /// Transforms a chunk of source channels for `lanes` rows from `first` of a group on.
  void transform_weight(int64_t group, int64_t first, int64_t chunk, float* to) const {
    constexpr int64_t piece = 8;  // channels whose results leave together, page by page
    const int64_t channels = chunk_channels(chunk), block = first / columns;
    const int64_t left = group_rows(group) - block * columns;
    const int64_t width = left < columns ? left : columns;
    const int64_t pitch = channels * group_rows(group);
    float* out = to + block * columns * channels + first % columns;
    alignas(64) float kernels[lanes][9][lanes];
    alignas(64) float results[squared][piece][lanes];
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t count = channels - c < lanes ? channels - c : lanes;
      const int64_t from = chunk * kWinogradChannels + c;
      read_weight_columns(p, offsets, 0, group * kWinogradRows + first, from, from + count,
                          [&](int64_t tap, int64_t channel, Vec<float> v) {
                            store(kernels[channel - from][tap], v);
                          });
      for (int64_t k = 0; k < count; k += piece) {
        const int64_t some = count - k < piece ? count - k : piece;
        for (int64_t i = 0; i < some; ++i) {
          transform_kernel<kOut>(
              [&](int row, int tap) { return load(kernels[k + i][tap_of[row][tap]]); },
              [&](int point, Vec<float> v) { store(results[point][i], v); });
        }
        for (int64_t point = 0; point < squared; ++point) {
          for (int64_t i = 0; i < some; ++i) {
            store(out + point * pitch + (c + k + i) * width, load(results[point][i]));
          }
        }
      }
    }
  }

  /// Transforms all weights, on all threads.
  void transform_weights(float* to) const {
    const int64_t pieces = padded_rows / lanes, of_group = kWinogradRows / lanes;
    parallel_for(pieces * chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t piece = i / chunks, chunk = i % chunks, group = piece / of_group;
        transform_weight(group, piece % of_group * lanes, chunk, to + weight_offset(group, chunk));
      }
    });
  }

  // ---- tiles ----

  /// Neighbouring tiles of one row of tiles.
  struct Run {
    int64_t plane, row, column, count;
  };
  /// The run that starts with tile `first`, of at most `most` tiles.
  Run run_at(int64_t first, int64_t most) const {
    const int64_t row = first / tile_columns, column = first % tile_columns;
    const int64_t left = tile_columns - column;
    return {row / tile_rows, row % tile_rows, column, left < most ? left : most};
  }

  /// The source position that `position` of an axis reads; -1 for zero, which also is what lies
  /// beyond the last position that counts.
  int64_t resolve(int axis, int64_t position) const {
    return position > last[axis] ? -1 : p.walk[1 + axis].resolve(position);
  }

  /// The source plane under a destination plane, or nullptr where that is padding.
  const float* source_plane(int64_t plane) const {
    const Walk& walk = p.walk[0];
    const int64_t z = walk.resolve(plane % walk.count * walk.step + walk.taps[0].offset);
    const float* image = p.source + plane / walk.count * p.source_strides.batch;
    return z < 0 ? nullptr : image + z * p.source_strides.axis[0];
  }
  float* dest_plane(int64_t plane) const {
    const int64_t count = p.walk[0].count;
    return p.dest + plane / count * p.dest_strides.batch + plane % count * p.dest_strides.axis[0];
  }

  /// Transforms chunks [begin, end) of tiles [first, first + count).
  void transform_input(int64_t first, int64_t count, int64_t begin, int64_t end, float* to) const {
    const bool in_place = p.source_strides.channel == 1;
    const int64_t most = in_place ? count : kWinogradBandColumns / kOut;
    for (int64_t tile = 0; tile < count;) {
      const Run run = run_at(first + tile, count - tile < most ? count - tile : most);
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        float* out = to + tile * tile_elements() + chunk * squared * chunk_pitch;
        const float* from = source_plane(run.plane);
        if (from != nullptr) from += chunk * kWinogradChannels * p.source_strides.channel;
        if (in_place) {
          transform_pixels(run, from, chunk_channels(chunk), out);
        } else {
          transform_bands(run, from, chunk_channels(chunk), out);
        }
      }
      tile += run.count;
    }
  }

  /// Transforms `channels` channels of the tile at `from`, side by side, into [point][chunk_pitch].
  void transform_tile(const float* from, int64_t row, int64_t column, int64_t channels,
                      float* to) const {
    for (int64_t c = 0; c < channels; c += lanes, from += lanes, to += lanes) {
      const auto put = [&](int point, Vec<float> v) { store(to + point * chunk_pitch, v); };
      if (c + lanes <= channels) {
        transform_input_tile<kOut>([&](int i, int j) { return load(from + i * row + j * column); },
                                   put);
      } else {
        transform_input_tile<kOut>(
            [&](int i, int j) { return load_partial(from + i * row + j * column, channels - c); },
            put);
      }
    }
  }

  /// A run of tiles whose channels lie side by side: in place but for those at the border.
  void transform_pixels(const Run& run, const float* plane, int64_t channels, float* to) const {
    alignas(64) float patch[points][points][kWinogradChannels];
    const int64_t row = p.source_strides.axis[1], column = p.source_strides.axis[2];
    const int64_t y = run.row * kOut + low[0];
    for (int64_t tile = 0; tile < run.count; ++tile, to += tile_elements()) {
      const int64_t x = (run.column + tile) * kOut + low[1];
      const bool inside = y >= 0 && x >= 0 && y + points <= p.walk[1].size &&
                          x + points <= p.walk[2].size && plane != nullptr;
      if (inside) {
        transform_tile(plane + y * row + x * column, row, column, channels, to);
        continue;
      }
      for (int i = 0; i < points; ++i) {
        const int64_t from_y = plane == nullptr ? -1 : resolve(0, y + i);
        for (int j = 0; j < points; ++j) {
          const int64_t from_x = from_y < 0 ? -1 : resolve(1, x + j);
          if (from_x < 0) {
            fill(patch[i][j], channels, 0.0f);
          } else {
            copy_strided(plane + from_y * row + from_x * column, 1, channels, patch[i][j]);
          }
        }
      }
      transform_tile(patch[0][0], points * kWinogradChannels, kWinogradChannels, channels, to);
    }
  }

  /// A run of tiles whose columns lie side by side: `lanes` channels at a time are transposed into
  /// a band [row][column][channel].
  void transform_bands(const Run& run, const float* plane, int64_t channels, float* to) const {
    constexpr int64_t band_columns = kWinogradBandColumns + 2;
    alignas(64) float band[points * band_columns * lanes];
    const int64_t x = run.column * kOut + low[1], width = run.count * kOut + 2;
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t count = channels - c < lanes ? channels - c : lanes;
      for (int i = 0; i < points; ++i) {
        const int64_t y = resolve(0, run.row * kOut + low[0] + i);
        float* row = band + i * band_columns * lanes;
        if (plane == nullptr || y < 0) {
          fill(row, width * lanes, 0.0f);
        } else {
          read_band_row(plane + c * p.source_strides.channel + y * p.source_strides.axis[1], count,
                        x, width, row);
        }
      }
      for (int64_t tile = 0; tile < run.count; ++tile) {
        transform_tile(band + tile * kOut * lanes, band_columns * lanes, lanes, lanes,
                       to + tile * tile_elements() + c);
      }
    }
  }

  /// Positions [x, x + width) of a source row for up to `lanes` channels, as [position][channel].
  void read_band_row(const float* row, int64_t channels, int64_t x, int64_t width,
                     float* to) const {
    const int64_t stride = p.source_strides.channel, size = p.walk[2].size;
    const int64_t begin = x < 0 ? (-x < width ? -x : width) : 0;
    const int64_t inside = size - x < width ? size - x : width,
                  end = inside < begin ? begin : inside;
    const auto border = [&](int64_t from, int64_t until) {
      for (int64_t i = from; i < until; ++i) {
        const int64_t position = resolve(1, x + i);
        alignas(64) float values[lanes] = {};
        for (int64_t c = 0; c < channels && position >= 0; ++c) {
          values[c] = row[c * stride + position];
        }
        store(to + i * lanes, load(values));
      }
    };
    border(0, begin);
    for (int64_t i = begin; i < end; i += lanes) {
      const int64_t count = end - i < lanes ? end - i : lanes;
      const float* from = row + x + i;
      Vec<float> square[lanes];
      if (count == lanes && channels == lanes) {
#pragma GCC unroll 16
        for (int c = 0; c < lanes; ++c) square[c] = load(from + c * stride);
      } else {
        for (int c = 0; c < lanes; ++c) {
          square[c] = c < channels ? load_partial(from + c * stride, count) : Vec<float>{};
        }
      }
      transpose<float>(square);
      if (count == lanes) {
#pragma GCC unroll 16
        for (int j = 0; j < lanes; ++j) store(to + (i + j) * lanes, square[j]);
      } else {
        for (int64_t j = 0; j < count; ++j) store(to + (i + j) * lanes, square[j]);
      }
    }
    border(end, width);
  }

  // ---- products ----

  /// The products [point][tile][rows of the group] of `count` tiles with the weights of a group;
  /// chunks [begin, end), of which `weight` has the first and its successors, are added to those
  /// before.
  void multiply_points(const float* input, int64_t count, int64_t group, const float* weight,
                       int64_t begin, int64_t end, float* to, int64_t pitch) const {
    const int64_t width = group_rows(group);
    for (int64_t point = 0; point < squared; ++point) {
      const float* next = weight;
      for (int64_t chunk = begin; chunk < end; next += chunk_elements(group, chunk), ++chunk) {
        const int64_t channels = chunk_channels(chunk);
        const int64_t start = (chunk * squared + point) * chunk_pitch;
        for (int64_t column = 0; column < width; column += columns) {
          const int64_t left = width - column;
          const int vectors = vectors_for<float>(left < columns ? left : columns);
          const float* slice = next + (point * width + column) * channels;
          float* out = to + point * pitch + column;
          for (int64_t tile = 0; tile < count; tile += kTileRows) {
            const int rows = int(count - tile < kTileRows ? count - tile : kTileRows);
            const float* from[kTileRows];
            for (int r = 0; r < rows; ++r) from[r] = input + (tile + r) * tile_elements();
            multiply<float>({from, start, 1, channels, 1, slice, vectors * kLanes<float>},
                            out + tile * width, width, chunk > 0, rows, vectors);
          }
        }
      }
    }
  }

  /// Transforms the products of tiles [first, first + count) back and stores them, with the bias.
  void store_outputs(const float* products, int64_t pitch, int64_t first, int64_t count,
                     int64_t group) const {
    const bool in_place = p.dest_strides.channel == 1;
    const int64_t most = in_place ? 1 : count, step = in_place ? 1 : lanes / kOut;
    const int64_t width = group_rows(group), base = group * kWinogradRows;
    for (int64_t tile = 0; tile < count;) {
      const Run run = run_at(first + tile, count - tile < most ? count - tile : most);
      for (int64_t c = 0; c < width && base + c < p.rows; c += lanes) {
        const int64_t left = p.rows - base - c, channels = left < lanes ? left : lanes;
        const Vec<float> bias =
            p.bias != nullptr ? load_partial(p.bias + base + c, channels) : Vec<float>{};
        for (int64_t t = 0; t < run.count; t += step) {
          const int64_t some = run.count - t < step ? run.count - t : step;
          const Run part{run.plane, run.row, run.column + t, some};
          const float* from = products + (tile + t) * width + c;
          if (in_place) {
            store_pixels(part, from, pitch, base + c, channels, bias);
          } else {
            store_planes(part, from, pitch, width, base + c, channels, bias);
          }
        }
      }
      tile += run.count;
    }
  }

  /// A tile whose channels lie side by side.
  void store_pixels(const Run& run, const float* from, int64_t pitch, int64_t channel,
                    int64_t channels, Vec<float> bias) const {
    const int64_t y = run.row * kOut, x = run.column * kOut;
    const int64_t rows = p.walk[1].count - y, pixels = p.walk[2].count - x;
    const int64_t row = p.dest_strides.axis[1], column = p.dest_strides.axis[2];
    float* to = dest_plane(run.plane) + y * row + x * column + channel;
    const auto product = [&](int point) { return load(from + point * pitch); };
    if (rows >= kOut && pixels >= kOut && channels == lanes) {
      transform_products<kOut>(
          product, [&](int i, int j, Vec<float> v) { store(to + i * row + j * column, v + bias); });
    } else {
      transform_products<kOut>(product, [&](int i, int j, Vec<float> v) {
        if (i < rows && j < pixels) store_partial(to + i * row + j * column, v + bias, channels);
      });
    }
  }

  /// Up to lanes / kOut tiles whose columns lie side by side: with `lanes` channels of each output
  /// row they are one square of registers to transpose.
  void store_planes(const Run& run, const float* from, int64_t pitch, int64_t tile_pitch,
                    int64_t channel, int64_t channels, Vec<float> bias) const {
    alignas(64) float outputs[kOut][lanes][lanes];
    for (int64_t tile = 0; tile < run.count; ++tile, from += tile_pitch) {
      transform_products<kOut>(
          [&](int point) { return load(from + point * pitch); },
          [&](int i, int j, Vec<float> v) { store(outputs[i][tile * kOut + j], v + bias); });
    }
    const int64_t x = run.column * kOut, y = run.row * kOut;
    const int64_t rows = p.walk[1].count - y, right = p.walk[2].count - x;
    const int64_t columns_left = run.count * kOut < right ? run.count * kOut : right;
    float* to =
        dest_plane(run.plane) + channel * p.dest_strides.channel + y * p.dest_strides.axis[1] + x;
    for (int64_t i = 0; i < kOut && i < rows; ++i, to += p.dest_strides.axis[1]) {
      Vec<float> square[lanes];
#pragma GCC unroll 16
      for (int64_t j = 0; j < lanes; ++j) {
        square[j] = j < columns_left ? load(outputs[i][j]) : Vec<float>{};
      }
      transpose<float>(square);
      if (columns_left == lanes && channels == lanes) {
#pragma GCC unroll 16
        for (int c = 0; c < lanes; ++c) store(to + c * p.dest_strides.channel, square[c]);
      } else {
        for (int64_t c = 0; c < channels; ++c) {
          store_partial(to + c * p.dest_strides.channel, square[c], columns_left);
        }
      }
    }
  }
};

/// The two ways of cutting work, and what they take. A class of its own, so that the memory that a
/// plan states is the memory that a call takes.
template <int kOut>
struct WinogradBlocking : WinogradConvolution<kOut> {
  static constexpr int64_t bytes = sizeof(float);
  bool by_rows;           // groups of rows are the items
  int64_t block;          // tiles of a block
  int64_t product_pitch;  // elements from one point of the products to the next
  int64_t input_bytes, weight_bytes, product_bytes;

  explicit WinogradBlocking(const Contraction<float>& p) : WinogradConvolution<kOut>(p) {
    const int64_t all_inputs = bytes * this->tiles * this->tile_elements();
    by_rows = this->tiles <= kFewTiles && all_inputs <= kFewTilesBytes;
    block = by_rows ? this->tiles : this->block_tiles();
    product_pitch = block * kWinogradRows + kPointGap;
    input_bytes = bytes * block * this->tile_elements();
    product_bytes = bytes * this->squared * product_pitch;
    weight_bytes = p.prepared != nullptr ? 0
                   : by_rows             ? bytes * this->chunk_elements(0, 0)
                                         : bytes * this->weight_elements();
  }

  Footprint footprint() const {
    const int64_t shared = by_rows ? input_bytes : weight_bytes;
    const int64_t rest = by_rows ? weight_bytes : input_bytes;
    return {kTileRows, this->columns, shared, rest + product_bytes};
  }
};

/// Many tiles: blocks of them are the items, weights are shared.
template <int kOut>
void winograd_by_tiles(const WinogradBlocking<kOut>& convolution, const float* transformed) {
  const int64_t tiles = convolution.tiles, block = convolution.block;
  const int64_t product_pitch = convolution.product_pitch;
  Scratch weights(convolution.weight_bytes);
  if (transformed == nullptr) convolution.transform_weights(weights.as<float>());
  const float* weight = transformed != nullptr ? transformed : weights.as<float>();

  parallel_for(ceil_div(tiles, block), 1, [&](int64_t begin, int64_t end) {
    Scratch input_buffer(convolution.input_bytes);
    Scratch product_buffer(convolution.product_bytes);
    float *inputs = input_buffer.as<float>(), *products = product_buffer.as<float>();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item * block, count = tiles - first < block ? tiles - first : block;
      convolution.transform_input(first, count, 0, convolution.chunks, inputs);
      for (int64_t group = 0; group < convolution.groups; ++group) {
        convolution.multiply_points(inputs, count, group,
                                    weight + convolution.weight_offset(group, 0), 0,
                                    convolution.chunks, products, product_pitch);
        convolution.store_outputs(products, product_pitch, first, count, group);
      }
    }
  });
}

/// Few tiles: groups of destination channels are the items, tiles are shared.
template <int kOut>
void winograd_by_rows(const WinogradBlocking<kOut>& convolution, const float* transformed) {
  constexpr int64_t piece = 8;  // tiles that a thread transforms at a time
  const int64_t tiles = convolution.tiles, chunks = convolution.chunks;
  const int64_t pieces = ceil_div(tiles, piece), product_pitch = convolution.product_pitch;
  Scratch input_buffer(convolution.input_bytes);
  float* inputs = input_buffer.as<float>();
  parallel_for(pieces * chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item / chunks * piece, chunk = item % chunks;
      const int64_t count = tiles - first < piece ? tiles - first : piece;
      convolution.transform_input(first, count, chunk, chunk + 1,
                                  inputs + first * convolution.tile_elements());
    }
  });

  parallel_for(convolution.groups, 1, [&](int64_t begin, int64_t end) {
    Scratch weights(convolution.weight_bytes);
    Scratch product_buffer(convolution.product_bytes);
    float* products = product_buffer.as<float>();
    for (int64_t group = begin; group < end; ++group) {
      if (transformed != nullptr) {
        convolution.multiply_points(inputs, tiles, group,
                                    transformed + convolution.weight_offset(group, 0), 0, chunks,
                                    products, product_pitch);
      } else {
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
          for (int64_t row = 0; row < convolution.group_rows(group); row += convolution.lanes) {
            convolution.transform_weight(group, row, chunk, weights.as<float>());
          }
          convolution.multiply_points(inputs, tiles, group, weights.as<float>(), chunk, chunk + 1,
                                      products, product_pitch);
        }
      }
      convolution.store_outputs(products, product_pitch, 0, tiles, group);
    }
  });
}

template <int kOut>
Footprint winograd_footprint(const Contraction<float>& p) {
  return WinogradBlocking<kOut>(p).footprint();
}

/// Bytes of the transformed weights, and transforming them.
template <int kOut>
int64_t winograd_prepared_bytes(const Contraction<float>& p) {
  return int64_t(sizeof(float)) * WinogradConvolution<kOut>(p).weight_elements();
}
template <int kOut>
void winograd_prepare(const Contraction<float>& p, void* to) {
  WinogradConvolution<kOut>(p).transform_weights(static_cast<float*>(to));
}

template <int kOut>
void winograd(const Contraction<float>& p) {
  const WinogradBlocking<kOut> blocking(p);
  const float* transformed = static_cast<const float*>(p.prepared);
  if (blocking.by_rows) {
    winograd_by_rows(blocking, transformed);
  } else {
    winograd_by_tiles(blocking, transformed);
  }
}
