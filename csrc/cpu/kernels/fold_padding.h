// The adjoint of reflect, replicate and circular padding: the gradient for a padded input, added
// back onto the positions that the padding read. An item is one plane of one image, whose sums form
// in scratch of the accumulator type, in the order of the padded positions.

/// Bytes of a plane of sums.
template <class T>
int64_t fold_bytes(const Fold<T>& p) {
  return sizeof(Accumulator<T>) * p.walk[0].size * p.walk[1].size * p.walk[2].size;
}

template <class T>
Footprint fold_footprint(const Fold<T>& p) {
  return {1, 1, 0, fold_bytes(p)};
}

template <class T>
void fold_padding(const Fold<T>& p) {
  using A = Accumulator<T>;
  const int64_t row = p.walk[2].size, plane = p.walk[0].size * p.walk[1].size * row;
  const int64_t planes = p.batch * p.channels;
  parallel_for(planes, ceil_div(kSmallestWork, plane), [&](int64_t begin, int64_t end) {
    Scratch buffer(fold_bytes(p));
    A* sums = buffer.as<A>();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / p.channels, channel = item % p.channels;
      fill(sums, plane, p.bias != nullptr ? widen(p.bias[channel]) : A(0));
      const T* source =
          p.source + image * p.source_strides.batch + channel * p.source_strides.channel;
      for (int64_t d = 0; d < p.extent[0]; ++d) {
        const int64_t z = p.walk[0].resolve(d - p.pad_begin[0]);
        for (int64_t h = 0; h < p.extent[1]; ++h) {
          const int64_t y = p.walk[1].resolve(h - p.pad_begin[1]);
          const T* from = source + d * p.source_strides.axis[0] + h * p.source_strides.axis[1];
          A* to = sums + (z * p.walk[1].size + y) * row;
          for (int64_t w = 0; w < p.extent[2]; ++w) {
            to[p.walk[2].resolve(w - p.pad_begin[2])] += widen(from[w * p.source_strides.axis[2]]);
          }
        }
      }
      T* dest = p.dest + image * p.dest_strides.batch + channel * p.dest_strides.channel;
      for (int64_t z = 0; z < p.walk[0].size; ++z) {
        for (int64_t y = 0; y < p.walk[1].size; ++y) {
          store_run(sums + (z * p.walk[1].size + y) * row, A(0), row,
                    dest + z * p.dest_strides.axis[0] + y * p.dest_strides.axis[1],
                    p.dest_strides.axis[2]);
        }
      }
    }
  });
}
