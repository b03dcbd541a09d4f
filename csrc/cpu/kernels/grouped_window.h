// Grouped convolution in channels_last with dense taps along the width: a window that slides.
//
// Where the taps of the width are neighbours, pixel i reads for tap t what pixel i + 1 reads for
// tap t - step, `step` being the stride of the width. So kWindowPixels pixels keep a window of as
// many source registers, for every step-th tap: a tap loads one of them and one of weights for
// kWindowPixels FMAs, and shuffles it once where groups have several channels. The window does not
// move through registers: the loop over taps is unrolled so that its oldest register is known.
// Pixels whose taps all read inside the source go along it; for the others what a position of the
// width reads, also in padding, is looked up in a table.
//
// A register of channels is read and stored a pixel apart, an order that the processor's
// prefetchers do not follow. Where the tensors are too large for the caches, what the next block
// is the first to read, and what it stores, is fetched while the registers of a block are summed,
// in the order of memory: up to 2.3 times as fast. In cache that loses up to a fifth.

/// With 32 registers 8 accumulators, 8 of the window and one of weights; with 16 half of that.
constexpr int kWindowPixels = CNNOPS_VECTOR_BYTES == 64 ? 8 : 4;

/// Whether the taps of a width read neighbours, in ascending or descending order, and destinations
/// leave none of them out.
inline bool taps_are_neighbours(const Walk& width) {
  if (width.step > width.tap_count) return false;
  const int64_t step = width.tap_count > 1 ? width.taps[1].offset - width.taps[0].offset : 1;
  if (step != 1 && step != -1) return false;
  for (int64_t t = 0; t < width.tap_count; ++t) {
    if (width.taps[t].offset != width.taps[0].offset + t * step) return false;
  }
  return true;
}

/// What the positions of a width read, from the lowest one on: element offsets in a line, or -1
/// for zeros. There are width.positions(width.count).
inline void fill_positions(const Walk& width, int64_t stride, int64_t* to) {
  const int64_t low = width.low(), count = width.positions(width.count);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t position = width.resolve(low + i);
    to[i] = position < 0 ? -1 : position * stride;
  }
}

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

/// The source of some pixels of a destination row.
template <class T>
struct Window {
  const T* const* lines;  // for each (depth, height) tap, null where padding
  int64_t line_count;
  const int64_t* positions;  // from what the first pixel reads for the lowest tap on
  int64_t line_taps;         // of the width
  int64_t first, taps;       // of those, the ones that are added
  int64_t step;              // positions from pixel to pixel
  int64_t whole, rest;       // every step-th tap is `whole` taps, and one more for the first `rest`
  int64_t position;          // elements from position to position inside the source
  const T* zeros;            // a pixel of zeros
  bool fetches;              // what the next block reads and stores
  const T* const* fresh;     // those of the lines that no destination row before has read
  int64_t fresh_count;
  int64_t column;  // elements from a line to what the first pixel reads for the lowest tap

  /// Whether all that so many pixels read lies inside the source.
  bool reads_inside(int64_t pixels) const {
    const int64_t last = (pixels - 1) * step + taps - 1;
    return positions[0] >= 0 && positions[last] - positions[0] == last * position;
  }

  /// Leaves out the lowest and highest taps for which so many neighbours read nothing but zeros.
  void drop_padding(int64_t pixels) {
    const int64_t count = pixels + taps - 1;
    int64_t low = 0, high = count;
    while (low < count && positions[low] < 0) ++low;
    while (high > low && positions[high - 1] < 0) --high;
    if (step != 1 || low == high) return;
    first = low < pixels ? 0 : low - pixels + 1;
    taps = whole = (high < taps ? high : taps) - first;
    positions += first;
  }

  /// Fetches part `part` of `parts` of the lines that so many pixels after the first `pixels` are
  /// the first to read, and of what they store from `to` on. Out of line, as it costs the loop that
  /// calls it its registers; the empty statement keeps GCC from dropping it.
  [[gnu::noinline]] void fetch_next(int64_t pixels, T* to, int64_t to_pixel, int64_t part,
                                    int64_t parts) const {
    asm volatile("");
    for (int64_t i = 0; i < fresh_count; ++i) {
      const int64_t run = pixels * step * position;
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
  const int64_t step = in.step, inside_step = step * in.position;
  const auto next = [&] {
    if constexpr (kReads == WindowReads::inside) {
      const T* from = inside;
      inside += inside_step;
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
inline void window_block(const Window<T>& in, const Accumulator<T>* weight,
                         const Accumulator<T>* bias, int64_t pitch, int64_t c, int64_t count, T* to,
                         int64_t to_pixel) {
  using A = Accumulator<T>;
  Vec<A> sums[kPixels];
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i) sums[i] = load(bias + c);
  for (int64_t line = 0; line < in.line_count; ++line) {
    if (in.lines[line] == nullptr) continue;
    const Accumulator<T>* of_line = weight + (line * in.line_taps + in.first) * kGroup * pitch + c;
    for (int64_t first = 0; first < in.step; ++first) {
      slide<T, kGroup, 0, kPixels, kReads>(in, in.lines[line], first, of_line, pitch, c, count,
                                           sums);
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
inline void window_pixels(const Window<T>& in, const Accumulator<T>* weight,
                          const Accumulator<T>* bias, int64_t pitch, int64_t channels, T* to,
                          int64_t to_pixel) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  if (channels < lanes) {
    return window_block<T, kGroup, kPixels, WindowReads::partly>(in, weight, bias, pitch, 0,
                                                                 channels, to, to_pixel);
  }
  const auto all_channels = [&]<WindowReads kReads>(const Window<T>& window) {
    const int64_t registers = ceil_div(channels, lanes);
    for (int64_t i = 0, c = 0; i < registers; ++i, c += lanes) {
      if (__builtin_expect(in.fetches, false)) in.fetch_next(kPixels, to, to_pixel, i, registers);
      const int64_t at = c + lanes <= channels ? c : channels - lanes;
      window_block<T, kGroup, kPixels, kReads>(window, weight, bias, pitch, at, 0, to, to_pixel);
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

/// A destination row of `count` pixels; `in` is the window of its first pixel. The last block of
/// pixels overlaps the one before it where some are left over: it computes the same again.
template <class T, int kGroup>
inline void window_row(Window<T> in, const Accumulator<T>* weight, const Accumulator<T>* bias,
                       int64_t pitch, int64_t channels, int64_t count, T* to, int64_t to_pixel) {
  const int64_t* positions = in.positions;
  const int64_t pixels = block_pixels(count), column = in.column;
  for (int64_t w = 0; w < count; w += pixels) {
    const int64_t at = w + pixels <= count ? w : count - pixels;
    in.positions = positions + at * in.step;
    in.column = column + at * in.step * in.position;
    T* out = to + at * to_pixel;
    switch (pixels) {
      case 1: window_pixels<T, kGroup, 1>(in, weight, bias, pitch, channels, out, to_pixel); break;
      case 2: window_pixels<T, kGroup, 2>(in, weight, bias, pitch, channels, out, to_pixel); break;
      case 4: window_pixels<T, kGroup, 4>(in, weight, bias, pitch, channels, out, to_pixel); break;
#if CNNOPS_VECTOR_BYTES == 64
      case 7: window_pixels<T, kGroup, 7>(in, weight, bias, pitch, channels, out, to_pixel); break;
      default: window_pixels<T, kGroup, 8>(in, weight, bias, pitch, channels, out, to_pixel); break;
#endif
    }
  }
}
