// The source pixels of a block of planar tensors, and where their products go if each is one
// destination: for kernels that lie side by side (fold_taps_planar.h).

/// Whether every destination is one product, with stride-sized kernels side by side, whose phases
/// are shuffled in registers.
template <class T>
bool taps_tile_dest(const InputGradient<T>& p) {
  for (const ConvAxis& axis : p.axis) {
    const bool apart = axis.kernel == 1 || axis.dilation == 1;
    if (axis.kernel != axis.stride || axis.pad_begin != 0 || !apart) return false;
    if (axis.input != axis.output * axis.stride) return false;
  }
  const int64_t phases = p.axis[2].stride;
  return p.dest_strides.axis[2] == 1 && (phases == 2 || phases == 4 || phases == 8);
}

/// The source pixels of a block, as matrices [K x pixels] of one depth.
template <class T>
struct FoldSource {
  using A = Accumulator<T>;
  const InputGradient<T>& p;
  const FoldBlock& block;
  const T* channels;  // channel 0 of the first image, at the block's first pixel
  int64_t run;        // pixels that lie side by side

  FoldSource(const InputGradient<T>& of, const FoldBlock& in) : p(of), block(in) {
    const Strides& strides = p.source_strides;
    channels = p.source + block.image * strides.batch + block.group * p.depth * strides.channel +
               block.height.low * strides.axis[1] + block.width.low * strides.axis[2];
    run = block.width.sources() == p.axis[2].output ? block.plane() : block.width.sources();
  }

  /// Pixel `number` of depth `z` in channel 0.
  const T* at(int64_t z, int64_t number) const {
    const int64_t image = number / block.plane(), in_plane = number % block.plane();
    return channels + image * p.source_strides.batch + z * p.source_strides.axis[0] +
           in_plane / block.width.sources() * p.source_strides.axis[1] +
           in_plane % block.width.sources() * p.source_strides.axis[2];
  }

  /// Whether tiles may read pixels [first, first + count) where they lie.
  bool in_place(int64_t first, int64_t count) const {
    return __is_same(T, A) && count % kLanes<A> == 0 && first % run + count <= run &&
           !planes_compete(p.source_strides.channel * int64_t(sizeof(T)));
  }

  /// Copies those of channels [channel, channel + depth), `pitch` elements a row; what is left of
  /// the last register becomes zero.
  void copy(int64_t z, int64_t first, int64_t count, int64_t channel, int64_t depth, A* to,
            int64_t pitch) const {
    for (int64_t c = 0; pitch > count && c < depth; ++c) {
      store(to + (c + 1) * pitch - kLanes<A>, Vec<A>{});
    }
    for (int64_t done = 0; done < count;) {
      const int64_t rest = run - (first + done) % run;
      const int64_t some = rest < count - done ? rest : count - done;
      const T* from = at(z, first + done) + channel * p.source_strides.channel;
      for (int64_t c = 0; c < depth; ++c) {
        copy_strided(from + c * p.source_strides.channel, 1, some, to + c * pitch + done);
      }
      done += some;
    }
  }
};

/// Where the products of some source pixels of a block go if each is a destination.
template <class T>
struct TiledDest {
  using A = Accumulator<T>;
  const FoldSource<T>& source;
  int64_t first_channel;

  /// Calls f(pixel, count, where the first of their destinations in the first channel lies) for
  /// runs of neighbours in a row among `pixels` from number `first` of the block on.
  template <class F>
  void for_each_run(int64_t first, int64_t pixels, const F& f) const {
    const InputGradient<T>& p = source.p;
    const FoldBlock& block = source.block;
    const int64_t width = block.width.sources();
    for (int64_t done = 0, count; done < pixels; done += count) {
      const int64_t image = (first + done) / block.plane();
      const int64_t y = (first + done) % block.plane() / width, x = (first + done) % width;
      count = width - x < pixels - done ? width - x : pixels - done;
      f(done, count,
        p.dest + (block.image + image) * p.dest_strides.batch +
            first_channel * p.dest_strides.channel + block.depth * p.dest_strides.axis[0] +
            (block.height.low + y) * p.axis[1].stride * p.dest_strides.axis[1] +
            (block.width.low + x) * p.axis[2].stride);
    }
  }

  /// Fetches the lines of channels [begin, end), to be written. Inlined, as GCC drops calls that
  /// have no effect.
  [[gnu::always_inline]] void fetch(int64_t first, int64_t pixels, int64_t begin,
                                    int64_t end) const {
    const InputGradient<T>& p = source.p;
    for_each_run(first, pixels, [&](int64_t, int64_t count, const T* to) {
      for (int64_t m = begin; m < end; ++m) {
        for (int64_t kh = 0; kh < p.axis[1].kernel; ++kh) {
          const T* row = to + m * p.dest_strides.channel + kh * p.dest_strides.axis[1];
          for (int64_t i = 0; i < count * p.axis[2].stride; i += 64 / sizeof(T)) {
            __builtin_prefetch(row + i, 1);
          }
        }
      }
    });
  }

  /// Stores the products of all `channels`, those with a (channel, tap) `pitch` elements apart.
  /// Reads up to a register past the last.
  template <int kPhases>
  void store_phases(int64_t first, int64_t pixels, int64_t channels, const A* products,
                    int64_t pitch) const {
    constexpr int lanes = kLanes<A>;
    const InputGradient<T>& p = source.p;
    for_each_run(first, pixels, [&](int64_t done, int64_t count, T* to) {
      const A* from = products + done;
      for (int64_t m = 0; m < channels; ++m, to += p.dest_strides.channel) {
        const A bias = p.bias != nullptr ? widen(p.bias[first_channel + m]) : A(0);
        for (int64_t kh = 0; kh < p.axis[1].kernel; ++kh, from += kPhases * pitch) {
          T* row = to + kh * p.dest_strides.axis[1];
          for (int64_t j = 0; j < count; j += lanes, row += kPhases * lanes) {
            Vec<A> phase[kPhases];
#pragma GCC unroll 8
            for (int i = 0; i < kPhases; ++i) phase[i] = load(from + i * pitch + j) + bias;
            interleave_all<kPhases, A>(phase);
            const int64_t left = (count - j) * kPhases;
#pragma GCC unroll 8
            for (int i = 0; i < kPhases; ++i) {
              if (left >= (i + 1) * lanes) {
                store_narrow(row + i * lanes, phase[i]);
              } else if (left > i * lanes) {
                store_partial(row + i * lanes, phase[i], left - i * lanes);
              }
            }
          }
        }
      }
    });
  }

  /// The same for any number of phases that taps_tile_dest is true for.
  void store(int64_t first, int64_t pixels, int64_t channels, const A* products,
             int64_t pitch) const {
    switch (source.p.axis[2].stride) {
      case 2: return store_phases<2>(first, pixels, channels, products, pitch);
      case 4: return store_phases<4>(first, pixels, channels, products, pitch);
      default: return store_phases<8>(first, pixels, channels, products, pitch);
    }
  }
};
