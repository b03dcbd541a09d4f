// Dense and grouped convolution of bfloat16 on the matrix unit: dest[pixels x rows] = im2col[pixels
// x K] * weight[K x rows] for each group, K = taps * source channels, as in gemm_channels_last.h.
//
// A tile register holds 16 rows of 64 bytes. A tile of A is 16 pixels of 32 source channels of a
// tap, a chunk of K; one of B is such a chunk for 16 destination channels, two source channels of
// which are neighbours in memory; their product adds to 16 x 16 sums of float32. Two tiles of A
// meet two of B, so that four tiles are loaded for four products. Where 16 pixels lie at one
// distance inside a source row, their tile is loaded from there. What touches a border, goes on in
// the next row or is the rest of the channels is copied first, zeros around it.
//
// Weights are packed once per call as [group][block of 32 rows][chunk][tile of 16 rows], and shared
// by all threads. Items are (group, block of pixels, part of the rows). K is cut into slices, for
// which the tiles of A stay in cache while all columns meet them; between slices sums are stored.
// The unit takes subnormal numbers for zeros, and so does the rounding to bfloat16 at the end.

#define CNNOPS_AMX __attribute__((target(CNNOPS_TARGET ",avx512bf16,amx-tile,amx-bf16")))

/// Pixels and destination channels of a tile, channels of a chunk, and elements of a tile.
constexpr int64_t kAmxPixels = 16, kAmxRows = 16, kAmxDepth = 32;
constexpr int64_t kAmxTile = kAmxRows * kAmxDepth;

/// Pixels and rows of four tiles of sums.
constexpr int64_t kAmxBlock = 32;

/// Rows of an item, which bound the sums between slices.
constexpr int64_t kAmxPartRows = 8 * kAmxBlock;

/// Weights of a group up to this size stay in L2 while block after block of so many pixels meets
/// all of them, in slices of so many chunks: about 2 KB each of A, for 32 pixels, in L1.
constexpr int64_t kAmxSharedWeightBytes = int64_t(1) << 20;
constexpr int64_t kAmxPixelBlock = 2 * kAmxBlock, kAmxSlice = 18;

/// Of larger weights a slice for 32 rows stays in L1 while the pixels of a block meet it, as many
/// as leave kWantedItems items.
constexpr int64_t kAmxLeastPixelBlock = 4 * kAmxBlock, kAmxMostPixelBlock = 8 * kAmxBlock;
constexpr int64_t kAmxNarrowSlice = 8;

/// How a call is cut, and the scratch that it takes.
struct AmxBlocking {
  int64_t tap_chunks, chunks;  // of a tap, and of all taps
  int64_t slice;               // chunks that are added up at a time
  int64_t pieces;              // of 16 rows
  int64_t part_blocks, parts;  // blocks of rows in an item, items of a block of pixels
  int64_t pixels, pixel_block, pixel_blocks;
  int64_t weight_bytes, tap_bytes;                            // of the call
  int64_t table_bytes, copied_bytes, sum_bytes, place_bytes;  // of each thread

  explicit AmxBlocking(const Contraction<bfloat16>& p);

  Footprint footprint() const {
    return {kAmxBlock, kAmxBlock, weight_bytes + tap_bytes,
            table_bytes + copied_bytes + sum_bytes + place_bytes};
  }
};

/// Where a tile of A is loaded from.
struct AmxSource {
  const bfloat16* at;
  int64_t stride;  // bytes from one pixel to the next
};

inline AmxBlocking::AmxBlocking(const Contraction<bfloat16>& p) {
  tap_chunks = ceil_div(p.depth, kAmxDepth);
  chunks = p.taps() * tap_chunks;
  pieces = ceil_div(p.rows, kAmxRows);
  const int64_t group_bytes = int64_t(sizeof(bfloat16)) * pieces * chunks * kAmxTile;
  const bool shared = group_bytes <= kAmxSharedWeightBytes;
  slice = even_part(chunks, shared ? kAmxSlice : kAmxNarrowSlice);
  const int64_t blocks = ceil_div(p.rows, kAmxBlock);
  part_blocks = even_part(blocks, kAmxPartRows / kAmxBlock);
  parts = ceil_div(blocks, part_blocks);
  pixels = p.batch * p.pixels();
  pixel_block = shared ? kAmxPixelBlock : kAmxLeastPixelBlock;
  while (!shared && pixel_block < kAmxMostPixelBlock &&
         p.groups * parts * ceil_div(pixels, 2 * pixel_block) >= kWantedItems) {
    pixel_block *= 2;
  }
  pixel_blocks = ceil_div(pixels, pixel_block);

  const int64_t tiles = pixel_block / kAmxPixels;
  weight_bytes = p.groups * group_bytes;
  tap_bytes = sizeof(int64_t) * p.taps();
  table_bytes = sizeof(AmxSource) * tiles * slice;
  copied_bytes = sizeof(bfloat16) * (tiles * slice + 1) * kAmxTile;
  const bool one_slice = slice == chunks;
  sum_bytes = sizeof(float) * kAmxBlock * (one_slice ? kAmxBlock : pixel_block * part_blocks);
  place_bytes = sizeof(int64_t) * pixel_block;
}

/// Packs the weights of all groups. Chunks end with zeros where the channels do.
inline void amx_pack(const Contraction<bfloat16>& p, const AmxBlocking& blocking,
                     const int64_t* taps, bfloat16* to) {
  const int64_t pieces = blocking.pieces, chunks = blocking.chunks;
  const int64_t group = pieces * chunks * kAmxTile;
  const int64_t tap_chunks = blocking.tap_chunks, inner = p.depth * p.taps();
  const int64_t pairs = ceil_div(p.depth, 2), tap_pairs = tap_chunks * kAmxDepth / 2;
  parallel_for(
      p.groups * pieces, ceil_div(16384, inner * kAmxRows), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t piece = i % pieces, block = piece / 2 * 2;
          const int64_t width = pieces - block < 2 ? 1 : 2;  // tiles of a chunk
          bfloat16* out = to + i / pieces * group + (block * chunks + piece % 2) * kAmxTile;
          // The pairs of a tap: a row of 16 destination channels each.
          const auto row = [&](int64_t tap, int64_t pair) {
            const int64_t chunk = tap * tap_chunks + pair / kAmxRows;
            return reinterpret_cast<uint32_t*>(out + chunk * width * kAmxTile) +
                   pair % kAmxRows * kAmxRows;
          };
          read_weight_columns(p, taps, i / pieces, piece * kAmxRows, 0, p.depth,
                              [&](int64_t tap, int64_t c, Vec<float> v) {
                                uint32_t* at = row(tap, c / 2);
                                const auto bits = (Vec<uint32_t>)v;
                                store(at,
                                      c % 2 == 0 ? bits >> 16 : load(at) | (bits & 0xffff0000u));
                              });
          for (int64_t tap = 0; tap < p.taps(); ++tap) {
            for (int64_t rest = pairs; rest < tap_pairs; ++rest)
              store(row(tap, rest), Vec<uint32_t>{});
          }
        }
      });
}

inline void amx_prepare(const Contraction<bfloat16>& p, void* to) {
  const AmxBlocking blocking(p);
  Scratch offsets(blocking.tap_bytes);
  tap_offsets(p, p.weight_strides, offsets.as<int64_t>());
  amx_pack(p, blocking, offsets.as<int64_t>(), static_cast<bfloat16*>(to));
}
inline int64_t amx_weight_bytes(const Contraction<bfloat16>& p) {
  return AmxBlocking(p).weight_bytes;
}
inline Footprint amx_footprint(const Contraction<bfloat16>& p) {
  return AmxBlocking(p).footprint();
}

/// Finds the tiles of A for 16 pixels at a time.
class AmxPixels {
 public:
  /// `zeros` is space for a tile, `source` channel 0 of the group.
  AmxPixels(const Contraction<bfloat16>& p, const bfloat16* source, const bfloat16* zeros)
      : p_(p),
        source_(source),
        zeros_(zeros),
        tap_chunks_(ceil_div(p.depth, kAmxDepth)),
        even_(reads_each_pixel(p, p.source_strides)) {}

  /// Fills `to` with where the chunks [begin, end) of `count` pixels from `first` on are, of which
  /// `copied` has space for copies.
  void find(int64_t first, int64_t count, int64_t begin, int64_t end, bfloat16* copied,
            AmxSource* to) {
    const Walk* walk = p_.walk;
    place_pixels(first, count);
    const int64_t tap = begin / tap_chunks_;
    int64_t from = begin % tap_chunks_;
    const int64_t line = tap / walk[2].tap_count;
    int64_t w = tap % walk[2].tap_count;
    int64_t h = line % walk[1].tap_count, d = line / walk[1].tap_count;
    for (int64_t chunk = begin; chunk < end; from = 0) {
      const int64_t until = end - chunk < tap_chunks_ - from ? from + end - chunk : tap_chunks_;
      find_tap({{walk[0].taps[d].offset, walk[1].taps[h].offset, walk[2].taps[w].offset}}, from,
               until, copied, to);
      copied += (until - from) * kAmxTile;
      to += until - from;
      chunk += until - from;
      if (++w < walk[2].tap_count) continue;
      w = 0;
      if (++h < walk[1].tap_count) continue;
      h = 0;
      ++d;
    }
  }

 private:
  /// Neighbours in a row of destination pixels.
  struct Run {
    int64_t w, h, d, image;  // of the first
    int64_t begin, end;      // of the pixels of the tile
  };

  void place_pixels(int64_t first, int64_t count) {
    first_ = first;
    count_ = count;
    PixelPlace at(p_, first);
    runs_ = 0;
    for (int64_t i = 0; i < count && !even_;) {
      const int64_t left = p_.walk[2].count - at.w;
      const int64_t until = count - i < left ? count : i + left;
      run_[runs_++] = {at.w, at.h, at.d, at.image, i, until};
      at.w = p_.walk[2].count - 1;  // on to the next row
      at.step(p_);
      i = until;
    }
  }

  /// The offsets of a tap.
  struct Offset {
    int64_t axis[kAxes];
  };

  /// The chunks [from, until) of a tap.
  void find_tap(const Offset& offset, int64_t from, int64_t until, bfloat16* copied,
                AmxSource* to) {
    const bfloat16* row[kAmxPixels];
    const bool even = even_ ? point_even(row) : point_runs(offset, row);
    if (even && row[0] == nullptr) {
      for (; from < until; ++from) *to++ = {zeros_, 0};
    } else if (even) {
      const int64_t whole = p_.depth / kAmxDepth < until ? p_.depth / kAmxDepth : until;
      const int64_t stride = (row[1] - row[0]) * int64_t(sizeof(bfloat16));
      for (; from < whole; ++from, copied += kAmxTile) *to++ = {row[0] + from * kAmxDepth, stride};
    }
    for (; from < until; ++from, copied += kAmxTile) {
      copy(row, from * kAmxDepth, copied);
      *to++ = {copied, kAmxDepth * int64_t(sizeof(bfloat16))};
    }
  }

  /// The source row that a destination row reads, or null for zeros.
  const bfloat16* line_at(int64_t d, int64_t h, int64_t image, const Offset& offset) const {
    const Strides& strides = p_.source_strides;
    const int64_t z = p_.walk[0].resolve(d * p_.walk[0].step + offset.axis[0]);
    const int64_t y = p_.walk[1].resolve(h * p_.walk[1].step + offset.axis[1]);
    if (z < 0 || y < 0) return nullptr;
    return source_ + image * strides.batch + z * strides.axis[0] + y * strides.axis[1];
  }

  /// Points to what each pixel reads, null for zeros. Whether 16 pixels lie at one distance.
  bool point_even(const bfloat16** row) const {
    const int64_t stride = p_.source_strides.axis[2];
    for (int64_t i = 0; i < count_; ++i) row[i] = source_ + (first_ + i) * stride;
    return fills(row);
  }

  /// The same, run by run, for a tap.
  bool point_runs(const Offset& offset, const bfloat16** row) const {
    const Walk& width = p_.walk[2];
    const int64_t stride = p_.source_strides.axis[2], step = width.step * stride;
    bool even = runs_ == 1;
    for (int64_t r = 0; r < runs_; ++r) {
      const Run& run = run_[r];
      const bfloat16* line = line_at(run.d, run.h, run.image, offset);
      int64_t x = run.w * width.step + offset.axis[2];
      const int64_t last = x + (run.end - run.begin - 1) * width.step;
      if (line == nullptr) {
        for (int64_t i = run.begin; i < run.end; ++i) row[i] = nullptr;
      } else if (x >= 0 && last < width.size) {
        const bfloat16* at = line + x * stride;
        for (int64_t i = run.begin; i < run.end; ++i, at += step) row[i] = at;
      } else {
        even = false;
        for (int64_t i = run.begin; i < run.end; ++i, x += width.step) {
          const int64_t position = width.resolve(x);
          row[i] = position < 0 ? nullptr : line + position * stride;
        }
      }
    }
    return fills(row) && even;
  }

  /// Ends a tile of fewer pixels with zeros. Whether it is one of 16.
  bool fills(const bfloat16** row) const {
    for (int64_t i = count_; i < kAmxPixels; ++i) row[i] = nullptr;
    return count_ == kAmxPixels;
  }

  /// Copies a chunk from channel `c` on.
  void copy(const bfloat16* const* row, int64_t c, bfloat16* to) const {
    const int64_t rest = p_.depth - c;
    const uint32_t mask = rest < kAmxDepth ? (1u << rest) - 1 : ~0u;
    for (int64_t i = 0; i < kAmxPixels; ++i) {
      // What is masked out is not read: any address does.
      const bfloat16* from = row[i] == nullptr ? source_ : row[i] + c;
      const __m512i v = _mm512_maskz_loadu_epi16(row[i] == nullptr ? 0 : mask, from);
      _mm512_store_si512(to + i * kAmxDepth, v);
    }
  }

  const Contraction<bfloat16>& p_;
  const bfloat16* source_;
  const bfloat16* zeros_;
  const int64_t tap_chunks_;
  const bool even_;  // the pixels that are read lie at one distance, all of them
  int64_t first_ = 0, count_ = 0, runs_ = 0;
  Run run_[kAmxPixels];
};

/// What the tiles are, as the CPU wants to be told: all of them 16 rows of 64 bytes.
struct alignas(64) AmxConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A constant: to a compiler the intrinsic reads no more than a pointer's worth of it.
constexpr AmxConfig kAmxConfig;

CNNOPS_AMX inline void amx_begin() { _tile_loadconfig(&kAmxConfig); }
CNNOPS_AMX inline void amx_end() { _tile_release(); }

/// Adds up `chunks` of K for kPixels x kRows tiles of 16 x 16 sums, rows of kAmxBlock floats. The
/// tiles of A for the second 16 pixels are `pitch` after those for the first.
template <int kPixels, int kRows>
CNNOPS_AMX void amx_multiply(const AmxSource* a, int64_t pitch, const bfloat16* b, int64_t chunks,
                             float* sums, bool accumulate) {
  constexpr int64_t kPitch = kAmxBlock * sizeof(float);
  float* const next = sums + kAmxPixels * kAmxBlock;
  asm volatile("" ::: "memory");  // the intrinsics do not say that they read memory
  if (accumulate) {
    _tile_loadd(0, sums, kPitch);
    if constexpr (kRows > 1) _tile_loadd(1, sums + kAmxRows, kPitch);
    if constexpr (kPixels > 1) _tile_loadd(2, next, kPitch);
    if constexpr (kPixels > 1 && kRows > 1) _tile_loadd(3, next + kAmxRows, kPitch);
  } else {
    _tile_zero(0);
    if constexpr (kRows > 1) _tile_zero(1);
    if constexpr (kPixels > 1) _tile_zero(2);
    if constexpr (kPixels > 1 && kRows > 1) _tile_zero(3);
  }
  for (int64_t k = 0; k < chunks; ++k, b += kRows * kAmxTile) {
    _tile_loadd(4, b, 64);
    _tile_loadd(6, a[k].at, a[k].stride);
    _tile_dpbf16ps(0, 6, 4);
    if constexpr (kRows > 1) {
      _tile_loadd(5, b + kAmxTile, 64);
      _tile_dpbf16ps(1, 6, 5);
    }
    if constexpr (kPixels > 1) {
      _tile_loadd(7, a[pitch + k].at, a[pitch + k].stride);
      _tile_dpbf16ps(2, 7, 4);
      if constexpr (kRows > 1) _tile_dpbf16ps(3, 7, 5);
    }
  }
  _tile_stored(0, sums, kPitch);
  if constexpr (kRows > 1) _tile_stored(1, sums + kAmxRows, kPitch);
  if constexpr (kPixels > 1) _tile_stored(2, next, kPitch);
  if constexpr (kPixels > 1 && kRows > 1) _tile_stored(3, next + kAmxRows, kPitch);
}

/// Adds the bias to the sums of `count` pixels, rounds them, and stores `channels` destination
/// channels, a block of them at most, at each of `places`.
CNNOPS_AMX inline void amx_store(const float* sums, const bfloat16* bias, bfloat16* dest,
                                 const int64_t* places, int64_t count, int64_t channels) {
  const int64_t low = channels < kAmxRows ? channels : kAmxRows, high = channels - low;
  const uint32_t mask = channels < kAmxBlock ? (1u << channels) - 1 : ~0u;
  Vec<float> first{}, second{};
  if (bias != nullptr) {
    first = load_partial(bias, low);
    second = load_partial(bias + low, high);
  }
  for (int64_t i = 0; i < count; ++i, sums += kAmxBlock) {
    const auto v =
        _mm512_cvtne2ps_pbh((__m512)(load(sums + kAmxRows) + second), (__m512)(load(sums) + first));
    _mm512_mask_storeu_epi16(dest + places[i], mask, (__m512i)v);
  }
}

inline void amx_channels_last(const Contraction<bfloat16>& p) {
  const AmxBlocking blocking(p);
  const int64_t chunks = blocking.chunks, slice = blocking.slice, parts = blocking.parts;
  const int64_t pixels = blocking.pixels, pixel_block = blocking.pixel_block;
  const int64_t pixel_blocks = blocking.pixel_blocks, pieces = blocking.pieces;

  Scratch packed(p.prepared != nullptr ? 0 : blocking.weight_bytes);
  if (p.prepared == nullptr) amx_prepare(p, packed.as<void>());
  const bfloat16* weights =
      p.prepared != nullptr ? static_cast<const bfloat16*>(p.prepared) : packed.as<bfloat16>();

  parallel_for(p.groups * pixel_blocks * parts, 1, [&](int64_t begin, int64_t end) {
    Scratch table(blocking.table_bytes);
    Scratch copies(blocking.copied_bytes);
    Scratch sum_buffer(blocking.sum_bytes);
    Scratch place_buffer(blocking.place_bytes);
    AmxSource* const sources = table.as<AmxSource>();
    bfloat16* const zeros = copies.as<bfloat16>();
    bfloat16* const copied = zeros + kAmxTile;
    int64_t* const places = place_buffer.as<int64_t>();
    memset(zeros, 0, kAmxTile * sizeof(bfloat16));
    amx_begin();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / (pixel_blocks * parts);
      const int64_t first = item / parts % pixel_blocks * pixel_block;
      const int64_t count = pixels - first < pixel_block ? pixels - first : pixel_block;
      const int64_t block_begin = item % parts * blocking.part_blocks;
      const int64_t rest = ceil_div(pieces, 2) - block_begin;
      const int64_t blocks = rest < blocking.part_blocks ? rest : blocking.part_blocks;
      AmxPixels tiles(p, p.source + group * p.depth, zeros);
      PixelPlace place(p, first);
      for (int64_t i = 0; i < count; ++i, place.step(p)) places[i] = place.offset(p.dest_strides);

      for (int64_t chunk = 0; chunk < chunks; chunk += slice) {
        const int64_t until = chunks - chunk < slice ? chunks : chunk + slice;
        for (int64_t i = 0; i < count; i += kAmxPixels) {
          const int64_t n = count - i < kAmxPixels ? count - i : kAmxPixels;
          const int64_t at = i / kAmxPixels * slice;
          tiles.find(first + i, n, chunk, until, copied + at * kAmxTile, sources + at);
        }
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t row = (block_begin + block) * kAmxBlock;
          const bool wide = p.rows - row > kAmxRows;
          const bfloat16* b = weights + (group * pieces + row / kAmxRows) * chunks * kAmxTile +
                              chunk * (wide ? 2 : 1) * kAmxTile;
          for (int64_t i = 0; i < count; i += kAmxBlock) {
            const int64_t n = count - i < kAmxBlock ? count - i : kAmxBlock;
            const bool pair = n > kAmxPixels;
            float* sums = sum_buffer.as<float>();
            if (slice < chunks) sums += (block * pixel_block + i) * kAmxBlock;
            const auto multiply = pair   ? wide ? amx_multiply<2, 2> : amx_multiply<2, 1>
                                  : wide ? amx_multiply<1, 2>
                                         : amx_multiply<1, 1>;
            multiply(sources + i / kAmxPixels * slice, slice, b, until - chunk, sums, chunk > 0);
            if (until < chunks) continue;
            const int64_t channel = group * p.rows + row;
            const int64_t channels = p.rows - row < kAmxBlock ? p.rows - row : kAmxBlock;
            amx_store(sums, p.bias != nullptr ? p.bias + channel : nullptr, p.dest + channel,
                      places + i, n, channels);
          }
        }
      }
    }
    amx_end();
  });
}

#undef CNNOPS_AMX
