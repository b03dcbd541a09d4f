// The weight gradient of few destination pixels, as of 1x1 layers between pooled images:
// dest[rows x K] = grad[rows x pixels] * source[pixels x K], bound by storing the weight.
//
// What the few pixels read is gathered first, in the order of the weight, whose rows are dense, and
// so is what grad has in them; pixels of zeros make them one, two, four or eight. Each row is then
// the sum of these products, in registers along K, and is stored once, where it lies. Items are
// blocks of grad channels of a group.

/// Elements of the gathered pixels that meet a block of rows while they are in L1.
constexpr int64_t kWeightPixelsInL1 = 4096;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightFewPixelsBlocking {
  using A = Accumulator<T>;
  int64_t inner, pixels, pitch;
  int64_t row_blocks, chunk;  // blocks of rows; positions of K that they go through at a time
  int64_t table_bytes, gathered_bytes;

  explicit WeightFewPixelsBlocking(const WeightContraction<T>& p) {
    inner = p.depth * p.taps();
    const int64_t all = p.batch * p.pixels();
    pixels = all <= 1 ? 1 : all <= 2 ? 2 : all <= 4 ? 4 : kFewPixels;
    pitch = round_up(inner, kLanes<A>);
    row_blocks = ceil_div(p.rows, kFewPixelsRows);
    chunk = kWeightPixelsInL1 / pixels;
    table_bytes = sizeof(int64_t) * p.taps();
    gathered_bytes = sizeof(A) * p.groups * pixels * (pitch + p.rows);
  }

  Footprint footprint() const { return {1, kLanes<A>, table_bytes + gathered_bytes, 0}; }
};

/// to[k] = sum over pixels of factors[i] * x[i * pitch + k], for `count` positions k.
template <class T, int kPixels>
void sum_pixels(const Accumulator<T>* factors, const Accumulator<T>* x, int64_t pitch,
                int64_t count, T* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> factor[kPixels];
#pragma GCC unroll 8
  for (int i = 0; i < kPixels; ++i) factor[i] = broadcast(factors[i]);
  const auto sum_at = [&](int64_t k) {
    Vec<A> sum = factor[0] * load(x + k);
#pragma GCC unroll 8
    for (int i = 1; i < kPixels; ++i) sum += factor[i] * load(x + i * pitch + k);
    return sum;
  };
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) store_narrow(to + k, sum_at(k));
  if (k < count) store_partial(to + k, sum_at(k), count - k);
}

template <class T>
void weight_few_pixels(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  const WeightFewPixelsBlocking<T> blocking(p);
  const int64_t inner = blocking.inner, pixels = blocking.pixels, pitch = blocking.pitch;

  Scratch tables(blocking.table_bytes);
  int64_t* offsets = tables.as<int64_t>();
  tap_offsets(p, p.dest_strides, offsets);
  Scratch gathered(blocking.gathered_bytes);
  A* x = gathered.as<A>();                     // [group][pixel][pitch]
  A* factors = x + p.groups * pixels * pitch;  // [group][row][pixel]
  fill(x, p.groups * pixels * (pitch + p.rows), A(0));
  const OrderOfK order{p.dest_strides.depth, offsets};
  for (int64_t group = 0; group < p.groups; ++group) {
    for (int64_t i = 0; i < p.batch * p.pixels(); ++i) {
      gather_pixel(p, p.source_strides, p.source + group * p.depth * p.source_strides.channel, i,
                   order, x + (group * pixels + i) * pitch);
      const T* grad = p.grad + PixelPlace(p, i).offset(p.grad_strides) +
                      group * p.rows * p.grad_strides.channel;
      A* to = factors + group * p.rows * pixels + i;
      for (int64_t r = 0; r < p.rows; ++r) to[r * pixels] = widen(grad[r * p.grad_strides.channel]);
    }
  }

  const auto sum = pixels == 1   ? sum_pixels<T, 1>
                   : pixels == 2 ? sum_pixels<T, 2>
                   : pixels == 4 ? sum_pixels<T, 4>
                                 : sum_pixels<T, kFewPixels>;
  const int64_t work = pixels * inner * kFewPixelsRows;
  const int64_t items = p.groups * blocking.row_blocks;
  parallel_for(items, ceil_div(kSmallestWork, work), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / blocking.row_blocks;
      const int64_t first = item % blocking.row_blocks * kFewPixelsRows;
      const int64_t left = p.rows - first, rows = left < kFewPixelsRows ? left : kFewPixelsRows;
      T* to = p.dest + group * p.dest_strides.group + first * p.dest_strides.row;
      const A* of_block = factors + (group * p.rows + first) * pixels;
      for (int64_t k = 0; k < inner; k += blocking.chunk) {
        const int64_t count = inner - k < blocking.chunk ? inner - k : blocking.chunk;
        for (int64_t r = 0; r < rows; ++r) {
          sum(of_block + r * pixels, x + group * pixels * pitch + k, pitch, count,
              to + r * p.dest_strides.row + k);
        }
      }
    }
  });
}
