// The pixels that pair_products.h and weight_pair_products.h multiply, 16 or 32 at a time: of a
// tap, as lines or columns (pair_weights.h). Where channels_last pixels lie at one distance inside
// a row, their lines are read from there. All else is copied, zeros around it: what touches a
// border, goes on in the next row, is the rest of the channels, or is read of planes.

/// The offsets of a tap.
struct TapOffset {
  int64_t axis[kAxes];
};

/// Calls call(offset) for the taps [first, first + count) of a shape.
template <class Call>
inline void each_tap(const ContractionShape& shape, int64_t first, int64_t count,
                     const Call& call) {
  const Walk* walk = shape.walk;
  const int64_t line = first / walk[2].tap_count;
  int64_t w = first % walk[2].tap_count;
  int64_t h = line % walk[1].tap_count, d = line / walk[1].tap_count;
  for (int64_t t = 0; t < count; ++t) {
    call(TapOffset{{walk[0].taps[d].offset, walk[1].taps[h].offset, walk[2].taps[w].offset}});
    if (++w < walk[2].tap_count) continue;
    w = 0;
    if (++h < walk[1].tap_count) continue;
    h = 0;
    ++d;
  }
}

/// Two channels of 32 pixels as pairs: a row of the columns of the first 16, and one of the others.
inline void store_pair_rows(__m512i even, __m512i odd, bfloat16* low, bfloat16* high) {
  VectorOf<uint16_t, 2 * kPairPixels>::type first, second;
  for (int i = 0; i < 2 * kPairPixels; ++i) {
    first[i] = uint16_t(i / 2 + i % 2 * 2 * kPairPixels);
    second[i] = uint16_t(first[i] + kPairPixels);
  }
  _mm512_store_si512(low, _mm512_permutex2var_epi16(even, (__m512i)first, odd));
  _mm512_store_si512(high, _mm512_permutex2var_epi16(even, (__m512i)second, odd));
}

/// What some destination pixels read.
class PairPixels {
 public:
  /// `source` is channel 0 of the group.
  PairPixels(const ContractionShape& shape, const Strides& strides, const bfloat16* source)
      : shape_(shape), strides_(strides), source_(source) {}

  /// Turns to `count` pixels from `first` on, 32 at most.
  void turn_to(int64_t first, int64_t count) {
    count_ = count;
    segments_ = cut_into_segments(shape_, first, count, segment_);
  }

  // ---- pixels whose channels are neighbours ------------------------------------------------------

  /// Points to what each pixel reads for a tap, null for zeros. Whether any reads a row.
  bool point(const TapOffset& offset) {
    const Walk& width = shape_.walk[2];
    const int64_t stride = strides_.axis[2], step = width.step * stride;
    bool reads = false;
    even_ = segments_ == 1;
    for (int64_t s = 0; s < segments_; ++s) {
      const Segment& segment = segment_[s];
      const int64_t begin = segment.column, end = begin + segment.length;
      const bfloat16* line = line_at(segment, offset);
      int64_t x = segment.width * width.step + offset.axis[2];
      const int64_t last = x + (segment.length - 1) * width.step;
      reads |= line != nullptr;
      if (line == nullptr) {
        for (int64_t i = begin; i < end; ++i) pixel_[i] = nullptr;
      } else if (x >= 0 && last < width.size) {
        const bfloat16* at = line + x * stride;
        for (int64_t i = begin; i < end; ++i, at += step) pixel_[i] = at;
      } else {
        even_ = false;
        for (int64_t i = begin; i < end; ++i, x += width.step) {
          const int64_t position = width.resolve(x);
          pixel_[i] = position < 0 ? nullptr : line + position * stride;
        }
      }
    }
    for (int64_t i = count_; i < kMost; ++i) pixel_[i] = nullptr;
    return reads;
  }

  /// Whether 16 pixels read at one distance, after point(); where the first does, and the distance.
  bool are_even() const { return even_ && count_ == kPairPixels && pixel_[0] != nullptr; }
  const bfloat16* first() const { return pixel_[0]; }
  int64_t distance() const { return pixel_[1] - pixel_[0]; }

  /// Copies `channels` from channel `c` on, a chunk at most, as lines of 16 pixels.
  void copy_lines(int64_t c, int64_t channels, bfloat16* to) const {
    for (int64_t i = 0; i < kPairPixels; ++i) {
      _mm512_store_si512(to + i * kPairDepth, load_pixel(i, c, first_pair_lanes(channels)));
    }
  }

  /// Copies `channels` from channel `c` on, 16 at most, as columns of pairs of pixels.
  void copy_pixel_columns(int64_t c, int64_t channels, bfloat16* to) const {
    const auto lanes = first_pair_lanes(channels);
    for (int64_t i = 0; i < kPairDepth; i += 2, to += kPairDepth) {
      const __m256i even = _mm512_castsi512_si256(load_pixel(i, c, lanes));
      const __m256i odd = _mm512_castsi512_si256(load_pixel(i + 1, c, lanes));
      const auto high = (Vec<uint32_t>)_mm512_maskz_cvtepu16_epi32(0xffff, odd) << 16;
      store(reinterpret_cast<uint32_t*>(to),
            (Vec<uint32_t>)_mm512_maskz_cvtepu16_epi32(0xffff, even) | high);
    }
  }

  // ---- planes ------------------------------------------------------------------------------------

  /// Cuts what the pixels read for a tap, channel 0 of it, into pieces. Zeros are in none. Whether
  /// there are any.
  bool cut_pieces(const TapOffset& offset) {
    const Walk& width = shape_.walk[2];
    const int64_t stride = strides_.axis[2];
    distance_ = width.step * stride;
    pieces_ = 0;
    for (int64_t s = 0; s < segments_; ++s) {
      const Segment& segment = segment_[s];
      const bfloat16* line = line_at(segment, offset);
      if (line == nullptr) continue;
      const int64_t begin = segment.column, x = segment.width * width.step + offset.axis[2];
      uint32_t inside = 0;
      for (int64_t i = begin; i < begin + segment.length; ++i) {
        const int64_t reads = x + (i - begin) * width.step;
        if (reads >= 0 && reads < width.size) {
          inside |= 1u << i;
        } else if (const int64_t position = width.resolve(reads); position >= 0) {
          piece_[pieces_++] = {line + position * stride - i * distance_, 1u << i};
        }
      }
      if (inside == 0) continue;
      piece_[pieces_++] = {line + x * stride - begin * distance_, inside};
    }
    return pieces_ > 0;
  }

  /// Copies `channels` from channel `c` on, a chunk at most, as columns of 32 pixels, the others 16
  /// `pitch` elements behind the first: `most` elements, those past the channels zeros.
  void copy_columns(int64_t c, int64_t channels, int64_t most, bfloat16* to, int64_t pitch) const {
    for (int64_t i = 0; i < most; i += 2, to += kPairDepth) {
      const __m512i even = i < channels ? load_plane(c + i) : _mm512_setzero_si512();
      const __m512i odd = i + 1 < channels ? load_plane(c + i + 1) : _mm512_setzero_si512();
      store_pair_rows(even, odd, to, to + pitch);
    }
  }

  /// Copies `channels` from channel `c` on, 16 at most, as lines of pairs of pixels.
  void copy_plane_lines(int64_t c, int64_t channels, bfloat16* to) const {
    for (int64_t i = 0; i < kPairRows; ++i, to += kPairDepth) {
      _mm512_store_si512(to, i < channels ? load_plane(c + i) : _mm512_setzero_si512());
    }
  }

 private:
  static constexpr int64_t kMost = 2 * kPairPixels;

  /// Pixels whose bits are set in `lanes`: number i reads from[i * distance_].
  struct Piece {
    const bfloat16* from;
    uint32_t lanes;
  };

  /// The source row that a destination row reads, or null for zeros.
  const bfloat16* line_at(const Segment& segment, const TapOffset& offset) const {
    const Walk* walk = shape_.walk;
    const int64_t z = walk[0].resolve(segment.position[0] * walk[0].step + offset.axis[0]);
    const int64_t y = walk[1].resolve(segment.position[1] * walk[1].step + offset.axis[1]);
    if (z < 0 || y < 0) return nullptr;
    return source_ + segment.batch * strides_.batch + z * strides_.axis[0] + y * strides_.axis[1];
  }

  /// The channels of a pixel from `c` on whose bits are set.
  __m512i load_pixel(int64_t i, int64_t c, uint32_t lanes) const {
    // What is masked out is not read: any address does.
    const bfloat16* from = pixel_[i] == nullptr ? source_ : pixel_[i] + c;
    return _mm512_maskz_loadu_epi16(pixel_[i] == nullptr ? 0 : lanes, from);
  }

  /// What the pixels read of a channel.
  __m512i load_plane(int64_t channel) const {
    const int64_t offset = channel * strides_.channel;
    __m512i all = _mm512_setzero_si512();
    if (distance_ == 1) {
      for (int64_t i = 0; i < pieces_; ++i) {
        const bfloat16* from = piece_[i].from + offset;
        all = _mm512_or_si512(all, _mm512_maskz_loadu_epi16(piece_[i].lanes, from));
      }
      return all;
    }
    if (distance_ == 2) {
      VectorOf<uint16_t, kMost>::type even;
      for (int i = 0; i < kMost; ++i) even[i] = uint16_t(2 * i);
      __m512i high = all;
      for (int64_t i = 0; i < pieces_; ++i) {
        const bfloat16* from = piece_[i].from + offset;
        const uint64_t lanes = _pdep_u64(piece_[i].lanes, 0x5555555555555555u);
        all = _mm512_or_si512(all, _mm512_maskz_loadu_epi16(__mmask32(lanes), from));
        high =
            _mm512_or_si512(high, _mm512_maskz_loadu_epi16(__mmask32(lanes >> 32), from + kMost));
      }
      return _mm512_permutex2var_epi16(all, (__m512i)even, high);
    }
    alignas(64) uint16_t lane[kMost] = {};
    for (int64_t i = 0; i < pieces_; ++i) {
      for (uint32_t left = piece_[i].lanes; left != 0; left &= left - 1) {
        const int64_t place = __builtin_ctz(left);
        lane[place] = piece_[i].from[offset + place * distance_].bits;
      }
    }
    return _mm512_load_si512(lane);
  }

  const ContractionShape& shape_;
  const Strides& strides_;
  const bfloat16* source_;
  int64_t count_ = 0, segments_ = 0, pieces_ = 0, distance_ = 0;
  Segment segment_[kMost];  // of the pixels
  Piece piece_[kMost];
  bool even_ = false;
  const bfloat16* pixel_[kMost];
};
