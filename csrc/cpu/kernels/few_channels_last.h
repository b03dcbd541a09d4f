// Dense and grouped convolution of channels_last tensors to few destination channels, such as the
// heads of networks: dest[pixels x rows] = im2col[pixels x K] * weight[K x rows] for each group.
//
// Registers of destination channels would be mostly empty, so vectors run along source channels,
// and the lanes of each sum are added up at its end, for a register of sums at a time. That many a
// tile has: of one to four destination channels and so many pixels. A pixel reads through a pointer
// for each tap, as in gemm_channels_last.h; the weights, which are few, are packed as [group][row]
// [tap][channels, in whole registers]. Items are (group, block of pixels); all destination channels
// of a tile of pixels are computed while these are in L1.

/// Destination channels of a tile.
constexpr int kFewChannelsRows = 4;

/// Pixels of a tile beside so many destination channels, whose sums a register holds.
template <class A>
constexpr int pixels_of_sums(int rows) {
  return kLanes<A> > rows ? kLanes<A> / rows : 1;
}

/// What a tile of a 1x1 kernel fetches lies so many bytes ahead.
constexpr int64_t kFetchedAhead = 8 << 10;

/// Pixels of an item: pointers to their taps stay in L1 beside what tiles read.
constexpr int64_t kFewChannelsPixels = 256;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct FewChannelsLastBlocking {
  using A = Accumulator<T>;
  int64_t taps, depth;  // source channels of a tap, in whole registers
  int64_t pixels, block, blocks;
  int64_t parts, widest;             // of the destination channels
  int64_t weight_bytes, zero_bytes;  // of the call
  int64_t pointer_bytes;             // of each thread

  explicit FewChannelsLastBlocking(const Contraction<T>& p) {
    taps = p.taps();
    depth = round_up(p.depth, kLanes<A>);
    pixels = p.batch * p.pixels();
    parts = ceil_div(p.rows, kFewChannelsRows);
    widest = ceil_div(p.rows, parts);
    block = kMaxPointers / taps + 1;
    if (block > kFewChannelsPixels) block = kFewChannelsPixels;
    const int64_t of_item = ceil_div(p.groups * pixels, kWantedItems);
    if (block > of_item) block = of_item;
    block = round_up(block, pixels_of_sums<A>(int(widest)));
    blocks = ceil_div(pixels, block);
    weight_bytes = sizeof(A) * p.groups * p.rows * taps * depth;
    zero_bytes = sizeof(T) * p.depth + sizeof(int64_t) * taps;
    pointer_bytes = sizeof(T*) * (block * taps + p.walk[0].tap_count * p.walk[1].tap_count);
  }

  Footprint footprint() const {
    return {pixels_of_sums<A>(int(widest)) * widest, kLanes<A>, weight_bytes + zero_bytes,
            pointer_bytes};
  }
};

/// Packs the weights of all groups.
template <class T>
void pack_few_channels(const Contraction<T>& p, const int64_t* offsets, Accumulator<T>* to) {
  const int64_t taps = p.taps(), depth = round_up(p.depth, kLanes<Accumulator<T>>);
  for (int64_t i = 0; i < p.groups * p.rows; ++i) {
    const T* row =
        p.weight + i / p.rows * p.weight_strides.group + i % p.rows * p.weight_strides.row;
    for (int64_t tap = 0; tap < taps; ++tap, to += depth) {
      copy_strided(row + offsets[tap], p.weight_strides.depth, p.depth, to);
      fill(to + p.depth, depth - p.depth, Accumulator<T>(0));
    }
  }
}

/// What the pixels of a tile read.
struct TapsOfPixels {
  int64_t taps, channels;
  int64_t depth;  // the channels in whole registers, as weights have them
  int64_t ahead;  // unless 0: elements to what the next tiles read, a dense run
};

/// sums[i * kRows + r] = what pixel i reads times weight row r; `rows` points to the taps of the
/// pixels, [tap][kPixels].
template <class T, int kPixels, int kRows>
void multiply_few_channels(const TapsOfPixels& of, const T* const* rows,
                           const Accumulator<T>* weight, Accumulator<T>* sums) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t pitch = of.taps * of.depth;
  Vec<A> sum[kPixels * kRows] = {};
  for (int64_t tap = 0; tap < of.taps; ++tap, rows += kPixels, weight += of.depth) {
    int64_t c = 0;
    const auto add = [&](auto read) {
      Vec<A> w[kRows];
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) w[r] = load(weight + r * pitch + c);
#pragma GCC unroll 16
      for (int i = 0; i < kPixels; ++i) {
        Vec<A> x = read(rows[i] + c);
        if constexpr (kRows > 1) keep_in_register<A>(x);
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) sum[i * kRows + r] += x * w[r];
      }
    };
    for (; c + lanes <= of.channels; c += lanes) {
      if (of.ahead != 0) {
#pragma GCC unroll 16
        for (int i = 0; i < kPixels; ++i) {
          // In the order of memory, whatever the order of reading.
          __builtin_prefetch(rows[0] + of.ahead + c * kPixels + i * lanes);
        }
      }
      add([](const T* from) { return load_wide(from); });
    }
    if (c < of.channels) add([&](const T* from) { return load_partial(from, of.channels - c); });
  }
  store_sums<A>(sum, sums);
}

/// Adds the bias to the sums of `count` pixels from `at` on, [pixel][kRows], and stores them from
/// destination channel `channel` on.
template <class T, int kRows>
void store_few_channels(const Contraction<T>& p, PixelPlace at, int64_t count, int64_t channel,
                        const Accumulator<T>* sums) {
  using A = Accumulator<T>;
  for (int64_t i = 0; i < count; ++i, sums += kRows, at.step(p)) {
    T* to = p.dest + at.offset(p.dest_strides) + channel * p.dest_strides.channel;
    for (int r = 0; r < kRows; ++r) {
      const A bias = p.bias != nullptr ? widen(p.bias[channel + r]) : A(0);
      to[r * p.dest_strides.channel] = narrow<T>(sums[r] + bias);
    }
  }
}

/// Whether all sums of a tile are neighbours in the destination.
template <class T>
bool stores_runs(const Contraction<T>& p) {
  const int64_t size[kAxes] = {p.walk[0].count, p.walk[1].count, p.walk[2].count};
  return p.groups == 1 && p.rows <= kFewChannelsRows && p.dest_strides.channel == 1 &&
         p.dest_strides.axis[2] == p.rows && pixels_are_even(p.dest_strides, p.batch, size);
}

/// Runs a call whose tiles are of kWidest destination channels, or one less.
template <class T, int kWidest>
void run_few_channels(const Contraction<T>& p, const FewChannelsLastBlocking<T>& blocking,
                      const Accumulator<T>* weights, const T* zeros) {
  using A = Accumulator<T>;
  constexpr int kPixels = pixels_of_sums<A>(kWidest);
  const int64_t taps = blocking.taps, pitch = taps * blocking.depth;
  const PixelPointers<T, kPixels> pointers{p, false, zeros, nullptr};
  const bool dense = stores_runs(p);
  const int64_t tile = kPixels * p.source_strides.axis[2];
  const int64_t ahead = reads_each_pixel(p, p.source_strides)
                            ? round_up(kFetchedAhead / int64_t(sizeof(T)), tile)
                            : 0;
  const int64_t work = blocking.block * p.rows * pitch;
  const auto grain = ceil_div(kSmallestWork, work);
  parallel_for(p.groups * blocking.blocks, grain, [&](int64_t begin, int64_t end) {
    Scratch table(blocking.pointer_bytes);
    const T** of_pixels = table.as<const T*>();
    const T** lines = of_pixels + blocking.block * taps;
    constexpr int kSums = ceil_div(kPixels * kWidest, kLanes<A>) * kLanes<A>;
    alignas(64) A sums[kSums], bias[kSums];
    for (int i = 0; i < kSums; ++i) {
      bias[i] = dense && p.bias != nullptr ? widen(p.bias[i % kWidest]) : A(0);
    }
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / blocking.blocks;
      const int64_t first = item % blocking.blocks * blocking.block;
      const int64_t left = blocking.pixels - first;
      const int64_t count = left < blocking.block ? left : blocking.block;
      const T* source = p.source + group * p.depth;
      // The last tile has pixels that are not stored.
      for (int64_t i = count / kPixels * kPixels * taps; i < blocking.block * taps; ++i) {
        of_pixels[i] = zeros;
      }
      pointers.point(source, first, count, lines, of_pixels);
      PixelPlace at(p, first);
      for (int64_t i = 0; i < count; i += kPixels) {
        const int64_t some = count - i < kPixels ? count - i : kPixels;
        for (int64_t part = 0; part < blocking.parts; ++part) {
          const int64_t row = part * p.rows / blocking.parts;
          const int64_t rows = (part + 1) * p.rows / blocking.parts - row;
          const A* weight = weights + (group * p.rows + row) * pitch;
          const TapsOfPixels of{taps, p.depth, blocking.depth, part == 0 ? ahead : 0};
          const auto compute = [&](auto size) {
            constexpr int kRows = decltype(size)::value;
            multiply_few_channels<T, kPixels, kRows>(of, of_pixels + i * taps, weight, sums);
            if (!dense) store_few_channels<T, kRows>(p, at, some, group * p.rows + row, sums);
          };
          if (rows == kWidest) {
            compute(Size<kWidest>());
          } else if constexpr (kWidest > 1) {
            compute(Size<kWidest - 1>());
          }
        }
        if (dense) {
          T* to = p.dest + (first + i) * kWidest;
          for (int64_t j = 0; j < some * kWidest; j += kLanes<A>) {
            const int64_t rest = some * kWidest - j;
            store_partial(to + j, load(sums + j) + load(bias + j),
                          rest < kLanes<A> ? rest : kLanes<A>);
          }
        }
        for (int64_t j = 0; j < some && !dense; ++j) at.step(p);
      }
    }
  });
}

template <class T>
void few_channels_last(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const FewChannelsLastBlocking<T> blocking(p);
  Scratch packed(blocking.weight_bytes), zeros(blocking.zero_bytes);
  int64_t* offsets = zeros.as<int64_t>();
  tap_offsets(p, p.weight_strides, offsets);
  pack_few_channels(p, offsets, packed.as<A>());
  T* zero_tap = reinterpret_cast<T*>(offsets + blocking.taps);
  memset(zero_tap, 0, sizeof(T) * p.depth);
  with_count<kFewChannelsRows>(int(blocking.widest), [&](auto widest) {
    run_few_channels<T, decltype(widest)::value>(p, blocking, packed.as<A>(), zero_tap);
  });
}
