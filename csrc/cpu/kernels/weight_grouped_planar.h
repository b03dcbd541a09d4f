// Weight gradient of grouped convolution of planar tensors: the channels_last kernel on blocks that
// are transposed into scratch, as in grouped_planar.h. Blocks are whole images of a register of
// channels, or bands of their rows where these leave the cache.

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
    block_bytes = sizeof(T) * (source_elements + grad_elements);
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

template <class T, int kGroup>
void correlate_transposed_groups(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const WeightGroupedPlanarBlocking<T> blocking(p);
  const Walk &height = p.walk[1], &width = p.walk[2];
  WeightContraction<T> block = p;
  block.source_strides = transposed_source_strides<T>(p.walk);
  block.grad_strides = transposed_dest_strides<T>(p.walk);
  const auto correlate = [&](int64_t image, int64_t row, int64_t last_row, int64_t first,
                             int64_t last, T* source, CorrelatedLine<T>* lines, A* sums) {
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
    T* grad = source + blocking.source_elements;
    const Strides &of_source = p.source_strides, &of_grads = p.grad_strides;
    transpose_planes(p.source + image * of_source.batch + first * of_source.channel + begin,
                     of_source.channel, count, end - begin, source);
    transpose_planes(p.grad + image * of_grads.batch + first * of_grads.channel + pixel,
                     of_grads.channel, count, pixels, grad);
    // Where the images would start.
    const T* all_source = source - begin * lanes;
    const T* all_grad = grad - pixel * lanes;
    for (; row < last_row; ++row) {
      correlate_row<T, kGroup>(block, row, all_grad, all_source, lanes, lines, sums);
    }
  };
  correlate_groups<T, kGroup>(p, blocking.sums, blocking.block_bytes, correlate);
}

template <class T>
void weight_grouped_planar(const WeightContraction<T>& p) {
  with_group<Accumulator<T>>(p.depth,
                             [&]<int kGroup>() { correlate_transposed_groups<T, kGroup>(p); });
}
