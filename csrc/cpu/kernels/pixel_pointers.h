// Where the pixels of channels_last tensors lie: the place of a destination pixel, and for each
// pixel and tap a pointer to the source pixel that it reads, to a row of zeros for padding. With
// few source channels (images) the taps of a kernel row, which lie side by side in the source,
// count as one tap of more channels.

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
