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

template <class T>
void weight_gemm_channels_last(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  const WeightGemmChannelsLastBlocking<T> blocking(p);
  const Strips& strips = blocking.strips;
  const EvenBlocks<A>& blocks = blocking.blocks;
  const bool direct = blocking.direct;
  const int64_t pitch = blocking.pitch;
  const int64_t sums_pitch = direct ? p.dest_strides.row : blocking.layout.pitch;
  const int64_t pixel = p.grad_strides.axis[2];  // also from row to row and image to image

  Scratch table(blocking.table_bytes);
  int64_t* offsets = table.as<int64_t>();  // of the taps in the weight
  tap_offsets(p, p.dest_strides, offsets);

  Scratch workspace(blocking.sum_bytes);
  parallel_for(blocking.items(p), 1, [&](int64_t begin, int64_t end) {
    Scratch strip_buffer(blocking.strip_bytes);
    Scratch grad_buffer(blocking.grad_bytes);
    Scratch pointer_buffer(blocking.pointer_bytes);
    A* strip = strip_buffer.as<A>();
    A* grad = grad_buffer.as<A>();
    const A** pointers = pointer_buffer.as<const A*>();
    int64_t* kept = reinterpret_cast<int64_t*>(pointers + blocking.pointers);
    if (blocking.reads_gaps) fill(strip, blocking.strip_elements, A(0));
    for (int64_t item = begin; item < end; ++item) {
      const auto [group, line, split, row_begin, row_end, block_begin, block_end] =
          blocking.item(p, item);
      const int64_t first_channel = blocks.begin(block_begin);
      const int64_t used = blocking.merged ? p.depth : blocks.begin(block_end) - first_channel;
      const int64_t channels_left = p.depth - first_channel;
      const int64_t channels = channels_left < used ? channels_left : used;
      const Strips::Line walk = strips.line(line);
      A* sums = direct ? reinterpret_cast<A*>(p.dest) + group * p.dest_strides.group
                       : workspace.as<A>() + split * blocking.set + group * p.rows * sums_pitch +
                             line * blocking.layout.line;
      const int64_t* of_line = offsets + line * blocking.layout.taps;
      const auto of_tap = [&](int64_t tap) {
        return direct ? of_line[tap] : tap * blocking.layout.tap;
      };
      const int64_t chunk_begin = split * blocking.chunks_of_split;
      const int64_t chunk_last = chunk_begin + blocking.chunks_of_split;
      const int64_t chunk_end = chunk_last < strips.chunks() ? chunk_last : strips.chunks();
      const int64_t sums_end = blocks.begin(block_end);
      const int64_t sums_here =
          (direct && sums_end > blocking.depth ? blocking.depth : sums_end) - first_channel;
      for (int64_t row = row_begin; chunk_begin >= chunk_end && row < row_end; ++row) {
        for (int64_t tap = 0; tap < blocking.taps; ++tap) {
          fill(sums + row * sums_pitch + of_tap(tap) + first_channel, sums_here, A(0));
        }
      }
      for (int64_t index = chunk_begin; index < chunk_end; ++index) {
        const Strips::Chunk chunk = strips.chunk(index);
        const bool in_place =
            blocking.in_place && !(blocking.reads_gaps && index + 1 == strips.chunks());
        const int64_t strip_row = strips.positions(chunk.width) * pitch;
        const T* source = p.source + group * p.depth;
        // Rows of padding add nothing.
        int64_t kept_count = 0;
        for (int64_t r = 0; r < chunk.rows; ++r) {
          const T* row = strips.source_row(source, p.source_strides, chunk.row + r, line);
          if (row == nullptr) continue;
          if (!in_place) {
            strips.copy_pixel_row(walk, row + first_channel, p.source_strides.axis[2], channels,
                                  chunk.x, chunk.width, pitch, strip + kept_count * strip_row);
          }
          kept[kept_count++] = r;
        }
        const A* place = reinterpret_cast<const A*>(source) +
                         strips.first_pixel(chunk) * p.source_strides.axis[2];
        // Rows of strips that follow each other without a gap are one.
        const bool joined =
            strip_row == chunk.width * strips.step * pitch && kept_count == chunk.rows;
        const int64_t runs = joined ? 1 : kept_count, run = joined ? chunk.pixels() : chunk.width;
        const T* from = p.grad + strips.first_pixel(chunk) * pixel + group * p.rows;
        for (int64_t block = row_begin; block < row_end; block += blocking.row_block) {
          const int64_t rows_left = row_end - block;
          const int64_t rows_here = rows_left < blocking.row_block ? rows_left : blocking.row_block;
          const A* close = grad;
          int64_t distance = rows_here;
          if (blocking.grad_in_place) {
            close = reinterpret_cast<const A*>(from) + block, distance = pixel;
          } else {
            for (int64_t i = 0; i < chunk.pixels(); ++i) {
              copy_strided(from + i * pixel + block, 1, rows_here, grad + i * rows_here);
            }
          }
          const A** pointer = pointers;
          for (int64_t row = 0, rows; row < rows_here; row += rows) {
            rows = tile_rows(rows_here - row);
            for (int64_t r = 0; r < runs; ++r, pointer += kTileRows) {
              for (int i = 0; i < rows; ++i)
                pointer[i] = close + kept[r] * run * distance + row + i;
            }
          }
          TileOperands<A> tile{nullptr, 0, runs, run, distance, nullptr, strips.step * pitch};
          tile.b_tap = strip_row;
          for (int64_t tap = 0; tap < blocking.taps; ++tap) {
            if (!joined && !blocking.merged) {
              const Inside reads = strips.reads_inside(line, tap, chunk);
              tile.start = reads.begin * distance, tile.run = reads.end - reads.begin;
            }
            for (int64_t b = block_begin; b < block_end; ++b) {
              const int64_t width = blocks.begin(b + 1) - blocks.begin(b);
              tile.b = strip + strips.start(tap) * pitch + blocks.begin(b) - first_channel;
              if (!joined) tile.b += tile.start / distance * tile.b_step;
              const bool ends = direct && blocks.begin(b + 1) > blocking.depth;
              tile.last = ends ? blocking.depth % kLanes<A> : kLanes<A>;
              A* to = sums + block * sums_pitch + of_tap(tap) + blocks.begin(b);
              tile.rows = pointers;
              for (int64_t row = 0, nth = 0, rows; row < rows_here; row += rows, ++nth) {
                rows = tile_rows(rows_here - row);
                if (in_place) {
                  // The first tile copies its panel, closer together, for the others.
                  const bool reads_source = block == row_begin && row == 0;
                  A* panel = strip + (blocks.begin(b) - first_channel) * chunk.pixels();
                  tile.b = reads_source ? place + blocks.begin(b) : panel;
                  tile.b_step = reads_source ? p.source_strides.axis[2] : width;
                  tile.copy = reads_source && blocking.item_rows > kTileRows ? panel : nullptr;
                  tile.fetches = {};
                  // Each of the tiles after it brings a line of all pixels of what is read next:
                  // the columns of another panel and, at the end of the chunk, grad.
                  const int64_t piece = nth - 1, of_panel = width / kLanes<A>;
                  const bool ends_chunk = b + 1 == block_end;
                  const int64_t ahead = ends_chunk ? chunk.pixels() : 0;
                  if (piece < of_panel) {
                    tile.fetches.from = place + ahead * p.source_strides.axis[2] +
                                        blocks.begin(ends_chunk ? block_begin : b + 1) +
                                        piece * kLanes<A>;
                    tile.fetches.step = p.source_strides.axis[2];
                  } else if (ends_chunk) {
                    tile.fetches.from = close + ahead * distance + (piece - of_panel) * kLanes<A>;
                    tile.fetches.step = distance;
                  }
                }
                multiply<A>(tile, to + row * sums_pitch, sums_pitch, index > chunk_begin, int(rows),
                            vectors_for<A>(width));
                tile.rows += runs * kTileRows;
              }
            }
          }
        }
      }
    }
  });
  if (direct) return;
  store_weight_channels_last(p, workspace.as<A>(), blocking.layout, offsets, blocking.splits);
}
