// Convolution with few channels in a group, vectors along its destination channels and source
// elements broadcast: dest[pixels x rows] = im2col[pixels x K] * weight[K x rows] for each group,
// K = taps * source channels.
//
// With so few channels the packed weights of a group stay in L1, and what a GEMM spends on each
// pixel - pointers to its taps, or gathering them - is as much work as multiplying. So there is
// neither: the pixels of a destination row read the source at one distance, be it a tensor in place
// or a block of it with its borders resolved (source_block.h), and affine_tile.h takes up to 30 of
// them at a time. Tiles write channels_last accumulators into the destination themselves; others
// wait in scratch for a block of rows and are narrowed, or transposed into planes. Items are
// (block of pixels, group); K is not cut.

/// How a call is cut, and the scratch that it takes.
template <class T>
struct BroadcastPixelsBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  int64_t inner, padded_rows, widest;  // K, destination channels, those of a tile
  SourceBlockLayout layout;
  SourceRuns runs;
  bool stores;                        // tiles write the destination
  int64_t weight_bytes, table_bytes;  // of the call; tables of biases and runs
  int64_t copied_bytes, sum_bytes;    // of each thread

  explicit BroadcastPixelsBlocking(const Contraction<T>& p)
      : inner(p.depth * p.taps()),
        padded_rows(round_up(p.rows, kLanes<A>)),
        widest(padded_rows < columns ? padded_rows : columns),
        layout(SourceBlockLayout::make<T>(p, p.source_strides)),
        runs(p, layout),
        stores(__is_same(T, A) && p.dest_strides.channel == 1) {
    weight_bytes = sizeof(A) * p.groups * padded_rows * inner;
    table_bytes = sizeof(A) * p.groups * padded_rows + sizeof(int64_t) * runs.count;
    copied_bytes = sizeof(A) * layout.elements;
    sum_bytes = stores ? 0 : sizeof(A) * layout.rows * layout.width * widest;
  }

  Footprint footprint() const {
    return {affine_rows(vectors_for<A>(widest)), widest, weight_bytes + table_bytes,
            copied_bytes + sum_bytes};
  }
};

/// Stores `count` neighbouring pixels of all lanes, [pixel][`pitch` channels], in planes.
template <class T>
inline void store_planes(const Accumulator<T>* sums, int64_t pitch, int64_t count, T* to,
                         int64_t channel, int64_t channels, int64_t stride) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> square[lanes] = {};
  for (int64_t i = 0; i < count; ++i) square[i] = load(sums + i * pitch);
  transpose<A>(square);
  for (int64_t c = 0; c < channels; ++c, to += channel) {
    if (stride == 1 && count == lanes) {
      store_narrow(to, square[c]);
    } else if (stride == 1) {
      store_partial(to, square[c], count);
    } else {
      alignas(64) A line[lanes];
      store(line, square[c]);
      store_run(line, A(0), count, to, stride);
    }
  }
}

/// Stores the sums of a block, [row][pixel][`pitch` channels], as `channels` destination channels
/// from `channel` on.
template <class T>
void store_pixel_block(const Contraction<T>& p, const PixelBlock& block, const Accumulator<T>* sums,
                       int64_t pitch, int64_t channel, int64_t channels) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const Strides& strides = p.dest_strides;
  T* to = p.dest + block.image * strides.batch + block.d * strides.axis[0] +
          block.h * strides.axis[1] + block.w * strides.axis[2] + channel * strides.channel;
  // Rows that follow each other without a gap are one.
  const bool joined = strides.axis[1] == block.width * strides.axis[2];
  const int64_t rows = joined ? 1 : block.rows;
  const int64_t width = joined ? block.rows * block.width : block.width;
  for (int64_t r = 0; r < rows; ++r, to += strides.axis[1], sums += width * pitch) {
    for (int64_t c = 0; c < channels; c += lanes) {
      const int64_t some = channels - c < lanes ? channels - c : lanes;
      for (int64_t i = 0; i < width;) {
        T* at = to + c * strides.channel + i * strides.axis[2];
        const A* from = sums + i * pitch + c;
        if (strides.channel == 1) {
          store_partial(at, load(from), some);
          ++i;
          continue;
        }
        const int64_t count = width - i < lanes ? width - i : lanes;
        store_planes(from, pitch, count, at, strides.channel, some, strides.axis[2]);
        i += count;
      }
    }
  }
}

/// Bytes of the packed weights, in the order of gemm_channels_last.h, whose `prepare` packs them.
template <class T>
int64_t broadcast_pixels_prepared_bytes(const Contraction<T>& p) {
  return BroadcastPixelsBlocking<T>(p).weight_bytes;
}

template <class T>
void broadcast_pixels(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const BroadcastPixelsBlocking<T> blocking(p);
  constexpr int64_t columns = blocking.columns;
  const SourceBlockLayout& layout = blocking.layout;
  const int64_t padded_rows = blocking.padded_rows, inner = blocking.inner;
  const Walk* walk = p.walk;

  Scratch packed_here(p.prepared != nullptr ? 0 : blocking.weight_bytes);
  if (p.prepared == nullptr) gemm_channels_last_prepare(p, packed_here.as<void>());
  const A* weights =
      p.prepared != nullptr ? static_cast<const A*>(p.prepared) : packed_here.as<A>();
  Scratch tables(blocking.table_bytes);
  A* biases = tables.as<A>();
  for (int64_t i = 0; i < p.groups * padded_rows; ++i) {
    const int64_t row = i % padded_rows;
    const bool has_bias = p.bias != nullptr && row < p.rows;
    biases[i] = has_bias ? widen(p.bias[i / padded_rows * p.rows + row]) : A(0);
  }
  int64_t* runs = reinterpret_cast<int64_t*>(biases + p.groups * padded_rows);
  blocking.runs.point(p, layout, runs);

  const PixelBlocks blocks{p, layout};
  const int64_t block_work = layout.rows * layout.width * inner * p.rows;
  parallel_for(p.batch * blocks.of_image() * p.groups, ceil_div(kSmallestWork, block_work),
               [&](int64_t begin, int64_t end) {
                 Scratch copied(blocking.copied_bytes);
                 Scratch sum_buffer(blocking.sum_bytes);
                 for (int64_t item = begin; item < end; ++item) {
                   const int64_t group = item % p.groups;
                   const PixelBlock block = blocks.at(item / p.groups);
                   const A* source = source_of_block(p, layout, p.source, p.source_strides, group,
                                                     block, copied.as<A>());
                   for (int64_t column = 0; column < p.rows; column += columns) {
                     const int64_t left = p.rows - column, padded_left = padded_rows - column;
                     const int64_t width = padded_left < columns ? padded_left : columns;
                     const int64_t some = left < columns ? left : columns;
                     const int vectors = vectors_for<A>(width);
                     const int64_t channel = group * p.rows + column;
                     const Strides& dest = p.dest_strides;
                     AffineResult<A> result{sum_buffer.as<A>(), width, kLanes<A>,
                                            biases + group * padded_rows + column};
                     int64_t row_pitch = block.width * width;
                     if (blocking.stores) {
                       result.c = reinterpret_cast<A*>(p.dest) + block.image * dest.batch +
                                  block.d * dest.axis[0] + block.h * dest.axis[1] +
                                  block.w * dest.axis[2] + channel;
                       result.pitch = dest.axis[2];
                       result.last = some - (vectors - 1) * kLanes<A>;
                       row_pitch = dest.axis[1];
                     }
                     const int64_t pixel = walk[2].step * layout.strides.axis[2];
                     const int64_t row = walk[1].step * layout.strides.axis[1];
                     AffineOperands<A> tile{source,
                                            pixel,
                                            runs,
                                            blocking.runs.count,
                                            blocking.runs.run,
                                            blocking.runs.step,
                                            weights + (group * padded_rows + column) * inner,
                                            width};
                     const int64_t most = rows_of_affine_tiles(block.width, vectors);
                     A* row_of_c = result.c;
                     for (int64_t h = 0; h < block.rows; ++h, row_of_c += row_pitch) {
                       for (int64_t w = 0; w < block.width; w += most) {
                         tile.a = source + h * row + w * pixel;
                         result.c = row_of_c + w * result.pitch;
                         const int64_t pixels = block.width - w < most ? block.width - w : most;
                         multiply_affine(tile, result, pixels, vectors);
                       }
                     }
                     if (blocking.stores) continue;
                     store_pixel_block(p, block, sum_buffer.as<A>(), width, channel, some);
                   }
                 }
               });
}
