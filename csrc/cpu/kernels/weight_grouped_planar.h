// Weight gradient of grouped convolution of planar tensors: the channels_last kernel on blocks that
// are transposed into scratch, as in grouped_planar.h. Blocks are whole images of a register of
// channels, or bands of their rows where these leave the cache. They are accumulators: 16-bit
// elements are widened once, and not for every tap, for which channels_last ones are copied too.

/// Elements of the blocks of a band, source and grad.
constexpr int64_t kBandBlockElements = int64_t(1) << 15;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGroupedPlanarBlocking {
  using A = Accumulator<T>;
  bool whole;  // images, not bands of their rows
  WeightGroupedChannelsLastBlocking<T> sums;
  int64_t source_elements, grad_elements;  // of a block
  int64_t block_bytes;

  explicit WeightGroupedPlanarBlocking(const WeightContraction<T>& p)
      : whole(!falls_into_bands(p)),
        sums(p, whole ? p.walk[0].count * p.walk[1].count : rows_of_band(p), 1) {
    const int64_t source = whole ? source_plane(p) : source_rows(p, sums.rows) * p.walk[2].size;
    source_elements = round_up(source * kLanes<A>, 64);
    grad_elements = (whole ? p.pixels() : sums.rows * p.walk[2].count) * kLanes<A>;
    block_bytes = sizeof(A) * (source_elements + grad_elements);
  }

  /// What so many destination rows read, at most.
  static int64_t source_rows(const ContractionShape& shape, int64_t rows) {
    const int64_t positions = shape.walk[1].positions(rows);
    return positions < shape.walk[1].size ? positions : shape.walk[1].size;
  }

  static int64_t rows_of_band(const ContractionShape& shape) {
    const Walk &height = shape.walk[1], &width = shape.walk[2];
    const int64_t shared = height.positions(1) - height.step;
    const int64_t pixels = kBandBlockElements / kLanes<A> - shared * width.size;
    const int64_t rows = pixels / (height.step * width.size + width.count);
    return rows < 1 ? 1 : rows;
  }

  Footprint footprint() const {
    Footprint all = sums.footprint();
    all.per_thread += block_bytes;
    return all;
  }
};

/// Copies the pixels [begin, end), whole rows, of an image of `channels` channels, a register at
/// most: as registers, one for each pixel. A plane is [size[0]][size[1]][size[2]] pixels.
template <class T>
void copy_channels(const T* from, const Strides& strides, const int64_t (&size)[kAxes],
                   int64_t begin, int64_t end, int64_t channels, Accumulator<T>* to) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  if (strides.channel != 1) {
    return load_planes(from + begin, strides.channel, channels, 1, end - begin, to, lanes);
  }
  for (int64_t row = begin / size[2]; row < end / size[2]; ++row) {
    const T* at = from + row / size[1] * strides.axis[0] + row % size[1] * strides.axis[1];
    for (int64_t x = 0; x < size[2]; ++x, at += strides.axis[2], to += lanes) {
      store(to, channels == lanes ? load_wide(at) : load_partial(at, channels));
    }
  }
}

template <class T, int kGroup>
void correlate_copied_groups(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const WeightGroupedPlanarBlocking<T> blocking(p);
  const Walk &height = p.walk[1], &width = p.walk[2];
  const Strides block_source = transposed_source_strides<T>(p.walk);
  const Strides block_grad = transposed_dest_strides<T>(p.walk);
  const int64_t source_size[kAxes] = {p.walk[0].size, height.size, width.size};
  const int64_t grad_size[kAxes] = {p.walk[0].count, height.count, width.count};
  const auto correlate = [&](int64_t image, int64_t row, int64_t last_row, int64_t first,
                             int64_t last, A* source, void* lines, A* sums) {
    int64_t begin = 0, end = source_plane(p);
    if (!blocking.whole) {
      const int64_t low = row * height.step + height.low();
      const int64_t high = (last_row - 1) * height.step + height.high() + 1;
      const auto row_start = [&](int64_t y) {
        return (y < 0 ? 0 : y < height.size ? y : height.size) * width.size;
      };
      begin = row_start(low), end = row_start(high);
    }
    const int64_t count = last - first;
    const int64_t pixel = row * width.count, pixels = (last_row - row) * width.count;
    A* grad = source + blocking.source_elements;
    const Strides &of_source = p.source_strides, &of_grads = p.grad_strides;
    copy_channels(p.source + image * of_source.batch + first * of_source.channel, of_source,
                  source_size, begin, end, count, source);
    copy_channels(p.grad + image * of_grads.batch + first * of_grads.channel, of_grads, grad_size,
                  pixel, pixel + pixels, count, grad);
    // Where the images would start.
    const A* all_source = source - begin * lanes;
    const A* all_grad = grad - pixel * lanes;
    for (; row < last_row; ++row) {
      correlate_row<A, kGroup>(p.walk, row, all_grad, block_grad, all_source, block_source, lanes,
                               static_cast<CorrelatedLine<A>*>(lines), sums);
    }
  };
  correlate_groups<T, kGroup>(p, blocking.sums, blocking.block_bytes, correlate);
}

template <class T>
void weight_grouped_planar(const WeightContraction<T>& p) {
  with_group<Accumulator<T>>(p.depth, [&]<int kGroup>() { correlate_copied_groups<T, kGroup>(p); });
}

/// Whether channels_last tensors are copied: they are to be widened, and bands of them, of a row at
/// least, stay in L2.
template <class T>
bool widens_bands(const WeightContraction<T>& p) {
  if (__is_same(T, Accumulator<T>) || !falls_into_bands(p)) return false;
  const int64_t source = WeightGroupedPlanarBlocking<T>::source_rows(p, 1) * p.walk[2].size;
  return (source + p.walk[2].count) * kLanes<Accumulator<T>> <= 2 * kBandBlockElements;
}

template <class T>
void weight_grouped_channels_last(const WeightContraction<T>& p) {
  if constexpr (!__is_same(T, Accumulator<T>)) {
    if (widens_bands(p)) return weight_grouped_planar(p);
  }
  with_group<Accumulator<T>>(p.depth, [&]<int kGroup>() { correlate_channels_last<T, kGroup>(p); });
}

template <class T>
Footprint weight_grouped_channels_last_footprint(const WeightContraction<T>& p) {
  if (widens_bands(p)) return WeightGroupedPlanarBlocking<T>(p).footprint();
  return WeightGroupedChannelsLastBlocking<T>(p).footprint();
}
