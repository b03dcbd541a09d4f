// Weight gradient of grouped convolution of planar tensors with narrow rows: the channels_last
// kernel on blocks that are transposed into scratch, as in grouped_planar.h.

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGroupedPlanarBlocking {
  using A = Accumulator<T>;
  WeightGroupedChannelsLastBlocking<T> sums;
  int64_t source_elements, grad_elements;  // of a block
  int64_t block_bytes;

  // Whole images of one register of channels.
  explicit WeightGroupedPlanarBlocking(const WeightContraction<T>& p)
      : sums(p, p.walk[0].count * p.walk[1].count, 1) {
    source_elements = round_up(source_plane(p) * kLanes<A>, 64);
    grad_elements = p.pixels() * kLanes<A>;
    block_bytes = sizeof(T) * (source_elements + grad_elements);
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
  WeightContraction<T> block = p;
  block.source_strides = transposed_source_strides<T>(p.walk);
  block.grad_strides = transposed_dest_strides<T>(p.walk);
  const auto correlate = [&](int64_t image, int64_t row, int64_t last_row, int64_t first,
                             int64_t last, T* source, CorrelatedLine<T>* lines, A* sums) {
    const int64_t count = last - first;
    T* grad = source + blocking.source_elements;
    const Strides &of_source = p.source_strides, &of_grads = p.grad_strides;
    transpose_planes(p.source + image * of_source.batch + first * of_source.channel,
                     of_source.channel, count, source_plane(p), source);
    transpose_planes(p.grad + image * of_grads.batch + first * of_grads.channel, of_grads.channel,
                     count, p.pixels(), grad);
    for (; row < last_row; ++row) {
      correlate_row<T, kGroup>(block, row, grad, source, lanes, lines, sums);
    }
  };
  correlate_groups<T, kGroup>(p, blocking.sums, blocking.block_bytes, correlate);
}

template <class T>
void weight_grouped_planar(const WeightContraction<T>& p) {
  with_group<Accumulator<T>>(p.depth,
                             [&]<int kGroup>() { correlate_transposed_groups<T, kGroup>(p); });
}
