// Strips: what a chunk of destination pixels reads of the source for one kernel line, that is for
// all taps that share their place in depth and height. Copied close together, as accumulators and
// with padding resolved, a strip serves every tap of the line and every tile of the chunk: for the
// weight gradients, which sum over pixels. No im2col exists, and a row of 3 taps is copied once.

/// Where a strip would be so many times longer than what its taps read, each tap has a strip of its
/// own, as if it were a line.
constexpr int64_t kMaxUnread = 8;

/// Destination pixels cut into chunks: whole rows, counted over planes and images, or a part of one
/// row; and the rows of strips under them.
struct Strips {
  const ContractionShape& shape;
  int64_t row_count;    // destination rows in all
  int64_t rows, width;  // of a chunk: one of the two is 1 or everything there is
  int64_t pieces;       // chunks of a row
  int64_t line_taps;    // taps of the width that share a strip: all, or 1 where they lie far apart
  int64_t low, span;    // of those taps, from the first; low is that of the width
  int64_t step;         // positions of a strip from one destination to the next

  struct Chunk {
    int64_t row, rows, x, width;
    int64_t pixels() const { return rows * width; }
  };

  /// The width as a walk from position to position, for the taps of a line.
  struct Line {
    Walk walk;
    int64_t low;
    Inside inside;
  };

  /// Chunks of about `pixels`. Far taps may have strips of their own if `parts` says so.
  Strips(const ContractionShape& of, int64_t pixels, bool parts) : shape(of) {
    const Walk& source = of.walk[2];
    row_count = of.batch * of.walk[0].count * of.walk[1].count;
    pieces = source.count > 2 * pixels ? ceil_div(source.count, pixels) : 1;
    width = ceil_div(source.count, pieces);
    rows = width < pixels ? pixels / width : 1;
    if (pieces > 1) rows = 1;
    rows = even_part(row_count, rows);
    low = source.low();
    span = source.high() - low;
    const int64_t read = width * source.tap_count;
    const bool far = source.positions(width) > kMaxUnread * read;
    line_taps = parts && far ? 1 : source.tap_count;
    if (line_taps == 1) span = 0;
    // One tap skips the positions between destinations.
    step = line_taps == 1 ? 1 : source.step;
  }

  int64_t chunks() const { return ceil_div(row_count, rows) * pieces; }
  Chunk chunk(int64_t index) const {
    const int64_t row = index / pieces * rows, x = index % pieces * width;
    const int64_t rows_left = row_count - row, left = shape.walk[2].count - x;
    return {row, rows_left < rows ? rows_left : rows, x, left < width ? left : width};
  }
  /// The first pixel of a chunk among all.
  int64_t first_pixel(const Chunk& chunk) const {
    return chunk.row * shape.walk[2].count + chunk.x;
  }

  /// Positions of a strip's row under so many destinations, and of the widest.
  int64_t positions(int64_t destinations) const { return (destinations - 1) * step + span + 1; }
  int64_t positions() const { return positions(width); }
  /// Where a tap of a line starts in a strip's row.
  int64_t start(int64_t tap) const {
    return line_taps == 1 ? 0 : shape.walk[2].taps[tap].offset - low;
  }

  /// The destinations of a chunk, counted from its first, for which a tap of a line adds something:
  /// all that do not read zeros.
  Inside reads_inside(int64_t line, int64_t tap, const Chunk& chunk) const {
    const Walk& source = shape.walk[2];
    if (source.mode != PaddingMode::zeros) return {0, chunk.width};
    const int64_t offset = source.taps[first_tap(line) + tap].offset;
    const Inside all{source.inside_begin(offset), source.inside_end(offset)};
    const auto [begin, end] = all.within(chunk.x, chunk.x + chunk.width);
    return {begin - chunk.x, end - chunk.x};
  }

  /// Kernel lines, in the order of the taps.
  int64_t lines() const { return shape.taps() / line_taps; }
  Line line(int64_t index) const {
    const Walk& source = shape.walk[2];
    Line found{source, line_taps == 1 ? source.taps[first_tap(index)].offset : low, {}};
    if (line_taps > 1) found.walk.step = 1;
    found.walk.count = positions(source.count);
    found.inside = {found.walk.inside_begin(found.low), found.walk.inside_end(found.low)};
    return found;
  }

  /// The source row under a destination row for a kernel line, channel 0; null in padding.
  template <class T>
  const T* source_row(const T* source, const Strides& strides, int64_t row, int64_t line) const {
    const Walk *depth = &shape.walk[0], *height = &shape.walk[1];
    const int64_t h = row % height->count, plane = row / height->count, d = plane % depth->count;
    const int64_t of_width = line * line_taps / shape.walk[2].tap_count;
    const Tap& th = height->taps[of_width % height->tap_count];
    const Tap& td = depth->taps[of_width / height->tap_count];
    const int64_t y = height->resolve(h * height->step + th.offset);
    const int64_t z = depth->resolve(d * depth->step + td.offset);
    if (y < 0 || z < 0) return nullptr;
    return source + plane / depth->count * strides.batch + z * strides.axis[0] +
           y * strides.axis[1];
  }

  /// Copies a row of `channels` planes, `strides.channel` elements apart, under destinations
  /// [x, x + count), to every `pitch` elements.
  template <class T>
  void copy_plane_rows(const Line& line, const T* row, const Strides& strides, int64_t channels,
                       int64_t x, int64_t count, int64_t pitch, Accumulator<T>* to) const {
    const int64_t first = x * step, length = positions(count);
#if defined(CNNOPS_TARGET_AVX512)
    const bool dense = line.walk.step == 1 && strides.axis[2] == 1;
    if (dense && line.walk.mode == PaddingMode::zeros && length <= kLanes<Accumulator<T>>) {
      // Rows of a register: padding is what the mask leaves out.
      Inside inside = line.inside.within(first, first + length);
      if (row == nullptr) inside = {first, first};  // nothing is read
      const uint32_t mask = (1u << (inside.end - first)) - (1u << (inside.begin - first));
      const T* from = row + first + line.low;
      for (int64_t c = 0; c < channels; ++c, from += strides.channel, to += pitch) {
        store_partial(to, load_wide_masked(from, mask), length);
      }
      return;
    }
#endif
    for (int64_t c = 0; c < channels; ++c, to += pitch) {
      if (row == nullptr) {
        fill(to, length, Accumulator<T>(0));
      } else {
        gather_run(line.walk, line.inside, line.low, first, length, row + c * strides.channel,
                   strides.axis[2], to);
      }
    }
  }

  /// Copies `channels` neighbouring channels of a row of pixels `stride` apart to every `pitch`
  /// elements.
  template <class T>
  void copy_pixel_row(const Line& line, const T* row, int64_t stride, int64_t channels, int64_t x,
                      int64_t count, int64_t pitch, Accumulator<T>* to) const {
    gather_pixels(line.walk, line.inside, line.low, x * step, positions(count), row, stride,
                  channels, pitch, to);
  }

 private:
  /// The first tap of the width of a line.
  int64_t first_tap(int64_t line) const {
    return line_taps == 1 ? line % shape.walk[2].tap_count : 0;
  }
};
