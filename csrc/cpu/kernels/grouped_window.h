// Grouped convolution in channels_last: a window that slides along the width.
//
// Pixel i reads for tap t what pixel i + 1 reads for tap t - step, `step` being the stride of the
// width. So kWindowPixels pixels keep a window of as many source registers, for every step-th tap:
// a tap loads one of them and one of weights for kWindowPixels FMAs, and shuffles it once where
// groups have several channels. The window does not move through registers: the loop over taps is
// unrolled so that its oldest register is known. Dilated taps share what they read with every
// dilation-th pixel, and those are a row of their own (PixelRows). Pixels whose taps all read
// inside the source go along it; for the others what a position of the width reads, also in
// padding, is looked up in a table.
//
// A register of channels is read and stored a pixel apart, an order that the processor's
// prefetchers do not follow. Where the tensors are too large for the caches, what the next block
// is the first to read, and what it stores, is fetched while the registers of a block are summed,
// in the order of memory: up to 2.3 times as fast. In cache that loses up to a fifth.

/// With 32 registers 8 accumulators, 8 of the window and one of weights; with 16 half of that.
constexpr int kWindowPixels = CNNOPS_VECTOR_BYTES == 64 ? 8 : 4;

/// Fewer pixels of a row share too little.
constexpr int kLeastSharing = kWindowPixels - 1;

/// The destinations of a width as rows of pixels that share what they read. Destination i reads for
/// tap t position i * step + t * distance. So those of a row are sharing_distance() apart, and
/// their positions `distance`: one row without dilation. Where rows would have too few pixels, or
/// taps have nothing in common, all destinations are one whose pixels each have positions of their
/// own.
struct PixelRows {
  int64_t taps;
  int64_t distance;          // of the source, from tap to tap
  int64_t pixel;             // the same from pixel to pixel of a row
  int64_t count = 1;         // rows
  int64_t shortest, longer;  // pixels of a row, and how many rows have one more
  int64_t step;              // of the positions that are listed, those from pixel to pixel

  explicit PixelRows(const Walk& width)
      : taps(width.tap_count), distance(width.tap_distance()), pixel(width.step), step(taps) {
    const int64_t sharing = width.sharing_distance(), skipped = width.step / (distance / sharing);
    if (skipped < taps && sharing <= width.count / kLeastSharing) {
      count = sharing, step = skipped, pixel = width.step * sharing;
    }
    shortest = width.count / count, longer = width.count % count;
  }

  /// Pixels of a row.
  int64_t pixels(int64_t row) const { return row < longer ? shortest + 1 : shortest; }
  /// What they read, and what all rows do.
  int64_t positions(int64_t row) const { return (pixels(row) - 1) * step + taps; }
  int64_t positions() const { return count * positions(count - 1) + longer * step; }

  /// Element offsets in a line of what the rows read, from the lowest tap of their first pixel on;
  /// -1 for zeros.
  void fill(const Walk& width, int64_t stride, int64_t* to) const {
    const int64_t low = width.low();
    for (int64_t row = 0; row < count; ++row) {
      int64_t first = low + row * width.step;
      const int64_t last = pixels(row) - 1;
      for (int64_t i = 0; i <= last; ++i, first += pixel) {
        const int64_t some = i < last ? step : taps;
        for (int64_t t = 0; t < some; ++t) {
          const int64_t position = width.resolve(first + t * distance);
          *to++ = position < 0 ? -1 : position * stride;
        }
      }
    }
  }
};

/// How a window reads: along a source that all of it lies in, through the table, or through the
/// table and fewer channels than a register has.
enum class WindowReads { inside, anywhere, partly };

/// Whether source and destination of so many elements are fetched ahead.
constexpr int64_t kWindowFetchBytes = 6 << 20;
template <class T>
constexpr bool window_fetches(int64_t elements) {
  return elements * int64_t(sizeof(T)) > kWindowFetchBytes;
}

/// Fetches part `part` of `parts` of a run, to be written if kToWrite. Inlined, as GCC drops calls
/// that have no effect.
template <int kToWrite, class T>
[[gnu::always_inline]] inline void fetch_part(const T* from, int64_t run, int64_t part,
                                              int64_t parts) {
  const int64_t share = ceil_div(run, parts);
  for (int64_t i = 0; i < share; i += 64 / int64_t(sizeof(T))) {
    __builtin_prefetch(from + part * share + i, kToWrite);
  }
}

/// What a (depth, height) tap reads, and the weights of its taps of the width.
template <class T>
struct WindowLine {
  const T* source;
  const Accumulator<T>* weight;
};

/// The source of some pixels of a destination row.
template <class T>
struct Window {
  const WindowLine<T>* lines;  // those that are not padding
  int64_t line_count;
  const int64_t* positions;  // of PixelRows, from what the first pixel reads for the lowest tap on
  int64_t taps;              // of the width
  int64_t first;             // of those that are added
  int64_t step;              // positions from pixel to pixel
  int64_t turns;             // in which every step-th tap is added:
  int64_t whole, rest;       // `whole` taps, and one more in the first `rest` turns
  int64_t position, pixel;   // elements from position to position inside the source, and from pixel
                             // to pixel
  const T* zeros;            // a pixel of zeros
  bool fetches;              // what the next block reads and stores
  int64_t share = 0, shares = 1;  // of that, as pixels lie between each other
  const T* const* fresh;          // those of the lines that no destination row before has read
  int64_t fresh_count;
  int64_t column;  // elements from a line to what the first pixel reads for the lowest tap

  /// Whether all that so many pixels read lies inside the source.
  bool reads_inside(int64_t pixels) const {
    const int64_t last = (pixels - 1) * step + taps - 1;
    const int64_t span = (pixels - 1) * pixel + (taps - 1) * position;
    return positions[0] >= 0 && positions[last] - positions[0] == span;
  }

  /// Leaves out the lowest and highest taps for which so many neighbours read nothing but zeros.
  void drop_padding(int64_t pixels) {
    if (turns == taps) {
      while (turns > 1 && reads_zeros(pixels, turns - 1)) --turns;
      while (turns > 1 && reads_zeros(pixels, 0)) ++first, ++positions, --turns;
    } else if (turns == 1) {
      while (whole > 1 && reads_zeros(pixels, whole - 1)) --whole;
      while (whole > 1 && reads_zeros(pixels, 0)) ++first, ++positions, --whole;
    }
  }
  /// Whether so many pixels read only zeros for a tap.
  bool reads_zeros(int64_t pixels, int64_t tap) const {
    bool zeros = true;
    for (int64_t i = 0; i < pixels; ++i) zeros &= positions[i * step + tap] < 0;
    return zeros;
  }

  /// Fetches part `part` of `parts` of the lines that so many pixels after the first `pixels` are
  /// the first to read, and of what they store from `to` on. Out of line, as it costs the loop that
  /// calls it its registers; the empty statement keeps GCC from dropping it.
  [[gnu::noinline]] void fetch_next(int64_t pixels, T* to, int64_t to_pixel, int64_t part,
                                    int64_t parts) const {
    asm volatile("");
    for (int64_t i = 0; i < fresh_count; ++i) {
      const int64_t run = pixels * pixel;
      fetch_part<0>(fresh[i] + column + run, run, part, parts);
    }
    fetch_part<1>(to + pixels * to_pixel, pixels * to_pixel, part, parts);
  }
};

/// sums += every step-th tap of one line from `first` on, for source channels kChannel and on of
/// every group. `c` is the first channel; the weights of (tap, source channel) are `pitch` elements
/// apart, taps ascending. Inlined, so that sums are registers.
template <class T, int kGroup, int kChannel, int kPixels, WindowReads kReads>
[[gnu::always_inline]] inline void slide(const Window<T>& in, const T* line, int64_t first,
                                         const Accumulator<T>* weight, int64_t pitch, int64_t c,
                                         int64_t count, Vec<Accumulator<T>> (&sums)[kPixels]) {
  using A = Accumulator<T>;
  const int64_t* positions = in.positions + first;
  const T* inside = kReads == WindowReads::inside ? line + *positions + c : nullptr;
  const int64_t step = in.step, pixel = in.pixel;
  const auto next = [&] {
    if constexpr (kReads == WindowReads::inside) {
      const T* from = inside;
      inside += pixel;
      return spread<A, kGroup, kChannel>(load_wide(from));
    }
    const int64_t position = *positions;
    positions += step;
    const T* from = (position < 0 ? in.zeros : line + position) + c;
    return spread<A, kGroup, kChannel>(kReads == WindowReads::partly ? load_partial(from, count)
                                                                     : load_wide(from));
  };
  Vec<A> window[kPixels];
#pragma GCC unroll 8
  for (int i = 0; i < kPixels - 1; ++i) window[i] = next();
  const A* at = weight + (first * kGroup + kChannel) * pitch;
  const int64_t taps = in.whole + (first < in.rest ? 1 : 0);
  const int64_t weight_step = step * kGroup * pitch;
  for (int64_t t = 0; t < taps; t += kPixels) {
#pragma GCC unroll 8
    for (int u = 0; u < kPixels; ++u) {
      if (t + u == taps) break;
      window[(u + kPixels - 1) % kPixels] = next();
      const Vec<A> value = load(at);
      at += weight_step;
#pragma GCC unroll 8
      for (int i = 0; i < kPixels; ++i) sums[i] += value * window[(u + i) % kPixels];
    }
  }
  if constexpr (kChannel + 1 < kGroup) {
    slide<T, kGroup, kChannel + 1, kPixels, kReads>(in, line, first, weight, pitch, c, count, sums);
  }
}

/// A register of channels from `c` on, of kPixels pixels; or its first `count`.
template <class T, int kGroup, int kPixels, WindowReads kReads>
inline void window_block(const Window<T>& in, const Accumulator<T>* bias, int64_t pitch, int64_t c,
                         int64_t count, T* to, int64_t to_pixel) {
  using A = Accumulator<T>;
  Vec<A> sums[kPixels];
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i) sums[i] = load(bias + c);
  const int64_t of_first = in.first * kGroup * pitch + c;
  const WindowLine<T>* end = in.lines + in.line_count;
  for (const WindowLine<T>* line = in.lines; line < end; ++line) {
    for (int64_t first = 0; first < in.turns; ++first) {
      slide<T, kGroup, 0, kPixels, kReads>(in, line->source, first, line->weight + of_first, pitch,
                                           c, count, sums);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i) {
    T* out = to + i * to_pixel + c;
    if (kReads == WindowReads::partly) {
      store_partial(out, sums[i], count);
    } else {
      store_narrow(out, sums[i]);
    }
  }
}

/// All channels of kPixels pixels. The last register overlaps the one before.
template <class T, int kGroup, int kPixels>
inline void window_pixels(const Window<T>& in, const Accumulator<T>* bias, int64_t pitch,
                          int64_t channels, T* to, int64_t to_pixel) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  if (channels < lanes) {
    return window_block<T, kGroup, kPixels, WindowReads::partly>(in, bias, pitch, 0, channels, to,
                                                                 to_pixel);
  }
  const auto all_channels = [&]<WindowReads kReads>(const Window<T>& window) {
    const int64_t registers = ceil_div(channels, lanes);
    for (int64_t i = 0, c = 0; i < registers; ++i, c += lanes) {
      if (__builtin_expect(in.fetches, false)) {
        in.fetch_next(kPixels, to, to_pixel, in.share * registers + i, in.shares * registers);
      }
      const int64_t at = c + lanes <= channels ? c : channels - lanes;
      window_block<T, kGroup, kPixels, kReads>(window, bias, pitch, at, 0, to, to_pixel);
    }
  };
  if (in.reads_inside(kPixels)) {
    all_channels.template operator()<WindowReads::inside>(in);
  } else {
    Window<T> window = in;
    window.drop_padding(kPixels);
    all_channels.template operator()<WindowReads::anywhere>(window);
  }
}

/// Pixels of the blocks of a row of `count`: most of a window, but one less where that computes
/// fewer again.
inline int64_t block_pixels(int64_t count) {
  int64_t pixels = kWindowPixels;
#if CNNOPS_VECTOR_BYTES == 64
  if (count >= 7 && round_up(count, 7) < round_up(count, 8)) return 7;
#endif
  while (pixels > count) pixels /= 2;
  return pixels;
}

/// All pixels of a destination row, blocks of those that lie between each other in turns; `in` is
/// the window of the first. The last block of pixels overlaps the one before it where some are left
/// over: it computes the same again.
template <class T, int kGroup>
inline void window_rows(Window<T> in, const PixelRows& rows, const Accumulator<T>* bias,
                        int64_t pitch, int64_t channels, T* to, int64_t to_pixel) {
  const int64_t* positions = in.positions;
  const int64_t column = in.column, of_row = rows.count * to_pixel;
  const int64_t of_shortest = block_pixels(rows.shortest);
  const int64_t of_longer = block_pixels(rows.shortest + 1);
  in.shares = rows.count;
  bool left = true;
  for (int64_t block = 0; left; ++block) {
    left = false;
    const int64_t* of_first = positions;
    for (int64_t row = 0; row < rows.count; of_first += rows.positions(row), ++row) {
      const int64_t count = rows.pixels(row), pixels = row < rows.longer ? of_longer : of_shortest;
      const int64_t wanted = block * pixels, last = count - pixels;
      if (wanted >= count) continue;
      left |= wanted < last;
      const int64_t at = wanted < last ? wanted : last;
      in.positions = of_first + at * in.step;
      in.column = column + at * in.pixel;
      in.share = row;
      T* out = to + row * to_pixel + at * of_row;
      switch (pixels) {
        case 1: window_pixels<T, kGroup, 1>(in, bias, pitch, channels, out, of_row); break;
        case 2: window_pixels<T, kGroup, 2>(in, bias, pitch, channels, out, of_row); break;
        case 4: window_pixels<T, kGroup, 4>(in, bias, pitch, channels, out, of_row); break;
#if CNNOPS_VECTOR_BYTES == 64
        case 7: window_pixels<T, kGroup, 7>(in, bias, pitch, channels, out, of_row); break;
        default: window_pixels<T, kGroup, 8>(in, bias, pitch, channels, out, of_row); break;
#endif
      }
    }
  }
}
