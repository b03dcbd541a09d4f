// Weight gradient with vectors along source channels: sums[rows x K] = grad^T[rows x pixels] *
// im2col[pixels x K] for each group, K = kernel lines * taps of a line * source channels.
//
// A tile broadcasts six neighbouring channels of grad at the same pixel, and the reduction walks
// from pixel to pixel. In place that walk would take a cache set, and with many channels a page,
// for each pixel, so a few channels at a time are copied closer together, as accumulators. The
// source under a chunk of pixels is copied once for each kernel line (strips.h), a block of
// channels at a time, and every tap of the line reads it in place. With few channels the taps of a
// line lie side by side and count as one of more channels. Rows and ends of rows in padding are
// left out. Items are (group, rows, kernel line, some blocks of channels, split): the blocks share
// each copy of grad; splits as in weight_gemm_planar, and a single set of sums forms in the weight.
// Rows are cut only where threads would have nothing to do. grad must be dense: one distance
// between all pixels.

/// Pixels of a chunk: a panel of them, 128 x 64 floats, stays in L1 for all tiles of rows.
constexpr int64_t kPanelPixels = 128;

/// K of an item, in several panels. Copying grad costs then little beside 256 multiply-adds of
/// every element of it.
constexpr int64_t kItemColumns = 256;

/// Rows of grad that are copied at a time: neighbours among the pixels lie 384 bytes of floats
/// apart, over all sets of the cache.
constexpr int64_t kGradBlock = 16 * kTileRows;

/// Pixels of grad this close are read where they lie.
constexpr int64_t kMaxGradDistance = 256;

/// Where channel 0 of a tap is among the sums of a row, and how many sums a row has.
struct SumsLayout {
  int64_t taps;       // of a line
  int64_t line, tap;  // distances
  int64_t pitch;
};

/// Adds the splits of `sums`, [splits][groups][rows][pitch], and stores them as weights, whose taps
/// have these offsets.
template <class T>
void store_weight_channels_last(const WeightContraction<T>& p, const Accumulator<T>* sums,
                                const SumsLayout& layout, const int64_t* offsets, int64_t splits) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t taps = p.taps(), taps_w = layout.taps;
  const int64_t pitch = layout.pitch, split = p.groups * p.rows * pitch;
  parallel_for(p.groups * p.rows, ceil_div(16384, pitch), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* to = p.dest + i / p.rows * p.dest_strides.group + i % p.rows * p.dest_strides.row;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const A* from = sums + i * pitch + tap / taps_w * layout.line + tap % taps_w * layout.tap;
        for (int64_t c = 0; c < p.depth; c += lanes) {
          const int64_t count = p.depth - c < lanes ? p.depth - c : lanes;
          Vec<A> sum = load_partial(from + c, count);
          for (int64_t s = 1; s < splits; ++s) sum += load_partial(from + s * split + c, count);
          if (p.dest_strides.depth == 1) {
            store_partial(to + offsets[tap] + c, sum, count);
          } else {
            for (int64_t j = 0; j < count; ++j) {
              to[offsets[tap] + (c + j) * p.dest_strides.depth] = narrow<T>(sum[j]);
            }
          }
        }
      }
    }
  });
}

/// Whether sums can be the weight itself: one set of neighbouring source channels, and neighbouring
/// taps of them where those are merged.
template <class T>
bool sums_are_weight_channels(const WeightContraction<T>& p, bool merged, int64_t splits) {
  return __is_same(T, Accumulator<T>) && splits == 1 && p.dest_strides.depth == 1 &&
         (!merged || p.dest_strides.axis[2] == p.depth);
}

/// True when the taps of a kernel line are consecutive source pixels of so few channels that one
/// panel holds several.
inline bool taps_share_panels(const ContractionShape& shape, int64_t columns) {
  const Walk& width = shape.walk[2];
  for (int64_t t = 1; t < width.tap_count; ++t) {
    if (width.taps[t].offset != width.taps[0].offset + t) return false;
  }
  return width.tap_count > 1 && shape.depth < columns;
}

/// Some rows and blocks of channels of a group, and a share of the reduction, for a kernel line.
struct WeightItem {
  int64_t group, line, split;
  int64_t row_begin, row_end, block_begin, block_end;
};

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGemmChannelsLastBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  Strips strips;
  bool merged;           // the taps of a kernel line are one of more channels
  int64_t taps, depth;   // of the merged taps
  EvenBlocks<A> blocks;  // of these channels
  SumsLayout layout;
  int64_t item_blocks, parts;            // channel blocks of an item at most, items of a line
  int64_t item_rows, row_parts;          // rows of an item, items of a group
  int64_t pitch;                         // elements of a pixel of a strip
  int64_t set, splits, chunks_of_split;  // elements of one set of sums
  bool direct;                           // sums are the weight itself
  int64_t row_block;                     // rows of grad that are copied at a time
  bool reads_gaps;                       // what no channel fills, into unused sums
  bool in_place;                         // the source is its own strip, if `reads_gaps` but for
                                         // the last chunk: registers would reach past its end
  bool grad_in_place;                    // its pixels lie close already
  int64_t sum_bytes, table_bytes;        // of the call
  int64_t pointers, strip_elements, strip_bytes, grad_bytes, pointer_bytes;  // of each thread

  explicit WeightGemmChannelsLastBlocking(const WeightContraction<T>& p)
      : strips(p, kPanelPixels, true),
        merged(strips.line_taps > 1 && taps_share_panels(p, columns)),
        taps(merged ? 1 : strips.line_taps),
        depth(merged ? p.walk[2].tap_count * p.depth : p.depth),
        blocks(depth) {
    constexpr int lanes = kLanes<A>;
    const int64_t padded = blocks.registers * lanes;
    layout = {strips.line_taps, taps * padded, merged ? p.depth : padded,
              strips.lines() * taps * padded};
    set = p.groups * p.rows * layout.pitch;
    choose_items(p);
    pitch = merged ? p.depth : item_blocks * blocks.widest();
    reads_gaps = merged || p.depth % lanes != 0;
    in_place = __is_same(T, A) && reads_each_pixel(p, p.source_strides);
    row_block = item_rows < kGradBlock ? item_rows : kGradBlock;
    grad_in_place = __is_same(T, A) && p.grad_strides.axis[2] <= kMaxGradDistance;

    chunks_of_split = ceil_div(strips.chunks(), splits);
    direct = sums_are_weight_channels(p, merged, splits);
    sum_bytes = direct ? 0 : sizeof(A) * splits * set;
    table_bytes = sizeof(int64_t) * p.taps();
    // Panels end in whole registers, so that those of merged taps may read past a strip's end.
    strip_elements = strips.rows * strips.positions() * pitch + (merged ? padded : 0);
    strip_bytes = sizeof(A) * strip_elements;
    grad_bytes = grad_in_place ? 0 : sizeof(A) * strips.rows * strips.width * row_block;
    pointers = round_up(row_block, kTileRows) * strips.rows;
    pointer_bytes = sizeof(A*) * pointers + sizeof(int64_t) * strips.rows;
  }

  /// Cuts the work into items so that the fewest elements are moved: grad is copied for each part
  /// of the channels, and the sums of several splits are written and read again.
  void choose_items(const WeightContraction<T>& p) {
    const int64_t most = merged ? blocks.count : kItemColumns / (taps * columns);
    const int64_t widest = most < 1 ? 1 : most > blocks.count ? blocks.count : most;
    const double copied = double(p.batch) * p.pixels() * strips.lines() * p.rows;
    double least = -1;
    for (int64_t width = widest; width > 0; width = merged ? 0 : width - 1) {
      const int64_t of_line = ceil_div(blocks.count, width), items = p.groups * strips.lines();
      const int64_t shares =
          choose_product_splits(p, items * of_line, strips.chunks(), set * sizeof(A));
      const double moved =
          copied * of_line + (shares > 1 ? 2.0 * shares * p.rows * p.depth * p.taps() : 0);
      if (least >= 0 && moved >= least) continue;
      least = moved, item_blocks = ceil_div(blocks.count, of_line);
      parts = of_line, splits = shares;
    }
    const int64_t wanted = ceil_div(kFewItems, p.groups * strips.lines() * parts * splits);
    const int64_t most_parts = p.rows / kGradBlock;
    const int64_t cuts = wanted < most_parts ? wanted : most_parts;
    item_rows = cuts > 1 ? round_up(ceil_div(p.rows, cuts), kTileRows) : p.rows;
    row_parts = ceil_div(p.rows, item_rows);
  }

  int64_t items(const WeightContraction<T>& p) const {
    return p.groups * row_parts * strips.lines() * parts * splits;
  }
  /// Item `index` of these.
  WeightItem item(const WeightContraction<T>& p, int64_t index) const {
    const int64_t part = index / splits % parts, of_rows = index / splits / parts;
    const int64_t of_groups = of_rows / strips.lines();
    const int64_t row_begin = of_groups % row_parts * item_rows, row_end = row_begin + item_rows;
    return {of_groups / row_parts,
            of_rows % strips.lines(),
            index % splits,
            row_begin,
            row_end < p.rows ? row_end : p.rows,
            part * blocks.count / parts,
            (part + 1) * blocks.count / parts};
  }

  Footprint footprint() const {
    return {kTileRows, columns, sum_bytes + table_bytes, strip_bytes + grad_bytes + pointer_bytes};
  }
};

/// A chunk of pixels as the tiles of an item read it: rows of strips, or of the source itself.
template <class T>
struct WeightChunk {
  Strips::Chunk chunk;
  bool in_place;                 // the source is the strip,
  const Accumulator<T>* source;  // from here on
  const T* grad;                 // of the item's group
  int64_t kept;                  // rows that are not all padding
  int64_t strip_row;             // elements
  bool joined;                   // rows of strips follow each other without a gap, and are one run
  int64_t runs, run;

  int64_t pixels() const { return chunk.pixels(); }
};

/// What a thread makes items with.
template <class T>
class WeightGemmChannelsLastThread {
  using A = Accumulator<T>;

  /// Rows [first, first + count) of grad under a chunk, whose pixels are `distance` apart.
  struct GradRows {
    int64_t first, count;
    const A* from;
    int64_t distance;
  };

 public:
  /// `offsets` are those of the taps in the weight, and `sums` are those of all splits.
  WeightGemmChannelsLastThread(const WeightContraction<T>& p,
                               const WeightGemmChannelsLastBlocking<T>& blocking,
                               const int64_t* offsets, A* sums)
      : p_(p),
        blocking_(blocking),
        strips_(blocking.strips),
        blocks_(blocking.blocks),
        offsets_(offsets),
        sums_(sums),
        strip_(blocking.strip_bytes),
        grad_(blocking.grad_bytes),
        pointers_(blocking.pointer_bytes) {
    if (blocking.reads_gaps) fill(strip_.as<A>(), blocking.strip_elements, A(0));
  }

  void make(const WeightItem& item) {
    const SplitRange range(item.split, blocking_.chunks_of_split, strips_.chunks());
    if (range.begin >= range.end) return clear(item);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const WeightChunk<T> chunk = read(item, i);
      for (int64_t row = item.row_begin; row < item.row_end; row += blocking_.row_block) {
        const int64_t left = item.row_end - row;
        const int64_t rows = left < blocking_.row_block ? left : blocking_.row_block;
        multiply_rows(item, chunk, point_to_grad(chunk, row, rows), i > range.begin);
      }
    }
  }

 private:
  /// Pointers to grad, [tile][run][kTileRows], and the rows of a chunk that are not all padding.
  const A** pointers() const { return pointers_.as<const A*>(); }
  int64_t* kept_rows() const { return reinterpret_cast<int64_t*>(pointers() + blocking_.pointers); }

  int64_t first_channel(const WeightItem& item) const { return blocks_.begin(item.block_begin); }
  int64_t sums_pitch() const {
    return blocking_.direct ? p_.dest_strides.row : blocking_.layout.pitch;
  }
  /// The sums of row 0 of an item, for a tap of its line and channel 0.
  A* sums_of(const WeightItem& item, int64_t tap) const {
    if (blocking_.direct) {
      T* group = p_.dest + item.group * p_.dest_strides.group;
      return reinterpret_cast<A*>(group) + offsets_[item.line * blocking_.layout.taps + tap];
    }
    return sums_ + item.split * blocking_.set + item.group * p_.rows * blocking_.layout.pitch +
           item.line * blocking_.layout.line + tap * blocking_.layout.tap;
  }

  /// The sums of an item that no pixel adds to.
  void clear(const WeightItem& item) {
    const int64_t end = blocks_.begin(item.block_end), first = first_channel(item);
    const int64_t count =
        (blocking_.direct && end > blocking_.depth ? blocking_.depth : end) - first;
    for (int64_t row = item.row_begin; row < item.row_end; ++row) {
      for (int64_t tap = 0; tap < blocking_.taps; ++tap) {
        fill(sums_of(item, tap) + row * sums_pitch() + first, count, A(0));
      }
    }
  }

  /// Copies the strips of chunk `index`, unless the source can be read in place.
  WeightChunk<T> read(const WeightItem& item, int64_t index) {
    const Strips::Chunk chunk = strips_.chunk(index);
    const int64_t pixel = p_.source_strides.axis[2], first = strips_.first_pixel(chunk);
    const int64_t channel = first_channel(item), left = p_.depth - channel;
    const int64_t used = blocking_.merged ? p_.depth : blocks_.begin(item.block_end) - channel;
    const Strips::Line line = strips_.line(item.line);
    const T* source = p_.source + item.group * p_.depth;
    WeightChunk<T> to{};
    to.chunk = chunk;
    to.in_place = blocking_.in_place && !(blocking_.reads_gaps && index + 1 == strips_.chunks());
    to.source = reinterpret_cast<const A*>(source) + first * pixel;
    to.grad = p_.grad + first * p_.grad_strides.axis[2] + item.group * p_.rows;
    to.strip_row = strips_.positions(chunk.width) * blocking_.pitch;
    // Rows of padding add nothing.
    for (int64_t r = 0; r < chunk.rows; ++r) {
      const T* row = strips_.source_row(source, p_.source_strides, chunk.row + r, item.line);
      if (row == nullptr) continue;
      if (!to.in_place) {
        strips_.copy_pixel_row(line, row + channel, pixel, left < used ? left : used, chunk.x,
                               chunk.width, blocking_.pitch,
                               strip_.as<A>() + to.kept * to.strip_row);
      }
      kept_rows()[to.kept++] = r;
    }
    to.joined =
        to.strip_row == chunk.width * strips_.step * blocking_.pitch && to.kept == chunk.rows;
    to.runs = to.joined ? 1 : to.kept;
    to.run = to.joined ? chunk.pixels() : chunk.width;
    return to;
  }

  /// Points to some rows of grad, which are copied closer together unless they are close.
  GradRows point_to_grad(const WeightChunk<T>& chunk, int64_t first, int64_t count) {
    const int64_t pixel = p_.grad_strides.axis[2];
    const T* from = chunk.grad + first;
    GradRows grad{first, count, reinterpret_cast<const A*>(from), pixel};
    if (!blocking_.grad_in_place) {
      for (int64_t i = 0; i < chunk.pixels(); ++i) {
        copy_strided(from + i * pixel, 1, count, grad_.as<A>() + i * count);
      }
      grad.from = grad_.as<A>(), grad.distance = count;
    }
    const A** pointer = pointers();
    for (int64_t row = 0, rows; row < count; row += rows) {
      rows = tile_rows(count - row);
      for (int64_t r = 0; r < chunk.runs; ++r, pointer += kTileRows) {
        const A* run = grad.from + kept_rows()[r] * chunk.run * grad.distance + row;
        for (int i = 0; i < rows; ++i) pointer[i] = run + i;
      }
    }
    return grad;
  }

  /// Multiplies some rows of grad with all taps and channels of an item.
  void multiply_rows(const WeightItem& item, const WeightChunk<T>& chunk, const GradRows& grad,
                     bool accumulate) {
    const int64_t step = strips_.step * blocking_.pitch;
    TileOperands<A> tile{nullptr, 0, chunk.runs, chunk.run, grad.distance, nullptr, step};
    tile.b_tap = chunk.strip_row;
    for (int64_t tap = 0; tap < blocking_.taps; ++tap) {
      int64_t outside = 0;  // pixels that read padding, before those that do not
      if (!chunk.joined && !blocking_.merged) {
        const Inside reads = strips_.reads_inside(item.line, tap, chunk.chunk);
        outside = reads.begin, tile.run = reads.end - reads.begin;
        tile.start = outside * grad.distance;
      }
      for (int64_t b = item.block_begin; b < item.block_end; ++b) {
        const int64_t channel = blocks_.begin(b) - first_channel(item);
        tile.b = strip_.as<A>() + strips_.start(tap) * blocking_.pitch + channel + outside * step;
        tile.b_step = step;
        const bool ends = blocking_.direct && blocks_.begin(b + 1) > blocking_.depth;
        tile.last = ends ? blocking_.depth % kLanes<A> : kLanes<A>;
        multiply_panel(item, chunk, grad, b, sums_of(item, tap) + blocks_.begin(b), tile,
                       accumulate);
      }
    }
  }

  /// Multiplies some rows of grad with block `b` of channels of a tap, whose sums start at `sums`.
  void multiply_panel(const WeightItem& item, const WeightChunk<T>& chunk, const GradRows& grad,
                      int64_t b, A* sums, TileOperands<A>& tile, bool accumulate) {
    const int vectors = vectors_for<A>(blocks_.width(b));
    tile.rows = pointers();
    for (int64_t row = 0, nth = 0, rows; row < grad.count; row += rows, ++nth) {
      rows = tile_rows(grad.count - row);
      if (chunk.in_place) {
        point_to_panel(item, chunk, grad.first == item.row_begin && row == 0, b, tile);
        tile.fetches = fetches(item, chunk, grad, b, nth - 1);
      }
      multiply<A>(tile, sums + (grad.first + row) * sums_pitch(), sums_pitch(), accumulate,
                  int(rows), vectors);
      tile.rows += chunk.runs * kTileRows;
    }
  }

  /// Points a tile to the source in place: the `first` copies its panel, closer together, for the
  /// others.
  void point_to_panel(const WeightItem& item, const WeightChunk<T>& chunk, bool first, int64_t b,
                      TileOperands<A>& tile) const {
    A* panel = strip_.as<A>() + (blocks_.begin(b) - first_channel(item)) * chunk.pixels();
    tile.b = first ? chunk.source + blocks_.begin(b) : panel;
    tile.b_step = first ? p_.source_strides.axis[2] : blocks_.width(b);
    tile.copy = first && blocking_.item_rows > kTileRows ? panel : nullptr;
  }

  /// What tile `nth` after the first of a panel brings: a line of all pixels of what is read next,
  /// the columns of another panel and, at the end of the chunk, grad.
  LineFetches<A> fetches(const WeightItem& item, const WeightChunk<T>& chunk, const GradRows& grad,
                         int64_t b, int64_t nth) const {
    constexpr int lanes = kLanes<A>;
    if (nth < 0) return {};
    const int64_t of_panel = blocks_.width(b) / lanes;
    const bool ends_chunk = b + 1 == item.block_end;
    const int64_t ahead = ends_chunk ? chunk.pixels() : 0;
    if (nth < of_panel) {
      const int64_t pixel = p_.source_strides.axis[2];
      const int64_t channel = blocks_.begin(ends_chunk ? item.block_begin : b + 1);
      return {chunk.source + ahead * pixel + channel + nth * lanes, pixel};
    }
    if (!ends_chunk) return {};
    return {grad.from + ahead * grad.distance + (nth - of_panel) * lanes, grad.distance};
  }

  const WeightContraction<T>& p_;
  const WeightGemmChannelsLastBlocking<T>& blocking_;
  const Strips& strips_;
  const EvenBlocks<A>& blocks_;
  const int64_t* offsets_;
  A* sums_;
  Scratch strip_, grad_, pointers_;
};

template <class T>
void weight_gemm_channels_last(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  const WeightGemmChannelsLastBlocking<T> blocking(p);
  Scratch table(blocking.table_bytes);
  int64_t* offsets = table.as<int64_t>();  // of the taps in the weight
  tap_offsets(p, p.dest_strides, offsets);
  Scratch sums(blocking.sum_bytes);
  parallel_threads(blocking.items(p), 1, [&](ThreadItems& items) {
    WeightGemmChannelsLastThread<T> thread(p, blocking, offsets, sums.as<A>());
    items.for_each([&](int64_t i, bool) { thread.make(blocking.item(p, i)); });
  });
  if (blocking.direct) return;
  store_weight_channels_last(p, sums.as<A>(), blocking.layout, offsets, blocking.splits);
}
