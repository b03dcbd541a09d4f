// Dense and grouped convolution with few destination pixels, such as the 1x1 layers between pooled
// images: dest[pixels x rows] = source[pixels x K] * weight[K x rows], bound by reading the weight.
//
// So the weight is read once, where it lies, and never packed. What the few pixels read is gathered
// first, in the order of the weight. Where K is dense in a row of the weight (the forward pass)
// registers run along K and their lanes are added up at the end; where the destination channels are
// neighbours (the input gradient) registers run along those. Items are blocks of destination
// channels of a group.

/// Destination pixels of a pass over the weight.
constexpr int kPixelsOfPass = 4;

/// Destination channels of an item.
constexpr int64_t kFewPixelsRows = 64;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct FewPixelsBlocking {
  using A = Accumulator<T>;
  int64_t inner, pixels, row_blocks;
  bool along_inner;  // registers run along K, else along destination channels
  int64_t table_bytes, gathered_bytes;

  explicit FewPixelsBlocking(const Contraction<T>& p) {
    inner = p.depth * p.taps();
    pixels = p.batch * p.pixels();
    row_blocks = ceil_div(p.rows, kFewPixelsRows);
    along_inner = weight_rows_are_dense(p, p.weight_strides);
    table_bytes = sizeof(int64_t) * (p.taps() + inner);
    gathered_bytes = sizeof(A) * p.groups * pixels * inner;
  }

  Footprint footprint() const {
    const int64_t rows = along_inner ? kPixelsOfPass : kPixelsOfPass * kLanes<A>;
    return {pixels < kPixelsOfPass ? pixels : kPixelsOfPass, rows, table_bytes + gathered_bytes, 0};
  }
};

/// What destination pixel `pixel` of a group reads, with the source channel and tap of weight
/// offset i at to[place[channel * taps + tap]]. `source` is channel 0 of the group in image 0.
template <class T>
void gather_pixel(const Contraction<T>& p, const T* source, int64_t pixel, const int64_t* place,
                  Accumulator<T>* to) {
  const Walk* walk = p.walk;
  const PixelPlace at(p, pixel);
  const T* image = source + at.image * p.source_strides.batch;
  const int64_t taps = p.taps();
  int64_t tap = 0;
  for (int64_t td = 0; td < walk[0].tap_count; ++td) {
    const int64_t z = walk[0].resolve(at.d * walk[0].step + walk[0].taps[td].offset);
    for (int64_t th = 0; th < walk[1].tap_count; ++th) {
      const int64_t y = walk[1].resolve(at.h * walk[1].step + walk[1].taps[th].offset);
      for (int64_t tw = 0; tw < walk[2].tap_count; ++tw, ++tap) {
        const int64_t x = walk[2].resolve(at.w * walk[2].step + walk[2].taps[tw].offset);
        const bool inside = z >= 0 && y >= 0 && x >= 0;
        const T* from = image + z * p.source_strides.axis[0] + y * p.source_strides.axis[1] +
                        x * p.source_strides.axis[2];
        if (inside && taps == 1) {
          copy_strided(from, p.source_strides.channel, p.depth, to);
          continue;
        }
        for (int64_t c = 0; c < p.depth; ++c) {
          to[place[c * taps + tap]] =
              inside ? widen(from[c * p.source_strides.channel]) : Accumulator<T>(0);
        }
      }
    }
  }
}

/// sums[r * pitch + i] = weight row r times gathered pixel i, for kRows rows and kPixels pixels.
template <class T, int kRows, int kPixels>
inline void multiply_along_inner(const T* weight, int64_t row, const Accumulator<T>* x,
                                 int64_t inner, Accumulator<T>* sums, int64_t pitch) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kRows][kPixels] = {};
  int64_t k = 0;
  const auto add = [&](auto read) {
    Vec<A> value[kPixels];
#pragma GCC unroll 4
    for (int i = 0; i < kPixels; ++i) value[i] = read(x + i * inner + k);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      const Vec<A> w = read(weight + r * row + k);
#pragma GCC unroll 4
      for (int i = 0; i < kPixels; ++i) sum[r][i] += w * value[i];
    }
  };
  for (; k + lanes <= inner; k += lanes) add([](const auto* from) { return load_wide(from); });
  if (k < inner) add([&](const auto* from) { return load_partial(from, inner - k); });
  for (int r = 0; r < kRows; ++r) {
    for (int i = 0; i < kPixels; ++i) sums[r * pitch + i] = sum_lanes<A>(sum[r][i]);
  }
}

/// sums[i * pitch + r] = weight row r times gathered pixel i, for `rows` rows, at most a register
/// of them per kVectors. Rows are neighbours, and K position k of the first is at
/// weight[offsets[k]].
template <class T, int kVectors, int kPixels>
inline void multiply_along_rows(const T* weight, const int64_t* offsets, int64_t rows,
                                const Accumulator<T>* x, int64_t inner, Accumulator<T>* sums,
                                int64_t pitch) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kVectors][kPixels] = {};
  const bool whole = rows == kVectors * lanes;
  int64_t counts[kVectors];
  for (int j = 0; j < kVectors; ++j) {
    const int64_t left = rows - j * lanes;
    counts[j] = left < 0 ? 0 : left > lanes ? lanes : left;
  }
  for (int64_t k = 0; k < inner; ++k) {
    const T* from = weight + offsets[k];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      const Vec<A> w =
          whole ? load_wide(from + j * lanes) : load_partial(from + j * lanes, counts[j]);
#pragma GCC unroll 4
      for (int i = 0; i < kPixels; ++i) sum[j][i] += w * broadcast(x[i * inner + k]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kPixels; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(sums + i * pitch + j * lanes, sum[j][i]);
  }
}

/// The sums of `rows` destination channels (at most kFewPixelsRows) and kPixels pixels, as
/// [pixel][kFewPixelsRows].
template <class T, int kPixels>
void few_pixels_block(const Contraction<T>& p, bool along_inner, const T* weight,
                      const int64_t* offsets, int64_t rows, const Accumulator<T>* x, int64_t inner,
                      Accumulator<T>* sums) {
  using A = Accumulator<T>;
  if (along_inner) {
    constexpr int block = kPixels == 1 ? 8 : 4;
    A part[8 * kPixelsOfPass];
    for (int64_t r = 0; r < rows;) {
      const int64_t row = p.weight_strides.row;
      const int64_t some = rows - r >= block ? block : 1;
      const auto multiply =
          some > 1 ? multiply_along_inner<T, block, kPixels> : multiply_along_inner<T, 1, kPixels>;
      multiply(weight + r * row, row, x, inner, part, kPixels);
      for (int64_t j = 0; j < some; ++j, ++r) {
        for (int i = 0; i < kPixels; ++i) sums[i * kFewPixelsRows + r] = part[j * kPixels + i];
      }
    }
    return;
  }
  constexpr int lanes = kLanes<A>;
  constexpr int vectors = CNNOPS_VECTOR_BYTES == 64 ? 4 : 2;
  for (int64_t r = 0; r < rows;) {
    const bool many = rows - r > lanes;
    const int64_t most = many ? vectors * lanes : lanes;
    const int64_t some = rows - r < most ? rows - r : most;
    const auto multiply =
        many ? multiply_along_rows<T, vectors, kPixels> : multiply_along_rows<T, 1, kPixels>;
    multiply(weight + r, offsets, some, x, inner, sums + r, kFewPixelsRows);
    r += some;
  }
}

template <class T>
void few_pixels(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const FewPixelsBlocking<T> blocking(p);
  const int64_t taps = p.taps(), inner = blocking.inner, pixels = blocking.pixels;

  Scratch tables(blocking.table_bytes);
  int64_t* offsets = tables.as<int64_t>();
  int64_t* place = offsets + taps;  // of (channel, tap): along K that of the weight, else in order
  tap_offsets(p, p.weight_strides, offsets);
  const int64_t depth_stride = p.depth == 1 ? 0 : p.weight_strides.depth;
  for (int64_t k = 0; k < inner; ++k) {
    place[k] = blocking.along_inner ? k / taps * depth_stride + offsets[k % taps] : k;
  }
  Scratch gathered(blocking.gathered_bytes);
  A* x = gathered.as<A>();
  for (int64_t group = 0; group < p.groups; ++group) {
    for (int64_t i = 0; i < pixels; ++i) {
      gather_pixel(p, p.source + group * p.depth * p.source_strides.channel, i, place,
                   x + (group * pixels + i) * inner);
    }
  }
  // From here on: where the weight of K position k starts, for registers along rows.
  for (int64_t k = 0; k < inner; ++k) place[k] = k / taps * depth_stride + offsets[k % taps];

  const int64_t work = pixels * inner * kFewPixelsRows;
  const int64_t items = p.groups * blocking.row_blocks;
  parallel_for(items, ceil_div(kSmallestWork, work), [&](int64_t begin, int64_t end) {
    alignas(64) A sums[kPixelsOfPass * kFewPixelsRows];
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / blocking.row_blocks;
      const int64_t first = item % blocking.row_blocks * kFewPixelsRows;
      const int64_t rows = p.rows - first < kFewPixelsRows ? p.rows - first : kFewPixelsRows;
      const T* weight = p.weight + group * p.weight_strides.group + first * p.weight_strides.row;
      for (int64_t i = 0; i < pixels;) {
        const A* from = x + (group * pixels + i) * inner;
        const int64_t some = pixels - i >= 4 ? 4 : pixels - i >= 2 ? 2 : 1;
        const auto block = some == 4   ? few_pixels_block<T, 4>
                           : some == 2 ? few_pixels_block<T, 2>
                                       : few_pixels_block<T, 1>;
        block(p, blocking.along_inner, weight, place, rows, from, inner, sums);
        for (int64_t j = 0; j < some; ++j, ++i) {
          T* to = p.dest + PixelPlace(p, i).offset(p.dest_strides);
          for (int64_t r = 0; r < rows; ++r) {
            const int64_t channel = group * p.rows + first + r;
            const A bias = p.bias != nullptr ? widen(p.bias[channel]) : A(0);
            to[channel * p.dest_strides.channel] = narrow<T>(sums[j * kFewPixelsRows + r] + bias);
          }
        }
      }
    }
  });
}
