// The register tile of broadcast_pixels.h for a single register of columns whose rows, pixels, read
// what their neighbours read for the next tap.
//
// With one register of columns every FMA takes a broadcast of its own, and loads are the limit. But
// where neighbouring pixels read neighbouring positions, by neighbouring taps, a position belongs
// to as many pixels as there are taps: broadcast once, it is multiplied with the weights of all of
// them. Three taps at a time leave registers for more sums than it takes to hide the latency of
// an FMA.

constexpr int kSlidingTaps = 3;

/// Most pixels of a tile: more gain little, and with 16 registers there is room for no more beside
/// weights and broadcasts.
constexpr int kSlidingPixels = CNNOPS_VECTOR_BYTES == 64 ? 20 : 11;

/// Operands of one tile; there is at least one line and one k.
template <class A>
struct SlidingOperands {
  const A* a;            // what pixel 0 reads for the lowest tap
  int64_t pixel;         // elements from pixel to pixel, and from tap to tap
  const int64_t* lines;  // where each kernel row starts, in elements from `a`
  int64_t line_count;
  int64_t taps;            // of a line
  int64_t depth;           // positions k of a tap
  int64_t k_step;          // elements from one k to the next
  const A* b;              // [line_count][taps, the lowest first][depth] registers
  int64_t fetch_step = 0;  // elements of what follows the result that each step of a tile brings

  /// Steps of a tile.
  int64_t steps() const { return line_count * ceil_div(taps, kSlidingTaps) * depth; }
};

/// sum += kTaps taps of a line, the lowest of which is at `a` and `b`.
template <class T, bool kFetches, int kTaps, int kPixels, class A>
inline void slide_taps(const SlidingOperands<A>& in, const A* a, const A* b, const T*& fetch,
                       Vec<A> (&sum)[kPixels]) {
  constexpr int lanes = kLanes<A>, positions = kPixels + kTaps - 1;
  const int64_t one = in.pixel, two = 2 * one, three = 3 * one;
  // As in affine_tile.h.
  const A* fourth[(positions + 3) / 4];
#pragma GCC unroll 8
  for (int i = 0; i < positions; i += 4) fourth[i / 4] = a + i * one;
  int64_t k = 0;
  do {
    Vec<A> weight[kTaps];
#pragma GCC unroll 4
    for (int t = 0; t < kTaps; ++t) {
      weight[t] = load(b + t * in.depth * lanes);
      load_once<kPixels, A>(weight[t]);
      if constexpr (kFetches) __builtin_prefetch(fetch + t * lanes, 1);
    }
    if constexpr (kFetches) fetch += in.fetch_step;
#pragma GCC unroll 32
    for (int i = 0; i < positions; ++i) {
      const int64_t distance = i % 4 == 0 ? 0 : i % 4 == 1 ? one : i % 4 == 2 ? two : three;
      const Vec<A> value = broadcast(fourth[i / 4][distance]);
#pragma GCC unroll 4
      for (int t = 0; t < kTaps; ++t) {
        if (i >= t && i - t < kPixels) sum[i - t] += value * weight[t];
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < positions; i += 4) {
      fourth[i / 4] += in.k_step;
      asm("" : "+r"(fourth[i / 4]));
    }
    b += lanes;
  } while (++k < in.depth);
}

/// Brings what follows its result if kFetches.
template <class T, bool kFetches, int kPixels>
void multiply_sliding_tile(const SlidingOperands<Accumulator<T>>& in, const AffineResult<T>& out) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kPixels];
#pragma GCC unroll 32
  for (int i = 0; i < kPixels; ++i) sum[i] = load(out.add + i * out.add_pitch);
  const T* fetch = out.c + kPixels * out.pitch;
  for (int64_t line = 0; line < in.line_count; ++line) {
    const A* a = in.a + in.lines[line];
    const A* b = in.b + line * in.taps * in.depth * lanes;
    int64_t t = 0;
    for (; t + kSlidingTaps <= in.taps; t += kSlidingTaps) {
      slide_taps<T, kFetches, kSlidingTaps>(in, a + t * in.pixel, b + t * in.depth * lanes, fetch,
                                            sum);
    }
    const A* rest = a + t * in.pixel;
    const A* of_rest = b + t * in.depth * lanes;
    if (in.taps - t == 2) slide_taps<T, kFetches, 2>(in, rest, of_rest, fetch, sum);
    if (in.taps - t == 1) slide_taps<T, kFetches, 1>(in, rest, of_rest, fetch, sum);
  }
#pragma GCC unroll 32
  for (int i = 0; i < kPixels; ++i) {
    if (out.last == lanes) {
      store_narrow(out.c + i * out.pitch, sum[i]);
    } else {
      store_partial(out.c + i * out.pitch, sum[i], out.last);
    }
  }
}

/// C = sums over lines, taps and k, and what is added, for a tile of `pixels`, kLeast to kMost.
template <class T, int kLeast = 1, int kMost = kSlidingPixels>
inline void multiply_sliding(const SlidingOperands<Accumulator<T>>& in, const AffineResult<T>& out,
                             int64_t pixels) {
  if constexpr (kLeast == kMost) {
    if (in.fetch_step != 0) return multiply_sliding_tile<T, true, kLeast>(in, out);
    multiply_sliding_tile<T, false, kLeast>(in, out);
  } else {
    constexpr int middle = (kLeast + kMost) / 2;
    if (pixels <= middle) {
      multiply_sliding<T, kLeast, middle>(in, out, pixels);
    } else {
      multiply_sliding<T, middle + 1, kMost>(in, out, pixels);
    }
  }
}
