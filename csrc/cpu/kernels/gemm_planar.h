// Dense and grouped convolution with vectors along pixels: dest[rows x pixels] = weight[rows x K] *
// im2col[K x pixels] for each group, K = source channels * taps.
//
// Work is cut into items of (group, panel, row block). A panel is up to kTileColumns pixels, taken
// across image rows and images so that small maps fill it. Its part of im2col is gathered from the
// source as it lies, into a buffer that stays in L2: all of K where that fits kPanelBytes, and then
// the next row block of the same panel finds it there, else kPanelDepth rows at a time. The rows of
// the block are multiplied with kPanelDepth rows of it at a time. Sums of a panel that are one run
// of destinations stay there until K is done; others live in scratch of the accumulator type, then
// get the bias and go to the destination. Row blocks exist so that layers with many channels and
// few pixels have enough items; they depend on the shape only.

/// Most rows of im2col that are multiplied at a time: 256 x 64 floats leave room in L2, and the
/// 6 x 256 weights that meet them stay in L1.
constexpr int64_t kPanelDepth = 256;

/// A whole panel is kept up to this size: 4608 x 64 floats, the largest layer of ResNet-50.
constexpr int64_t kPanelBytes = 1280 << 10;

/// Most rows of a row block: their sums, 384 x 64 floats, stay in L2 beside the panel.
constexpr int64_t kMaxRowBlock = 384;

/// Items that keep a few cores busy; more would gather panels more often.
constexpr int64_t kWantedItems = 16;

/// Items that are enough for a few, where each has copies of its own.
constexpr int64_t kFewItems = kWantedItems / 4;

/// Multiply-adds that pay for waking another thread.
constexpr int64_t kSmallestWork = 1 << 16;

/// Rows of a row block: few enough that `blocks_before` blocks make kWantedItems items.
inline int64_t choose_row_block(int64_t rows, int64_t blocks_before) {
  const int64_t parts = ceil_div(kWantedItems, blocks_before < 1 ? 1 : blocks_before);
  const int64_t wanted = round_up(ceil_div(rows, parts), kTileRows);
  const int64_t least = 8 * kTileRows;  // fewer would gather the panel more often than they use it
  return wanted < least ? least : wanted > kMaxRowBlock ? kMaxRowBlock : wanted;
}

/// Up to so many panels read weights where they lie, although a row of them is scattered: packing
/// moves all of them three times through memory, which few uses do not pay back.
constexpr int64_t kPanelsWorthPacking = 5;

/// The weights as matrices [groups][rows][K] of accumulators, K in runs: neighbours within a run
/// lie side by side.
template <class A>
struct WeightMatrix {
  const A* data;
  int64_t group;       // elements from group to group
  int64_t row;         // elements from row to row
  int64_t run;         // elements of K in a run
  int64_t run_stride;  // elements from run to run

  /// Points to runs [first, first + count) of `rows` rows: [run][kTileRows].
  void point(int64_t in_group, int64_t first_row, int rows, int64_t first, int64_t count,
             const A** to) const {
    const A* from = data + in_group * group + first_row * row + first * run_stride;
    for (int64_t i = 0; i < count; ++i, from += run_stride, to += kTileRows) {
      for (int r = 0; r < rows; ++r) to[r] = from + r * row;
    }
  }
};

/// Element offsets of all taps in the weight, in the order of the virtual matrix.
inline void tap_offsets(const ContractionShape& shape, const WeightStrides& strides, int64_t* to) {
  const Walk* walk = shape.walk;
  for (int64_t d = 0; d < walk[0].tap_count; ++d) {
    for (int64_t h = 0; h < walk[1].tap_count; ++h) {
      for (int64_t w = 0; w < walk[2].tap_count; ++w) {
        *to++ = walk[0].taps[d].kernel * strides.axis[0] +
                walk[1].taps[h].kernel * strides.axis[1] + walk[2].taps[w].kernel * strides.axis[2];
      }
    }
  }
}

/// Packs the weights as [groups][rows][channel][tap]. A piece is a few rows, so that whichever of
/// the two channels is the inner one in memory, whole cache lines are used on both sides.
template <class T>
void pack_weight_rows(const Contraction<T>& p, const int64_t* taps, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  constexpr int64_t kRowsOfPiece = 16;
  const int64_t tap_count = p.taps(), inner = p.depth * tap_count;
  const int64_t pieces = ceil_div(p.rows, kRowsOfPiece);
  const bool contiguous = taps_are_contiguous(p, p.weight_strides);
  const bool whole_rows = contiguous && (p.depth == 1 || p.weight_strides.depth == tap_count);
  parallel_for(p.groups * pieces, ceil_div(1024, inner), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces, first = i % pieces * kRowsOfPiece;
      const int64_t left = p.rows - first, rows = left < kRowsOfPiece ? left : kRowsOfPiece;
      const T* from = p.weight + group * p.weight_strides.group + first * p.weight_strides.row;
      A* out = to + (group * p.rows + first) * inner;
      if (whole_rows) {
        for (int64_t r = 0; r < rows; ++r) {
          copy_strided(from + r * p.weight_strides.row, 1, inner, out + r * inner);
        }
        continue;
      }
      int64_t squares = 0;
      if (tap_count == 1 && p.weight_strides.row == 1) {
        squares = p.depth / lanes * lanes;
        for (int64_t c = 0; c < squares; c += lanes) {
          for (int64_t r = 0; r < rows; r += lanes) {
            const int64_t count = rows - r < lanes ? rows - r : lanes;
            Vec<A> square[lanes];
            for (int j = 0; j < lanes; ++j) {
              square[j] =
                  load_partial(from + (c + j) * p.weight_strides.depth + r + taps[0], count);
            }
            transpose<A>(square);
            for (int64_t j = 0; j < count; ++j) store(out + (r + j) * inner + c, square[j]);
          }
        }
      }
      for (int64_t c = squares; c < p.depth; ++c) {
        for (int64_t r = 0; r < rows; ++r) {
          const T* at = from + c * p.weight_strides.depth + r * p.weight_strides.row;
          A* row = out + r * inner + c * tap_count;
          if (contiguous) {
            copy_strided(at, 1, tap_count, row);
          } else {
            for (int64_t t = 0; t < tap_count; ++t) row[t] = widen(at[taps[t]]);
          }
        }
      }
    }
  });
}

/// Adds the bias to `count` sums and stores them `stride` apart.
template <class T>
inline void store_run(const Accumulator<T>* sums, Accumulator<T> bias, int64_t count, T* to,
                      int64_t stride) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  int64_t i = 0;
  const Vec<A> add = broadcast(bias);
  if (stride == 1) {
    for (; i + lanes <= count; i += lanes) store_narrow(to + i, load(sums + i) + add);
    if (i < count) store_partial(to + i, load_partial(sums + i, count - i) + add, count - i);
    return;
  }
  for (; i + lanes <= count; i += lanes) {
    if (stride == 2) {
      store_every_second(to + 2 * i, load(sums + i) + add, lanes);
    } else {
      store_strided(to + i * stride, load(sums + i) + add, stride);
    }
  }
  for (; i < count; ++i) to[i * stride] = narrow<T>(sums[i] + bias);
}

/// The same for `rows` neighbouring channels, whose elements are neighbours in the destination:
/// squares of rows and pixels are transposed in registers.
template <class T>
inline void store_channels(const Rows<Accumulator<T>>& sums, const T* bias, int64_t rows,
                           int64_t count, T* to, int64_t stride) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  for (int64_t row = 0; row < rows; row += lanes) {
    const int64_t rows_here = rows - row < lanes ? rows - row : lanes;
    for (int64_t i = 0; i < count; i += lanes) {
      const int64_t pixels = count - i < lanes ? count - i : lanes;
      Vec<A> square[lanes] = {};
      for (int64_t r = 0; r < rows_here; ++r) {
        const A add = bias != nullptr ? widen(bias[row + r]) : A(0);
        square[r] = load_partial(sums.at(row + r) + i, pixels) + broadcast(add);
      }
      store_transposed(square, pixels, rows_here, to + i * stride + row, stride);
    }
  }
}

/// A run of destination pixels at consecutive addresses, `stride` apart.
struct DestRun {
  int64_t offset;  // of the first, from channel 0 of image 0
  int64_t length;
  int64_t column;
};

/// Destination runs of the segments, neighbours in memory and among the columns joined; returns how
/// many.
inline int64_t join_runs(const Strides& dest, const Segment* segments, int64_t count,
                         DestRun* runs) {
  int64_t found = 0;
  for (int64_t s = 0; s < count; ++s) {
    const Segment& segment = segments[s];
    const int64_t offset = segment.batch * dest.batch + segment.position[0] * dest.axis[0] +
                           segment.position[1] * dest.axis[1] + segment.width * dest.axis[2];
    DestRun* last = found > 0 ? &runs[found - 1] : nullptr;
    const bool follows = last != nullptr && last->column + last->length == segment.column;
    if (follows && last->offset + last->length * dest.axis[2] == offset) {
      last->length += segment.length;
    } else {
      runs[found++] = {offset, segment.length, segment.column};
    }
  }
  return found;
}

/// Whether tiles may write this run of destinations, `width` elements of whole registers,
/// themselves.
template <class T>
inline bool stores_whole_registers(const Contraction<T>& p, const DestRun& run, int64_t width) {
  return __is_same(T, Accumulator<T>) && run.length == width && p.dest_strides.axis[2] == 1;
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct GemmPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  int64_t inner, pixels, panels;  // K, all destination pixels, panels of them
  int64_t row_block, row_blocks;
  bool in_place, in_runs;  // weights are read where they lie: whole rows, or runs of taps
  int64_t depth_block;     // of K
  bool whole;              // a panel holds all of K
  int64_t panel_rows, sum_rows;
  int64_t table_bytes, packed_bytes;                // of the call
  int64_t index_bytes, pointer_bytes, panel_bytes;  // of each thread

  explicit GemmPlanarBlocking(const Contraction<T>& p) {
    const int64_t taps = p.taps();
    inner = p.depth * taps;
    pixels = p.batch * p.pixels();
    panels = EvenBlocks<A>(pixels).count;
    row_block = choose_row_block(p.rows, p.groups * panels);
    row_blocks = ceil_div(p.rows, row_block);

    const bool readable = __is_same(T, A) && taps_are_contiguous(p, p.weight_strides);
    in_place = readable && (p.depth == 1 || p.weight_strides.depth == taps);
    in_runs = readable && taps > 1 && taps <= kPanelDepth && panels < kPanelsWorthPacking;
    // Blocks of K end where runs end.
    const int64_t wanted = in_runs ? kPanelDepth / taps * taps : kPanelDepth;
    depth_block = inner < wanted ? inner : wanted;

    whole = inner * columns * int64_t(sizeof(A)) <= kPanelBytes;
    panel_rows = whole ? inner : depth_block;
    sum_rows = row_block < p.rows ? row_block : p.rows;

    table_bytes = sizeof(int64_t) * taps + sizeof(Inside) * p.walk[2].tap_count;
    packed_bytes = packs() ? sizeof(A) * p.groups * p.rows * inner : 0;
    index_bytes = ColumnGatherer<T>::index_bytes(p, p.source_strides, columns);
    const int64_t run = packs() || in_place ? depth_block : taps;
    pointer_bytes = sizeof(A*) * kTileRows * (depth_block / run);
    panel_bytes = sizeof(A) * columns * (panel_rows + sum_rows);
  }

  bool packs() const { return !in_place && !in_runs; }

  Footprint footprint() const {
    return {kTileRows, columns, table_bytes + packed_bytes,
            index_bytes + pointer_bytes + panel_bytes};
  }
};

template <class T>
void gemm_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const GemmPlanarBlocking<T> blocking(p);
  const EvenBlocks<A> cut(p.batch * p.pixels());
  constexpr int64_t columns = blocking.columns;
  const int64_t inner = blocking.inner, pixels = blocking.pixels, panels = blocking.panels;
  const int64_t row_block = blocking.row_block, row_blocks = blocking.row_blocks;
  const int64_t depth_block = blocking.depth_block, panel_rows = blocking.panel_rows;
  const bool whole = blocking.whole;

  Scratch tables(blocking.table_bytes);
  Inside* inside = tables.as<Inside>();
  find_inside(p.walk[2], inside);
  int64_t* offsets = reinterpret_cast<int64_t*>(inside + p.walk[2].tap_count);
  tap_offsets(p, p.weight_strides, offsets);

  Scratch packed(blocking.packed_bytes);
  // One run per block of K where rows are contiguous, one per source channel where only taps are.
  WeightMatrix<A> weight{packed.as<A>(), p.rows * inner, inner, depth_block, depth_block};
  if (blocking.packs()) {
    pack_weight_rows(p, offsets, packed.as<A>());
  } else {
    weight.data = reinterpret_cast<const A*>(p.weight);
    weight.group = p.weight_strides.group;
    weight.row = p.weight_strides.row;
    if (!blocking.in_place) weight.run = p.taps(), weight.run_stride = p.weight_strides.depth;
  }

  parallel_for(p.groups * panels * row_blocks, 1, [&](int64_t begin, int64_t end) {
    Scratch index(blocking.index_bytes);
    Scratch pointers(blocking.pointer_bytes);
    Scratch buffer(blocking.panel_bytes);
    A* panel = buffer.as<A>();
    A* sums = panel + columns * panel_rows;
    Segment segments[columns];
    DestRun runs[columns];
    ColumnGatherer<T> gatherer{p, p.source_strides, inside, segments,
                               blocking.index_bytes > 0 ? index.as<int32_t>() : nullptr};
    int64_t run_count = 0, pointed = -1, gathered = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / (panels * row_blocks);
      const int64_t panel_index = item / row_blocks % panels, first = cut.begin(panel_index);
      const int64_t last = cut.begin(panel_index + 1);
      const int64_t row_begin = item % row_blocks * row_block;
      const int64_t row_end = row_begin + row_block < p.rows ? row_begin + row_block : p.rows;
      const int64_t count = (pixels < last ? pixels : last) - first;
      const int vectors = vectors_for<A>(count);
      const int64_t pitch = vectors * kLanes<A>;

      if (pointed != first) {
        pointed = first;
        gatherer.set_columns(first, count);
        run_count = join_runs(p.dest_strides, segments, gatherer.segment_count, runs);
      }
      const T* source = p.source + group * p.depth * p.source_strides.channel;
      if (whole && gathered != item / row_blocks) {
        gathered = item / row_blocks;
        gatherer.gather(source, 0, inner, panel, pitch);
      }
      const int64_t first_channel = group * p.rows + row_begin;
      const bool stores = run_count == 1 && stores_whole_registers(p, runs[0], pitch);
      const Rows<A> c = stores ? Rows<A>{reinterpret_cast<A*>(p.dest) + runs[0].offset +
                                             first_channel * p.dest_strides.channel,
                                         p.dest_strides.channel}
                               : Rows<A>{sums, pitch};
      for (int64_t k = 0; k < inner; k += depth_block) {
        const int64_t left = inner - k < depth_block ? inner - k : depth_block;
        if (!whole) gatherer.gather(source, k, left, panel, pitch);
        const A* slice = whole ? panel + k * pitch : panel;
        const bool adds_bias = stores && p.bias != nullptr && k + left == inner;
        for (int64_t row = row_begin; row < row_end; row += kTileRows) {
          const int rows = int(row_end - row < kTileRows ? row_end - row : kTileRows);
          const A** from = pointers.as<const A*>();
          const int64_t run = weight.run < left ? weight.run : left;
          weight.point(group, row, rows, k / weight.run, left / run, from);
          TileOperands<A> tile{from, 0, left / run, run, 1, slice, pitch};
          if (adds_bias) tile.bias = reinterpret_cast<const A*>(p.bias) + group * p.rows + row;
          multiply<A>(tile, c.at(row - row_begin), c.pitch, k > 0, rows, vectors);
        }
      }
      if (stores) continue;
      if (p.dest_strides.channel == 1) {
        const T* bias = p.bias != nullptr ? p.bias + first_channel : nullptr;
        for (int64_t r = 0; r < run_count; ++r) {
          store_channels<T>({c.data + runs[r].column, c.pitch}, bias, row_end - row_begin,
                            runs[r].length, p.dest + first_channel + runs[r].offset,
                            p.dest_strides.axis[2]);
        }
        continue;
      }
      for (int64_t row = row_begin; row < row_end; ++row) {
        const int64_t channel = group * p.rows + row;
        const A bias = p.bias != nullptr ? widen(p.bias[channel]) : A(0);
        T* to = p.dest + channel * p.dest_strides.channel;
        for (int64_t r = 0; r < run_count; ++r) {
          store_run(c.at(row - row_begin) + runs[r].column, bias, runs[r].length,
                    to + runs[r].offset, p.dest_strides.axis[2]);
        }
      }
    }
  });
}
