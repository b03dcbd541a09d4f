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

/// Where K lies: channel c and tap t at c * channel + taps[t].
struct OrderOfK {
  int64_t channel;
  const int64_t* taps;
};

/// What destination pixel `pixel` of a group reads, in `order`. `source` is channel 0 of the group
/// in image 0.
template <class T>
void gather_pixel(const ContractionShape& shape, const Strides& strides, const T* source,
                  int64_t pixel, const OrderOfK& order, Accumulator<T>* to) {
  const Walk* walk = shape.walk;
  const PixelPlace at(shape, pixel);
  const T* image = source + at.image * strides.batch;
  const int64_t* place = order.taps;
  const bool is_run = shape.taps() == 1;
  for (int64_t td = 0; td < walk[0].tap_count; ++td) {
    const int64_t z = walk[0].resolve(at.d * walk[0].step + walk[0].taps[td].offset);
    for (int64_t th = 0; th < walk[1].tap_count; ++th) {
      const int64_t y = walk[1].resolve(at.h * walk[1].step + walk[1].taps[th].offset);
      for (int64_t tw = 0; tw < walk[2].tap_count; ++tw) {
        const int64_t x = walk[2].resolve(at.w * walk[2].step + walk[2].taps[tw].offset);
        const bool inside = z >= 0 && y >= 0 && x >= 0;
        const T* from = image + z * strides.axis[0] + y * strides.axis[1] + x * strides.axis[2];
        Accumulator<T>* out = to + *place++;
        if (inside && is_run) {
          copy_strided(from, strides.channel, shape.depth, out);
          continue;
        }
        for (int64_t c = 0; c < shape.depth; ++c) {
          out[c * order.channel] = inside ? widen(from[c * strides.channel]) : Accumulator<T>(0);
        }
      }
    }
  }
}

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
    table_bytes = sizeof(int64_t) * 2 * p.taps();
    gathered_bytes = sizeof(A) * p.groups * pixels * inner;
  }

  Footprint footprint() const {
    const int64_t rows = along_inner ? kPixelsOfPass : kPixelsOfPass * kLanes<A>;
    return {pixels < kPixelsOfPass ? pixels : kPixelsOfPass, rows, table_bytes + gathered_bytes, 0};
  }
};

/// sums[i * kRows + r] = weight row r times gathered pixel i, for kRows rows and kPixels pixels;
/// `sums` has room for whole registers.
template <class T, int kRows, int kPixels>
inline void multiply_along_inner(const T* weight, int64_t row, const Accumulator<T>* x,
                                 int64_t inner, Accumulator<T>* sums) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kPixels * kRows] = {};
  int64_t k = 0;
  const auto add = [&](auto read) {
    Vec<A> value[kPixels];
#pragma GCC unroll 4
    for (int i = 0; i < kPixels; ++i) value[i] = read(x + i * inner + k);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vec<A> w = read(weight + r * row + k);
#pragma GCC unroll 4
      for (int i = 0; i < kPixels; ++i) sum[i * kRows + r] += w * value[i];
    }
  };
  for (; k + lanes <= inner; k += lanes) add([](const auto* from) { return load_wide(from); });
  if (k < inner) add([&](const auto* from) { return load_partial(from, inner - k); });
  store_sums<A>(sum, sums);
}

/// Sums of a pass over K.
constexpr int kSumsOfPass = CNNOPS_VECTOR_BYTES == 64 ? 16 : 8;

/// sums[i * pitch + r] = weight row r times gathered pixel i, for `rows` rows, at most a register
/// of them per kVectors. Rows are neighbours, and K of the first lies as `order` says.
template <class T, int kVectors, int kPixels>
inline void multiply_along_rows(const ContractionShape& shape, const T* weight,
                                const OrderOfK& order, int64_t rows, const Accumulator<T>* x,
                                Accumulator<T>* sums, int64_t pitch) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kVectors][kPixels] = {};
  const bool whole = rows == kVectors * lanes;
  int64_t counts[kVectors];
  for (int j = 0; j < kVectors; ++j) {
    const int64_t left = rows - j * lanes;
    counts[j] = left < 0 ? 0 : left > lanes ? lanes : left;
  }
  const int64_t taps = shape.taps(), inner = shape.depth * taps;
  for (int64_t c = 0; c < shape.depth; ++c) {
    for (int64_t t = 0; t < taps; ++t, ++x) {
      const T* from = weight + c * order.channel + order.taps[t];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const Vec<A> w =
            whole ? load_wide(from + j * lanes) : load_partial(from + j * lanes, counts[j]);
#pragma GCC unroll 4
        for (int i = 0; i < kPixels; ++i) sum[j][i] += w * broadcast(x[i * inner]);
      }
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
                      const OrderOfK& order, int64_t rows, const Accumulator<T>* x,
                      Accumulator<T>* sums) {
  using A = Accumulator<T>;
  if (along_inner) {
    constexpr int block = kSumsOfPass / kPixels, few = block > 4 ? 4 : 1;
    const int64_t inner = p.depth * p.taps();
    alignas(64) A part[kSumsOfPass > kLanes<A> ? kSumsOfPass : kLanes<A>];
    for (int64_t r = 0; r < rows;) {
      const int64_t row = p.weight_strides.row;
      const int64_t some = rows - r >= block ? block : rows - r >= few ? few : 1;
      const auto multiply = some == block ? multiply_along_inner<T, block, kPixels>
                            : some == few ? multiply_along_inner<T, few, kPixels>
                                          : multiply_along_inner<T, 1, kPixels>;
      multiply(weight + r * row, row, x, inner, part);
      for (int i = 0; i < kPixels; ++i) {
        for (int64_t j = 0; j < some; ++j) sums[i * kFewPixelsRows + r + j] = part[i * some + j];
      }
      r += some;
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
    multiply(p, weight + r, order, some, x, sums + r, kFewPixelsRows);
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
  tap_offsets(p, p.weight_strides, offsets);
  int64_t* in_order = offsets + taps;
  for (int64_t t = 0; t < taps; ++t) in_order[t] = t;
  const OrderOfK of_weight{p.weight_strides.depth, offsets};
  // Along K as the weight has it, else as `multiply_along_rows` takes it.
  const OrderOfK order = blocking.along_inner ? of_weight : OrderOfK{taps, in_order};
  Scratch gathered(blocking.gathered_bytes);
  A* x = gathered.as<A>();
  for (int64_t group = 0; group < p.groups; ++group) {
    for (int64_t i = 0; i < pixels; ++i) {
      gather_pixel(p, p.source_strides, p.source + group * p.depth * p.source_strides.channel, i,
                   order, x + (group * pixels + i) * inner);
    }
  }

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
        block(p, blocking.along_inner, weight, of_weight, rows, from, sums);
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
