// The gradient for the input (transposed convolution) of planar tensors, from products with all
// taps (fold_taps.h): products[(channel, tap) x pixels] = weight * source[K x pixels], where source
// is a matrix as it lies, and then dest[channel] = their sum at each position.
//
// An item is a block of source pixels and a block of destination channels, whose rows of products
// are kFoldRows or more: enough to pay for reading the source again for each. Panels of
// kTileColumns pixels are read in place, or copied where they are no whole registers of one run or
// where planes compete for the same lines of a cache, once for all items of a thread if they are
// few. A weight that only a few panels meet is read where it lies. Folding runs along destination
// rows: the phases of the width are registers of sums, shuffled into the order of the row.

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

/// Whether every destination is one product, with stride-sized kernels side by side, whose phases
/// are shuffled in registers.
template <class T>
bool taps_tile_dest(const InputGradient<T>& p) {
  for (const ConvAxis& axis : p.axis) {
    const bool apart = axis.kernel == 1 || axis.dilation == 1;
    if (axis.kernel != axis.stride || axis.pad_begin != 0 || !apart) return false;
    if (axis.input != axis.output * axis.stride) return false;
  }
  const int64_t phases = p.axis[2].stride;
  return p.dest_strides.axis[2] == 1 && (phases == 2 || phases == 4 || phases == 8);
}

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
  bool packs_blocks;      // each by the item that multiplies it, the only one
  bool reads_weight;      // tiles do, where it lies
  bool keeps_panels;      // of all source channels, for the items that follow
  int64_t packed_bytes;   // of the call
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
    const bool is_block = blocks.count() * p.axis[0].input == 1;
    keeps_panels = p.axis[0].kernel == 1 && kept_bytes <= kKeptPanelBytes;
    reads_weight = is_block && panels <= kPanelsInPlace && __is_same(T, A);
    packs_blocks = is_block && !reads_weight;
    packed_bytes = is_block ? 0 : sizeof(A) * p.groups * channel_blocks * block_weights;
    block_bytes = packs_blocks ? sizeof(A) * block_weights : 0;
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
    return {kTileRows, columns, packed_bytes,
            panel_bytes + product_bytes + line_bytes + tap_bytes + block_bytes};
  }
};

/// The products that make a destination row of one channel: for each tap of the height that reaches
/// it where the row of the first tap of the width starts, `pitch` elements before that of the next.
template <class A>
struct FoldedRow {
  const A* products;
  const int64_t* offsets;
  int64_t count;
  int64_t pitch;
};

/// The sums of taps [tap, end) for the destinations of a phase from j on, zero where no tap
/// reaches. Reads up to a register before and after what a tap reaches, and leaves it out.
template <class A>
inline Vec<A> sum_taps(const FoldedRow<A>& row, const WidthTap* tap, const WidthTap* end,
                       int64_t j) {
  constexpr int lanes = kLanes<A>;
  using Index = typename IndexOf<sizeof(A)>::type;
  Vec<A> sum{};
  for (; tap < end; ++tap) {
    if (tap->begin >= j + lanes || tap->end <= j) continue;
    const int64_t at = tap->kernel * row.pitch + tap->offset + j;
    Vec<A> part{};
    for (int64_t i = 0; i < row.count; ++i) part += load(row.products + row.offsets[i] + at);
    if (tap->begin > j || tap->end < j + lanes) {
      Vec<Index> lane;
      for (int i = 0; i < lanes; ++i) lane[i] = i;
      const int64_t left = tap->end - j < lanes ? tap->end - j : lanes;
      part = (lane >= Index(tap->begin > j ? tap->begin - j : 0)) & (lane < Index(left)) ? part
                                                                                         : Vec<A>{};
    }
    sum += part;
  }
  return sum;
}

/// Sums of a destination row of `strides` strides, in order; those of phase i come from the taps
/// [first[i], first[i + 1]).
template <int kPhases, class A>
void fold_row(const FoldedRow<A>& row, const WidthTap* taps, const int64_t* first, int64_t strides,
              A* to) {
  constexpr int lanes = kLanes<A>;
  for (int64_t j = 0; j < strides; j += lanes) {
    Vec<A> phase[kPhases];
#pragma GCC unroll 16
    for (int i = 0; i < kPhases; ++i) {
      phase[i] = sum_taps(row, taps + first[i], taps + first[i + 1], j);
    }
    interleave_all<kPhases, A>(phase);
#pragma GCC unroll 16
    for (int i = 0; i < kPhases; ++i) store(to + j * kPhases + i * lanes, phase[i]);
  }
}

/// The same for `phases` phases, whatever their number.
template <class A>
void fold_row(const FoldedRow<A>& row, const WidthTap* taps, const int64_t* first, int64_t strides,
              A* to, int64_t phases) {
  switch (phases) {
    case 1: return fold_row<1, A>(row, taps, first, strides, to);
    case 2: return fold_row<2, A>(row, taps, first, strides, to);
    case 3: return fold_row<3, A>(row, taps, first, strides, to);
    case 4: return fold_row<4, A>(row, taps, first, strides, to);
    case 8: return fold_row<8, A>(row, taps, first, strides, to);
    case 16: return fold_row<16, A>(row, taps, first, strides, to);
  }
  for (int64_t j = 0; j < strides; j += kLanes<A>) {
    for (int64_t i = 0; i < phases; ++i) {
      store_strided(to + j * phases + i, sum_taps(row, taps + first[i], taps + first[i + 1], j),
                    phases);
    }
  }
}

/// The source pixels of a block, as matrices [K x pixels] of one depth.
template <class T>
struct FoldSource {
  using A = Accumulator<T>;
  const InputGradient<T>& p;
  const FoldBlock& block;
  const T* channels;  // channel 0 of the first image, at the block's first pixel
  int64_t run;        // pixels that lie side by side

  FoldSource(const InputGradient<T>& of, const FoldBlock& in) : p(of), block(in) {
    const Strides& strides = p.source_strides;
    channels = p.source + block.image * strides.batch + block.group * p.depth * strides.channel +
               block.height.low * strides.axis[1] + block.width.low * strides.axis[2];
    run = block.width.sources() == p.axis[2].output ? block.plane() : block.width.sources();
  }

  /// Pixel `number` of depth `z` in channel 0.
  const T* at(int64_t z, int64_t number) const {
    const int64_t image = number / block.plane(), in_plane = number % block.plane();
    return channels + image * p.source_strides.batch + z * p.source_strides.axis[0] +
           in_plane / block.width.sources() * p.source_strides.axis[1] +
           in_plane % block.width.sources() * p.source_strides.axis[2];
  }

  /// Whether tiles may read pixels [first, first + count) where they lie.
  bool in_place(int64_t first, int64_t count) const {
    return __is_same(T, A) && count % kLanes<A> == 0 && first % run + count <= run &&
           !planes_compete(p.source_strides.channel * int64_t(sizeof(T)));
  }

  /// Copies those of channels [channel, channel + depth), `pitch` elements a row; what is left of
  /// the last register becomes zero.
  void copy(int64_t z, int64_t first, int64_t count, int64_t channel, int64_t depth, A* to,
            int64_t pitch) const {
    for (int64_t c = 0; pitch > count && c < depth; ++c) {
      store(to + (c + 1) * pitch - kLanes<A>, Vec<A>{});
    }
    for (int64_t done = 0; done < count;) {
      const int64_t rest = run - (first + done) % run;
      const int64_t some = rest < count - done ? rest : count - done;
      const T* from = at(z, first + done) + channel * p.source_strides.channel;
      for (int64_t c = 0; c < depth; ++c) {
        copy_strided(from + c * p.source_strides.channel, 1, some, to + c * pitch + done);
      }
      done += some;
    }
  }
};

/// Where the products of some source pixels of a block go if each is a destination.
template <class T>
struct TiledDest {
  using A = Accumulator<T>;
  const FoldSource<T>& source;
  int64_t first_channel;

  /// Calls f(pixel, count, where the first of their destinations in the first channel lies) for
  /// runs of neighbours in a row among `pixels` from number `first` of the block on.
  template <class F>
  void for_each_run(int64_t first, int64_t pixels, const F& f) const {
    const InputGradient<T>& p = source.p;
    const FoldBlock& block = source.block;
    const int64_t width = block.width.sources();
    for (int64_t done = 0, count; done < pixels; done += count) {
      const int64_t image = (first + done) / block.plane();
      const int64_t y = (first + done) % block.plane() / width, x = (first + done) % width;
      count = width - x < pixels - done ? width - x : pixels - done;
      f(done, count,
        p.dest + (block.image + image) * p.dest_strides.batch +
            first_channel * p.dest_strides.channel + block.depth * p.dest_strides.axis[0] +
            (block.height.low + y) * p.axis[1].stride * p.dest_strides.axis[1] +
            (block.width.low + x) * p.axis[2].stride);
    }
  }

  /// Fetches the lines of channels [begin, end), to be written.
  void fetch(int64_t first, int64_t pixels, int64_t begin, int64_t end) const {
    const InputGradient<T>& p = source.p;
    for_each_run(first, pixels, [&](int64_t, int64_t count, const T* to) {
      for (int64_t m = begin; m < end; ++m) {
        for (int64_t kh = 0; kh < p.axis[1].kernel; ++kh) {
          const T* row = to + m * p.dest_strides.channel + kh * p.dest_strides.axis[1];
          for (int64_t i = 0; i < count * p.axis[2].stride; i += 64 / sizeof(T)) {
            __builtin_prefetch(row + i, 1);
          }
        }
      }
    });
  }

  /// Stores the products of all `channels`, those with a (channel, tap) `pitch` elements apart.
  /// Reads up to a register past the last.
  template <int kPhases>
  void store_phases(int64_t first, int64_t pixels, int64_t channels, const A* products,
                    int64_t pitch) const {
    constexpr int lanes = kLanes<A>;
    const InputGradient<T>& p = source.p;
    for_each_run(first, pixels, [&](int64_t done, int64_t count, T* to) {
      const A* from = products + done;
      for (int64_t m = 0; m < channels; ++m, to += p.dest_strides.channel) {
        const A bias = p.bias != nullptr ? widen(p.bias[first_channel + m]) : A(0);
        for (int64_t kh = 0; kh < p.axis[1].kernel; ++kh, from += kPhases * pitch) {
          T* row = to + kh * p.dest_strides.axis[1];
          for (int64_t j = 0; j < count; j += lanes, row += kPhases * lanes) {
            Vec<A> phase[kPhases];
#pragma GCC unroll 8
            for (int i = 0; i < kPhases; ++i) phase[i] = load(from + i * pitch + j) + bias;
            interleave_all<kPhases, A>(phase);
            const int64_t left = (count - j) * kPhases;
#pragma GCC unroll 8
            for (int i = 0; i < kPhases; ++i) {
              if (left >= (i + 1) * lanes) {
                store_narrow(row + i * lanes, phase[i]);
              } else if (left > i * lanes) {
                store_partial(row + i * lanes, phase[i], left - i * lanes);
              }
            }
          }
        }
      }
    });
  }

  /// The same for any number of phases that taps_tile_dest is true for.
  void store(int64_t first, int64_t pixels, int64_t channels, const A* products,
             int64_t pitch) const {
    switch (source.p.axis[2].stride) {
      case 2: return store_phases<2>(first, pixels, channels, products, pitch);
      case 4: return store_phases<4>(first, pixels, channels, products, pitch);
      default: return store_phases<8>(first, pixels, channels, products, pitch);
    }
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

template <class T>
void fold_taps_planar(const InputGradient<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const FoldTapsPlanarBlocking<T> blocking(p);
  const ConvAxis &deep = p.axis[0], &high = p.axis[1], &wide = p.axis[2];
  const int64_t taps = blocking.taps, pitch = blocking.pitch;

  Scratch packed(blocking.packed_bytes);
  if (blocking.packed_bytes > 0) pack_tap_rows(p, blocking, packed.as<A>());

  const int64_t items = p.groups * deep.input * blocking.blocks.count() * blocking.channel_blocks;
  const int64_t item_work = blocking.channel_block * taps * p.depth * blocking.blocks.pixels();
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch panel_buffer(blocking.panel_bytes);
    Scratch product_buffer(blocking.product_bytes);
    Scratch line_buffer(blocking.line_bytes);
    Scratch tap_buffer(blocking.tap_bytes);
    Scratch block_buffer(blocking.block_bytes);
    A* panel = panel_buffer.as<A>();
    A* products = product_buffer.as<A>() + lanes;
    A* line = line_buffer.as<A>();
    WidthTap* width_taps = tap_buffer.as<WidthTap>();
    int64_t* first_tap = reinterpret_cast<int64_t*>(width_taps + wide.kernel);
    int64_t* offsets = first_tap + wide.stride + 1;

    int64_t copied = -1;  // the block of pixels whose panels are there
    for (int64_t item = begin; item < end; ++item) {
      const int64_t of_pixels = item / blocking.channel_blocks;
      const FoldBlock block(p, p.axis, blocking.blocks, of_pixels);
      const int64_t number = item % blocking.channel_blocks;
      const int64_t channels = channels_of_block(p, blocking.channel_block, number);
      const int64_t first_channel = block.group * p.rows + number * blocking.channel_block;
      const FoldSource<T> source(p, block);
      const TiledDest<T> dest{source, first_channel};

      const int64_t pixels = block.pixels();
      const EvenBlocks<A> panels(pixels);
      const int64_t channel_block = block.group * blocking.channel_blocks + number;
      const bool copies = !blocking.keeps_panels || copied != of_pixels;
      copied = of_pixels;
      const TapRows<T> rows_of_block(p, blocking, channel_block);
      const A* weights = packed.as<A>() + channel_block * blocking.block_weights;
      if (blocking.packs_blocks) {
        rows_of_block.pack(block_buffer.as<A>());
        weights = block_buffer.as<A>();
      }
      const bool fetches = blocking.packed_bytes == 0 && item + 1 < end;
      const TapRows<T> following(p, blocking, fetches ? channel_block + 1 : 0);
      const int64_t parts = panels.count * ceil_div(p.depth, blocking.depth_block) * blocking.tiles;
      int64_t part = 0;
      for (int64_t i = 0; i < panels.count; ++i) {
        const int64_t first = panels.begin(i), next = panels.begin(i + 1);
        const int64_t count = (next < pixels ? next : pixels) - first;
        const int vectors = int((next - first) / lanes);
        bool accumulate = false;
        for_each_reaching(deep, block.depth, [&](int64_t kd, int64_t z) {
          for (int64_t k = 0; k < p.depth; k += blocking.depth_block) {
            const int64_t to_go = p.depth - k;
            const int64_t depth = to_go < blocking.depth_block ? to_go : blocking.depth_block;
            A* slice = blocking.keeps_panels ? panel + (i * p.depth + k) * blocking.columns : panel;
            const int64_t step = blocking.reads_weight ? p.weight_strides.depth : kTileRows;
            TileOperands<A> tile{nullptr, 0, 1, depth, step, slice, vectors * lanes};
            if (source.in_place(first, count)) {
              tile.b =
                  reinterpret_cast<const A*>(source.at(z, first)) + k * p.source_strides.channel;
              tile.b_step = p.source_strides.channel;
            } else if (copies) {
              source.copy(z, first, count, k, depth, slice, tile.b_step);
            }
            const A* weight = weights + (kd * blocking.tiles * p.depth + k) * kTileRows;
            for (int64_t row = 0; row < channels * taps; row += kTileRows) {
              const int64_t rows_left = channels * taps - row;
              const int some = int(rows_left < kTileRows ? rows_left : kTileRows);
              const A* from[kTileRows];
              if (blocking.reads_weight) {
                rows_of_block.point(row, some, kd, k, from);
              } else {
                for (int r = 0; r < some; ++r) from[r] = weight + row * p.depth + r;
              }
              tile.rows = from;
              if (blocking.at_once && depth == to_go) {
                // Those of the channels that begin in these rows are stored before long.
                dest.fetch(first, count, ceil_div(row, taps), ceil_div(row + some, taps));
              }
              if (fetches) {
                fetch_rows(following.from, p.weight_strides.depth, p.depth,
                           following.rows * deep.kernel, part++, parts);
              }
              multiply<A>(tile, products + row * pitch + (blocking.at_once ? 0 : first), pitch,
                          accumulate, some, vectors);
            }
            accumulate = true;
          }
        });
        if (blocking.at_once) dest.store(first, count, channels, products, pitch);
      }
      if (blocking.at_once) continue;

      bool reached = false;
      for_each_reaching(deep, block.depth, [&](int64_t, int64_t) { reached = true; });
      list_width_taps(wide, block.width, width_taps, first_tap);
      const int64_t strides = ceil_div(block.width.count(), wide.stride);
      for (int64_t h = block.height.begin; h < block.height.end; ++h) {
        FoldedRow<A> row{nullptr, offsets, 0, pitch};
        for_each_reaching(high, h, [&](int64_t kh, int64_t y) {
          if (!reached) return;
          offsets[row.count++] =
              kh * wide.kernel * pitch + (y - block.height.low) * block.width.sources();
        });
        for (int64_t i = 0; i < block.images; ++i) {
          T* to = p.dest + (block.image + i) * p.dest_strides.batch +
                  first_channel * p.dest_strides.channel + block.depth * p.dest_strides.axis[0] +
                  h * p.dest_strides.axis[1] + block.width.begin * p.dest_strides.axis[2];
          for (int64_t m = 0; m < channels; ++m, to += p.dest_strides.channel) {
            const A bias = p.bias != nullptr ? widen(p.bias[first_channel + m]) : A(0);
            row.products = products + m * taps * pitch + i * block.plane();
            fold_row(row, width_taps, first_tap, strides, line, wide.stride);
            store_run(line, bias, block.width.count(), to, p.dest_strides.axis[2]);
          }
        }
      }
    }
  });
}
