// bfloat16 in pairs, two neighbours of K in 32 bits, as the instructions want them that add up both
// products at once (pair_multiply.h): how a call is cut, and the weights.
//
// A tile is 16 pixels or destination channels of a chunk of K, 32 source channels of a tap. One
// kind of tile meets the other: lines of 16 pairs each, and columns, 16 rows of 16 pairs. So sums
// come out as the destination lies: where channels are neighbours pixels are lines and weights
// columns, and where pixels are it is the other way round.
//
// Items are (group, block of pixels, part of the rows). K is cut into slices, some chunks of all
// taps or of some, for which the tiles of pixels stay in cache while all rows meet them; between
// slices sums are stored. Weights are packed once per call and shared by all threads, as
// [group][block of 32 rows][slice][tap][chunk][tile of 16 rows]; or where one block has all pixels,
// a slice at a time as an item comes to it, and then they do not go to memory and back.

/// Pixels, or destination channels, of a tile, channels of a chunk, and elements of a tile.
constexpr int64_t kPairPixels = 16, kPairRows = 16, kPairDepth = 32;
constexpr int64_t kPairTile = kPairRows * kPairDepth;

/// Bytes of a line of a tile.
constexpr int64_t kPairTileLine = kPairDepth * sizeof(bfloat16);

/// Pixels and rows of four tiles of sums.
constexpr int64_t kPairBlock = 32;

/// Rows of an item, which bound the sums between slices.
constexpr int64_t kPairPartRows = 8 * kPairBlock;

/// Tiles of a slice: about 2 KB each, for 32 pixels or rows. Those of one side stay in L1, or come
/// from L2 one behind the other.
constexpr int64_t kPairSlice = 18;

/// Weights of a group up to this size stay in L2 while block after block of so many pixels meets
/// all of them. Larger ones meet as many as leave kWantedItems items, from the least that uses a
/// slice of them well.
constexpr int64_t kPairSharedWeightBytes = int64_t(1) << 20, kPairPixelBlock = 2 * kPairBlock;
constexpr int64_t kPairLeastPixelBlock = 4 * kPairBlock, kPairMostPixelBlock = 8 * kPairBlock;

/// Chunks [chunk, chunk + chunks) of taps [tap, tap + taps): so many tiles, of which the first is
/// number `first` of all.
struct PairSlice {
  int64_t tap, taps, chunk, chunks, first;
  int64_t tiles() const { return taps * chunks; }
};

/// The first `count` of 32 elements as a mask: all of more, none of less than one.
inline uint32_t first_pair_lanes(int64_t count) {
  return count >= kPairDepth ? ~0u : count > 0 ? (1u << count) - 1 : 0;
}

/// How a call is cut, and the scratch that it takes.
struct PairBlocking {
  bool planar;                       // pixels are neighbours: they are columns, and weights lines
  int64_t taps, tap_chunks, chunks;  // chunks of a tap, and of all
  int64_t slice_taps, slice_chunks;  // of the largest slice,
  int64_t slice, slices;             // and its tiles
  int64_t pieces;                    // of 16 rows
  int64_t part_blocks, parts;        // blocks of rows in an item, items of a block of pixels
  int64_t pixels, pixel_block, pixel_blocks;
  bool packs_slices;                // of weights as they are used, unless they are packed already
  PackedWeight packed;              // unless they are packed already, or in slices
  int64_t weight_bytes, tap_bytes;  // of all weights, of the call
  // Of each thread:
  int64_t table_bytes, empty_bytes, copied_bytes, sum_bytes, place_bytes, slice_bytes;

  explicit PairBlocking(const Contraction<bfloat16>& p);

  Footprint footprint() const {
    return {kPairBlock, kPairBlock, packed.of_call() + tap_bytes,
            packed.of_thread() + table_bytes + empty_bytes + copied_bytes + sum_bytes +
                place_bytes + slice_bytes};
  }

  /// Chunks of a tap in a slice that starts with `chunk`.
  int64_t chunks_from(int64_t chunk) const {
    const int64_t left = tap_chunks - chunk;
    return left < slice_chunks ? left : slice_chunks;
  }

  /// Slice `index`: of the taps first, then of their chunks.
  PairSlice slice_at(int64_t index) const {
    const int64_t tap_parts = ceil_div(taps, slice_taps);
    const int64_t tap = index % tap_parts * slice_taps, chunk = index / tap_parts * slice_chunks;
    const int64_t taps_left = taps - tap, some = chunks_from(chunk);
    return {tap, taps_left < slice_taps ? taps_left : slice_taps, chunk, some,
            chunk * taps + tap * some};
  }
};

/// Where a tile of lines is read from.
struct PairLines {
  const bfloat16* at;
  int64_t stride;  // bytes from one line to the next
  int64_t pairs;   // of a line that are not zeros at its end; none of padding
};

/// Channels of a chunk of a tap, of `depth` in all.
inline int64_t pair_channels(int64_t depth, int64_t chunk) {
  const int64_t rest = depth - chunk * kPairDepth;
  return rest < kPairDepth ? rest : kPairDepth;
}

inline PairBlocking::PairBlocking(const Contraction<bfloat16>& p) {
  planar = p.source_strides.channel != 1 || p.dest_strides.channel != 1;
  tap_chunks = ceil_div(p.depth, kPairDepth);
  taps = p.taps();
  chunks = taps * tap_chunks;
  pieces = ceil_div(p.rows, kPairRows);
  const int64_t group_bytes = int64_t(sizeof(bfloat16)) * pieces * chunks * kPairTile;
  const bool shared = group_bytes <= kPairSharedWeightBytes;
  slice_taps = even_part(taps, kPairSlice);
  slice_chunks = even_part(tap_chunks, kPairSlice / slice_taps);
  slice = slice_taps * slice_chunks;
  slices = ceil_div(taps, slice_taps) * ceil_div(tap_chunks, slice_chunks);
  const int64_t blocks = ceil_div(p.rows, kPairBlock);
  part_blocks = even_part(blocks, kPairPartRows / kPairBlock);
  parts = ceil_div(blocks, part_blocks);
  pixels = p.batch * p.pixels();
  pixel_block = shared ? kPairPixelBlock : kPairLeastPixelBlock;
  while (!shared && pixel_block < kPairMostPixelBlock &&
         p.groups * parts * ceil_div(pixels, 2 * pixel_block) >= kWantedItems) {
    pixel_block *= 2;
  }
  if (!shared && pixels > 0 && pixels <= kPairMostPixelBlock && p.groups * parts > 1) {
    pixel_block = round_up(pixels, kPairBlock);
  }
  pixel_blocks = ceil_div(pixels, pixel_block);
  packs_slices = pixel_blocks <= 1 && slice_taps == taps;
  weight_bytes = p.groups * group_bytes;
  if (!packs_slices) packed = packed_weight(weight_bytes, p.groups, pixel_blocks, parts);

  const int64_t tiles = pixel_block / kPairPixels;
  tap_bytes = sizeof(int64_t) * taps;
  table_bytes = sizeof(PairLines) * slice * (planar ? kPairBlock / kPairRows : tiles);
  empty_bytes = planar ? sizeof(bool) * slice * (pixel_block / kPairBlock) : 0;
  copied_bytes = sizeof(bfloat16) * (tiles * slice + 1) * kPairTile;
  sum_bytes = sizeof(float) * kPairBlock * (slices <= 1 ? kPairBlock : pixel_block * part_blocks);
  slice_bytes = packs_slices ? sizeof(bfloat16) * slice * kPairBlock / kPairRows * kPairTile : 0;
  place_bytes = sizeof(int64_t) * pixel_block;
}

/// Turns a tile of columns into one of lines.
inline void turn_pairs(bfloat16* tile) {
  auto* rows = reinterpret_cast<uint32_t*>(tile);
  Vec<uint32_t> square[kPairRows];
  for (int64_t i = 0; i < kPairRows; ++i) square[i] = load(rows + i * kPairRows);
  transpose<uint32_t>(square);
  for (int64_t i = 0; i < kPairRows; ++i) store(rows + i * kPairRows, square[i]);
}

/// Lines of a weight whose destination channels each are dense in K, channel by channel and tap by
/// tap within: what goes to the line of a tap are elements of as many registers as there are taps.
struct TapShuffle {
  /// More taps take longer than columns do that are turned.
  static constexpr int64_t kMostTaps = 16;

  int64_t taps;
  __m512i lane[kMostTaps];            // that a tap takes of a register for each channel,
  uint32_t of[kMostTaps][kMostTaps];  // and for which channels it does so, of each register

  explicit TapShuffle(int64_t count) : taps(count) {
    for (int64_t t = 0; t < taps; ++t) {
      uint16_t lanes[kPairDepth];
      for (int64_t r = 0; r < taps; ++r) of[t][r] = 0;
      for (int64_t c = 0; c < kPairDepth; ++c) {
        const int64_t element = c * taps + t;
        lanes[c] = uint16_t(element % kPairDepth);
        of[t][element / kPairDepth] |= 1u << c;
      }
      lane[t] = _mm512_loadu_si512(lanes);
    }
  }

  /// Splits the taps of `channels`, a chunk at most, into lines `pitch` elements apart.
  void split(const bfloat16* from, int64_t channels, bfloat16* to, int64_t pitch) const {
    __m512i all[kMostTaps];
    for (int64_t r = 0; r < taps; ++r) {
      const uint32_t lanes = first_pair_lanes(channels * taps - r * kPairDepth);
      all[r] = _mm512_maskz_loadu_epi16(lanes, from + r * kPairDepth);
    }
    for (int64_t t = 0; t < taps; ++t, to += pitch) {
      __m512i line = _mm512_setzero_si512();
      for (int64_t r = 0; r < taps; ++r) {
        line = _mm512_mask_permutexvar_epi16(line, of[t][r], lane[t], all[r]);
      }
      _mm512_store_si512(to, line);
    }
  }
};

/// Packs the weights of all groups. Chunks end with zeros where the channels do, and so do tiles
/// where the rows do.
class PairPacking {
 public:
  PairPacking(const Contraction<bfloat16>& p, const PairBlocking& blocking, const int64_t* taps)
      : p_(p),
        blocking_(blocking),
        taps_(taps),
        rows_of_channels_(p.weight_strides.depth == 1),
        rows_of_taps_(!rows_of_channels_ && p.taps() <= TapShuffle::kMostTaps &&
                      p.weight_strides.depth == p.taps() &&
                      taps_are_contiguous(p, p.weight_strides)),
        shuffle_(rows_of_taps_ && p.prepared == nullptr ? p.taps() : 0) {}

  /// Packs all.
  void pack(bfloat16* to) const {
    const int64_t pieces = blocking_.pieces, chunks = blocking_.chunks;
    const int64_t least = ceil_div(16384, p_.depth * p_.taps() * kPairRows);
    parallel_for(p_.groups * pieces, least, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t group = i / pieces, piece = i % pieces, block = piece / 2 * 2;
        const int64_t pitch = (pieces - block < 2 ? 1 : 2) * kPairTile;
        bfloat16* tile = to + (group * pieces + block) * chunks * kPairTile;
        for (int64_t c = 0; c < blocking_.tap_chunks; c += blocking_.slice_chunks) {
          pack_piece(group, piece, c, tile + c * p_.taps() * pitch, pitch);
        }
      }
    });
  }

  /// Packs the slices of all taps that start with a chunk, for a block of 32 rows.
  void pack_block(int64_t group, int64_t block, int64_t chunk, bfloat16* to) const {
    const int64_t first = block * kPairBlock / kPairRows;
    const bool wide = first + 1 < blocking_.pieces;
    for (int64_t j = 0; j < (wide ? 2 : 1); ++j) {
      pack_piece(group, first + j, chunk, to, (wide ? 2 : 1) * kPairTile);
    }
  }

  /// Brings to L2 part `part` of `parts` of what pack_block reads, where that is rows: too short
  /// for the processor to see where they go.
  void fetch_block(int64_t group, int64_t block, int64_t chunk, int64_t part, int64_t parts) const {
    const int64_t of_channel = rows_of_taps_ ? p_.taps() : 1, c = chunk * kPairDepth;
    if (!rows_of_taps_ && (!rows_of_channels_ || p_.taps() > 1)) return;
    const int64_t first = block * kPairBlock, left = p_.rows - first, most = p_.depth - c;
    const int64_t channels = blocking_.slice_chunks * kPairDepth;
    const bfloat16* from = p_.weight + group * p_.weight_strides.group +
                           first * p_.weight_strides.row + c * of_channel;
    fetch_rows(from, p_.weight_strides.row, left < kPairBlock ? left : kPairBlock,
               (most < channels ? most : channels) * of_channel, part, parts);
  }

 private:
  /// Packs 16 destination channels, those of a piece, whose tiles are `pitch` elements apart.
  void pack_piece(int64_t group, int64_t piece, int64_t chunk, bfloat16* to, int64_t pitch) const {
    const int64_t some = blocking_.chunks_from(chunk);
    bfloat16* tile = to + piece % (kPairBlock / kPairRows) * kPairTile;
    const bool lines = rows_of_channels_ || rows_of_taps_;
    if (lines) {
      pack_lines(group, piece * kPairRows, chunk, some, tile, pitch);
    } else {
      pack_columns(group, piece * kPairRows, chunk, some, tile, pitch);
    }
    if (lines == blocking_.planar) return;
    for (int64_t k = 0; k < p_.taps() * some; ++k) turn_pairs(tile + k * pitch);
  }

  /// As tiles of lines.
  void pack_lines(int64_t group, int64_t first, int64_t chunk, int64_t chunks, bfloat16* tile,
                  int64_t pitch) const {
    const int64_t row = p_.weight_strides.row, taps = p_.taps();
    const bfloat16* from = p_.weight + group * p_.weight_strides.group + first * row;
    const int64_t rows = p_.rows - first < kPairRows ? p_.rows - first : kPairRows;
    for (int64_t r = 0; r < kPairRows; ++r, from += row, tile += kPairDepth) {
      for (int64_t k = 0; k < chunks; ++k) {
        const int64_t c = (chunk + k) * kPairDepth;
        const int64_t channels = r < rows ? pair_channels(p_.depth, chunk + k) : 0;
        if (rows_of_taps_) {
          shuffle_.split(from + c * taps, channels, tile + k * pitch, chunks * pitch);
          continue;
        }
        for (int64_t t = 0; t < taps; ++t) {
          _mm512_store_si512(
              tile + (t * chunks + k) * pitch,
              _mm512_maskz_loadu_epi16(first_pair_lanes(channels), from + taps_[t] + c));
        }
      }
    }
  }

  /// As tiles of columns.
  void pack_columns(int64_t group, int64_t first, int64_t chunk, int64_t chunks, bfloat16* tile,
                    int64_t pitch) const {
    // A pair of a tap: a row of 16 destination channels.
    const auto row = [&](int64_t tap, int64_t pair) {
      bfloat16* at = tile + (tap * chunks + pair / kPairRows) * pitch;
      return reinterpret_cast<uint32_t*>(at) + pair % kPairRows * kPairRows;
    };
    const int64_t begin = chunk * kPairDepth, most = begin + chunks * kPairDepth;
    const int64_t end = p_.depth < most ? p_.depth : most;
    read_weight_columns(p_, taps_, group, first, begin, end,
                        [&](int64_t tap, int64_t c, Vec<float> v) {
                          uint32_t* at = row(tap, (c - begin) / 2);
                          const auto bits = (Vec<uint32_t>)v;
                          store(at, c % 2 == 0 ? bits >> 16 : load(at) | (bits & 0xffff0000u));
                        });
    for (int64_t tap = 0; tap < p_.taps(); ++tap) {
      for (int64_t rest = ceil_div(end - begin, 2); rest < chunks * kPairDepth / 2; ++rest) {
        store(row(tap, rest), Vec<uint32_t>{});
      }
    }
  }

  const Contraction<bfloat16>& p_;
  const PairBlocking& blocking_;
  const int64_t* taps_;          // offsets of the taps in the weight
  const bool rows_of_channels_;  // channels of a tap are neighbours
  const bool rows_of_taps_;      // or channels with all their taps are
  const TapShuffle shuffle_;     // of these, where they are still to be packed
};

inline void pairs_prepare(const Contraction<bfloat16>& p, void* to) {
  const PairBlocking blocking(p);
  Scratch offsets(blocking.tap_bytes);
  tap_offsets(p, p.weight_strides, offsets.as<int64_t>());
  PairPacking(p, blocking, offsets.as<int64_t>()).pack(static_cast<bfloat16*>(to));
}
inline int64_t pairs_weight_bytes(const Contraction<bfloat16>& p) {
  return PairBlocking(p).weight_bytes;
}
inline Footprint pairs_footprint(const Contraction<bfloat16>& p) {
  return PairBlocking(p).footprint();
}
