// The gradient for the input of strided grouped convolutions on planar tensors with narrow rows:
// phased_channels_last.h on blocks that are transposed into scratch, as in grouped_planar.h. A
// block stays in cache, so that its phases are run one by one.

/// How a call is cut, and the scratch that it takes.
template <class T>
struct PhasedBlocksBlocking {
  using A = Accumulator<T>;
  PhasedGroupsBlocking<T> groups;
  int64_t source_pixels, dest_pixels;  // of a plane
  int64_t source_elements;             // of a block
  int64_t block_bytes;

  explicit PhasedBlocksBlocking(const InputGradient<T>& p)
      : groups(p),
        source_pixels(p.axis[0].output * p.axis[1].output * p.axis[2].output),
        dest_pixels(p.axis[0].input * p.axis[1].input * p.axis[2].input) {
    source_elements = round_up(source_pixels * kLanes<A>, 64);
    block_bytes = sizeof(A) * (source_elements + dest_pixels * kLanes<A>);
  }

  Footprint footprint() const {
    Footprint all = groups.footprint();
    all.per_thread += block_bytes;
    return all;
  }
};

template <class T, int kGroup>
void convolve_phased_blocks(const InputGradient<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const PhasedBlocksBlocking<T> blocking(p);
  const int64_t channels = p.groups * kGroup, blocks = ceil_div(channels, lanes);
  Scratch packed(blocking.groups.packed_bytes);
  const PackedPhase<T, A>* phases =
      pack_phases<T, kGroup, A>(p, blocking.groups, lanes, packed.as<char>());

  const int64_t work = blocking.dest_pixels * lanes * kGroup;
  parallel_for(p.batch * blocks, ceil_div(kSmallestWork, work), [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.groups.buffer_bytes);
    Scratch planes(blocking.block_bytes);
    A* source = planes.as<A>();
    InputGradient<A> block{};
    static_cast<Channels&>(block) = p;
    for (int i = 0; i < kAxes; ++i) block.axis[i] = p.axis[i];
    block.batch = 1;
    block.groups = lanes / p.depth;
    block.source = source;
    block.dest = source + blocking.source_elements;
    block.source_strides =
        transposed_strides<T>({p.axis[0].output, p.axis[1].output, p.axis[2].output});
    block.dest_strides = transposed_strides<T>({p.axis[0].input, p.axis[1].input, p.axis[2].input});
    for (int64_t item = begin; item < end; ++item) {
      // The last register of channels overlaps the one before.
      const int64_t wanted = item % blocks * lanes, image = item / blocks;
      const int64_t first = wanted + lanes <= channels ? wanted : channels - lanes;
      load_planes(p.source + image * p.source_strides.batch + first * p.source_strides.channel,
                  p.source_strides.channel, lanes, 1, blocking.source_pixels, source, lanes);
      for (int64_t i = 0; i < blocking.groups.phases; ++i) {
        const Contraction<A> phase = phase_of(block, blocking.groups.taps, i);
        grouped_rows<A, kGroup>(phase, phases[i].tables, phases[i].weights.from(first), 0,
                                phase.walk[0].count * phase.walk[1].count, buffer.as<char>());
      }
      transpose_pixels(block.dest, blocking.dest_pixels,
                       p.dest + image * p.dest_strides.batch + first * p.dest_strides.channel,
                       p.dest_strides.channel);
    }
  });
}

template <class T>
void phased_blocks(const InputGradient<T>& p) {
  with_group<Accumulator<T>>(p.depth, [&]<int kGroup>() { convolve_phased_blocks<T, kGroup>(p); });
}
