// The source of a block of destination pixels as kernels want it that broadcast its elements: with
// padding resolved, as accumulators, at even distances.
//
// Where a tensor is all that already it is read in place. Else the source rows and positions under
// the block are copied for one group: planar tensors as planes, channels_last ones pixel by pixel,
// so that a copy moves whole runs in either layout. A few planes are interleaved to pixels as well,
// so that all that a pixel reads of a row is one run and not one for each tap.

/// A copied block and what meets it stay in L2.
constexpr int64_t kSourceBlockBytes = 128 << 10;

/// Where blocks have no halo, as much as L1 keeps beside weights and results.
constexpr int64_t kSourceTileBytes = 16 << 10;

/// Destination pixels of a block, of one row or several: their sums in scratch stay in L2 as well.
/// The plan bounds rows by it too (kWidestBlock).
constexpr int64_t kBlockPixels = 1024;

/// Blocks that are cut for several threads have at least so many.
constexpr int64_t kLeastPixels = 96;

/// Most planes that are interleaved: a register of pixels takes a shuffle for each plane. The plan
/// asks for it too (kMaxInterleavedPlanes).
constexpr int64_t kMaxInterleaved = 4;

/// to[i * kRows + c] = from[c * pitch + i] for `count` positions i, rounded up to whole registers
/// on both sides.
template <int kRows, class A>
inline void interleave_rows(const A* from, int64_t pitch, int64_t count, A* to) {
  constexpr int lanes = kLanes<A>;
  for (int64_t i = 0; i < count; i += lanes, to += kRows * lanes) {
    Vec<A> all[kRows];
    for (int c = 0; c < kRows; ++c) all[c] = load(from + c * pitch + i);
    interleave_all<kRows, A>(all);
    for (int c = 0; c < kRows; ++c) store(to + c * lanes, all[c]);
  }
}

/// The same for 2 to kMaxInterleaved rows.
template <class A>
inline void interleave_rows(int64_t rows, const A* from, int64_t pitch, int64_t count, A* to) {
  switch (rows) {
    case 2: return interleave_rows<2>(from, pitch, count, to);
    case 3: return interleave_rows<3>(from, pitch, count, to);
    default: return interleave_rows<4>(from, pitch, count, to);
  }
}

/// Destination rows [h, h + rows) and pixels [w, w + width) of them.
struct PixelBlock {
  int64_t image, d, h, w, rows, width;
};

/// How blocks are cut and lie.
struct SourceBlockLayout {
  bool in_place, planar;
  bool interleaved;     // planes, few enough, as pixels
  int64_t rows, width;  // destination rows and pixels of a row, at most
  int64_t low[2];       // smallest tap offset of height and width
  int64_t span[2];      // largest minus smallest
  Strides strides;      // of the copied block, or of the source
  int64_t line;         // elements of a row of a plane before it is interleaved
  int64_t elements;     // of a copied block, and behind it the rows that are interleaved
  Walk positions;       // the width with all its positions, at step 1
  Inside inside;        // of those that the source has

  /// Blocks that are read in place have at most `in_place_pixels`.
  template <class T>
  static SourceBlockLayout make(const ContractionShape& shape, const Strides& source,
                                int64_t in_place_pixels = kBlockPixels) {
    using A = Accumulator<T>;
    const Walk* walk = shape.walk;
    SourceBlockLayout layout;
    layout.planar = source.channel != 1 || shape.depth == 1;
    layout.interleaved =
        layout.planar && walk[2].tap_count > 1 && shape.depth > 1 && shape.depth <= kMaxInterleaved;
    layout.in_place = __is_same(T, A) && !layout.interleaved && walk[0].reads_inside() &&
                      walk[1].reads_inside() && walk[2].reads_inside();
    // Blocks for threads, but copied ones that share rows: only as many as a few threads want.
    const bool apart = layout.in_place || is_pointwise(shape);
    const int64_t all = shape.batch * shape.groups * shape.pixels();
    const int64_t wanted = ceil_div(all, apart ? kWantedItems : kFewItems);
    const int64_t of_l1 = kSourceTileBytes / int64_t(sizeof(A) * shape.depth);
    const int64_t bound = layout.in_place ? in_place_pixels : apart ? of_l1 : kBlockPixels;
    const int64_t fit = wanted < bound ? wanted : bound;
    const int64_t most = fit < kLeastPixels ? kLeastPixels : fit;
    layout.width = even_part(walk[2].count, apart ? most : kBlockPixels);
    for (int i = 0; i < 2; ++i) {
      layout.low[i] = walk[1 + i].low();
      layout.span[i] = walk[1 + i].high() - layout.low[i];
    }
    layout.positions = walk[2];
    layout.positions.step = 1;
    layout.positions.count = walk[2].positions(walk[2].count);
    layout.inside = {layout.positions.inside_begin(layout.low[1]),
                     layout.positions.inside_end(layout.low[1])};

    const int64_t row = walk[2].positions(layout.width);
    layout.rows = most / layout.width;
    if (!layout.in_place) {
      const int64_t row_bytes = sizeof(A) * row * shape.depth * walk[0].tap_count;
      const int64_t above = kSourceBlockBytes / row_bytes - layout.span[0] - 1;
      const int64_t fit = above < 0 ? 1 : above / walk[1].step + 1;
      if (layout.rows > fit) layout.rows = fit;
    }
    if (layout.rows < 1) layout.rows = 1;
    // Blocks of about the same height, and as many for one thread as for another.
    const int64_t blocks = ceil_div(walk[1].count, layout.rows);
    layout.rows = ceil_div(walk[1].count, blocks > 1 ? round_up(blocks, 2) : 1);
    const int64_t rows = walk[1].positions(layout.rows);
    layout.elements = layout.in_place ? 0 : shape.depth * walk[0].tap_count * rows * row;
    // Rows of planes, and as much room where the last interleaved row fills up its registers.
    layout.line = layout.interleaved ? round_up(row, kLanes<A>) : 0;
    layout.elements += 2 * shape.depth * layout.line;
    layout.strides = source;
    if (layout.in_place) return layout;
    const bool planes = layout.planar && !layout.interleaved;
    const int64_t pixel = planes ? 1 : shape.depth;
    layout.strides.axis[2] = pixel;
    layout.strides.axis[1] = row * pixel;
    layout.strides.axis[0] = rows * row * pixel;
    layout.strides.channel = planes ? walk[0].tap_count * layout.strides.axis[0] : 1;
    return layout;
  }

  /// Elements from what the first destination pixel of a block reads for its lowest taps to what it
  /// reads for this one.
  int64_t tap(const ContractionShape& shape, int64_t td, int64_t th, int64_t tw) const {
    const Walk* walk = shape.walk;
    const int64_t plane = in_place ? walk[0].taps[td].offset : td;
    return plane * strides.axis[0] + (walk[1].taps[th].offset - low[0]) * strides.axis[1] +
           (walk[2].taps[tw].offset - low[1]) * strides.axis[2];
  }

  /// In place: what the first pixel of a block reads for its lowest taps; `source` is channel 0 of
  /// the group in image 0.
  template <class T>
  const T* first(const ContractionShape& shape, const T* source, const PixelBlock& block) const {
    const Walk* walk = shape.walk;
    return source + block.image * strides.batch + block.d * walk[0].step * strides.axis[0] +
           (block.h * walk[1].step + low[0]) * strides.axis[1] +
           (block.w * walk[2].step + low[1]) * strides.axis[2];
  }
};

/// The blocks of a batch, in order.
struct PixelBlocks {
  const ContractionShape& shape;
  const SourceBlockLayout& layout;

  int64_t of_width() const { return ceil_div(shape.walk[2].count, layout.width); }
  int64_t of_height() const { return ceil_div(shape.walk[1].count, layout.rows); }
  int64_t of_image() const { return of_width() * of_height() * shape.walk[0].count; }

  PixelBlock at(int64_t index) const {
    const int64_t w = index % of_width() * layout.width, row = index / of_width();
    const int64_t h = row % of_height() * layout.rows, plane = row / of_height();
    const int64_t rows = shape.walk[1].count - h, width = shape.walk[2].count - w;
    return {plane / shape.walk[0].count,
            plane % shape.walk[0].count,
            h,
            w,
            rows < layout.rows ? rows : layout.rows,
            width < layout.width ? width : layout.width};
  }
};

/// Copies the source of `block`; `source` is channel 0 of the group in image 0.
template <class T>
void copy_source_block(const ContractionShape& shape, const SourceBlockLayout& layout,
                       const T* source, const Strides& from, const PixelBlock& block,
                       Accumulator<T>* to) {
  using A = Accumulator<T>;
  const Walk* walk = shape.walk;
  const int64_t rows = (block.rows - 1) * walk[1].step + layout.span[0] + 1;
  const int64_t positions = (block.width - 1) * walk[2].step + layout.span[1] + 1;
  const int64_t x = block.w * walk[2].step;
  // Channels go one by one or, as parts of pixels, all together.
  const int64_t channels = layout.planar ? shape.depth : 1;
  const int64_t depth = layout.planar ? 1 : shape.depth;
  A* planes = to + layout.elements - channels * layout.line;
  for (int64_t td = 0; td < walk[0].tap_count; ++td) {
    const int64_t z = walk[0].resolve(block.d * walk[0].step + walk[0].taps[td].offset);
    A* out = to + td * layout.strides.axis[0];
    for (int64_t r = 0; r < rows; ++r, out += layout.strides.axis[1]) {
      const int64_t y = walk[1].resolve(block.h * walk[1].step + layout.low[0] + r);
      const T* row = source + block.image * from.batch + z * from.axis[0] + y * from.axis[1];
      for (int64_t c = 0; c < channels; ++c, row += from.channel) {
        A* line = layout.interleaved ? planes + c * layout.line : out + c * layout.strides.channel;
        if (z < 0 || y < 0) {
          fill(line, positions * depth, A(0));
        } else if (layout.planar) {
          gather_run(layout.positions, layout.inside, layout.low[1], x, positions, row,
                     from.axis[2], line);
        } else {
          gather_pixels(layout.positions, layout.inside, layout.low[1], x, positions, row,
                        from.axis[2], depth, depth, line);
        }
      }
      if (layout.interleaved) interleave_rows(channels, planes, layout.line, positions, out);
    }
  }
}

/// The source of `block` for a group, in place or in `copied`, from what its first pixel reads for
/// the lowest taps on.
template <class T>
const Accumulator<T>* source_of_block(const ContractionShape& shape,
                                      const SourceBlockLayout& layout, const T* source,
                                      const Strides& strides, int64_t group,
                                      const PixelBlock& block, Accumulator<T>* copied) {
  const T* channels = source + group * shape.depth * strides.channel;
  if (layout.in_place) {
    return reinterpret_cast<const Accumulator<T>*>(layout.first(shape, channels, block));
  }
  copy_source_block(shape, layout, channels, strides, block, copied);
  return copied;
}

/// How the elements of K, in the order (tap, channel), lie in a source block: runs at even
/// distances.
struct SourceRuns {
  int64_t run, step;  // elements of a run, distance of two
  int64_t count;      // of runs

  SourceRuns(const ContractionShape& shape, const SourceBlockLayout& layout) {
    const Walk& width = shape.walk[2];
    const int64_t taps_w = width.tap_count, pixel = layout.strides.axis[2];
    const int64_t distance = taps_w > 1 ? width.taps[1].offset - width.taps[0].offset : 1;
    const bool pixels_join = layout.strides.channel == 1 && distance * pixel == shape.depth;
    const bool joins = shape.depth == 1 || pixels_join;
    run = shape.depth * (joins ? taps_w : 1);
    step = shape.depth == 1 ? distance * pixel : layout.strides.channel;
    count = shape.taps() / (joins ? taps_w : 1);
  }

  /// Where they start.
  void point(const ContractionShape& shape, const SourceBlockLayout& layout, int64_t* to) const {
    const Walk* walk = shape.walk;
    const int64_t apart = shape.taps() / count;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t tap = i * apart, rest = tap / walk[2].tap_count;
      to[i] = layout.tap(shape, rest / walk[1].tap_count, rest % walk[1].tap_count,
                         tap % walk[2].tap_count);
    }
  }
};
