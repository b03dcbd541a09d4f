// Convolution with few channels in a group, vectors along its destination channels and source
// elements broadcast: dest[pixels x rows] = im2col[pixels x K] * weight[K x rows] for each group,
// K = taps * source channels.
//
// With so few channels the packed weights of a group stay in L1, and what a GEMM spends on each
// pixel - pointers to its taps, or gathering them - is as much work as multiplying. So there is
// neither: the pixels of a destination row read the source at one distance, be it a tensor in place
// or a block of it with its borders resolved (source_block.h), and affine_tile.h takes up to 24 of
// them at a time. Tiles write a channels_last destination themselves; the sums of planes wait in
// scratch for some rows and are transposed. Items are (block of pixels, group); K is not cut.
// Weights are packed by the thread that comes to their group, or those of small groups once per
// call. A single register of columns has tiles of its own where pixels share what they read
// (sliding_tile.h). Taps of the width come in ascending order of what they read.

/// Whether what a pixel reads for a tap is what its neighbour reads for a tap beside it.
inline bool neighbours_share_taps(const Walk& width) {
  return width.tap_count > 1 && width.taps[1].offset - width.taps[0].offset == width.step;
}

/// Where the kernel rows of the first pixel of a block start, at their lowest taps.
inline void point_kernel_rows(const ContractionShape& shape, const SourceBlockLayout& layout,
                              int64_t* to) {
  const Walk* walk = shape.walk;
  for (int64_t td = 0; td < walk[0].tap_count; ++td) {
    for (int64_t th = 0; th < walk[1].tap_count; ++th) {
      *to++ = layout.tap(shape, td, th, 0);
    }
  }
}

/// Where a destination takes at most so many products, pixels are best written at once.
constexpr int64_t kFewProducts = 64;

/// Planes of so many bytes are far from the processor. Tiles bring the lines that they go to, and
/// these take the place in L2 that the sums of a block would have: they wait in L1, of a row at
/// least.
constexpr int64_t kFarPlanes = 1 << 20, kWaitingBytes = 32 << 10;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct BroadcastPixelsBlocking {
  using A = Accumulator<T>;
  int64_t inner, padded_rows, widest;  // K, destination channels, those of a tile
  SourceBlockLayout layout;
  SourceRuns runs;
  bool fetches;                       // tiles what the next one reads
  bool slides;                        // pixels read what their neighbours read
  bool stores;                        // tiles write the destination, and fetch what the next writes
  bool whole_pixels;                  // of four registers, which one tile writes
  bool brings_planes;                 // tiles the lines of planes that their sums will go to
  int64_t waiting_rows;               // of a block of planes, transposed together
  bool by_groups;                     // items of a group follow each other, which packs its weights
  int64_t weight_bytes, table_bytes;  // of the call; tables of taps, biases and runs
  int64_t copied_bytes, sum_bytes;    // of each thread

  explicit BroadcastPixelsBlocking(const Contraction<T>& p)
      : inner(p.depth * p.taps()),
        padded_rows(round_up(p.rows, kLanes<A>)),
        widest(EvenBlocks<A>(p.rows).widest()),
        layout(SourceBlockLayout::make<T>(p, p.source_strides)),
        runs(p, layout),
        fetches(is_pointwise(p) && layout.in_place && runs.step == 1),
        slides(neighbours_share_taps(p.walk[2])),
        stores(p.dest_strides.channel == 1),
        whole_pixels(stores && (is_pointwise(p) || inner <= kFewProducts)) {
    weight_bytes = sizeof(A) * p.groups * padded_rows * inner;
    by_groups = p.groups == 1 || weight_bytes > kSharedWeightBytes;
    const int64_t lines = p.walk[0].tap_count * p.walk[1].tap_count;
    table_bytes =
        sizeof(A) * p.groups * padded_rows + sizeof(int64_t) * (runs.count + lines + p.taps());
    copied_bytes = sizeof(A) * layout.elements;
    const int64_t row_bytes = sizeof(A) * layout.width * widest;
    brings_planes = __is_same(T, A) && !stores && p.dest_strides.axis[2] == 1 &&
                    int64_t(sizeof(T)) * p.batch * p.groups * p.rows * p.pixels() >= kFarPlanes;
    waiting_rows = !brings_planes              ? layout.rows
                   : row_bytes > kWaitingBytes ? 1
                                               : even_part(layout.rows, kWaitingBytes / row_bytes);
    sum_bytes = stores ? 0 : row_bytes * waiting_rows;
  }

  /// Of the weights of all groups, or of each thread.
  int64_t shared_bytes() const { return by_groups ? 0 : weight_bytes; }
  int64_t own_bytes() const { return by_groups ? sizeof(A) * padded_rows * inner : 0; }

  /// Registers of columns of a tile, where so many are packed together. For an FMA 14 pixels by 2
  /// read half of the weights that 6 by 4 do, and these are often more than L1 holds; but not
  /// beside what a tile fetches for so many pixels, and where little is multiplied for what is
  /// written, a pixel is better written at once.
  int registers_of_tile(int packed) const { return packed == 4 && !whole_pixels ? 2 : packed; }

  Footprint footprint() const {
    const int packed = vectors_for<A>(widest), vectors = registers_of_tile(packed);
    return {affine_rows(vectors), vectors < packed ? vectors * kLanes<A> : widest,
            shared_bytes() + table_bytes, own_bytes() + copied_bytes + sum_bytes};
  }
};

/// Stores `count` neighbouring pixels of all lanes, [pixel][`pitch` channels], in planes.
template <class T>
inline void store_planes(const Accumulator<T>* sums, int64_t pitch, int64_t count, T* to,
                         int64_t channel, int64_t channels, int64_t stride) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> square[lanes] = {};
  for (int64_t i = 0; i < count; ++i) square[i] = load(sums + i * pitch);
  if (stride == 1) return store_transposed(square, channels, count, to, channel);
  transpose<A>(square);
  for (int64_t c = 0; c < channels; ++c, to += channel) {
    alignas(64) A line[lanes];
    store(line, square[c]);
    store_run(line, A(0), count, to, stride);
  }
}

/// Stores the sums of a block, [row][pixel][`pitch` channels], as `channels` planes from `channel`
/// on.
template <class T>
void store_pixel_block(const Contraction<T>& p, const PixelBlock& block, const Accumulator<T>* sums,
                       int64_t pitch, int64_t channel, int64_t channels) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  const Strides& strides = p.dest_strides;
  T* to = p.dest + block.image * strides.batch + block.d * strides.axis[0] +
          block.h * strides.axis[1] + block.w * strides.axis[2] + channel * strides.channel;
  // Rows that follow each other without a gap are one.
  const bool joined = strides.axis[1] == block.width * strides.axis[2];
  const int64_t rows = joined ? 1 : block.rows;
  const int64_t width = joined ? block.rows * block.width : block.width;
  for (int64_t r = 0; r < rows; ++r, to += strides.axis[1], sums += width * pitch) {
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t some = channels - c < lanes ? channels - c : lanes;
      for (int64_t i = 0; i < width; i += lanes) {
        const int64_t count = width - i < lanes ? width - i : lanes;
        store_planes(sums + i * pitch + c, pitch, count,
                     to + c * strides.channel + i * strides.axis[2], strides.channel, some,
                     strides.axis[2]);
      }
    }
  }
}

/// What the items of a call share.
template <class T>
struct BroadcastPixels {
  using A = Accumulator<T>;
  const Contraction<T>& p;
  const BroadcastPixelsBlocking<T>& blocking;
  const A* biases;       // [group][padded rows]
  const int64_t* runs;   // where those of K start
  const int64_t* lines;  // and for sliding tiles the kernel rows

  /// Destination channels [column, column + width), those of a tile, of all pixels of a block;
  /// `source` is what the first pixel reads for the lowest taps, and `weights` are those of the
  /// group, packed as in gemm_channels_last.h.
  void multiply(const A* weights, int64_t group, int64_t column, int64_t width,
                const PixelBlock& block, const A* source, A* sums) const {
    const int64_t left = p.rows - column, channels = left < width ? left : width;
    const int64_t channel = group * p.rows + column;
    const A* added = biases + group * blocking.padded_rows + column;
    const A* weight = weights + column * blocking.inner;
    const Strides& dest = p.dest_strides;
    T* to = p.dest + block.image * dest.batch + block.d * dest.axis[0] + block.h * dest.axis[1] +
            block.w * dest.axis[2] + channel * dest.channel;
    if (blocking.stores) {
      const AffineResult<T> result{to, dest.axis[2], channels - width + kLanes<A>, added};
      return multiply_into(result, dest.axis[1], weight, width, column == 0, block, source);
    }
    AffineResult<A> result{sums, width, kLanes<A>, added};
    PixelBlock rows = block;
    for (int64_t h = 0; h < block.rows; h += rows.rows) {
      const int64_t rows_left = block.rows - h;
      rows.h = block.h + h;
      rows.rows = rows_left < blocking.waiting_rows ? rows_left : blocking.waiting_rows;
      if (blocking.brings_planes) {
        result.next = {reinterpret_cast<const A*>(to) + h * dest.axis[1], dest.channel, channels};
      }
      multiply_into(result, block.width * width, weight, width, column == 0, rows,
                    source + h * p.walk[1].step * blocking.layout.strides.axis[1]);
      store_pixel_block(p, rows, sums, width, channel, channels);
    }
  }

 private:
  /// `result` is that of the first pixel, and rows of pixels are `row_pitch` apart there. If it
  /// says what is written later, these are planes, from the first pixel on.
  template <class R>
  void multiply_into(const AffineResult<R>& result, int64_t row_pitch, const A* weight,
                     int64_t width, bool is_first, const PixelBlock& block, const A* source) const {
    const SourceBlockLayout& layout = blocking.layout;
    const Walk* walk = p.walk;
    const int vectors = vectors_for<A>(width);
    const int64_t pixel = walk[2].step * layout.strides.axis[2];
    const int64_t row = walk[1].step * layout.strides.axis[1];
    const SourceRuns& of_k = blocking.runs;
    AffineOperands<A> tile{source, pixel, runs, of_k.count, of_k.run, of_k.step, weight, width};
    const bool slides = blocking.slides && vectors == 1;
    SlidingOperands<A> sliding = sliding_operands(source, weight);
    const int of_tile = blocking.registers_of_tile(vectors);
    const int64_t most = slides ? even_part(block.width, kSlidingPixels)
                                : even_part(block.width, affine_rows(of_tile));
    const bool writes_runs = blocking.stores && result.pitch <= kLanes<A>;
    const int64_t tile_writes = most * result.pitch;
    if (writes_runs) sliding.fetch_step = tile_writes / sliding.steps();
    const int64_t plane_pixels = result.next.from != nullptr ? block.width : 0;
    for (int64_t h = 0; h < block.rows; ++h) {
      int64_t brought_pixels = 0;
      // The weights of a tile stay in L1 for a row.
      for (int v = 0; v < vectors; v += of_tile) {
        const int64_t first = v * kLanes<A>;
        AffineResult<R> part = result;
        part.add += first;
        if (v + of_tile < vectors) part.last = kLanes<A>;
        tile.b = weight + first;
        // Evenly with the products comes what the next tile reads, to those of the first columns of
        // a block, or what it writes, where that is one run.
        const bool brings_source = blocking.fetches && is_first && v == 0;
        const int64_t brought = brings_source ? int64_t(sizeof(A)) * most * pixel
                                : writes_runs ? int64_t(sizeof(R)) * tile_writes
                                              : 0;
        tile.fetch = nullptr, tile.fetch_step = brought / blocking.inner;
        for (int64_t w = 0; w < block.width; w += most) {
          const int64_t pixels = block.width - w < most ? block.width - w : most;
          part.c = result.c + h * row_pitch + w * result.pitch + first;
          if (blocking.stores) {
            part.next = {part.c + pixels * result.pitch, result.pitch, pixels};
          } else if (brought_pixels < plane_pixels) {
            // The first tiles bring a piece of the row each, in every plane.
            part.next.from = result.next.from + h * p.dest_strides.axis[1] + brought_pixels;
            brought_pixels += of_tile * kLanes<A>;
          } else {
            part.next = {};
          }
          tile.a = sliding.a = source + h * row + w * pixel;
          if (slides) {
            multiply_sliding(sliding, part, pixels);
            continue;
          }
          if (brought != 0) {
            const void* at = brings_source ? static_cast<const void*>(tile.a) : part.c;
            tile.fetch = static_cast<const char*>(at) + brought;
          }
          multiply_affine(tile, part, pixels, of_tile);
        }
      }
    }
  }

  SlidingOperands<A> sliding_operands(const A* source, const A* weight) const {
    const Walk& width = p.walk[2];
    return {source,
            width.step * blocking.layout.strides.axis[2],
            lines,
            p.walk[0].tap_count * p.walk[1].tap_count,
            width.tap_count,
            p.depth,
            blocking.layout.strides.channel,
            weight};
  }
};

template <class T>
void broadcast_pixels(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const BroadcastPixelsBlocking<T> blocking(p);
  const SourceBlockLayout& layout = blocking.layout;
  const int64_t padded_rows = blocking.padded_rows;
  const EvenBlocks<A> columns(p.rows);

  const PackedColumns<T> packed(p, blocking.shared_bytes());
  Scratch tables(blocking.table_bytes);
  A* biases = tables.as<A>();
  for (int64_t i = 0; i < p.groups * padded_rows; ++i) {
    const int64_t row = i % padded_rows;
    const bool has_bias = p.bias != nullptr && row < p.rows;
    biases[i] = has_bias ? widen(p.bias[i / padded_rows * p.rows + row]) : A(0);
  }
  int64_t* runs = reinterpret_cast<int64_t*>(biases + p.groups * padded_rows);
  blocking.runs.point(p, layout, runs);
  int64_t* lines = runs + blocking.runs.count;
  point_kernel_rows(p, layout, lines);
  int64_t* taps = lines + p.walk[0].tap_count * p.walk[1].tap_count;
  tap_offsets(p, p.weight_strides, taps);

  const BroadcastPixels<T> tiles{p, blocking, biases, runs, lines};
  const PixelBlocks blocks{p, layout};
  const int64_t all_blocks = p.batch * blocks.of_image();
  const bool by_groups = blocking.by_groups, packs_groups = by_groups && p.prepared == nullptr;
  const int64_t item_work = layout.rows * layout.width * blocking.inner * p.rows;
  const int64_t grain = ceil_div(kSmallestWork, item_work);
  parallel_threads(all_blocks * p.groups, grain, [&](ThreadItems& items) {
    Scratch copied(blocking.copied_bytes);
    Scratch sums(blocking.sum_bytes);
    Scratch own(packs_groups ? blocking.own_bytes() : 0);
    int64_t packed_group = -1;
    items.for_each([&](int64_t item, bool) {
      const int64_t group = by_groups ? item / all_blocks : item % p.groups;
      const PixelBlock block = blocks.at(by_groups ? item % all_blocks : item / p.groups);
      if (packs_groups && group != packed_group) {
        for (int64_t i = 0; i < columns.registers; ++i) {
          pack_weight_piece(p, taps, group, i, own.as<A>());
        }
        packed_group = group;
      }
      const A* weights =
          packs_groups ? own.as<A>() : packed.data() + group * padded_rows * blocking.inner;
      const A* source =
          source_of_block(p, layout, p.source, p.source_strides, group, block, copied.as<A>());
      for (int64_t i = 0; i < columns.count; ++i) {
        const int64_t column = columns.begin(i), width = columns.width(i);
        tiles.multiply(weights, group, column, width, block, source, sums.as<A>());
      }
    });
  });
}
