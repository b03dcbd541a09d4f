// Weight gradient with vectors along destination channels: sums[K x rows] = im2col[K x pixels] *
// grad^T[pixels x rows] for each group, K = source channels * taps.
//
// Pixels go in chunks of about kPixelChunk. For a chunk the source rows of a block of channels are
// copied once for each kernel line (strips.h), or read where they lie under a 1x1 kernel, and a
// tile broadcasts from six places in them, or from as many channels as the registers hold where
// these meet few destination channels; with much padding from six channels for one tap, so that
// padding can be left out. grad is transposed through registers. Items are (group, block of
// channels, block of rows, split): a split is a fixed share of the chunks with its own sums, used
// where there are too few blocks, and the splits are added in order. Without splits an item stores
// its part of the weight while its sums are in cache.

constexpr int64_t kPixelChunk = 256;

/// Pixels of a chunk that few destination channels make narrow: more of a plane is read at a time.
constexpr int64_t kLongPixelChunk = 1024;

/// About so much of K is in a block of channels, for each of which grad is transposed again.
constexpr int64_t kInnerBlock = 64 * kTileRows;

/// Workspace beyond one set of sums.
constexpr int64_t kMaxSplitBytes = int64_t(16) << 20;

/// Destination channels of a chunk of grad: 2 MB of floats; and from how many on two blocks may be.
constexpr int64_t kGradRows = 2048;
constexpr int64_t kRowsWorthHalving = 128;

/// Pixels of a share of the reduction at least. Writing its sums, and reading them again, takes as
/// long as adding 20 products to each or, beyond L2, 60: a few shares are worth that, for threads
/// that would have nothing to do, and more of them if they are larger.
constexpr int64_t kMinSplitPixels = 384, kMinPixelsOfMany = 1536, kFewSplits = 4;

/// Shares of the reduction: not more than make kWantedItems of `items`, within the workspace bound,
/// and none of them empty.
inline int64_t choose_splits(int64_t items, int64_t chunks, int64_t bytes_each) {
  int64_t splits = kWantedItems / (items < 1 ? 1 : items);
  if (splits * bytes_each > kMaxSplitBytes) splits = kMaxSplitBytes / bytes_each;
  if (splits > chunks) splits = chunks;
  return splits <= 1 ? 1 : ceil_div(chunks, ceil_div(chunks, splits));
}

/// Rows of a weight lie pages apart, often in the same sets of a cache: their lines are fetched so
/// many squares before they are stored.
constexpr int64_t kSquaresAhead = 4;

/// The same for products of matrices: shares of at least so many pixels.
inline int64_t choose_product_splits(const ContractionShape& shape, int64_t items, int64_t chunks,
                                     int64_t bytes_each, int64_t least = kMinSplitPixels) {
  const int64_t pixels = shape.batch * shape.pixels(), few = pixels / least;
  const int64_t many = pixels / kMinPixelsOfMany;
  const int64_t most = many > kFewSplits ? many : few < kFewSplits ? few : kFewSplits;
  const int64_t splits = choose_splits(items, chunks, bytes_each);
  return splits <= most ? splits : most <= 1 ? 1 : ceil_div(chunks, ceil_div(chunks, most));
}

/// Writes grad of channels [0, rows) over the runs of a chunk as blocks [pixel][columns of the
/// block].
template <class T>
void transpose_grad(const T* grad, const Strides& strides, int64_t rows, const DestRun* runs,
                    int64_t run_count, int64_t pixels, Accumulator<T>* to) {
  using A = Accumulator<T>;
  const EvenBlocks<A> blocks(rows);
  for (int64_t block = 0; block < blocks.count; ++block) {
    const int64_t column = blocks.begin(block), width = blocks.begin(block + 1) - column;
    const int64_t left = rows - column, channels = left < width ? left : width;
    for (int64_t r = 0; r < run_count; ++r) {
      const DestRun& run = runs[r];
      load_planes(grad + column * strides.channel + run.offset, strides.channel, channels,
                  strides.axis[2], run.length, to + column * pixels + run.column * width, width);
    }
  }
}

/// Adds the splits of `sums`, [splits][groups][K][padded rows], and stores them as weights whose
/// destination channels are neighbours.
template <class T>
void store_weight_rows(const WeightContraction<T>& p, const Accumulator<T>* sums, int64_t splits) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t taps = p.taps(), inner = p.depth * taps, padded_rows = round_up(p.rows, lanes);
  const int64_t split = p.groups * inner * padded_rows;
  Scratch table(sizeof(int64_t) * taps);
  int64_t* offsets = table.as<int64_t>();
  tap_offsets(p, p.dest_strides, offsets);
  parallel_for(p.groups * inner, ceil_div(16384, padded_rows), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / inner, k = i % inner;
      T* to = p.dest + group * p.dest_strides.group + k / taps * p.dest_strides.depth +
              offsets[k % taps];
      for (int64_t row = 0; row < p.rows; row += lanes) {
        Vec<A> sum{};
        for (int64_t s = 0; s < splits; ++s) {
          sum += load(sums + s * split + i * padded_rows + row);
        }
        if (row + lanes <= p.rows) {
          store_narrow(to + row, sum);
        } else {
          store_partial(to + row, sum, p.rows - row);
        }
      }
    }
  });
}

/// Where the elements of a weight lie whose K is dense, or else anyhow.
template <class T>
struct WeightPlaces {
  const WeightContraction<T>& p;
  const int64_t* offsets;  // of the taps
  bool contiguous;         // K

  WeightPlaces(const WeightContraction<T>& of, int64_t* space)
      : p(of),
        offsets(space),
        contiguous(of.dest_strides.depth == of.taps() && taps_are_contiguous(of, of.dest_strides)) {
    tap_offsets(p, p.dest_strides, space);
  }

  /// Adds `splits` sets of sums, `split` elements apart, of K [k_begin, k_end) and a register of
  /// channels from `first` on, `pitch` elements from one k to the next, and stores them.
  void store_register(int64_t group, int64_t first, int64_t k_begin, int64_t k_end,
                      const Accumulator<T>* from, int64_t pitch, int64_t split,
                      int64_t splits) const {
    using A = Accumulator<T>;
    constexpr int lanes = kLanes<A>;
    const int64_t rows = p.rows - first < lanes ? p.rows - first : lanes, taps = p.taps();
    T* to = p.dest + group * p.dest_strides.group + first * p.dest_strides.row;
    for (int64_t k = k_begin; k < k_end; k += lanes, from += lanes * pitch) {
      const int64_t count = k_end - k < lanes ? k_end - k : lanes;
      Vec<A> square[lanes] = {};
      for (int64_t j = 0; j < count; ++j) {
        for (int64_t s = 0; s < splits; ++s) square[j] += load(from + s * split + j * pitch);
      }
      if (contiguous) {
        for (int64_t r = 0; r < rows; ++r) {
          __builtin_prefetch(to + r * p.dest_strides.row + k + kSquaresAhead * lanes, 1);
        }
        store_transposed(square, rows, count, to + k, p.dest_strides.row);
        continue;
      }
      transpose<A>(square);
      for (int64_t r = 0; r < rows; ++r) {
        T* row = to + r * p.dest_strides.row;
        for (int64_t j = 0; j < count; ++j) {
          const int64_t channel = (k + j) / taps, tap = (k + j) % taps;
          row[channel * p.dest_strides.depth + offsets[tap]] = narrow<T>(square[r][j]);
        }
      }
    }
  }
};

/// Adds the splits of `sums`, [splits][groups][K][padded rows], and stores them as weights.
template <class T>
void store_weight_planar(const WeightContraction<T>& p, const Accumulator<T>* sums,
                         int64_t splits) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  const int64_t inner = p.depth * p.taps(), padded_rows = round_up(p.rows, lanes);
  Scratch table(sizeof(int64_t) * p.taps());
  const WeightPlaces<T> places(p, table.as<int64_t>());
  const int64_t pieces = padded_rows / lanes;
  parallel_for(p.groups * pieces, ceil_div(16384, inner * lanes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces, first = i % pieces * lanes;
      places.store_register(group, first, 0, inner, sums + group * inner * padded_rows + first,
                            padded_rows, p.groups * inner * padded_rows, splits);
    }
  });
}

/// Whether sums can be the weight itself: one set of whole registers of neighbouring destination
/// channels.
template <class T>
bool sums_are_weights(const WeightContraction<T>& p, int64_t splits) {
  return __is_same(T, Accumulator<T>) && splits == 1 && p.taps() == 1 && p.dest_strides.row == 1 &&
         p.rows % kLanes<Accumulator<T>> == 0;
}

/// Whether a tile can read runs of the source where they lie: a 1x1 kernel without padding, over
/// neighbours.
template <class T>
bool reads_runs_in_place(const WeightContraction<T>& p) {
  bool inside = p.taps() == 1 && p.walk[2].step == 1 && p.source_strides.axis[2] == 1;
  for (const Walk& walk : p.walk) inside &= walk.reads_inside();
  return __is_same(T, Accumulator<T>) && inside;
}

/// Registers of destination channels that are too few for the tile of tile.h, whose six sums of a
/// register do not hide the latency of an FMA.
constexpr int64_t kFewRegisters = 1;

/// Planes at a multiple of so many bytes share the sets of L1.
constexpr int64_t kBytesOfSets = 4096;

/// Whether tiles take as many channels of a source in place as the registers hold: there are few
/// destination channels, and planes do not share the sets of L1.
template <class T>
bool suits_even_channels(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  return p.rows <= kFewRegisters * kLanes<A> && p.depth > kTileRows &&
         p.source_strides.channel * int64_t(sizeof(A)) % kBytesOfSets != 0;
}

/// From this share of padding on it is left out, although tiles of one tap each may be less full.
constexpr double kMuchPadding = 0.15;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGemmPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  bool in_place;  // the source is read where it lies,
  bool even;      // many channels to a tile
  Strips strips;
  int64_t taps, inner, channel_block, blocks;  // inner is K
  int64_t padded_rows, row_block, row_blocks;
  bool by_tap;                           // tiles keep to a tap, and leave padding out
  int64_t set, splits, chunks_of_split;  // elements of one set of sums
  bool direct;                           // the sums are the weight,
  bool stores_items;                     // or each item stores its own
  int64_t sum_bytes, offset_bytes;       // of the call
  int64_t item_sum_bytes;                // of each thread
  int64_t strip_bytes, grad_bytes, pointer_bytes, segment_bytes;  // of each thread

  explicit WeightGemmPlanarBlocking(const WeightContraction<T>& p)
      : in_place(reads_runs_in_place(p)),
        even(in_place && suits_even_channels(p)),
        strips(p, even ? kLongPixelChunk : kPixelChunk, true) {
    taps = p.taps();
    inner = p.depth * taps;
    // Blocks of about as many channels each. They may be larger where there are no strips to keep
    // in cache, and pixels enough for items.
    const bool large = in_place && p.batch * p.pixels() >= 2 * kMinSplitPixels;
    const int64_t wanted = large ? 2 * kInnerBlock : kInnerBlock;
    const int64_t most = taps < wanted ? wanted / taps : 1;
    channel_block = even_part(p.depth, most);
    blocks = ceil_div(p.depth, channel_block);
    padded_rows = round_up(p.rows, kLanes<A>);
    // Two blocks of rows cost another copy of the strips, but no other set of sums.
    const bool halves = p.groups * blocks < kWantedItems && padded_rows >= kRowsWorthHalving;
    row_blocks = ceil_div(padded_rows, kGradRows);
    if (halves && row_blocks == 1) row_blocks = 2;
    row_block = round_up(ceil_div(padded_rows, row_blocks), kLanes<A>);
    by_tap = !in_place && padding_share(p) > kMuchPadding;
    set = p.groups * inner * padded_rows;
    splits =
        choose_product_splits(p, p.groups * blocks * row_blocks, strips.chunks(), set * sizeof(A));
    chunks_of_split = ceil_div(strips.chunks(), splits);
    direct = sums_are_weights(p, splits);
    stores_items = splits == 1 && !direct && p.dest_strides.row != 1;

    sum_bytes = direct || stores_items ? 0 : sizeof(A) * splits * set;
    item_sum_bytes = stores_items ? sizeof(A) * channel_block * taps * row_block : 0;
    offset_bytes = sizeof(int64_t) * taps;
    const int64_t pixels = strips.rows * strips.width;
    strip_bytes =
        in_place ? 0
                 : sizeof(A) * channel_block * strips.lines() * strips.rows * strips.positions();
    grad_bytes = sizeof(A) * pixels * row_block;
    pointer_bytes = sizeof(A*) * round_up(channel_block * taps, kTileRows) * strips.rows;
    segment_bytes = pixels * (sizeof(Segment) + sizeof(DestRun));
  }

  Footprint footprint() const {
    return {kTileRows, columns, sum_bytes + offset_bytes,
            item_sum_bytes + strip_bytes + grad_bytes + pointer_bytes + segment_bytes};
  }
};

/// Copies the strips of channels [first, first + count) of a group whose channel 0 is at `source`,
/// [channel][line][row].
template <class T>
void copy_strips(const WeightContraction<T>& p, const Strips& strips, const Strips::Chunk& chunk,
                 const T* source, int64_t first, int64_t count, Accumulator<T>* strip) {
  const int64_t strip_row = strips.positions(chunk.width), lines = strips.lines();
  const int64_t rows = lines * chunk.rows;
  for (int64_t line = 0; line < lines; ++line) {
    const Strips::Line walk = strips.line(line);
    for (int64_t r = 0; r < chunk.rows; ++r) {
      const T* row = strips.source_row(source, p.source_strides, chunk.row + r, line);
      if (row != nullptr) row += first * p.source_strides.channel;
      strips.copy_plane_rows(walk, row, p.source_strides, count, chunk.x, chunk.width,
                             rows * strip_row, strip + (line * chunk.rows + r) * strip_row);
    }
  }
}

/// Points each row of K to the strips of `count` channels: [tile][run][kTileRows].
template <class A>
void point_to_strips(const Strips& strips, const Strips::Chunk& chunk, int64_t count, int64_t runs,
                     const A* strip, const A** to) {
  const int64_t strip_row = strips.positions(chunk.width), line_taps = strips.line_taps;
  for (int64_t k = 0; k < count * strips.lines() * line_taps; ++k) {
    const A* from = strip + k / line_taps * chunk.rows * strip_row;
    const A** at = to + k / kTileRows * kTileRows * runs + k % kTileRows;
    for (int64_t r = 0; r < runs; ++r) {
      at[r * kTileRows] = from + r * strip_row + strips.start(k % line_taps);
    }
  }
}

/// Points the first channels to the rows of their first strip: [row][kTileRows].
template <class A>
void point_to_channels(const Strips& strips, const Strips::Chunk& chunk, const A* strip,
                       const A** to) {
  const int64_t strip_row = strips.positions(chunk.width);
  const int64_t of_channel = strips.lines() * chunk.rows * strip_row;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    for (int64_t i = 0; i < kTileRows; ++i) *to++ = strip + i * of_channel + r * strip_row;
  }
}

/// Multiplies the strips of `channels` with a panel of grad, [pixel][width], tap by tap: a tile is
/// of six channels, and what its tap reads in padding is left out. `pointers` are those of
/// point_to_channels.
template <class T>
void multiply_taps(const WeightContraction<T>& p, const Strips& strips, const Strips::Chunk& chunk,
                   const T* source, int64_t channels, const Accumulator<T>* const* pointers,
                   const Accumulator<T>* grad, int64_t width, const Rows<Accumulator<T>>& sums,
                   bool adds) {
  using A = Accumulator<T>;
  const int64_t strip_row = strips.positions(chunk.width), lines = strips.lines();
  const int64_t taps = p.taps(), of_line = chunk.rows * strip_row;
  for (int64_t line = 0; line < lines; ++line) {
    const auto reads_row = [&](int64_t r) {
      return strips.source_row(source, p.source_strides, chunk.row + r, line) != nullptr;
    };
    int64_t first = 0, last = chunk.rows;
    while (first < last && !reads_row(first)) ++first;
    while (first < last && !reads_row(last - 1)) --last;
    for (int64_t tap = 0; tap < strips.line_taps; ++tap) {
      const Inside reads = strips.reads_inside(line, tap, chunk);
      const int64_t start = strips.start(tap) + reads.begin * strips.step;
      TileOperands<A> tile{pointers + first * kTileRows,
                           0,
                           last - first,
                           reads.end - reads.begin,
                           strips.step,
                           grad + (first * chunk.width + reads.begin) * width,
                           width};
      tile.b_tap = chunk.width * width;
      for (int64_t c = 0; c < channels; c += kTileRows) {
        const int rows = int(channels - c < kTileRows ? channels - c : kTileRows);
        tile.start = (c * lines + line) * of_line + start;
        multiply<A>(tile, sums.at(c * taps + line * strips.line_taps + tap), taps * sums.pitch,
                    adds, rows, vectors_for<A>(width));
      }
    }
  }
}

/// Where row `r` of a chunk reads channel 0 of the source, in place.
template <class T>
const T* run_in_place(const WeightContraction<T>& p, const Strips& strips,
                      const Strips::Chunk& chunk, const T* source, int64_t r) {
  return strips.source_row(source, p.source_strides, chunk.row + r, 0) + chunk.x +
         p.walk[2].taps[0].offset;
}

/// Points each channel [first, first + count) to its runs of the source: [tile][run][kTileRows].
template <class T>
void point_to_source(const WeightContraction<T>& p, const Strips& strips,
                     const Strips::Chunk& chunk, const T* source, int64_t first, int64_t count,
                     const Accumulator<T>** to) {
  for (int64_t r = 0; r < chunk.rows; ++r) {
    const T* row = run_in_place(p, strips, chunk, source, r);
    for (int64_t c = 0; c < count; ++c) {
      to[(c / kTileRows * chunk.rows + r) * kTileRows + c % kTileRows] =
          reinterpret_cast<const Accumulator<T>*>(row + (first + c) * p.source_strides.channel);
    }
  }
}

/// Multiplies channels [first, first + count) of the source, where they lie, with a panel of grad,
/// [pixel][width]: a tile is of as many channels as the registers hold. `starts` is space for where
/// the runs start.
template <class T>
void multiply_even_channels(const WeightContraction<T>& p, const Strips& strips,
                            const Strips::Chunk& chunk, const T* source, int64_t first,
                            int64_t count, const Accumulator<T>* grad, int64_t width,
                            const Rows<Accumulator<T>>& sums, bool adds, int64_t* starts) {
  using A = Accumulator<T>;
  const int vectors = vectors_for<A>(width);
  const A* channels = reinterpret_cast<const A*>(source) + first * p.source_strides.channel;
  for (int64_t r = 0; r < chunk.rows; ++r) {
    starts[r] = run_in_place(p, strips, chunk, source, r) - source;
  }
  alignas(64) const A zeros[kFewRegisters * kLanes<A>] = {};
  const int64_t step = even_part(count, affine_rows(vectors));
  for (int64_t i = 0; i < count; i += step) {
    A* to = sums.at(i);
    const AffineOperands<A> tile{channels + i * p.source_strides.channel,
                                 p.source_strides.channel,
                                 starts,
                                 chunk.rows,
                                 chunk.width,
                                 1,
                                 grad,
                                 width};
    const AffineResult<A> result{to, sums.pitch, kLanes<A>, adds ? to : zeros,
                                 adds ? sums.pitch : 0};
    multiply_affine<A>(tile, result, count - i < step ? count - i : step, vectors);
  }
}

template <class T>
void weight_gemm_planar(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  const WeightGemmPlanarBlocking<T> blocking(p);
  const Strips& strips = blocking.strips;
  const int64_t inner = blocking.inner, taps = blocking.taps, blocks = blocking.blocks;
  const int64_t row_blocks = blocking.row_blocks, padded_rows = blocking.padded_rows;
  const int64_t splits = blocking.splits;

  Scratch workspace(blocking.sum_bytes);
  Scratch table(blocking.offset_bytes);
  const WeightPlaces<T> places(p, table.as<int64_t>());
  const bool direct = blocking.direct, stores_items = blocking.stores_items;
  parallel_for(p.groups * blocks * row_blocks * splits, 1, [&](int64_t begin, int64_t end) {
    Scratch item_sums(blocking.item_sum_bytes);
    Scratch strip_buffer(blocking.strip_bytes);
    Scratch grad_buffer(blocking.grad_bytes);
    Scratch pointer_buffer(blocking.pointer_bytes);
    Scratch segment_buffer(blocking.segment_bytes);
    A* grad = grad_buffer.as<A>();
    const A** pointers = pointer_buffer.as<const A*>();
    Segment* segments = segment_buffer.as<Segment>();
    DestRun* dest_runs = reinterpret_cast<DestRun*>(segments + strips.rows * strips.width);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t split = item % splits;
      const int64_t channel = item / splits % blocks * blocking.channel_block;
      const int64_t first_row = item / splits / blocks % row_blocks * blocking.row_block;
      const int64_t group = item / splits / blocks / row_blocks;
      const int64_t channels_left = p.depth - channel;
      const int64_t channels =
          channels_left < blocking.channel_block ? channels_left : blocking.channel_block;
      const int64_t k = channel * taps, run_of_k = channels * taps;
      const int64_t rows_left = p.rows - first_row;
      const int64_t rows_here = rows_left < blocking.row_block ? rows_left : blocking.row_block;
      const EvenBlocks<A> columns(rows_here);
      const Rows<A> sums =
          direct         ? Rows<A>{reinterpret_cast<A*>(p.dest) + group * p.dest_strides.group +
                                       k * p.dest_strides.depth + first_row,
                                   p.dest_strides.depth}
          : stores_items ? Rows<A>{item_sums.as<A>(), blocking.row_block}
                         : Rows<A>{workspace.as<A>() + split * blocking.set +
                                       (group * inner + k) * padded_rows + first_row,
                                   padded_rows};
      const int64_t chunk_begin = split * blocking.chunks_of_split;
      const int64_t chunk_last = chunk_begin + blocking.chunks_of_split;
      const int64_t chunk_end = chunk_last < strips.chunks() ? chunk_last : strips.chunks();
      for (int64_t i = 0; chunk_begin >= chunk_end && i < run_of_k; ++i) {
        fill(sums.at(i), columns.registers * kLanes<A>, A(0));
      }
      for (int64_t index = chunk_begin; index < chunk_end; ++index) {
        const Strips::Chunk chunk = strips.chunk(index);
        const int64_t pixels = chunk.pixels();
        // Rows of strips that follow each other without a gap are one.
        const bool joined =
            !blocking.in_place && strips.positions(chunk.width) == chunk.width * strips.step;
        const int64_t runs = joined ? 1 : chunk.rows;
        const T* source = p.source + group * p.depth * p.source_strides.channel;
        if (!blocking.in_place) {
          copy_strips(p, strips, chunk, source, channel, channels, strip_buffer.as<A>());
          if (blocking.by_tap) {
            point_to_channels(strips, chunk, strip_buffer.as<A>(), pointers);
          } else {
            point_to_strips(strips, chunk, channels, runs, strip_buffer.as<A>(), pointers);
          }
        } else if (!blocking.even) {
          point_to_source(p, strips, chunk, source, channel, channels, pointers);
        }
        const int64_t found = cut_into_segments(p, strips.first_pixel(chunk), pixels, segments);
        const int64_t dest_run_count = join_runs(p.grad_strides, segments, found, dest_runs);
        transpose_grad(p.grad + (group * p.rows + first_row) * p.grad_strides.channel,
                       p.grad_strides, rows_here, dest_runs, dest_run_count, pixels, grad);
        for (int64_t block = 0; block < columns.count; ++block) {
          const int64_t column = columns.begin(block), width = columns.begin(block + 1) - column;
          if (blocking.even) {
            multiply_even_channels<T>(p, strips, chunk, source, channel, channels,
                                      grad + column * pixels, width,
                                      {sums.data + column, sums.pitch}, index > chunk_begin,
                                      reinterpret_cast<int64_t*>(pointers));
            continue;
          }
          if (blocking.by_tap) {
            multiply_taps<T>(p, strips, chunk, source, channels, pointers, grad + column * pixels,
                             width, {sums.data + column, sums.pitch}, index > chunk_begin);
            continue;
          }
          TileOperands<A> tile{nullptr, 0, runs, pixels / runs, strips.step, grad + column * pixels,
                               width};
          for (int64_t i = 0; i < run_of_k; i += kTileRows) {
            const int rows = int(run_of_k - i < kTileRows ? run_of_k - i : kTileRows);
            tile.rows = pointers + i * runs;
            multiply<A>(tile, sums.at(i) + column, sums.pitch, index > chunk_begin, rows,
                        vectors_for<A>(width));
          }
        }
      }
      for (int64_t row = 0; stores_items && row < rows_here; row += kLanes<A>) {
        places.store_register(group, first_row + row, k, k + run_of_k, sums.at(0) + row, sums.pitch,
                              0, 1);
      }
    }
  });
  if (direct || stores_items) return;
  const auto store_weights =
      p.dest_strides.row == 1 ? store_weight_rows<T> : store_weight_planar<T>;
  store_weights(p, workspace.as<A>(), splits);
}
