// The gradient for the input (transposed convolution) of channels_last tensors, from products with
// all taps (fold_taps.h): products[pixels x (tap, channel)] = source[pixels x K] * weight, where
// source pixels are read where they lie, and then dest[pixel] = the sum of those that reach it.
//
// An item is a block of source pixels and a block of destination channels, whose taps are columns.
// Its weights are packed in column blocks of about the same width and stay in L2, while kPixelBlock
// pixels at a time meet all of them. Folding runs along channels; where kernels do not overlap
// along the width, the channels of all its taps are one run in source and destination. Where they
// do not overlap at all there is nothing to fold, and tiles write the destination.

/// Elements of the weights of an item that are multiplied at a time, unless a register of channels
/// of all taps has more: 256 KB of floats stay in L2 while all pixels of a block pass.
constexpr int64_t kFoldWeights = 64 << 10;

/// Whether each destination of an axis is reached by one tap.
inline bool kernels_are_apart(const ConvAxis& axis) {
  return axis.kernel == axis.stride && axis.dilation == 1 && axis.pad_begin == 0 &&
         axis.input == axis.output * axis.stride;
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct FoldTapsChannelsLastBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t lanes = kLanes<A>;
  int64_t taps;         // of a depth
  int64_t depth_block;  // of the source channels
  int64_t channel_block, channel_blocks;
  int64_t width;    // products of a pixel, in whole registers
  int64_t columns;  // of them in a tile: all tiles but the last have as many
  FoldBlocks blocks;
  bool joined;                         // the taps of the width are one run of channels
  bool stores;                         // tiles write the destination: each product is one
  int64_t packed_bytes, column_bytes;  // of the call
  int64_t pointer_bytes, pixel_bytes, product_bytes, tap_bytes;  // of each thread

  explicit FoldTapsChannelsLastBlocking(const InputGradient<T>& p)
      : taps(p.axis[1].kernel * p.axis[2].kernel),
        depth_block(p.depth < kChannelBlock ? p.depth : kChannelBlock),
        channel_block(channels_of(p.rows, kFoldWeights / depth_block / taps)),
        channel_blocks(ceil_div(p.rows, channel_block)),
        width(round_up(taps * channel_block, lanes)),
        columns(ceil_div(width / lanes, ceil_div(width, kTileColumns<A>)) * lanes),
        blocks(p, p.axis, channel_blocks, width * int64_t(sizeof(A))) {
    joined = p.groups == 1 && channel_blocks == 1 && kernels_are_apart(p.axis[2]) &&
             p.dest_strides.axis[2] == p.rows;
    bool apart = p.rows % channel_block == 0;
    for (const ConvAxis& axis : p.axis) apart &= kernels_are_apart(axis);
    stores = __is_same(T, A) && apart && run(p, channel_block) % columns == 0;
    packed_bytes = sizeof(A) * p.groups * channel_blocks * p.axis[0].kernel * p.depth * width;
    column_bytes = sizeof(int64_t) * width;
    pointer_bytes = sizeof(T*) * blocks.pixels();
    pixel_bytes = __is_same(T, A) ? 0 : sizeof(A) * kTileRows * depth_block;
    // Registers of products end up to a register after the last.
    product_bytes = stores ? 0 : sizeof(A) * (blocks.pixels() * width + lanes);
    tap_bytes = sizeof(WidthTap) * p.axis[2].kernel + sizeof(int64_t) * (p.axis[2].stride + 1) +
                sizeof(A*) * (p.axis[1].kernel + taps) + sizeof(A) * width;
  }

  /// Products side by side that go to neighbours in the destination: `channels`, or those of all
  /// taps of the width.
  int64_t run(const InputGradient<T>& p, int64_t channels) const {
    return joined ? p.axis[2].kernel * channels : channels;
  }

  /// Channels of a block, of which there may be `most` or a register: as many in each.
  static int64_t channels_of(int64_t channels, int64_t most) {
    most = most < lanes ? lanes : most / lanes * lanes;
    return most < channels ? round_up(even_part(channels, most), lanes) : channels;
  }

  Footprint footprint() const {
    return {kTileRows, columns, packed_bytes + column_bytes,
            pointer_bytes + pixel_bytes + product_bytes + tap_bytes};
  }
};

/// Packs the weight as [group][channel block][column block][tap of the depth][K][columns].
template <class T>
void pack_tap_columns(const InputGradient<T>& p, const FoldTapsChannelsLastBlocking<T>& blocking,
                      int64_t* offsets, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const WeightStrides& strides = p.weight_strides;
  const int64_t width = blocking.width, channels = blocking.channel_block;
  const int64_t used = blocking.taps * channels, inner = p.axis[0].kernel * p.depth;
  for (int64_t j = 0; j < used; ++j) {
    const int64_t tap = j / channels, m = j % channels;
    offsets[j] = tap / p.axis[2].kernel * strides.axis[1] +
                 tap % p.axis[2].kernel * strides.axis[2] + m * strides.row;
  }
  // A piece is some of K times all columns, which lie side by side in most layouts.
  constexpr int64_t kStreams = 16;
  const int64_t slices = ceil_div(inner, kStreams);
  const int64_t work = kStreams * width * blocking.channel_blocks;
  parallel_for(p.groups * slices, ceil_div(16384, work), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / slices, k_begin = i % slices * kStreams;
      const int64_t k_end = k_begin + kStreams < inner ? k_begin + kStreams : inner;
      for (int64_t number = 0; number < blocking.channel_blocks; ++number) {
        const int64_t there = channels_of_block(p, channels, number);
        const int64_t block = group * blocking.channel_blocks + number;
        const T* from = p.weight + group * strides.group + number * channels * strides.row;
        for (int64_t first = 0; first < width; first += lanes) {
          const int64_t column = first / blocking.columns * blocking.columns;
          const int64_t left = width - column;
          const int64_t pitch = left < blocking.columns ? left : blocking.columns;
          A* out = to + (block * width + column) * inner + first - column;
          const int64_t* offset = offsets + first;
          // Leading elements that there are, and the distance of all of them, or 0.
          int64_t count = used - first < lanes ? used - first : lanes;
          const bool one_tap = channels % lanes == 0;
          if (one_tap && there - first % channels < count) count = there - first % channels;
          if (count < 0) count = 0;
          int64_t step = count > 1 ? offset[1] - offset[0] : 1;
          for (int64_t j = 1; j < count; ++j) {
            if (offset[j] - offset[j - 1] != step) step = 0;
          }
          if ((!one_tap && there < channels) || (count < lanes && step != 1)) step = 0;
          for (int64_t k = k_begin; k < k_end; ++k) {
            const T* at = from + k / p.depth * strides.axis[0] + k % p.depth * strides.depth;
            if (step == 1) {
              store(out + k * pitch, load_partial(at + offset[0], count));
            } else if (step != 0) {
              store(out + k * pitch, load_strided(at + offset[0], step));
            } else {
              alignas(64) A values[lanes] = {};
              for (int64_t j = 0; j < count; ++j) {
                if ((first + j) % channels < there) values[j] = widen(at[offset[j]]);
              }
              store(out + k * pitch, load(values));
            }
          }
        }
      }
    }
  });
}

/// dest[i] = bias + the sum of from[0..count)[i], for `channels` channels of `pixels` pixels, which
/// lie `from_step` and `to_step` apart. kCount is `count`, or 0 for any.
template <class T, int kCount>
inline void fold_pixels(const Accumulator<T>* const* from, int64_t count, int64_t from_step,
                        const Accumulator<T>* bias, int64_t channels, int64_t pixels, T* to,
                        int64_t to_step) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  if (kCount > 0) count = kCount;
  for (int64_t i = 0; i < pixels; ++i, to += to_step) {
    for (int64_t c = 0; c < channels; c += lanes) {
      Vec<A> sum = load(bias + c);
#pragma GCC unroll 4
      for (int64_t t = 0; t < count; ++t) sum += load(from[t] + i * from_step + c);
      if (c + lanes <= channels) {
        store_narrow(to + c, sum);
      } else {
        store_partial(to + c, sum, channels - c);
      }
    }
  }
}
template <class T>
inline void fold_pixels(const Accumulator<T>* const* from, int64_t count, int64_t from_step,
                        const Accumulator<T>* bias, int64_t channels, int64_t pixels, T* to,
                        int64_t to_step) {
  const auto fold = count == 1   ? fold_pixels<T, 1>
                    : count == 2 ? fold_pixels<T, 2>
                    : count == 4 ? fold_pixels<T, 4>
                                 : fold_pixels<T, 0>;
  fold(from, count, from_step, bias, channels, pixels, to, to_step);
}

template <class T>
void fold_taps_channels_last(const InputGradient<T>& p) {
  using A = Accumulator<T>;
  constexpr bool in_place = __is_same(T, A);
  const FoldTapsChannelsLastBlocking<T> blocking(p);
  const ConvAxis &deep = p.axis[0], &high = p.axis[1], &wide = p.axis[2];
  const int64_t width = blocking.width, inner = deep.kernel * p.depth;

  Scratch packed(blocking.packed_bytes);
  Scratch offsets(blocking.column_bytes);
  pack_tap_columns(p, blocking, offsets.as<int64_t>(), packed.as<A>());

  const int64_t items = p.groups * deep.input * blocking.blocks.count() * blocking.channel_blocks;
  const int64_t item_work = width * p.depth * blocking.blocks.pixels();
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch pointer_table(blocking.pointer_bytes);
    Scratch widened(blocking.pixel_bytes);
    Scratch product_buffer(blocking.product_bytes);
    Scratch tap_buffer(blocking.tap_bytes);
    const T** pixel = pointer_table.as<const T*>();
    A* products = product_buffer.as<A>();
    A* bias = tap_buffer.as<A>();
    const A** rows_of = reinterpret_cast<const A**>(bias + width);
    const A** from = rows_of + high.kernel;
    WidthTap* width_taps = reinterpret_cast<WidthTap*>(from + blocking.taps);
    int64_t* first_tap = reinterpret_cast<int64_t*>(width_taps + wide.kernel);

    for (int64_t item = begin; item < end; ++item) {
      const FoldBlock block(p, p.axis, blocking.blocks, item / blocking.channel_blocks);
      const int64_t number = item % blocking.channel_blocks;
      const int64_t channels = channels_of_block(p, blocking.channel_block, number);
      const int64_t channel = block.group * p.rows + number * blocking.channel_block;
      const A* weight =
          packed.as<A>() + (block.group * blocking.channel_blocks + number) * width * inner;

      const int64_t run = blocking.run(p, channels);
      for (int64_t c = 0; c < round_up(run, kLanes<A>); ++c) {
        bias[c] = p.bias != nullptr && c < run ? widen(p.bias[channel + c % channels]) : A(0);
      }
      const int64_t pixels = block.pixels();
      const T** next = pixel;
      for (int64_t i = 0; i < block.images; ++i) {
        for (int64_t y = block.height.low; y < block.height.high; ++y) {
          const T* row = p.source + (block.image + i) * p.source_strides.batch +
                         y * p.source_strides.axis[1] + block.group * p.depth;
          for (int64_t x = block.width.low; x < block.width.high; ++x) {
            *next++ = row + x * p.source_strides.axis[2];
          }
        }
      }
      // Where tiles write: the first destination of a source pixel.
      const int64_t of_row = block.width.sources(), of_plane = of_row * block.height.sources();
      const int64_t pitch = blocking.stores ? wide.stride * p.dest_strides.axis[2] : width;
      const auto stored = [&](int64_t i) {
        const int64_t y = block.height.low + i % of_plane / of_row;
        return reinterpret_cast<A*>(p.dest) + (block.image + i / of_plane) * p.dest_strides.batch +
               block.depth * p.dest_strides.axis[0] + y * high.stride * p.dest_strides.axis[1] +
               block.width.begin * p.dest_strides.axis[2] + i % of_row * pitch + channel;
      };
      for (int64_t first = 0; first < pixels; first += kPixelBlock) {
        const int64_t end_pixel = first + kPixelBlock < pixels ? first + kPixelBlock : pixels;
        for (int64_t column = 0; column < width; column += blocking.columns) {
          const int64_t left = width - column;
          const int64_t columns = left < blocking.columns ? left : blocking.columns;
          const int64_t taps_w = blocking.joined ? 1 : wide.kernel, tap = column / run;
          const int64_t kernel_place = tap / taps_w * p.dest_strides.axis[1] +
                                       tap % taps_w * p.dest_strides.axis[2] + column % run;
          bool accumulate = false;
          for_each_reaching(deep, block.depth, [&](int64_t kd, int64_t z) {
            for (int64_t k = 0; k < p.depth; k += blocking.depth_block) {
              const int64_t to_go = p.depth - k;
              const int64_t depth = to_go < blocking.depth_block ? to_go : blocking.depth_block;
              const int64_t start = z * p.source_strides.axis[0] + k;
              const A* slice = weight + column * inner + (kd * p.depth + k) * columns;
              int some;
              for (int64_t i = first; i < end_pixel; i += some) {
                const int64_t row_end = blocking.stores ? i / of_row * of_row + of_row : end_pixel;
                some = tile_rows((row_end < end_pixel ? row_end : end_pixel) - i);
                const A* rows[kTileRows];
                for (int r = 0; r < some; ++r) {
                  if constexpr (in_place) {
                    rows[r] = pixel[i + r] + start;
                  } else {
                    A* copied = widened.as<A>() + r * depth;
                    copy_strided(pixel[i + r] + start, 1, depth, copied);
                    rows[r] = copied;
                  }
                }
                TileOperands<A> tile{rows, 0, 1, depth, 1, slice, columns};
                if (blocking.stores && depth == to_go) tile.column_bias = bias + column % run;
                A* to = blocking.stores ? stored(i) + kernel_place : products + i * width + column;
                multiply<A>(tile, to, pitch, accumulate, some, vectors_for<A>(columns));
              }
              accumulate = true;
            }
          });
        }
      }
      if (blocking.stores) continue;

      bool reached = false;
      for_each_reaching(deep, block.depth, [&](int64_t, int64_t) { reached = true; });
      list_width_taps(wide, block.width, width_taps, first_tap);
      for (int64_t i = 0; i < block.images; ++i) {
        for (int64_t h = block.height.begin; h < block.height.end; ++h) {
          T* row = p.dest + (block.image + i) * p.dest_strides.batch +
                   block.depth * p.dest_strides.axis[0] + h * p.dest_strides.axis[1] +
                   block.width.begin * p.dest_strides.axis[2] + channel;
          int64_t count = 0;
          for_each_reaching(high, h, [&](int64_t kh, int64_t y) {
            const int64_t at = (i * block.height.sources() + y - block.height.low);
            if (reached) {
              rows_of[count++] = products + at * block.width.sources() * width +
                                 kh * wide.kernel * blocking.channel_block;
            }
          });
          if (blocking.joined) {
            fold_pixels(rows_of, count, width, bias, run, block.width.sources(), row,
                        wide.stride * p.dest_strides.axis[2]);
            continue;
          }
          for (int64_t phase = 0; phase < wide.stride; ++phase) {
            const int64_t strides = ceil_div(block.width.count() - phase, wide.stride);
            const WidthTap *tap = width_taps + first_tap[phase],
                           *last = width_taps + first_tap[phase + 1];
            for (int64_t j = 0, until; j < strides; j = until) {
              // The taps that reach position j, and up to where they are the same.
              until = strides;
              int64_t reaching = 0;
              for (const WidthTap* t = tap; t < last; ++t) {
                const int64_t change = j < t->begin ? t->begin : j < t->end ? t->end : strides;
                until = change < until ? change : until;
                if (j < t->begin || j >= t->end) continue;
                for (int64_t r = 0; r < count; ++r) {
                  from[reaching++] =
                      rows_of[r] + (j + t->offset) * width + t->kernel * blocking.channel_block;
                }
              }
              fold_pixels(from, reaching, width, bias, run, until - j,
                          row + (j * wide.stride + phase) * p.dest_strides.axis[2],
                          wide.stride * p.dest_strides.axis[2]);
            }
          }
        }
      }
    }
  });
}
