// Dense and grouped convolution of bfloat16 by instructions that add up the products of pairs:
// dest[pixels x rows] = im2col[pixels x K] * weight[K x rows] for each group, K = taps * source
// channels. Two CPUs' instructions do, each with a unit of its own below, which differ in nothing
// but how they multiply 32 pixels with 32 rows:
//
// The matrix unit (AMX). A tile register holds 16 rows of 64 bytes: a tile of lines or of columns
// (pair_weights.h). Their product adds to 16 x 16 sums of float32. Two tiles of lines meet two of
// columns, so that four tiles are loaded for four products.
//
// Dot products (AVX512_BF16). A register holds a pair each of 16 columns, meets a pair of a line in
// all lanes, and adds to 16 sums. Eight lines and two registers of columns are 16 sums; with two
// registers of columns and eight broadcasts for them 10 loads go with 16 products, of which one
// starts per cycle.
//
// Both round to float32 after each product of their own, and take subnormal numbers for zeros, as
// does the rounding to bfloat16 at the end.

#define CNNOPS_MATRIX_UNIT __attribute__((target(CNNOPS_TARGET ",avx512bf16,amx-tile,amx-bf16")))
#define CNNOPS_DOT_PRODUCTS __attribute__((target(CNNOPS_TARGET ",avx512bf16")))

/// The products of up to 32 lines and 32 columns: rows of sums, one of each line.
struct PairProduct {
  const PairLines* lines;  // the tiles of the first 16, one for each chunk,
  int64_t pitch;           // and how far behind those of the others are
  int64_t count;           // of lines
  const bfloat16* columns;
  int64_t chunk, tile;  // from a chunk of columns to the next, and to the others of the same
  const bool* empty;    // chunks whose columns are all padding, and not there; null: none
  bool wide;            // more than 16 columns
  int64_t chunks;
  float* sums;
  int64_t sums_pitch;
  bool accumulate;
};

/// What the tiles are, as the CPU wants to be told: all of them 16 rows of 64 bytes.
struct alignas(64) MatrixConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A constant: to a compiler the intrinsic reads no more than a pointer's worth of it.
constexpr MatrixConfig kMatrixConfig;

/// Adds up the chunks of K for kLines x kColumns tiles of 16 x 16 sums.
template <int kLines, int kColumns>
CNNOPS_MATRIX_UNIT void multiply_tiles(const PairProduct& p) {
  const int64_t pitch = p.sums_pitch * int64_t(sizeof(float));
  float* const sums = p.sums;
  float* const next = sums + kPairRows * p.sums_pitch;
  asm volatile("" ::: "memory");  // the intrinsics do not say that they read memory
  if (p.accumulate) {
    _tile_loadd(0, sums, pitch);
    if constexpr (kColumns > 1) _tile_loadd(1, sums + kPairRows, pitch);
    if constexpr (kLines > 1) _tile_loadd(2, next, pitch);
    if constexpr (kLines > 1 && kColumns > 1) _tile_loadd(3, next + kPairRows, pitch);
  } else {
    _tile_zero(0);
    if constexpr (kColumns > 1) _tile_zero(1);
    if constexpr (kLines > 1) _tile_zero(2);
    if constexpr (kLines > 1 && kColumns > 1) _tile_zero(3);
  }
  const PairLines *a = p.lines, *below = a + p.pitch;
  const bfloat16* b = p.columns;
  for (int64_t k = 0; k < p.chunks; ++k, b += p.chunk) {
    if (p.empty != nullptr && p.empty[k]) continue;
    _tile_loadd(4, b, 64);
    _tile_loadd(6, a[k].at, a[k].stride);
    _tile_dpbf16ps(0, 6, 4);
    if constexpr (kColumns > 1) {
      _tile_loadd(5, b + p.tile, 64);
      _tile_dpbf16ps(1, 6, 5);
    }
    if constexpr (kLines > 1) {
      _tile_loadd(7, below[k].at, below[k].stride);
      _tile_dpbf16ps(2, 7, 4);
      if constexpr (kColumns > 1) _tile_dpbf16ps(3, 7, 5);
    }
  }
  _tile_stored(0, sums, pitch);
  if constexpr (kColumns > 1) _tile_stored(1, sums + kPairRows, pitch);
  if constexpr (kLines > 1) _tile_stored(2, next, pitch);
  if constexpr (kLines > 1 && kColumns > 1) _tile_stored(3, next + kPairRows, pitch);
}

/// The matrix unit, between begin() and end().
struct MatrixUnit {
  CNNOPS_MATRIX_UNIT static void begin() { _tile_loadconfig(&kMatrixConfig); }
  CNNOPS_MATRIX_UNIT static void end() { _tile_release(); }

  static void multiply(const PairProduct& p) {
    const bool both = p.count > kPairRows;
    const auto run = both     ? p.wide ? multiply_tiles<2, 2> : multiply_tiles<2, 1>
                     : p.wide ? multiply_tiles<1, 2>
                              : multiply_tiles<1, 1>;
    run(p);
  }
};

/// Lines that meet registers of columns at a time.
constexpr int kDotLines = 8;

/// Adds up the chunks of K for the lines from `first` on of tiles and kRegisters of columns.
template <int kRegisters>
CNNOPS_DOT_PRODUCTS void multiply_dots(const PairProduct& p, const PairLines* lines, int64_t first,
                                       float* sums) {
  __m512 sum[kDotLines][kRegisters] = {};
  if (p.accumulate) {
#pragma GCC unroll 8
    for (int i = 0; i < kDotLines; ++i) {
#pragma GCC unroll 2
      for (int j = 0; j < kRegisters; ++j) {
        sum[i][j] = _mm512_loadu_ps(sums + i * p.sums_pitch + j * kPairRows);
      }
    }
  }
  const bfloat16* b = p.columns;
  for (int64_t k = 0; k < p.chunks; ++k, b += p.chunk) {
    if (p.empty != nullptr && p.empty[k]) continue;
    const int64_t stride = lines[k].stride;
    const char* at[kDotLines];
#pragma GCC unroll 8
    for (int i = 0; i < kDotLines; ++i) {
      at[i] = reinterpret_cast<const char*>(lines[k].at) + (first + i) * stride;
    }
    for (int64_t pair = 0; pair < lines[k].pairs; ++pair) {
      __m512bh column[kRegisters];
#pragma GCC unroll 2
      for (int j = 0; j < kRegisters; ++j) {
        column[j] = (__m512bh)_mm512_loadu_si512(b + j * p.tile + pair * 2 * kPairRows);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kDotLines; ++i) {
        int32_t both;
        __builtin_memcpy(&both, at[i] + pair * 4, sizeof(both));
        const __m512bh value = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 2
        for (int j = 0; j < kRegisters; ++j)
          sum[i][j] = _mm512_dpbf16_ps(sum[i][j], value, column[j]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kDotLines; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kRegisters; ++j) {
      _mm512_storeu_ps(sums + i * p.sums_pitch + j * kPairRows, sum[i][j]);
    }
  }
}

/// Dot products in the vector registers.
struct DotProducts {
  static void begin() {}
  static void end() {}

  static void multiply(const PairProduct& p) {
    for (int64_t i = 0; i < p.count; i += kDotLines) {
      const PairLines* lines = p.lines + i / kPairRows * p.pitch;
      const auto run = p.wide ? multiply_dots<2> : multiply_dots<1>;
      run(p, lines, i % kPairRows, p.sums + i * p.sums_pitch);
    }
  }
};

/// Adds the bias to the sums of `count` pixels, rounds them, and stores `channels` destination
/// channels, a block of them at most and neighbours, at each of `places`.
CNNOPS_DOT_PRODUCTS inline void store_pair_pixels(const float* sums, const bfloat16* bias,
                                                  bfloat16* dest, const int64_t* places,
                                                  int64_t count, int64_t channels) {
  const int64_t low = channels < kPairRows ? channels : kPairRows, high = channels - low;
  const uint32_t mask = channels < kPairBlock ? (1u << channels) - 1 : ~0u;
  Vec<float> first{}, second{};
  if (bias != nullptr) {
    first = load_partial(bias, low);
    second = load_partial(bias + low, high);
  }
  for (int64_t i = 0; i < count; ++i, sums += kPairBlock) {
    const auto v = _mm512_cvtne2ps_pbh((__m512)(load(sums + kPairRows) + second),
                                       (__m512)(load(sums) + first));
    _mm512_mask_storeu_epi16(dest + places[i], mask, (__m512i)v);
  }
}

/// The same for planes, `plane` elements apart, whose sums are rows of `count` pixels. Neighbours
/// in a row lie `step` apart, 1 or 2.
CNNOPS_DOT_PRODUCTS inline void store_pair_planes(const float* sums, const bfloat16* bias,
                                                  bfloat16* dest, int64_t plane, int64_t step,
                                                  const int64_t* places, int64_t count,
                                                  int64_t channels) {
  // Neighbours among the pixels: where the first of all would be, and which they are.
  int64_t at[kPairBlock];
  uint32_t lanes[kPairBlock];
  int64_t runs = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (i == 0 || places[i] != places[i - 1] + step) {
      at[runs] = places[i] - i * step, lanes[runs++] = 0;
    }
    lanes[runs - 1] |= 1u << i;
  }
  for (int64_t c = 0; c < channels; ++c, sums += kPairBlock, dest += plane) {
    const Vec<float> add = broadcast(bias != nullptr ? widen(bias[c]) : 0.0f);
    const auto v =
        _mm512_cvtne2ps_pbh((__m512)(load(sums + kPairPixels) + add), (__m512)(load(sums) + add));
    if (step == 1) {
      for (int64_t run = 0; run < runs; ++run) {
        _mm512_mask_storeu_epi16(dest + at[run], lanes[run], (__m512i)v);
      }
      continue;
    }
    // Every second element: 16 pixels fill a register.
    const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256((__m512i)v));
    const __m512i high = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64((__m512i)v, 1));
    for (int64_t run = 0; run < runs; ++run) {
      const uint64_t mask = _pdep_u64(lanes[run], 0x5555555555555555u);
      _mm512_mask_storeu_epi16(dest + at[run], __mmask32(mask), low);
      _mm512_mask_storeu_epi16(dest + at[run] + kPairBlock, __mmask32(mask >> 32), high);
    }
  }
}

/// Fills `to` with where a slice of 16 pixels, or `count` from `first` on, is: lines of
/// neighbouring channels, of which `copied` has space for copies. `zeros` is a tile of them.
inline void find_pair_lines(const Contraction<bfloat16>& p, PairPixels& pixels, int64_t first,
                            int64_t count, const PairSlice& slice, const bfloat16* zeros,
                            bfloat16* copied, PairLines* to) {
  pixels.turn_to(first, count);
  each_tap(p, slice.tap, slice.taps, [&](const TapOffset& offset) {
    const bool reads = pixels.point(offset);
    for (int64_t k = 0; k < slice.chunks; ++k, copied += kPairTile) {
      const int64_t chunk = slice.chunk + k, channels = pair_channels(p.depth, chunk);
      const int64_t pairs = ceil_div(channels, 2), c = chunk * kPairDepth;
      if (!reads) {
        *to++ = {zeros, 0, 0};
      } else if (pixels.are_even() && channels == kPairDepth) {
        const int64_t stride = pixels.distance() * int64_t(sizeof(bfloat16));
        *to++ = {pixels.first() + c, stride, pairs};
      } else {
        pixels.copy_lines(c, channels, copied);
        *to++ = {copied, kPairTileLine, pairs};
      }
    }
  });
}

/// Copies a slice of 32 pixels of planes, or `count` from `first` on, as columns, those of the
/// others 16 `pitch` elements behind the first. Chunks of nothing but padding are `empty`.
inline void copy_pair_columns(const Contraction<bfloat16>& p, PairPixels& pixels, int64_t first,
                              int64_t count, const PairSlice& slice, bfloat16* to, int64_t pitch,
                              bool* empty) {
  pixels.turn_to(first, count);
  each_tap(p, slice.tap, slice.taps, [&](const TapOffset& offset) {
    const bool reads = pixels.cut_pieces(offset);
    for (int64_t k = 0; k < slice.chunks; ++k, to += kPairTile) {
      *empty++ = !reads;
      if (!reads) continue;
      const int64_t chunk = slice.chunk + k;
      pixels.copy_columns(chunk * kPairDepth, pair_channels(p.depth, chunk), to, pitch);
    }
  });
}

template <class Unit>
void pair_products(const Contraction<bfloat16>& p) {
  const PairBlocking blocking(p);
  const int64_t parts = blocking.parts, pieces = blocking.pieces, tiles = blocking.slice;
  const int64_t pixels = blocking.pixels, pixel_block = blocking.pixel_block;
  const int64_t pixel_blocks = blocking.pixel_blocks;
  const bool planar = blocking.planar;
  const bool packs_slices = blocking.packs_slices && p.prepared == nullptr;

  Scratch offsets(blocking.tap_bytes);
  tap_offsets(p, p.weight_strides, offsets.as<int64_t>());
  const PairPacking packing(p, blocking, offsets.as<int64_t>());
  const bool packs = p.prepared == nullptr && !packs_slices;
  Scratch packed(packs ? blocking.weight_bytes : 0);
  if (packs) packing.pack(packed.as<bfloat16>());
  const auto* weights = packs ? packed.as<bfloat16>() : static_cast<const bfloat16*>(p.prepared);

  parallel_for(p.groups * pixel_blocks * parts, 1, [&](int64_t begin, int64_t end) {
    Scratch table(blocking.table_bytes);
    Scratch empty_flags(blocking.empty_bytes);
    Scratch copies(blocking.copied_bytes);
    Scratch sum_buffer(blocking.sum_bytes);
    Scratch place_buffer(blocking.place_bytes);
    Scratch slice_buffer(blocking.slice_bytes);
    PairLines* const lines = table.as<PairLines>();
    bool* const empty = empty_flags.as<bool>();
    bfloat16* const zeros = copies.as<bfloat16>();
    bfloat16* const copied = zeros + kPairTile;
    int64_t* const places = place_buffer.as<int64_t>();
    memset(zeros, 0, kPairTile * sizeof(bfloat16));
    Unit::begin();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / (pixel_blocks * parts);
      const int64_t first = item / parts % pixel_blocks * pixel_block;
      const int64_t count = pixels - first < pixel_block ? pixels - first : pixel_block;
      const int64_t block_begin = item % parts * blocking.part_blocks;
      const int64_t rest = ceil_div(p.rows, kPairBlock) - block_begin;
      const int64_t blocks = rest < blocking.part_blocks ? rest : blocking.part_blocks;
      PairPixels source(p, p.source_strides, p.source + group * p.depth * p.source_strides.channel);
      PixelPlace place(p, first);
      for (int64_t i = 0; i < count; ++i, place.step(p)) places[i] = place.offset(p.dest_strides);

      for (int64_t index = 0; index < blocking.slices; ++index) {
        const PairSlice slice = blocking.slice_at(index);
        const bool last = index + 1 == blocking.slices;
        for (int64_t i = 0; i < count; i += planar ? kPairBlock : kPairPixels) {
          const int64_t left = count - i, at = i / kPairPixels * tiles;
          if (planar) {
            copy_pair_columns(p, source, first + i, left < kPairBlock ? left : kPairBlock, slice,
                              copied + at * kPairTile, tiles * kPairTile,
                              empty + i / kPairBlock * tiles);
          } else {
            find_pair_lines(p, source, first + i, left < kPairPixels ? left : kPairPixels, slice,
                            zeros, copied + at * kPairTile, lines + at);
          }
        }
        for (int64_t block = 0; block < blocks; ++block) {
          const int64_t row = (block_begin + block) * kPairBlock;
          const int64_t channels = p.rows - row < kPairBlock ? p.rows - row : kPairBlock;
          const bool wide = channels > kPairRows;
          const int64_t pitch = (wide ? 2 : 1) * kPairTile;  // of tiles of weights
          const bfloat16* weight = slice_buffer.as<bfloat16>();
          if (packs_slices) {
            packing.pack_block(group, block_begin + block, slice.chunk,
                               slice_buffer.as<bfloat16>());
          } else {
            weight = weights + (group * pieces + row / kPairRows) * blocking.chunks * kPairTile +
                     slice.first * pitch;
          }
          for (int64_t k = 0; planar && k < slice.tiles(); ++k) {
            const int64_t chunk = slice.chunk + k % slice.chunks;
            const int64_t pairs = ceil_div(pair_channels(p.depth, chunk), 2);
            lines[k] = {weight + k * pitch, kPairTileLine, pairs};
            lines[tiles + k] = {weight + k * pitch + kPairTile, kPairTileLine, pairs};
          }
          for (int64_t i = 0; i < count; i += kPairBlock) {
            const int64_t n = count - i < kPairBlock ? count - i : kPairBlock;
            const int64_t at = i / kPairPixels * tiles;
            float* sums = sum_buffer.as<float>();
            if (packs_slices && block + 1 < blocks) {
              packing.fetch_block(group, block_begin + block + 1, slice.chunk, i / kPairBlock,
                                  ceil_div(count, kPairBlock));
            } else if (packs_slices && !last) {
              packing.fetch_block(group, block_begin, slice.chunk + slice.chunks, i / kPairBlock,
                                  ceil_div(count, kPairBlock));
            }
            if (blocking.slices > 1) sums += (block * pixel_block + i) * kPairBlock;
            if (planar) {
              Unit::multiply({lines, tiles, channels, copied + at * kPairTile, kPairTile,
                              tiles * kPairTile, empty + i / kPairBlock * tiles, n > kPairPixels,
                              slice.tiles(), sums, kPairBlock, index > 0});
            } else {
              Unit::multiply({lines + at, tiles, n, weight, pitch, kPairTile, nullptr, wide,
                              slice.tiles(), sums, kPairBlock, index > 0});
            }
            if (!last) continue;
            const int64_t channel = group * p.rows + row;
            const bfloat16* bias = p.bias != nullptr ? p.bias + channel : nullptr;
            bfloat16* dest = p.dest + channel * p.dest_strides.channel;
            if (planar) {
              store_pair_planes(sums, bias, dest, p.dest_strides.channel, p.dest_strides.axis[2],
                                places + i, n, channels);
            } else {
              store_pair_pixels(sums, bias, dest, places + i, n, channels);
            }
          }
        }
      }
    }
    Unit::end();
  });
}

#undef CNNOPS_MATRIX_UNIT
#undef CNNOPS_DOT_PRODUCTS
