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
  bool joined;  // the taps of the width are one run of channels
  bool stores;  // tiles write the destination: each product is one
  PackedWeight packed;
  int64_t column_bytes;                                          // of the call
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
    const int64_t bytes =
        sizeof(A) * p.groups * channel_blocks * p.axis[0].kernel * p.depth * width;
    const int64_t pixel_blocks = blocks.count() * p.axis[0].input;
    packed = packed_weight(bytes, p.groups, pixel_blocks, channel_blocks);
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
    return {kTileRows, columns, packed.of_call() + column_bytes,
            packed.of_thread() + pointer_bytes + pixel_bytes + product_bytes + tap_bytes};
  }
};

/// Elements of K that are packed at a time: they lie pages apart.
constexpr int64_t kTapColumnStreams = 16;

/// Packs the weight as [group][channel block][column block][tap of the depth][K][columns].
template <class T>
class TapColumns {
  using A = Accumulator<T>;
  static constexpr int lanes = kLanes<A>;

 public:
  /// `offsets` is space for one of each column.
  TapColumns(const InputGradient<T>& p, const FoldTapsChannelsLastBlocking<T>& blocking,
             int64_t* offsets)
      : p_(p),
        blocking_(blocking),
        used_(blocking.taps * blocking.channel_block),
        inner_(p.axis[0].kernel * p.depth),
        offsets_(offsets) {
    const WeightStrides& strides = p.weight_strides;
    for (int64_t j = 0; j < used_; ++j) {
      const int64_t tap = j / blocking.channel_block, m = j % blocking.channel_block;
      offsets[j] = tap / p.axis[2].kernel * strides.axis[1] +
                   tap % p.axis[2].kernel * strides.axis[2] + m * strides.row;
    }
  }

  void pack(A* to) const {
    // A piece is some of K times all columns, which lie side by side in most layouts.
    const int64_t slices = ceil_div(inner_, kTapColumnStreams);
    const int64_t work = kTapColumnStreams * blocking_.width * blocking_.channel_blocks;
    parallel_for(p_.groups * slices, ceil_div(16384, work), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t number = 0; number < blocking_.channel_blocks; ++number) {
          pack_slice(i / slices, number, i % slices * kTapColumnStreams, to);
        }
      }
    });
  }

 private:
  /// A register of columns: how many of its leading elements there are, and the distance of all of
  /// them, or 0.
  struct Register {
    int64_t first, count, step;
  };

  /// The register from column `first` on of a block with `channels` channels.
  Register columns(int64_t first, int64_t channels) const {
    const int64_t block = blocking_.channel_block, *offset = offsets_ + first;
    const bool one_tap = block % lanes == 0;
    int64_t count = used_ - first < lanes ? used_ - first : lanes;
    if (one_tap && channels - first % block < count) count = channels - first % block;
    if (count < 0) count = 0;
    int64_t step = count > 1 ? offset[1] - offset[0] : 1;
    for (int64_t j = 1; j < count; ++j) {
      if (offset[j] - offset[j - 1] != step) step = 0;
    }
    if ((!one_tap && channels < block) || (count < lanes && step != 1)) step = 0;
    return {first, count, step};
  }

  /// Packs some of K from `k` on of block `number` of a group.
  void pack_slice(int64_t group, int64_t number, int64_t k, A* to) const {
    const int64_t end = k + kTapColumnStreams < inner_ ? k + kTapColumnStreams : inner_;
    const int64_t channels = channels_of_block(p_, blocking_.channel_block, number);
    const WeightStrides& strides = p_.weight_strides;
    const T* from =
        p_.weight + group * strides.group + number * blocking_.channel_block * strides.row;
    to += (group * blocking_.channel_blocks + number) * blocking_.width * inner_;
    for (int64_t first = 0; first < blocking_.width; first += lanes) {
      const int64_t column = first / blocking_.columns * blocking_.columns;
      const int64_t left = blocking_.width - column;
      const int64_t pitch = left < blocking_.columns ? left : blocking_.columns;
      A* out = to + column * inner_ + first - column;
      const Register piece = columns(first, channels);
      for (int64_t i = k; i < end; ++i) {
        const T* at = from + i / p_.depth * strides.axis[0] + i % p_.depth * strides.depth;
        store(out + i * pitch, read(piece, channels, at));
      }
    }
  }

  /// A register of columns, from those at `at` on; those that there are not are zero.
  Vec<A> read(const Register& piece, int64_t channels, const T* at) const {
    const int64_t* offset = offsets_ + piece.first;
    if (piece.step == 1) return load_partial(at + *offset, piece.count);
    if (piece.step != 0) return load_strided(at + *offset, piece.step);
    alignas(64) A values[lanes] = {};
    for (int64_t j = 0; j < piece.count; ++j) {
      if ((piece.first + j) % blocking_.channel_block < channels) values[j] = widen(at[offset[j]]);
    }
    return load(values);
  }

  const InputGradient<T>& p_;
  const FoldTapsChannelsLastBlocking<T>& blocking_;
  int64_t used_, inner_;  // columns that are not padding; K
  const int64_t* offsets_;
};

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

/// Pixels [first, last) of an item, and some of the columns of their products.
struct FoldTile {
  int64_t first, last;
  int64_t column, columns;
};

/// What a thread makes items with.
template <class T>
class FoldTapsChannelsLastThread {
  using A = Accumulator<T>;
  static constexpr bool in_place = __is_same(T, A);

 public:
  /// `packed` is the weight, where threads share it.
  FoldTapsChannelsLastThread(const InputGradient<T>& p,
                             const FoldTapsChannelsLastBlocking<T>& blocking,
                             const TapColumns<T>& weight, const A* packed)
      : p_(p),
        blocking_(blocking),
        packed_(packed),
        own_(blocking.packed.of_thread()),
        pointers_(blocking.pointer_bytes),
        widened_(blocking.pixel_bytes),
        products_(blocking.product_bytes),
        taps_(blocking.tap_bytes),
        pixels_(pointers_.as<const T*>()),
        bias_(taps_.as<A>()),
        rows_(reinterpret_cast<const A**>(bias_ + blocking.width)),
        reaching_(rows_ + p.axis[1].kernel),
        width_taps_(reinterpret_cast<WidthTap*>(reaching_ + blocking.taps)),
        first_tap_(reinterpret_cast<int64_t*>(width_taps_ + p.axis[2].kernel)) {
    if (blocking.packed.of_thread() == 0) return;
    weight.pack(own_.as<A>());
    packed_ = own_.as<A>();
  }

  void make(const FoldItem& item) {
    const int64_t run = blocking_.run(p_, item.channels);
    for (int64_t c = 0; c < round_up(run, kLanes<A>); ++c) {
      const int64_t channel = item.first_channel + c % item.channels;
      bias_[c] = p_.bias != nullptr && c < run ? widen(p_.bias[channel]) : A(0);
    }
    point(item.block);
    const int64_t pixels = item.block.pixels(), width = blocking_.width;
    for (int64_t first = 0; first < pixels; first += kPixelBlock) {
      const int64_t last = first + kPixelBlock < pixels ? first + kPixelBlock : pixels;
      for (int64_t column = 0; column < width; column += blocking_.columns) {
        const int64_t left = width - column;
        multiply_tile(item,
                      {first, last, column, left < blocking_.columns ? left : blocking_.columns});
      }
    }
    if (!blocking_.stores) fold(item, run);
  }

 private:
  /// Points to the source pixels of a block.
  void point(const FoldBlock& block) {
    const T** next = pixels_;
    for (int64_t i = 0; i < block.images; ++i) {
      for (int64_t y = block.height.low; y < block.height.high; ++y) {
        const T* row = p_.source + (block.image + i) * p_.source_strides.batch +
                       y * p_.source_strides.axis[1] + block.group * p_.depth;
        for (int64_t x = block.width.low; x < block.width.high; ++x) {
          *next++ = row + x * p_.source_strides.axis[2];
        }
      }
    }
  }

  /// Multiplies all source channels of some pixels with some columns of the weight.
  void multiply_tile(const FoldItem& item, const FoldTile& tile) {
    const int64_t inner = p_.axis[0].kernel * p_.depth;
    const A* weight = packed_ + (item.channel_block * blocking_.width + tile.column) * inner;
    bool accumulate = false;
    for_each_reaching(p_.axis[0], item.block.depth, [&](int64_t kd, int64_t z) {
      for (int64_t k = 0; k < p_.depth; k += blocking_.depth_block) {
        const int64_t left = p_.depth - k;
        const bool last = left <= blocking_.depth_block;
        TileOperands<A> operands{nullptr,     0,
                                 1,           last ? left : blocking_.depth_block,
                                 1,           weight + (kd * p_.depth + k) * tile.columns,
                                 tile.columns};
        if (blocking_.stores && last) {
          operands.column_bias = bias_ + tile.column % blocking_.run(p_, item.channels);
        }
        multiply_slice(item, tile, z * p_.source_strides.axis[0] + k, operands, accumulate);
        accumulate = true;
      }
    });
  }

  /// Multiplies the source channels that start `start` elements from where pixels do.
  void multiply_slice(const FoldItem& item, const FoldTile& tile, int64_t start,
                      TileOperands<A>& operands, bool accumulate) {
    const int64_t of_row = item.block.width.sources();
    int some;
    for (int64_t i = tile.first; i < tile.last; i += some) {
      const int64_t row_end = blocking_.stores ? i / of_row * of_row + of_row : tile.last;
      some = tile_rows((row_end < tile.last ? row_end : tile.last) - i);
      const A* rows[kTileRows];
      for (int r = 0; r < some; ++r) {
        if constexpr (in_place) {
          rows[r] = pixels_[i + r] + start;
        } else {
          A* copied = widened_.as<A>() + r * operands.run;
          copy_strided(pixels_[i + r] + start, 1, operands.run, copied);
          rows[r] = copied;
        }
      }
      operands.rows = rows;
      const Rows<A> to = blocking_.stores ? stored(item, i, tile.column)
                                          : Rows<A>{product(i) + tile.column, blocking_.width};
      multiply<A>(operands, to.data, to.pitch, accumulate, some, vectors_for<A>(tile.columns));
    }
  }

  A* product(int64_t pixel) const { return products_.as<A>() + pixel * blocking_.width; }

  /// Where tiles write that store the destination: for source pixel `i` of an item, `column`.
  Rows<A> stored(const FoldItem& item, int64_t i, int64_t column) const {
    const FoldBlock& block = item.block;
    const Strides& strides = p_.dest_strides;
    const int64_t of_row = block.width.sources(), of_plane = of_row * block.height.sources();
    const int64_t y = block.height.low + i % of_plane / of_row;
    const int64_t pitch = p_.axis[2].stride * strides.axis[2];
    const int64_t run = blocking_.run(p_, item.channels), tap = column / run;
    const int64_t taps_w = blocking_.joined ? 1 : p_.axis[2].kernel;
    T* pixel = p_.dest + (block.image + i / of_plane) * strides.batch +
               block.depth * strides.axis[0] + y * p_.axis[1].stride * strides.axis[1] +
               block.width.begin * strides.axis[2] + i % of_row * pitch + item.first_channel;
    T* to = pixel + tap / taps_w * strides.axis[1] + tap % taps_w * strides.axis[2] + column % run;
    return {reinterpret_cast<A*>(to), pitch};
  }

  /// Adds up the products of an item, row by row; `run` are neighbours in the destination.
  void fold(const FoldItem& item, int64_t run) {
    const FoldBlock& block = item.block;
    const bool reached = is_reached(p_.axis[0], block.depth);
    list_width_taps(p_.axis[2], block.width, width_taps_, first_tap_);
    for (int64_t i = 0; i < block.images; ++i) {
      for (int64_t h = block.height.begin; h < block.height.end; ++h) {
        T* row = p_.dest + (block.image + i) * p_.dest_strides.batch +
                 block.depth * p_.dest_strides.axis[0] + h * p_.dest_strides.axis[1] +
                 block.width.begin * p_.dest_strides.axis[2] + item.first_channel;
        int64_t count = 0;
        for_each_reaching(p_.axis[1], h, [&](int64_t kh, int64_t y) {
          if (!reached) return;
          const int64_t of_rows = i * block.height.sources() + y - block.height.low;
          rows_[count++] = product(of_rows * block.width.sources()) +
                           kh * p_.axis[2].kernel * blocking_.channel_block;
        });
        if (blocking_.joined) {
          fold_pixels(rows_, count, blocking_.width, bias_, run, block.width.sources(), row,
                      p_.axis[2].stride * p_.dest_strides.axis[2]);
        } else {
          fold_row(block.width, count, run, row);
        }
      }
    }
  }

  /// Adds up what `count` rows of products have for a destination row, phase by phase.
  void fold_row(const FoldRange& width, int64_t count, int64_t run, T* to) {
    const ConvAxis& wide = p_.axis[2];
    const int64_t pixel = p_.dest_strides.axis[2], step = wide.stride * pixel;
    for (int64_t phase = 0; phase < wide.stride; ++phase, to += pixel) {
      const int64_t strides = ceil_div(width.count() - phase, wide.stride);
      const WidthTap *tap = width_taps_ + first_tap_[phase],
                     *last = width_taps_ + first_tap_[phase + 1];
      for (int64_t j = 0, until; j < strides; j = until) {
        // The taps that reach position j, and up to where they are the same.
        until = strides;
        int64_t reaching = 0;
        for (const WidthTap* t = tap; t < last; ++t) {
          const int64_t change = j < t->begin ? t->begin : j < t->end ? t->end : strides;
          until = change < until ? change : until;
          if (j < t->begin || j >= t->end) continue;
          const int64_t at =
              (j + t->offset) * blocking_.width + t->kernel * blocking_.channel_block;
          for (int64_t r = 0; r < count; ++r) reaching_[reaching++] = rows_[r] + at;
        }
        fold_pixels(reaching_, reaching, blocking_.width, bias_, run, until - j, to + j * step,
                    step);
      }
    }
  }

  const InputGradient<T>& p_;
  const FoldTapsChannelsLastBlocking<T>& blocking_;
  const A* packed_;
  Scratch own_, pointers_, widened_, products_, taps_;
  const T** pixels_;      // of an item
  A* bias_;               // of a run of channels
  const A** rows_;        // of products that reach a destination row
  const A** reaching_;    // products that reach a destination
  WidthTap* width_taps_;  // by phases,
  int64_t* first_tap_;    // of which each starts here
};

template <class T>
void fold_taps_channels_last(const InputGradient<T>& p) {
  using A = Accumulator<T>;
  const FoldTapsChannelsLastBlocking<T> blocking(p);
  Scratch offsets(blocking.column_bytes);
  const TapColumns<T> weight(p, blocking, offsets.as<int64_t>());
  Scratch packed(blocking.packed.of_call());
  if (blocking.packed.of_call() > 0) weight.pack(packed.as<A>());

  const int64_t items =
      p.groups * p.axis[0].input * blocking.blocks.count() * blocking.channel_blocks;
  const int64_t work = blocking.width * p.depth * blocking.blocks.pixels();
  parallel_threads(items, ceil_div(kSmallestWork, work), [&](ThreadItems& of_thread) {
    FoldTapsChannelsLastThread<T> thread(p, blocking, weight, packed.as<A>());
    of_thread.for_each([&](int64_t i, bool) {
      thread.make(FoldItem(p, p.axis, blocking.blocks, blocking.channel_block, i));
    });
  });
}
