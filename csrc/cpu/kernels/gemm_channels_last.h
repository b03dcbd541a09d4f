// Dense and grouped convolution with vectors along destination channels: dest[pixels x rows] =
// im2col[pixels x K] * weight[K x rows] for each group, K = taps * source channels.
//
// The pixels are never copied where the tensor already holds accumulators: a tile takes one pointer
// per pixel and tap, straight into the source, or to a row of zeros where padding is read. Pixels
// of 16-bit elements are widened once for all column blocks. Weights are packed once per call as
// [group][column block][tap][channel][columns of the block] and shared by all threads; or an item
// packs each slice of them that it comes to, where the pixels are few or the weights large. Items
// are (group, block of pixels, column block, or all of these where the weights are few); K is cut
// so that the slice of packed weights stays in L2 while all pixel tiles of the item use it. Tiles
// write the destination, unless its elements are narrower than accumulators or its pixels lie
// unevenly. With few source channels (images) the taps of a kernel row, which lie side by side in
// the source, count as one tap of more channels.

/// Pixels of an item, which share each slice of packed weights: the more, the less often weights
/// that do not fit L2 are fetched, but there must be items for all threads.
constexpr int64_t kPixelBlock = 8 * kTileRows;
constexpr int64_t kMaxPixelBlock = 4 * kPixelBlock;

/// The weights of a group up to this size stay in L2 while tile after tile of pixels meets all of
/// them, and writes whole pixels of the destination.
constexpr int64_t kSharedWeightBytes = int64_t(256) << 10;

/// Pointers to the taps of so many pixels stay in L1 beside what the tiles read.
constexpr int64_t kMaxPointers = 2048;

/// About so much of K is in a slice of packed weights: 256 x 64 floats leave room in L2.
constexpr int64_t kChannelBlock = 256;

/// K up to which kernel rows count as one tap: border pixels copy all of theirs.
constexpr int64_t kMaxMergedInner = 4096;

/// From so many taps on a block is one tile of pixels, to bound the table of pointers.
constexpr int64_t kManyTaps = 1024;

/// Pixels of 16-bit elements are widened a block at a time: as many as so many bytes of L2 hold,
/// though no fewer than a tile.
constexpr int64_t kWidenedBytes = int64_t(1) << 20;

/// Packs the register of destination channels from `first` on, with source channels [channel,
/// channel + count) of all taps, as [tap][channel] rows of `width` elements.
template <class T>
void pack_weight_register(const Contraction<T>& p, const int64_t* taps, int64_t group,
                          int64_t first, int64_t channel, int64_t count, int64_t width,
                          Accumulator<T>* to) {
  read_weight_columns(p, taps, group, first, channel, channel + count,
                      [&](int64_t tap, int64_t c, Vec<Accumulator<T>> v) {
                        store(to + (tap * count + c - channel) * width, v);
                      });
}

/// Packs `lanes` destination channels of a group times all of K, register `piece` of [blocks][tap]
/// [channel][columns of the block]; the pieces of a block interleave.
template <class T>
void pack_weight_piece(const Contraction<T>& p, const int64_t* taps, int64_t group, int64_t piece,
                       Accumulator<T>* to) {
  using A = Accumulator<T>;
  const int64_t inner = p.depth * p.taps(), first = piece * kLanes<A>;
  const EvenBlocks<A> blocks(p.rows);
  const int64_t block = blocks.of(piece), column = blocks.begin(block);
  const int64_t width = blocks.begin(block + 1) - column;
  A* out = to + column * inner + (first - column);
  pack_weight_register(p, taps, group, first, 0, p.depth, width, out);
}

/// Packs the weights of all groups, one behind the other.
template <class T>
void pack_weight_columns(const Contraction<T>& p, const int64_t* taps, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t inner = p.depth * p.taps(), pieces = EvenBlocks<A>(p.rows).registers;
  parallel_for(p.groups * pieces, ceil_div(16384, inner * lanes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces;
      pack_weight_piece(p, taps, group, i % pieces, to + group * pieces * lanes * inner);
    }
  });
}

/// True when all taps of a kernel row read one contiguous run of the source, and are few enough
/// channels that running over them alone would mostly be overhead.
inline bool kernel_rows_are_runs(const ContractionShape& shape, const Strides& source) {
  const Walk& width = shape.walk[2];
  if (shape.groups > 1 || source.axis[2] != shape.depth || shape.depth >= 16) return false;
  for (int64_t t = 1; t < width.tap_count; ++t) {
    if (width.taps[t].offset != width.taps[0].offset + t) return false;
  }
  return width.tap_count > 1;
}

/// The place of a destination pixel, which steps to the next one without dividing.
struct PixelPlace {
  int64_t w, h, d, image;

  PixelPlace(const ContractionShape& shape, int64_t pixel) {
    const Walk* walk = shape.walk;
    w = pixel % walk[2].count, pixel /= walk[2].count;
    h = pixel % walk[1].count, pixel /= walk[1].count;
    d = pixel % walk[0].count, image = pixel / walk[0].count;
  }
  void step(const ContractionShape& shape) {
    if (++w < shape.walk[2].count) return;
    w = 0;
    if (++h < shape.walk[1].count) return;
    h = 0;
    if (++d < shape.walk[0].count) return;
    d = 0;
    ++image;
  }
  /// Elements from the first pixel of the first image.
  int64_t offset(const Strides& strides) const {
    return image * strides.batch + d * strides.axis[0] + h * strides.axis[1] + w * strides.axis[2];
  }
};

/// Where the pixels of a block read: a pointer for each pixel and tap, [tile][tap][kRows].
template <class T, int kRows = kTileRows>
struct PixelPointers {
  const Contraction<T>& p;
  bool merged;     // the taps of a kernel row are one tap
  const T* zeros;  // what padding reads: a whole tap
  T* border;       // merged: space for kernel rows that are partly padding

  int64_t lines() const { return p.walk[0].tap_count * p.walk[1].tap_count; }
  int64_t taps() const { return merged ? lines() : p.taps(); }
  int64_t depth() const { return merged ? p.walk[2].tap_count * p.depth : p.depth; }

  /// Points pixels [first, first + count) of a group whose channel 0 is at `source`. `row` is space
  /// for lines() pointers: where the kernel rows of a row of pixels start, null in padding.
  void point(const T* source, int64_t first, int64_t count, const T** row, const T** to) const {
    const Walk& width = p.walk[2];
    const int64_t tile = taps() * kRows, stride = p.source_strides.axis[2];
    if (reads_each_pixel(p, p.source_strides)) {
      for (int64_t i = 0; i < count; ++i) to[i] = source + (first + i) * stride;
      return;
    }
    T* spare = border;
    PixelPlace at(p, first);
    for (int64_t i = 0; i < count; ++i, at.step(p)) {
      if (i == 0 || at.w == 0) point_lines(source, at, row);
      const T** out = to + i / kRows * tile + i % kRows;
      if (merged) {
        point_rows(row, at.w * width.step + width.taps[0].offset, spare, out);
        continue;
      }
      for (int64_t line = 0; line < lines(); ++line) {
        for (int64_t t = 0; t < width.tap_count; ++t, out += kRows) {
          const int64_t x = width.resolve(at.w * width.step + width.taps[t].offset);
          *out = row[line] == nullptr || x < 0 ? zeros : row[line] + x * stride;
        }
      }
    }
  }

 private:
  /// Where the kernel rows of a row of pixels start.
  void point_lines(const T* source, const PixelPlace& at, const T** row) const {
    const Walk *depth = &p.walk[0], *height = &p.walk[1];
    const Strides& strides = p.source_strides;
    for (int64_t td = 0; td < depth->tap_count; ++td) {
      const int64_t z = depth->resolve(at.d * depth->step + depth->taps[td].offset);
      for (int64_t th = 0; th < height->tap_count; ++th) {
        const int64_t y = height->resolve(at.h * height->step + height->taps[th].offset);
        const bool inside = z >= 0 && y >= 0;
        *row++ = inside
                     ? source + at.image * strides.batch + z * strides.axis[0] + y * strides.axis[1]
                     : nullptr;
      }
    }
  }

  /// The kernel rows that start at column `x`: in place, or with padding in them copies in `spare`.
  void point_rows(const T* const* row, int64_t x, T*& spare, const T** out) const {
    const int64_t count = lines(), size = p.walk[2].size, taps = p.walk[2].tap_count;
    const bool inside = x >= 0 && x + taps <= size;
    for (int64_t line = 0; line < count; ++line, out += kRows) {
      if (row[line] == nullptr) {
        *out = zeros;
      } else if (inside) {
        *out = row[line] + x * p.depth;
      } else {
        *out = spare;
        copy_row(row[line], x, spare);
        spare += depth();
      }
    }
  }

  /// Copies the taps of a kernel row from column `x` of `line` on, some of which are padding.
  void copy_row(const T* line, int64_t x, T* to) const {
    const Walk& walk = p.walk[2];
    const int64_t bytes = p.depth * int64_t(sizeof(T));
    const int64_t left = walk.size - x, until = left < walk.tap_count ? left : walk.tap_count;
    const int64_t begin = x < 0 ? -x : 0, inside = until > begin ? until - begin : 0;
    if (inside > 0) {
      __builtin_memcpy(to + begin * p.depth, line + (x + begin) * p.depth, inside * bytes);
    }
    for (int64_t t = 0; t < walk.tap_count; ++t) {
      if (t >= begin && t < begin + inside) continue;
      const int64_t position = walk.resolve(x + t);
      __builtin_memcpy(to + t * p.depth, position < 0 ? zeros : line + position * p.depth, bytes);
    }
  }
};

/// Copies the taps that `from` points to, [tile][tap][kTileRows], into `wide`, as accumulators, and
/// points `to` there. What neighbours share is copied once: padding, and the source pixel that one
/// pixel reads for a tap and the next pixel for the tap before.
template <class T>
void widen_pixels(const T* const* from, int64_t count, int64_t taps, int64_t depth, const T* zeros,
                  const Accumulator<T>* wide_zeros, Accumulator<T>* wide,
                  const Accumulator<T>** to) {
  const int64_t tile = taps * kTileRows;
  int64_t before = 0;  // where the pixel before has its first tap
  for (int64_t i = 0; i < count; ++i) {
    const int64_t here = i / kTileRows * tile + i % kTileRows;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t at = here + tap * kTileRows, neighbour = before + (tap + 1) * kTileRows;
      if (from[at] == zeros) {
        to[at] = wide_zeros;
      } else if (i > 0 && tap + 1 < taps && from[neighbour] == from[at]) {
        to[at] = to[neighbour];
      } else {
        copy_strided(from[at], 1, depth, wide);
        to[at] = wide;
        wide += depth;
      }
    }
    before = here;
  }
}

/// Adds the bias to the sums of pixels [first, first + count), `pitch` apart, and stores `channels`
/// destination channels of each from `channel` on.
template <class T>
void store_pixels(const Contraction<T>& p, int64_t channel, int64_t channels, int64_t first,
                  int64_t count, const Accumulator<T>* sums, int64_t pitch) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  A bias[kTileColumns<A>];
  for (int64_t c = 0; c < pitch; ++c) {
    bias[c] = p.bias != nullptr && c < channels ? widen(p.bias[channel + c]) : A(0);
  }
  PixelPlace at(p, first);
  for (int64_t i = 0; i < count; ++i, sums += pitch, at.step(p)) {
    T* to = p.dest + at.offset(p.dest_strides) + channel;
    int64_t c = 0;
    for (; c + lanes <= channels; c += lanes) store_narrow(to + c, load(sums + c) + load(bias + c));
    if (c < channels) store_partial(to + c, load(sums + c) + load(bias + c), channels - c);
  }
}

/// So few pixels do not pay for packing the weights where they can be read as they lie.
constexpr int64_t kPixelsWorthPacking = 4 * kPixelBlock;

/// Whether tiles can read the weight of a 1x1 kernel where it lies: whole registers of neighbouring
/// destination channels.
template <class T>
bool weight_columns_in_place(const Contraction<T>& p) {
  return __is_same(T, Accumulator<T>) && p.taps() == 1 && p.weight_strides.row == 1 &&
         p.rows % kLanes<Accumulator<T>> == 0;
}

/// Blocks of so many pixels, most of them, meet slices of weights that are packed just before, or
/// copied by the first tile: what is packed in advance goes to memory and back. One block leaves
/// only the column blocks to be items; more than one pack all slices again, which weights pay for
/// that are too large for L2.
constexpr int64_t kPixelsOfSlices = 512, kLargeWeightBytes = 1 << 20;

/// How the slices of a weight lie: in rows of destination channels that are dense in K, in the
/// order in which slices take it; in rows of K, of neighbouring destination channels, a tap at a
/// time; or anyhow.
enum class WeightSlices { along_k, across_k, none };

template <class T>
WeightSlices weight_slices(const Contraction<T>& p) {
  if (weight_rows_are_dense(p, p.weight_strides) && (p.depth == 1 || p.weight_strides.depth == 1)) {
    return WeightSlices::along_k;
  }
  const bool of_taps = p.taps() == 1 || p.depth >= kChannelBlock;
  return p.weight_strides.row == 1 && of_taps ? WeightSlices::across_k : WeightSlices::none;
}

/// Pixels of an item: as many as leave kWantedItems items, from the least that uses a slice of
/// weights well to kMaxPixelBlock.
inline int64_t choose_pixel_block(int64_t pixels, int64_t taps, int64_t items_each) {
  if (taps >= kManyTaps) return kTileRows;
  // Few pixels: fetching weights is most of the work, and twice would be twice of it.
  if (pixels <= 2 * kPixelBlock && items_each >= kWantedItems / 2)
    return round_up(pixels, kTileRows);
  int64_t block = kPixelBlock;
  while (block < kMaxPixelBlock && 2 * block * taps <= kMaxPointers &&
         ceil_div(pixels, 2 * block) * items_each >= kWantedItems) {
    block *= 2;
  }
  return block;
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct GemmChannelsLastBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  static constexpr bool in_place = __is_same(T, A);  // the source holds accumulators
  bool merged;                                       // the taps of a kernel row are one tap
  int64_t taps, depth, inner;                        // of the merged taps
  int64_t pixels, pixel_block, pixel_blocks;
  int64_t padded_rows, column_blocks;
  int64_t item_blocks, column_parts;  // column blocks of an item, items of a block of pixels
  int64_t run, tap_block;  // a slice of K: some channels of one tap, or all channels of some taps
  bool packs;              // the weights
  bool packs_slices;       // each where it is used, unless they are packed already
  WeightSlices slices;
  bool stores;                                    // tiles write the destination
  int64_t weight_bytes, table_bytes, zero_bytes;  // of the call
  int64_t pointer_bytes, sum_bytes, border_bytes, widened_bytes, copied_bytes;  // of each thread

  explicit GemmChannelsLastBlocking(const Contraction<T>& p) {
    merged = p.depth * p.taps() <= kMaxMergedInner && kernel_rows_are_runs(p, p.source_strides);
    const PixelPointers<T> counts{p, merged, nullptr, nullptr};
    taps = counts.taps();
    depth = counts.depth();
    inner = taps * depth;
    pixels = p.batch * p.pixels();
    column_blocks = EvenBlocks<A>(p.rows).count;
    padded_rows = round_up(p.rows, kLanes<A>);
    stores = in_place && pixels_are_even(p.dest_strides, p.batch,
                                         {p.walk[0].count, p.walk[1].count, p.walk[2].count});
    const bool few_weights = sizeof(A) * padded_rows * inner <= kSharedWeightBytes &&
                             p.groups * ceil_div(pixels, kPixelBlock) >= kWantedItems;
    item_blocks = stores && few_weights ? column_blocks : 1;
    column_parts = ceil_div(column_blocks, item_blocks);
    pixel_block = choose_pixel_block(pixels, taps, p.groups * column_parts);
    const bool columns_in_place = weight_columns_in_place(p);
    slices = weight_slices(p);
    const int64_t most = even_part(pixels, kPixelsOfSlices);
    const int64_t least_items = pixels <= 2 * kPixelBlock ? 2 : kFewItems;
    const bool pays =
        pixels <= kPixelsOfSlices || int64_t(sizeof(A)) * padded_rows * inner >= kLargeWeightBytes;
    const bool in_slices = in_place && item_blocks == 1 && pays &&
                           most * taps <= 2 * kMaxPointers &&
                           p.groups * column_parts * ceil_div(pixels, most) >= least_items &&
                           slices != WeightSlices::none;
    if (in_slices) pixel_block = most;
    if (!in_place) {
      const int64_t fits = kWidenedBytes / int64_t(sizeof(A)) / inner / kTileRows * kTileRows;
      pixel_block = fits > pixel_block ? pixel_block : fits < kTileRows ? kTileRows : fits;
    }
    pixel_blocks = ceil_div(pixels, pixel_block);
    if (in_place) pixel_block = round_up(ceil_div(pixels, pixel_blocks), kTileRows);
    run = depth < kChannelBlock ? depth : kChannelBlock;
    tap_block = depth > run ? 1 : ceil_div(kChannelBlock, run);

    packs = !columns_in_place || pixels > kPixelsWorthPacking || in_slices;
    packs_slices = in_slices && packs;
    weight_bytes = packs ? sizeof(A) * p.groups * padded_rows * inner : 0;
    table_bytes = sizeof(int64_t) * p.taps();
    zero_bytes = sizeof(A) * depth;
    pointer_bytes = sizeof(T*) * (pixel_block * taps * (in_place ? 1 : 2) + counts.lines());
    sum_bytes = sizeof(A) * pixel_block * columns;
    border_bytes = merged ? sizeof(T) * pixel_block * inner : 0;
    const int64_t of_slice = packs_slices ? run * tap_block : packs ? 0 : run * item_blocks;
    copied_bytes = sizeof(A) * of_slice * columns;
    widened_bytes = in_place ? 0 : sizeof(A) * pixel_block * inner;
  }

  /// Of the weights, unless they are packed already.
  int64_t packed_bytes() const { return packs_slices ? 0 : weight_bytes; }

  Footprint footprint() const {
    return {kTileRows, columns, packed_bytes() + table_bytes + zero_bytes,
            pointer_bytes + sum_bytes + border_bytes + widened_bytes + copied_bytes};
  }
};

template <class T>
void gemm_channels_last_prepare(const Contraction<T>& p, void* to) {
  Scratch offsets(sizeof(int64_t) * p.taps());
  tap_offsets(p, p.weight_strides, offsets.as<int64_t>());
  pack_weight_columns(p, offsets.as<int64_t>(), static_cast<Accumulator<T>*>(to));
}

/// The packed weights of a call: those that were kept, or `bytes` that are packed here.
template <class T>
class PackedColumns {
 public:
  PackedColumns(const Contraction<T>& p, int64_t bytes)
      : kept_(static_cast<const Accumulator<T>*>(p.prepared)),
        packed_(kept_ != nullptr ? 0 : bytes) {
    if (kept_ == nullptr && bytes > 0) gemm_channels_last_prepare(p, packed_.template as<void>());
  }
  const Accumulator<T>* data() const {
    return kept_ != nullptr ? kept_ : packed_.template as<Accumulator<T>>();
  }

 private:
  const Accumulator<T>* kept_;
  Scratch packed_;
};

/// A slice of the weight where it lies: `rows` rows, `step` elements apart, of `count` elements.
template <class T>
struct WeightSlice {
  const T* from = nullptr;
  int64_t rows = 0, step = 0, count = 0;
  bool across = false;  // the rows are elements of K, not destination channels
  static constexpr int64_t kLine = 64 / int64_t(sizeof(T));  // elements

  WeightSlice() = default;  // none
  /// `inner` elements of K from `k` on, of one tap if they are rows, for `width` columns from
  /// `column` on. `offsets` are those of the taps in the weight.
  WeightSlice(const Contraction<T>& p, WeightSlices slices, const int64_t* offsets, int64_t group,
              int64_t column, int64_t width, int64_t k, int64_t inner)
      : from(p.weight + group * p.weight_strides.group + column * p.weight_strides.row),
        rows(p.rows - column < width ? p.rows - column : width),
        step(p.weight_strides.row),
        count(inner),
        across(slices == WeightSlices::across_k) {
    if (!across) {
      from += k;
      return;
    }
    from += offsets[k / p.depth] + k % p.depth * p.weight_strides.depth;
    count = rows, rows = inner, step = p.weight_strides.depth;
  }

  const Accumulator<T>* in_place() const { return reinterpret_cast<const Accumulator<T>*>(from); }

  /// Cache lines of it.
  int64_t lines() const { return rows * ceil_div(count, kLine); }
  /// Those of the rows that are part `part` of `parts`.
  LineFetches<Accumulator<T>> part(int64_t part, int64_t parts) const {
    const int64_t run = ceil_div(count, kLine);
    const T* first = from + part * rows / parts * step;
    return {reinterpret_cast<const Accumulator<T>*>(first), kLine, run, step - run * kLine};
  }

  void pack(Accumulator<T>* to, int64_t width) const {
    if (!across) return load_planes(from, step, rows, 1, count, to, width);
    using A = Accumulator<T>;
    for (int64_t r = 0; r < rows; ++r, to += width) {
      const T* row = from + r * step;
      int64_t c = 0;
      for (; c + kLanes<A> <= count; c += kLanes<A>) store(to + c, load_wide(row + c));
      if (c < count) store(to + c, load_partial(row + c, count - c));
    }
  }
};

template <class T>
void gemm_channels_last(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const GemmChannelsLastBlocking<T> blocking(p);
  const EvenBlocks<A> blocks(p.rows);
  constexpr bool in_place = blocking.in_place;
  const int64_t taps = blocking.taps, depth = blocking.depth, inner = blocking.inner;
  const int64_t pixels = blocking.pixels, pixel_block = blocking.pixel_block;
  const int64_t pixel_blocks = blocking.pixel_blocks, column_parts = blocking.column_parts;
  const int64_t padded_rows = blocking.padded_rows;
  const int64_t run = blocking.run, tap_block = blocking.tap_block;

  const bool packs = blocking.packs;
  const bool packs_slices = blocking.packs_slices && p.prepared == nullptr;
  const PackedColumns<T> packed(p, blocking.packed_bytes());
  const A* weights = packed.data();
  Scratch tap_table(blocking.table_bytes);
  int64_t* offsets = tap_table.as<int64_t>();
  tap_offsets(p, p.weight_strides, offsets);
  if (!packs) weights = reinterpret_cast<const A*>(p.weight) + offsets[0];
  Scratch zero_tap(blocking.zero_bytes);
  memset(zero_tap.as<void>(), 0, blocking.zero_bytes);

  A* dest = reinterpret_cast<A*>(p.dest);
  const A* bias = reinterpret_cast<const A*>(p.bias);
  const int64_t pixel_pitch = p.dest_strides.axis[2];
  parallel_for(p.groups * pixel_blocks * column_parts, 1, [&](int64_t begin, int64_t end) {
    Scratch pointer_table(blocking.pointer_bytes);
    Scratch sum_buffer(blocking.sum_bytes);
    Scratch border(blocking.border_bytes);
    Scratch widened(blocking.widened_bytes);
    Scratch copied(blocking.copied_bytes);
    const PixelPointers<T> pointers{p, blocking.merged, zero_tap.as<T>(), border.as<T>()};
    const T** pixel_rows = pointer_table.as<const T*>();
    const A** tile_rows = reinterpret_cast<const A**>(pixel_rows);
    if (!in_place) tile_rows += pixel_block * taps;
    const T** lines = pixel_rows + pixel_block * taps * (in_place ? 1 : 2);
    A* sums = sum_buffer.as<A>();
    const auto slice_of = [&](int64_t item, int64_t k, int64_t some) {
      const int64_t group = item / (pixel_blocks * column_parts), block = item % column_parts;
      const int64_t column = blocks.begin(block), width = blocks.begin(block + 1) - column;
      return WeightSlice<T>(p, blocking.slices, offsets, group, column, width, k, some);
    };
    int64_t pointed = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / (pixel_blocks * column_parts);
      const int64_t first = item / column_parts % pixel_blocks * pixel_block;
      const int64_t block_begin = item % column_parts * blocking.item_blocks;
      const int64_t block_end = block_begin + blocking.item_blocks;
      const int64_t count = pixels - first < pixel_block ? pixels - first : pixel_block;
      if (pointed != item / column_parts) {
        pointed = item / column_parts;
        pointers.point(p.source + group * p.depth, first, count, lines, pixel_rows);
        if constexpr (!in_place) {
          widen_pixels<T>(pixel_rows, count, taps, depth, pointers.zeros, zero_tap.as<A>(),
                          widened.as<A>(), tile_rows);
        }
      }
      for (int64_t tap = 0; tap < taps; tap += tap_block) {
        const int64_t tap_count = taps - tap < tap_block ? taps - tap : tap_block;
        for (int64_t c = 0; c < depth; c += run) {
          const int64_t channels = depth - c < run ? depth - c : run;
          TileOperands<A> tile{nullptr, c, tap_count, channels, 1, nullptr, 0};
          tile.zeros = zero_tap.as<A>();
          const bool first_slice = tap == 0 && c == 0;
          const bool last_slice = tap + tap_count == taps && c + channels == depth;
          // Rows of a weight in place are pages apart: the first of several tiles copies what
          // others read, of rows that are whole registers, if it reads more than padding itself.
          WeightSlice<T> slice, following;
          bool reads = false;
          for (int r = 0; r < kTileRows && count > kTileRows; ++r) {
            reads |= tile_rows[tap * kTileRows + r] != tile.zeros;
          }
          bool first_copies = !packs && reads;
          if (packs_slices) {
            const int64_t k = tap * depth + c, here = tap_count * channels;
            const int64_t width = blocks.begin(block_end) - blocks.begin(block_begin);
            slice = slice_of(item, k, here);
            first_copies = slice.across && slice.count == width && reads;
            if (!first_copies) slice.pack(copied.as<A>(), width);
            const int64_t next = last_slice ? 0 : k + here, left = inner - next;
            if (!last_slice || item + 1 < end) {
              following = slice_of(last_slice ? item + 1 : item, next, left < here ? left : here);
            }
          }
          for (int64_t i = 0; i < count; i += kTileRows) {
            const int rows = int(count - i < kTileRows ? count - i : kTileRows);
            // Rows are too short for the processor to see where they go. Tiles bring a part of them
            // as they multiply, or before, where they are more lines than products.
            const int64_t index = i / kTileRows - first_copies;
            const int64_t tiles = ceil_div(count, kTileRows) - first_copies;
            const bool evenly = following.lines() <= tiles * tap_count * channels;
            if (!evenly && index >= 0) {
              fetch_rows(following.from, following.step, following.rows, following.count, index,
                         tiles);
            }
            tile.rows = tile_rows + (i * taps + tap * kTileRows);
            for (int64_t block = block_begin; block < block_end; ++block) {
              const int64_t column = blocks.begin(block), width = blocks.begin(block + 1) - column;
              const int64_t channel = group * p.rows + column;
              const Rows<A> to = blocking.stores
                                     ? Rows<A>{dest + first * pixel_pitch + channel, pixel_pitch}
                                     : Rows<A>{sums, width};
              tile.b_step = packs ? width : p.weight_strides.depth;
              tile.b = packs ? weights + (group * padded_rows + column) * inner
                             : weights + group * p.weight_strides.group + column;
              tile.b += (tap * depth + c) * tile.b_step;
              A* panel = copied.as<A>() + (column - blocks.begin(block_begin)) * channels;
              if (packs_slices) tile.b = panel;
              // Or the first columns bring the pixels of the next tile, where these are one run.
              const bool brings = in_place && taps == 1 && channels == depth &&
                                  block == block_begin && i + kTileRows < count;
              tile.fetches = {brings ? tile_rows[i + kTileRows] : nullptr, kTileRows};
              if (evenly && index >= 0 && following.from != nullptr) {
                tile.fetches = following.part(index, tiles);
              }
              tile.copy = nullptr;
              if (first_copies && i > 0) {
                tile.b = panel, tile.b_step = width;
              } else if (first_copies) {
                if (packs_slices) tile.b = slice.in_place(), tile.b_step = slice.step;
                tile.copy = panel;
              }
              const bool ends = blocking.stores && column + width > p.rows;
              tile.last = ends ? p.rows % kLanes<A> : kLanes<A>;
              tile.column_bias =
                  bias != nullptr && last_slice && blocking.stores ? bias + channel : nullptr;
              multiply<A>(tile, to.at(i), to.pitch, !first_slice, rows, int(width / kLanes<A>));
            }
          }
        }
      }
      if (blocking.stores) continue;
      const int64_t column = blocks.begin(block_begin), width = blocks.begin(block_end) - column;
      const int64_t channels = p.rows - column < width ? p.rows - column : width;
      store_pixels(p, group * p.rows + column, channels, first, count, sums, width);
    }
  });
}
