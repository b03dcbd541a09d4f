// Grouped convolution of planar tensors with narrow rows: the channels_last kernel on blocks that
// are transposed into scratch.
//
// A row of 7 or 14 pixels leaves most of a register, and of the work per row, unused. So an item is
// one register's worth of channels of an image: their planes are transposed, [pixel][channel], the
// kernel of grouped_channels_last.h computes all rows of the block, and its result is transposed
// back. The blocks stay in cache; the plan sees to that. They are accumulators, so that 16-bit
// elements are widened once.

/// The way back from load_planes for a register of channels.
template <class T>
void transpose_pixels(const Accumulator<T>* from, int64_t count, T* to, int64_t channel) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t some = count - i < lanes ? count - i : lanes;
    Vec<A> square[lanes] = {};
    for (int64_t j = 0; j < some; ++j) square[j] = load(from + (i + j) * lanes);
    transpose<A>(square);
    for (int c = 0; c < lanes; ++c) {
      if (some == lanes) {
        store_narrow(to + c * channel + i, square[c]);
      } else {
        store_partial(to + c * channel + i, square[c], some);
      }
    }
  }
}

/// Stores `count` elements `stride` apart.
template <class T>
inline void copy_to_strided(const T* from, int64_t count, T* to, int64_t stride) {
  constexpr int64_t lanes = kLanes<Accumulator<T>>;
  if (stride != 2) {
    for (int64_t i = 0; i < count; ++i) to[i * stride] = from[i];
    return;
  }
  for (int64_t i = 0; i < count; i += lanes) {
    const int64_t some = count - i < lanes ? count - i : lanes;
    store_every_second(to + 2 * i, load_partial(from + i, some), some);
  }
}

/// The way back for planes that do not lie densely, through `planes`, space for as many elements.
template <class T>
void scatter_pixels(const Accumulator<T>* from, const Walk* walk, T* planes, T* to,
                    const Strides& strides) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  const int64_t width = walk[2].count, rows = walk[0].count * walk[1].count;
  transpose_pixels(from, rows * width, planes, rows * width);
  for (int c = 0; c < lanes; ++c) {
    for (int64_t row = 0; row < rows; ++row, planes += width) {
      copy_to_strided(planes, width,
                      to + c * strides.channel + row / walk[1].count * strides.axis[0] +
                          row % walk[1].count * strides.axis[1],
                      strides.axis[2]);
    }
  }
}

/// Whether the planes of the destination lie densely, each in order.
template <class T>
bool stores_planes(const Contraction<T>& p) {
  const int64_t size[kAxes] = {p.walk[0].count, p.walk[1].count, p.walk[2].count};
  return planes_are_dense(p.dest_strides, size);
}

/// Strides of a block of transposed planes of these sizes.
template <class T>
Strides transposed_strides(const int64_t (&size)[kAxes]) {
  Strides strides;
  strides.channel = 1;
  int64_t pixel = kLanes<Accumulator<T>>;
  for (int axis = kAxes - 1; axis >= 0; --axis) {
    strides.axis[axis] = pixel;
    pixel *= size[axis];
  }
  return strides;
}
/// Those of the source and of the destination positions of a contraction.
template <class T>
Strides transposed_source_strides(const Walk* walk) {
  return transposed_strides<T>({walk[0].size, walk[1].size, walk[2].size});
}
template <class T>
Strides transposed_dest_strides(const Walk* walk) {
  return transposed_strides<T>({walk[0].count, walk[1].count, walk[2].count});
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct GroupedPlanarBlocking {
  using A = Accumulator<T>;
  GroupedTables<A> tables;
  int64_t source_elements, dest_elements;  // of a block
  int64_t block_bytes;

  explicit GroupedPlanarBlocking(const Contraction<T>& p) : tables(p) {
    source_elements = round_up(source_plane(p) * kLanes<A>, 64);
    dest_elements = p.pixels() * kLanes<A>;
    block_bytes = sizeof(A) * (source_elements + dest_elements) +
                  (stores_planes(p) ? 0 : sizeof(T) * dest_elements);
  }

  Footprint footprint() const {
    return {kWindowPixels, kLanes<A>, tables.packed_bytes, tables.buffer_bytes + block_bytes};
  }
};

/// A block of channels of an image, as a channels_last problem on scratch.
template <class T>
Contraction<Accumulator<T>> transposed_block(const Contraction<T>& p, const Accumulator<T>* source,
                                             Accumulator<T>* dest) {
  Contraction<Accumulator<T>> block{};
  static_cast<ContractionShape&>(block) = p;
  block.batch = 1;
  block.groups = kLanes<Accumulator<T>> / p.depth;
  block.source = source;
  block.dest = dest;
  block.source_strides = transposed_source_strides<T>(p.walk);
  block.dest_strides = transposed_dest_strides<T>(p.walk);
  return block;
}

template <class T, int kGroup>
void convolve_transposed_groups(const Contraction<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const GroupedPlanarBlocking<T> blocking(p);
  const GroupedTables<A>& tables = blocking.tables;
  const int64_t channels = p.groups * kGroup, blocks = ceil_div(channels, lanes);
  Scratch packed(tables.packed_bytes);
  const GroupedWeights<A> weights = pack_grouped<T, kGroup>(p, tables, lanes, packed.as<A>());

  const int64_t rows = p.walk[0].count * p.walk[1].count;
  const int64_t work = p.pixels() * p.taps() * lanes * kGroup;
  parallel_for(p.batch * blocks, ceil_div(kSmallestWork, work), [&](int64_t begin, int64_t end) {
    Scratch buffer(tables.buffer_bytes);
    Scratch planes(blocking.block_bytes);
    A* source = planes.as<A>();
    A* dest = source + blocking.source_elements;
    const Contraction<A> block = transposed_block(p, source, dest);
    const int64_t plane = source_plane(p);
    for (int64_t item = begin; item < end; ++item) {
      // The last register of channels overlaps the one before.
      const int64_t wanted = item % blocks * lanes, image = item / blocks;
      const int64_t first = wanted + lanes <= channels ? wanted : channels - lanes;
      load_planes(p.source + image * p.source_strides.batch + first * p.source_strides.channel,
                  p.source_strides.channel, lanes, 1, plane, source, lanes);
      grouped_rows<A, kGroup>(block, tables, weights.from(first), 0, rows, buffer.as<char>());
      T* to = p.dest + image * p.dest_strides.batch + first * p.dest_strides.channel;
      if (stores_planes(p)) {
        transpose_pixels(dest, p.pixels(), to, p.dest_strides.channel);
      } else {
        scatter_pixels(dest, p.walk, reinterpret_cast<T*>(dest + blocking.dest_elements), to,
                       p.dest_strides);
      }
    }
  });
}

template <class T>
void grouped_planar(const Contraction<T>& p) {
  with_group<Accumulator<T>>(p.depth,
                             [&]<int kGroup>() { convolve_transposed_groups<T, kGroup>(p); });
}
