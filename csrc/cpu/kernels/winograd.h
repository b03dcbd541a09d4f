// Dense stride-1 convolution, dilated or not, by Winograd's minimal filtering of one form
// (winograd_forms.h; winograd_transform.h has the transforms, and what they save): for each of its
// points e
//   product[e][tile][row] = sum over channels and groups of taps of
//                               input[e][tile][group][channel] * weight[e][group][channel][row],
// where a tile is what the form computes at once: 4x4 outputs of a 3x3 kernel, or 6 of a row.
//
// The products are GEMMs of the register tile (tile.h) with vectors along destination channels in
// both memory formats, so that one form of the weights serves both: maps of a few tiles leave no
// lane unused, and only how tiles are read (winograd_tiles.h) and stored differs.
//
// Tiles are cut into blocks, rows (destination channels) into groups of kWinogradRows, source
// channels into chunks of kWinogradChannels, which together with a group of taps are a slice. With
// many tiles a block of them is an item of work, and all weights are transformed first, by each
// thread or, if they are large, by all of them. With few, or with weights too large for a cache,
// the input of a block is transformed first and a group is the item: its weights are transformed
// some slices at a time where they are used, in L2. Small maps come with large weights, whose
// transform is never written to memory this way.
//
// All points of a tile or kernel lie close together, [tile][slice][point][channel] and
// [group][slice][point][channel][row]: matrices of one point far apart would make every store of a
// transform go to another page, which costs more than the transform itself.

/// Destination channels of a group, at most. Groups have as many each, and their number is even:
/// where they are items, one thread has as many as another.
constexpr int64_t kWinogradRows = 64;

/// Transformed tiles and products of a block take about this much: they stay in L2 with a slice of
/// the weights.
constexpr int64_t kWinogradBlockBytes = 1 << 20;

/// With fewer tiles than the least, weights are fetched more often than they are worth; with more
/// than the most, small inputs make too few items.
constexpr int64_t kLeastTiles = 48, kMostTiles = 96;

/// Of so few blocks, a last one that is smaller than the others would leave a thread idle.
constexpr int64_t kEvenBlocks = 8;

/// Up to so many bytes of all transformed tiles, or as many as the weights would take, groups are
/// the items if there are some and the products of one fit a block.
constexpr int64_t kFewTilesBytes = 8 << 20;

/// Transformed weights beyond this go to memory and back for every block of tiles. It takes less
/// time to transform them again.
constexpr int64_t kLargeTransform = 32 << 20;

/// Registers of outputs that are stored together: 4 rows of 4 phases of the widest dilation at
/// most.
constexpr int64_t kMaxOutputRegisters = 4 * 4 * kMaxWinogradDilation;

template <class T>
struct WinogradConvolution {
  static constexpr int lanes = kLanes<float>;
  static constexpr int64_t columns = kTileColumns<float>;

  const Contraction<T>& p;
  const FormTransforms& transforms;
  KernelTaps taps;
  WinogradTiles<T> input;
  int64_t points, slices;             // of the form; of the input, groups of taps of all chunks
  int64_t offsets[kMaxWinogradTaps];  // of the taps in the weight, in the walk's order
  int64_t kernel_places[kMaxGroupedTaps];  // of the taps of each group among those of a channel
  int64_t padded_rows, groups;  // destination channels in whole registers; groups of them

  WinogradConvolution(const Contraction<T>& contraction, const FormTransforms& transforms)
      : p(contraction),
        transforms(transforms),
        taps(p, transforms.form),
        input(p.source, p.source_strides, p.walk, input_tiles(transforms), taps, taps.all_groups,
              p.batch, p.depth),
        points(transforms.form.points()),
        slices(input.chunks * taps.all_groups) {
    tap_offsets(p, p.weight_strides, offsets);
    for (int64_t i = 0; i < taps.all_groups * taps.of_group; ++i) {
      const int64_t tap = taps.at(i / taps.of_group, i % taps.of_group);
      kernel_places[i] = (tap < 0 ? p.taps() : tap) * lanes;
    }
    padded_rows = round_up(p.rows, lanes);
    groups = ceil_div(p.rows, kWinogradRows);
    if (groups > 1) groups = round_up(groups, 2);
  }
  WinogradConvolution(const WinogradConvolution&) = delete;  // the tiles refer to the taps

  /// Groups of tiles of a block: planar outputs of a group are stored together. Blocks are even,
  /// and an even number of them; many are rounded to whole tiles of the product.
  int64_t groups_of_block() const {
    const int64_t bytes = sizeof(float) * (tile_elements() + points * kWinogradRows);
    const int64_t fit = kWinogradBlockBytes / bytes;
    const int64_t wanted = fit < kLeastTiles ? kLeastTiles : fit > kMostTiles ? kMostTiles : fit;
    const int64_t most = ceil_div(wanted, input.columns.dilation);
    const int64_t blocks = round_up(ceil_div(input.groups, most), 2);
    const int64_t even = ceil_div(input.groups, blocks);
    return input.columns.dilation > 1 || blocks <= kEvenBlocks ? even : round_up(even, kTileRows);
  }

  /// Elements of a slice of a transformed tile, [point][channels of a chunk], and of the tile.
  int64_t slice_elements() const { return points * input.pitch; }
  int64_t tile_elements() const { return slices * slice_elements() + kPointGap; }
  /// Transforms slices [begin, end) of tiles [first, first + count).
  void transform_input(int64_t first, int64_t count, int64_t begin, int64_t end, float* to) const {
    input.transform(first, count, begin, end, {tile_elements(), slice_elements(), input.pitch}, to);
  }

  // ---- weights: [group][slice][point][column block][channel][columns of the block] ----

  /// The first row of a group, and how many it has; the first group has the most.
  int64_t group_begin(int64_t group) const {
    return ceil_div(group * (padded_rows / lanes), groups) * lanes;
  }
  int64_t group_of_row(int64_t row) const { return row / lanes * groups / (padded_rows / lanes); }
  int64_t group_rows(int64_t group) const { return group_begin(group + 1) - group_begin(group); }
  /// Elements of a point of a group and slice, and of all its points.
  int64_t point_elements(int64_t group, int64_t slice) const {
    return input.slice_channels(slice) * group_rows(group) + kPointGap;
  }
  int64_t weight_slice_elements(int64_t group, int64_t slice) const {
    return points * point_elements(group, slice);
  }
  /// Where the weights of a group and slice start.
  int64_t weight_offset(int64_t group, int64_t slice) const {
    const int64_t tap_groups = taps.all_groups, rows = group_rows(group);
    const int64_t before = group_begin(group) * p.depth * tap_groups;
    const int64_t channels = slice / tap_groups * tap_groups * kWinogradChannels +
                             slice % tap_groups * input.slice_channels(slice);
    return points * (before + rows * channels + (group * slices + slice) * kPointGap);
  }
  int64_t weight_elements() const {
    return points * (p.depth * padded_rows * taps.all_groups + groups * slices * kPointGap);
  }

  /// Slices of a chunk whose transformed weights stay in L2 together, for they are read together.
  int64_t slice_run() const {
    const int64_t bytes = sizeof(float) * weight_slice_elements(0, 0);
    return even_part(taps.all_groups, kWinogradBlockBytes / bytes + 1);
  }

  /// The end of the run of slices of a chunk that starts with `slice`.
  int64_t run_end(int64_t slice) const {
    const int64_t left = taps.all_groups - slice % taps.all_groups, run = slice_run();
    return slice + (run < left ? run : left);
  }

  /// Transforms slices [begin, end) of a chunk for `lanes` rows from `first` of a group on.
  void transform_weight(int64_t group, int64_t first, int64_t begin, int64_t end, float* to) const {
    const int64_t channels = input.slice_channels(begin), block = first / columns;
    const int64_t left = group_rows(group) - block * columns;
    const int64_t width = left < columns ? left : columns, tap_count = p.taps();
    const int64_t pitch = point_elements(group, begin);
    float* out = to + block * columns * channels + first % columns;
    // The taps of a channel, and zeros for those that a group lacks; of as many channels as fit
    // where they are neighbours, for the sake of the memory.
    alignas(64) float kernels[(kMaxWinogradTaps + 1) * lanes][lanes];
    const int64_t step = (tap_count + 1) * lanes;
    const int64_t fit = (kMaxWinogradTaps + 1) / (tap_count + 1) * lanes;
    const int64_t most = p.weight_strides.depth == 1 ? fit : lanes;
    const int64_t at_once = most < channels ? most : channels;
    for (int64_t c = 0; c < at_once; ++c) {
      store(kernels[0] + c * step + tap_count * lanes, Vec<float>{});
    }
    for (int64_t c = 0; c < channels; c += at_once) {
      const int64_t count = channels - c < at_once ? channels - c : at_once;
      const int64_t from = begin / taps.all_groups * kWinogradChannels + c;
      read_weight_columns(p, offsets, 0, group_begin(group) + first, from, from + count,
                          [&](int64_t tap, int64_t channel, Vec<float> v) {
                            store(kernels[0] + (channel - from) * step + tap * lanes, v);
                          });
      for (int64_t slice = begin; slice < end; ++slice) {
        float* of_slice = out + (slice - begin) * points * pitch;
        const int64_t* at = kernel_places + slice % taps.all_groups * taps.of_group;
        transforms.weight(kernels[0], step, count, at, pitch, width, of_slice + c * width);
      }
    }
  }

  /// Transforms all weights, on all threads.
  void transform_weights(float* to) const {
    parallel_for(padded_rows / lanes * input.chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i / input.chunks * lanes, group = group_of_row(row);
        const int64_t first = i % input.chunks * taps.all_groups;
        transform_weight(group, row - group_begin(group), first, first + taps.all_groups,
                         to + weight_offset(group, first));
      }
    });
  }

  // ---- products ----

  /// Fetches the channels of a slice and point: tiles lie too far apart for the hardware to see
  /// which come next.
  static void fetch_channels(const float* from, int64_t channels) {
    for (int64_t c = 0; c < channels; c += lanes) fetch_ahead(from + c, 0);
  }

  /// The products [point][tile][rows of the group] of `count` tiles with the weights of a group;
  /// slices [begin, end), of which `weight` has the first and its successors, are added to those
  /// before.
  void multiply_points(const float* inputs, int64_t count, int64_t group, const float* weight,
                       int64_t begin, int64_t end, float* to, int64_t pitch) const {
    const int64_t width = group_rows(group);
    for (int64_t point = 0; point < points; ++point) {
      const float* next = weight;
      for (int64_t slice = begin; slice < end; ++slice) {
        if (slice > 0 && !taps.has_point(slice % taps.all_groups, point)) {
          next += points * point_elements(group, slice);
          continue;
        }
        const int64_t channels = input.slice_channels(slice);
        const int64_t start = slice * slice_elements() + point * input.pitch;
        const int64_t point_pitch = point_elements(group, slice);
        for (int64_t column = 0; column < width; column += columns) {
          const int64_t left = width - column;
          const int vectors = vectors_for<float>(left < columns ? left : columns);
          const float* panel = next + point * point_pitch + column * channels;
          float* out = to + point * pitch + column;
          for (int64_t tile = 0; tile < count; tile += kTileRows) {
            const int rows = int(count - tile < kTileRows ? count - tile : kTileRows);
            const float* from[kTileRows];
            for (int r = 0; r < rows; ++r) {
              from[r] = inputs + (tile + r) * tile_elements();
              if (column == 0) fetch_channels(from[r] + start + input.pitch, channels);
            }
            multiply<float>({from, start, 1, channels, 1, panel, vectors * kLanes<float>},
                            out + tile * width, width, slice > 0, rows, vectors);
          }
        }
        next += points * point_pitch;
      }
    }
  }

  /// Transforms the products of tiles [first, first + count) back and stores them, with the bias.
  void store_outputs(const float* products, int64_t pitch, int64_t first, int64_t count,
                     int64_t group) const {
    const bool in_place = p.dest_strides.channel == 1;
    const int64_t most = in_place ? 1 : count, step = in_place ? 1 : part_tiles();
    const int64_t width = group_rows(group), base = group_begin(group);
    for (int64_t tile = 0; tile < count;) {
      const TileRun run = input.run_at(first + tile, count - tile < most ? count - tile : most);
      for (int64_t c = 0; c < width && base + c < p.rows; c += lanes) {
        const int64_t left = p.rows - base - c, channels = left < lanes ? left : lanes;
        const Vec<float> bias =
            p.bias != nullptr ? load_partial<T>(p.bias + base + c, channels) : Vec<float>{};
        for (int64_t t = 0; t < run.count; t += step) {
          const int64_t some = run.count - t < step ? run.count - t : step;
          const TileRun part{run.plane, run.row, run.column + t, some};
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

  T* dest_plane(int64_t plane) const {
    const int64_t count = p.walk[0].count;
    return p.dest + plane / count * p.dest_strides.batch + plane % count * p.dest_strides.axis[0];
  }

  /// A tile whose channels lie side by side: in place if they are floats, but for those at the
  /// border.
  void store_pixels(const TileRun& run, const float* from, int64_t pitch, int64_t channel,
                    int64_t channels, const Vec<float>& bias) const {
    const int64_t high = input.rows.dilation, wide = input.columns.dilation;
    const int64_t tile_rows = input.rows.step, tile_columns = input.columns.step;
    const int64_t y = input.rows.origin(run.row), x = input.columns.origin(run.column);
    const int64_t rows = p.walk[1].count - y, pixels = p.walk[2].count - x;
    const int64_t row = p.dest_strides.axis[1], column = p.dest_strides.axis[2];
    T* to = dest_plane(run.plane) + y * row + x * column + channel;
    if constexpr (__is_same(T, float)) {
      const bool whole = rows > (tile_rows - 1) * high && pixels > (tile_columns - 1) * wide;
      if (whole && channels == lanes) {
        return transforms.output(from, pitch, bias, high * row, wide * column, to);
      }
    }
    alignas(64) float outputs[kMaxTilePositions][lanes];
    transforms.output(from, pitch, bias, tile_columns * lanes, lanes, outputs[0]);
    for (int64_t i = 0; i < tile_rows && i * high < rows; ++i) {
      for (int64_t j = 0; j < tile_columns && j * wide < pixels; ++j) {
        store_partial(to + i * high * row + j * wide * column, load(outputs[i * tile_columns + j]),
                      channels);
      }
    }
  }

  /// Tiles whose columns lie side by side: those of all phases, more of them while they fit a
  /// register.
  int64_t part_tiles() const {
    const int64_t dilation = input.columns.dilation;
    const int64_t more = lanes / (input.columns.step * dilation);
    return dilation * (more > 1 ? more : 1);
  }

  /// part_tiles() tiles, or those left in a row of them: with `lanes` channels of each output row
  /// they are squares of registers to transpose.
  void store_planes(const TileRun& run, const float* from, int64_t pitch, int64_t tile_pitch,
                    int64_t channel, int64_t channels, const Vec<float>& bias) const {
    alignas(64) float outputs[kMaxOutputRegisters][lanes];
    const int64_t high = input.rows.dilation, wide = input.columns.dilation;
    const int64_t tile_rows = input.rows.step, tile_columns = input.columns.step;
    const int64_t x = input.columns.origin(run.column), row_pitch = part_tiles() * tile_columns;
    for (int64_t tile = 0; tile < run.count; ++tile, from += tile_pitch) {
      const int64_t column = input.columns.origin(run.column + tile) - x;
      transforms.output(from, pitch, bias, row_pitch * lanes, wide * lanes, outputs[column]);
    }
    const int64_t y = input.rows.origin(run.row), right = p.walk[2].count - x;
    const int64_t distance = p.dest_strides.axis[2];
    const int64_t width = run.count * tile_columns < right ? run.count * tile_columns : right;
    for (int64_t i = 0; i < tile_rows && y + i * high < p.walk[1].count; ++i) {
      T* to = dest_plane(run.plane) + channel * p.dest_strides.channel +
              (y + i * high) * p.dest_strides.axis[1] + x * distance;
      for (int64_t first = 0; first < width; first += lanes) {
        const int64_t left = width - first, count = left < lanes ? left : lanes;
        Vec<float> square[lanes];
#pragma GCC unroll 16
        for (int64_t j = 0; j < lanes; ++j) {
          square[j] = j < count ? load(outputs[i * row_pitch + first + j]) : Vec<float>{};
        }
        store_transposed<T>(square, channels, count, to + first * distance, p.dest_strides.channel,
                            distance);
      }
    }
  }
};

/// The two ways of cutting work, and what they take. A class of its own, so that the memory that a
/// plan states is the memory that a call takes.
template <class T>
struct WinogradBlocking : WinogradConvolution<T> {
  static constexpr int64_t bytes = sizeof(float);
  bool by_rows;           // groups of rows are the items
  PackedWeight weights;   // transformed, unless they are already
  int64_t block_groups;   // groups of tiles of a block
  int64_t block;          // tiles of a block, at most
  int64_t product_pitch;  // elements from one point of the products to the next
  int64_t input_bytes, product_bytes;

  WinogradBlocking(const Contraction<T>& p, const FormTransforms& transforms)
      : WinogradConvolution<T>(p, transforms) {
    const int64_t all_inputs = bytes * this->input.tiles * this->tile_elements();
    const int64_t of_tile = bytes * this->points * kWinogradRows, tiles = this->input.tiles;
    const int64_t all_weights = bytes * this->weight_elements();
    const bool few = of_tile * tiles <= kWinogradBlockBytes &&
                     (all_inputs <= kFewTilesBytes || all_inputs <= all_weights);
    by_rows = this->groups > 1 && (few || all_weights > kLargeTransform);
    const int64_t dilation = this->input.columns.dilation;
    const int64_t fit = kWinogradBlockBytes / of_tile / dilation;
    block_groups =
        by_rows ? even_part(this->input.groups, fit < 1 ? 1 : fit) : this->groups_of_block();
    block = by_rows && block_groups == this->input.groups ? tiles : block_groups * dilation;
    product_pitch = block * kWinogradRows + kPointGap;
    input_bytes = bytes * block * this->tile_elements();
    product_bytes = bytes * this->points * product_pitch;
    if (p.prepared != nullptr) return;
    if (by_rows) {
      weights.bytes = bytes * this->slice_run() * this->weight_slice_elements(0, 0);
    } else {
      weights = {all_weights, all_weights > kOwnBytes};
    }
  }

  int64_t blocks() const { return ceil_div(this->input.groups, block_groups); }
  /// The first tile of a block.
  int64_t begin(int64_t number) const { return this->input.group_begin(number * block_groups); }

  Footprint footprint() const {
    const int64_t shared_inputs = by_rows ? input_bytes : 0;
    return {kTileRows, this->columns, shared_inputs + weights.of_call(),
            input_bytes - shared_inputs + weights.of_thread() + product_bytes};
  }
};

/// Many tiles: blocks of them are the items, which share the weights.
template <class T>
void winograd_by_tiles(const WinogradBlocking<T>& convolution, const float* transformed) {
  const int64_t slices = convolution.slices, product_pitch = convolution.product_pitch;
  const PackedWeight& memory = convolution.weights;
  Scratch shared(memory.of_call());
  if (memory.of_call() > 0) {
    convolution.transform_weights(shared.as<float>());
    transformed = shared.as<float>();
  }

  parallel_threads(convolution.blocks(), 1, [&](ThreadItems& items) {
    Scratch own(memory.of_thread());
    Scratch input_buffer(convolution.input_bytes);
    Scratch product_buffer(convolution.product_bytes);
    float *inputs = input_buffer.as<float>(), *products = product_buffer.as<float>();
    const float* weight = transformed;
    if (memory.of_thread() > 0) {
      convolution.transform_weights(own.as<float>());
      weight = own.as<float>();
    }
    items.for_each([&](int64_t item, bool) {
      const int64_t first = convolution.begin(item);
      const int64_t count = convolution.begin(item + 1) - first;
      convolution.transform_input(first, count, 0, slices, inputs);
      for (int64_t group = 0; group < convolution.groups; ++group) {
        convolution.multiply_points(inputs, count, group,
                                    weight + convolution.weight_offset(group, 0), 0, slices,
                                    products, product_pitch);
        convolution.store_outputs(products, product_pitch, first, count, group);
      }
    });
  });
}

/// The products of tiles [first, first + count) with the weights of a group, and what comes of
/// them; weights that are not `transformed` yet come to `weights`, some slices at a time.
template <class T>
void multiply_group(const WinogradBlocking<T>& convolution, const float* transformed,
                    const float* inputs, int64_t first, int64_t count, int64_t group,
                    float* weights, float* products) {
  const int64_t product_pitch = convolution.product_pitch;
  for (int64_t slice = 0, end; slice < convolution.slices; slice = end) {
    const float* weight = weights;
    if (transformed != nullptr) {
      end = convolution.slices;
      weight = transformed + convolution.weight_offset(group, 0);
    } else {
      end = convolution.run_end(slice);
      for (int64_t row = 0; row < convolution.group_rows(group); row += convolution.lanes) {
        convolution.transform_weight(group, row, slice, end, weights);
      }
    }
    convolution.multiply_points(inputs, count, group, weight, slice, end, products, product_pitch);
  }
  convolution.store_outputs(products, product_pitch, first, count, group);
}

/// Few tiles or large weights: groups of destination channels are the items, the tiles of a block
/// are shared.
template <class T>
void winograd_by_rows(const WinogradBlocking<T>& convolution, const float* transformed) {
  constexpr int64_t piece = 8;  // tiles that a thread transforms at a time
  const int64_t slices = convolution.slices;
  Scratch input_buffer(convolution.input_bytes);
  float* inputs = input_buffer.as<float>();
  for (int64_t block = 0; block < convolution.blocks(); ++block) {
    const int64_t start = convolution.begin(block), tiles = convolution.begin(block + 1) - start;
    parallel_for(ceil_div(tiles, piece) * slices, 1, [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t first = item / slices * piece, slice = item % slices;
        const int64_t count = tiles - first < piece ? tiles - first : piece;
        convolution.transform_input(start + first, count, slice, slice + 1,
                                    inputs + first * convolution.tile_elements());
      }
    });

    parallel_threads(convolution.groups, 1, [&](ThreadItems& items) {
      Scratch weights(convolution.weights.of_thread());
      Scratch products(convolution.product_bytes);
      items.for_each([&](int64_t group, bool) {
        multiply_group(convolution, transformed, inputs, start, tiles, group, weights.as<float>(),
                       products.as<float>());
      });
    });
  }
}

template <class T, int kForm>
Footprint winograd_footprint(const Contraction<T>& p) {
  const Contraction<T> group = group_of(p, 0);
  return footprint_of_groups(p, WinogradBlocking<T>(group, form_transforms<kForm>).footprint());
}

/// Bytes of the transformed weights, group after group, and transforming them.
template <class T, int kForm>
int64_t winograd_prepared_bytes(const Contraction<T>& p) {
  const WinogradConvolution<T> convolution(group_of(p, 0), form_transforms<kForm>);
  return p.groups * int64_t(sizeof(float)) * convolution.weight_elements();
}
template <class T, int kForm>
void winograd_prepare(const Contraction<T>& p, void* to) {
  const int64_t elements = winograd_prepared_bytes<T, kForm>(p) / int64_t(sizeof(float)) / p.groups;
  for_each_group(p, [&](const Contraction<T>& group, int64_t g) {
    const WinogradConvolution<T> convolution(group, form_transforms<kForm>);
    convolution.transform_weights(static_cast<float*>(to) + g * elements);
  });
}

template <class T, int kForm>
void winograd(const Contraction<T>& p) {
  for_each_group(p, [&](const Contraction<T>& group, int64_t g) {
    const WinogradBlocking<T> blocking(group, form_transforms<kForm>);
    const float* transformed = static_cast<const float*>(p.prepared);
    if (transformed != nullptr) transformed += g * blocking.weight_elements();
    const auto compute = blocking.by_rows ? winograd_by_rows<T> : winograd_by_tiles<T>;
    compute(blocking, transformed);
  });
}
