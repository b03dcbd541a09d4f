// Dense and grouped convolution of bfloat16 by instructions that add up the products of pairs:
// dest[pixels x rows] = im2col[pixels x K] * weight[K x rows] for each group, K = taps * source
// channels. How it is cut says pair_weights.h, how pixels are read pair_pixels.h, and how a CPU
// multiplies them pair_multiply.h.

/// Adds the bias to the sums of `count` pixels, rounds them, and stores `channels` destination
/// channels, a block of them at most and neighbours, at each of `places`.
inline void store_pair_pixels(const float* sums, const bfloat16* bias, bfloat16* dest,
                              const int64_t* places, int64_t count, int64_t channels) {
  const int64_t low = channels < kPairRows ? channels : kPairRows, high = channels - low;
  const uint32_t mask = first_pair_lanes(channels);
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
inline void store_pair_planes(const float* sums, const bfloat16* bias, bfloat16* dest,
                              int64_t plane, int64_t step, const int64_t* places, int64_t count,
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
/// others 16 `pitch` elements behind the first. Chunks of nothing but padding are `empty`; `whole`
/// ones end with zeros.
inline void copy_pair_columns(const Contraction<bfloat16>& p, PairPixels& pixels, int64_t first,
                              int64_t count, const PairSlice& slice, bfloat16* to, int64_t pitch,
                              bool whole, bool* empty) {
  pixels.turn_to(first, count);
  each_tap(p, slice.tap, slice.taps, [&](const TapOffset& offset) {
    const bool reads = pixels.cut_pieces(offset);
    for (int64_t k = 0; k < slice.chunks; ++k, to += kPairTile) {
      *empty++ = !reads;
      if (!reads) continue;
      const int64_t chunk = slice.chunk + k, channels = pair_channels(p.depth, chunk);
      pixels.copy_columns(chunk * kPairDepth, channels, whole ? kPairDepth : channels, to, pitch);
    }
  });
}

/// A thread's share of a call.
template <class Unit>
class PairThread {
 public:
  /// `weights` are packed, or null where `packing` packs slices.
  PairThread(const Contraction<bfloat16>& p, const PairBlocking& blocking,
             const PairPacking& packing, const bfloat16* weights)
      : p_(p),
        blocking_(blocking),
        packing_(packing),
        weights_(weights),
        table_(blocking.table_bytes),
        empty_flags_(blocking.empty_bytes),
        copies_(blocking.copied_bytes),
        sum_buffer_(blocking.sum_bytes),
        place_buffer_(blocking.place_bytes),
        slice_buffer_(blocking.slice_bytes),
        lines_(table_.as<PairLines>()),
        empty_(empty_flags_.as<bool>()),
        zeros_(copies_.as<bfloat16>()),
        copied_(zeros_ + kPairTile),
        places_(place_buffer_.as<int64_t>()) {
    memset(zeros_, 0, kPairTile * sizeof(bfloat16));
    Unit::begin();
  }
  ~PairThread() { Unit::end(); }
  PairThread(const PairThread&) = delete;
  PairThread& operator=(const PairThread&) = delete;

  /// Computes an item: some pixels and rows of a group.
  void run(int64_t item) {
    const int64_t parts = blocking_.parts, pixel_blocks = blocking_.pixel_blocks;
    const int64_t first = item / parts % pixel_blocks * blocking_.pixel_block;
    const int64_t left = blocking_.pixels - first;
    group_ = item / (pixel_blocks * parts);
    count_ = left < blocking_.pixel_block ? left : blocking_.pixel_block;
    block_begin_ = item % parts * blocking_.part_blocks;
    const int64_t rest = ceil_div(p_.rows, kPairBlock) - block_begin_;
    blocks_ = rest < blocking_.part_blocks ? rest : blocking_.part_blocks;

    PixelPlace place(p_, first);
    for (int64_t i = 0; i < count_; ++i, place.step(p_)) places_[i] = place.offset(p_.dest_strides);
    PairPixels source(p_, p_.source_strides,
                      p_.source + group_ * p_.depth * p_.source_strides.channel);
    for (int64_t index = 0; index < blocking_.slices; ++index) {
      const PairSlice slice = blocking_.slice_at(index);
      copy_pixels(source, first, slice);
      for (int64_t block = 0; block < blocks_; ++block) multiply_block(index, slice, block);
    }
  }

 private:
  /// Tiles from those of 16 pixels to those of the next.
  int64_t pitch() const { return blocking_.slice; }
  /// Flags of the columns of 32 pixels.
  bool* empty_at(int64_t pixel) const { return empty_ + pixel / kPairBlock * pitch(); }
  bfloat16* copied_at(int64_t pixel) const {
    return copied_ + pixel / kPairPixels * pitch() * kPairTile;
  }
  PairLines* lines_at(int64_t pixel) const { return lines_ + pixel / kPairPixels * pitch(); }

  /// Copies, or points to, a slice of all pixels, of which `first` is number 0.
  void copy_pixels(PairPixels& source, int64_t first, const PairSlice& slice) {
    for (int64_t i = 0; i < count_; i += blocking_.planar ? kPairBlock : kPairPixels) {
      const int64_t left = count_ - i;
      if (blocking_.planar) {
        copy_pair_columns(p_, source, first + i, left < kPairBlock ? left : kPairBlock, slice,
                          copied_at(i), pitch() * kPairTile, Unit::kWhole, empty_at(i));
      } else {
        find_pair_lines(p_, source, first + i, left < kPairPixels ? left : kPairPixels, slice,
                        zeros_, copied_at(i), lines_at(i));
      }
    }
  }

  /// The weights of a slice for a block of rows.
  const bfloat16* weights_of(const PairSlice& slice, int64_t block, int64_t tile_pitch) {
    if (weights_ == nullptr) {
      packing_.pack_block(group_, block, slice.chunk, slice_buffer_.as<bfloat16>());
      return slice_buffer_.as<bfloat16>();
    }
    const int64_t piece = group_ * blocking_.pieces + block * kPairBlock / kPairRows;
    return weights_ + piece * blocking_.chunks * kPairTile + slice.first * tile_pitch;
  }

  /// Brings, while pixels from `i` on meet a block of rows, a part of the weights that come next.
  void fetch_weights(const PairSlice& slice, int64_t block, bool last, int64_t i) const {
    if (weights_ != nullptr) return;
    const int64_t part = i / kPairBlock, parts = ceil_div(count_, kPairBlock);
    if (block + 1 < blocks_) {
      packing_.fetch_block(group_, block_begin_ + block + 1, slice.chunk, part, parts);
    } else if (!last) {
      packing_.fetch_block(group_, block_begin_, slice.chunk + slice.chunks, part, parts);
    }
  }

  /// Adds the products of slice number `index`, and after the last one stores the sums.
  void multiply_block(int64_t index, const PairSlice& slice, int64_t block) {
    const int64_t row = (block_begin_ + block) * kPairBlock, tiles = slice.tiles();
    const int64_t channels = p_.rows - row < kPairBlock ? p_.rows - row : kPairBlock;
    const bool wide = channels > kPairRows, last = index + 1 == blocking_.slices;
    const int64_t of_weight = (wide ? 2 : 1) * kPairTile;  // from tile to tile
    const bfloat16* weight = weights_of(slice, block_begin_ + block, of_weight);
    for (int64_t k = 0; blocking_.planar && k < tiles; ++k) {
      const int64_t chunk = slice.chunk + k % slice.chunks;
      const int64_t pairs = ceil_div(pair_channels(p_.depth, chunk), 2);
      lines_[k] = {weight + k * of_weight, kPairTileLine, pairs};
      lines_[pitch() + k] = {weight + k * of_weight + kPairTile, kPairTileLine, pairs};
    }
    for (int64_t i = 0; i < count_; i += kPairBlock) {
      const int64_t n = count_ - i < kPairBlock ? count_ - i : kPairBlock;
      fetch_weights(slice, block, last, i);
      float* sums = sum_buffer_.as<float>();
      if (blocking_.slices > 1) sums += (block * blocking_.pixel_block + i) * kPairBlock;
      if (blocking_.planar) {
        Unit::multiply({lines_, pitch(), channels, copied_at(i), kPairTile, pitch() * kPairTile,
                        empty_at(i), n > kPairPixels, tiles, sums, kPairBlock, index > 0});
      } else {
        Unit::multiply({lines_at(i), pitch(), n, weight, of_weight, kPairTile, nullptr, wide, tiles,
                        sums, kPairBlock, index > 0});
      }
      if (last) store_block(sums, group_ * p_.rows + row, channels, i, n);
    }
  }

  /// Stores the sums of `count` pixels from `first` on.
  void store_block(const float* sums, int64_t channel, int64_t channels, int64_t first,
                   int64_t count) {
    const bfloat16* bias = p_.bias != nullptr ? p_.bias + channel : nullptr;
    const Strides& strides = p_.dest_strides;
    bfloat16* dest = p_.dest + channel * strides.channel;
    if (blocking_.planar) {
      store_pair_planes(sums, bias, dest, strides.channel, strides.axis[2], places_ + first, count,
                        channels);
    } else {
      store_pair_pixels(sums, bias, dest, places_ + first, count, channels);
    }
  }

  const Contraction<bfloat16>& p_;
  const PairBlocking& blocking_;
  const PairPacking& packing_;
  const bfloat16* weights_;
  Scratch table_, empty_flags_, copies_, sum_buffer_, place_buffer_, slice_buffer_;
  PairLines* lines_;  // of pixels, or of the weights that meet them
  bool* empty_;
  bfloat16 *zeros_, *copied_;
  int64_t* places_;  // of the pixels in the destination

  // Of the item:
  int64_t group_ = 0, count_ = 0;  // count of pixels
  int64_t block_begin_ = 0, blocks_ = 0;
};

template <class Unit>
void pair_products(const Contraction<bfloat16>& p) {
  const PairBlocking blocking(p);
  Scratch offsets(blocking.tap_bytes);
  tap_offsets(p, p.weight_strides, offsets.as<int64_t>());
  const PairPacking packing(p, blocking, offsets.as<int64_t>());
  const auto* weights = static_cast<const bfloat16*>(p.prepared);
  const PackedWeight memory = weights != nullptr ? PackedWeight{} : blocking.packed;
  Scratch shared(memory.of_call());
  if (memory.of_call() > 0) {
    packing.pack(shared.as<bfloat16>());
    weights = shared.as<bfloat16>();
  }
  const int64_t items = p.groups * blocking.pixel_blocks * blocking.parts;
  parallel_threads(items, 1, [&](ThreadItems& of_thread) {
    Scratch own(memory.of_thread());
    const bool packs = memory.of_thread() > 0;
    if (packs) packing.pack(own.as<bfloat16>());
    PairThread<Unit> thread(p, blocking, packing, packs ? own.as<bfloat16>() : weights);
    of_thread.for_each([&](int64_t item, bool) { thread.run(item); });
  });
}

#undef CNNOPS_MATRIX_UNIT
