// The gradient for the input (transposed convolution) of strided convolutions in groups of equally
// many (1, 2, 4 or 8) source and destination channels, depthwise first of all, vectors along
// channels.
//
// Each phase of the strides is a contraction of grouped_channels_last.h. Run one after the other
// they would read the source and go through the pages of the destination once for each; so an item
// is a destination row with all phases of the width: what it reads and stores stays in cache until
// the row is done.

/// A phase as a contraction of its own, with all that grouped_rows takes beside it, for a source of
/// type Read.
template <class T, class Read = T>
struct PackedPhase {
  Contraction<T> contraction;
  GroupedTables<Read> tables;
  GroupedWeights<Read> weights;
};

/// The phases of a call, and the scratch that they take.
template <class T>
struct PhasedGroupsBlocking {
  int64_t phases = 1;
  int64_t list_bytes = 0, packed_bytes = 0;  // of the call: lists of taps; tables and weights
  int64_t buffer_bytes = 0;                  // of each thread
  Scratch lists;
  PhaseTaps taps[kAxes];

  explicit PhasedGroupsBlocking(const InputGradient<T>& p) : lists(bytes_of_lists(p)) {
    char* to = lists.as<char>();
    for (int i = 0; i < kAxes; ++i) {
      taps[i] = list_phase_taps(p.axis[i], to);
      to += phase_taps_bytes(p.axis[i]);
      phases *= p.axis[i].stride;
    }
    list_bytes = bytes_of_lists(p);
    for (int64_t i = 0; i < phases; ++i) {
      const GroupedTables<T> tables(phase_of(p, taps, i));
      packed_bytes += tables.packed_bytes;
      buffer_bytes = tables.buffer_bytes > buffer_bytes ? tables.buffer_bytes : buffer_bytes;
    }
    packed_bytes += phases * sizeof(PackedPhase<T>);
  }

  static int64_t bytes_of_lists(const InputGradient<T>& p) {
    int64_t bytes = 0;
    for (const ConvAxis& axis : p.axis) bytes += phase_taps_bytes(axis);
    return bytes;
  }

  Footprint footprint() const {
    return {kWindowPixels, kLanes<Accumulator<T>>, list_bytes + packed_bytes, buffer_bytes};
  }
};

/// Packs all phases for a source of type Read whose pixels are `pixel` elements apart, into
/// blocking.packed_bytes.
template <class T, int kGroup, class Read = T>
const PackedPhase<T, Read>* pack_phases(const InputGradient<T>& p,
                                        const PhasedGroupsBlocking<T>& blocking, int64_t pixel,
                                        char* to) {
  int64_t source = 1, dest = 1;
  for (const ConvAxis& axis : p.axis) source *= axis.output, dest *= axis.input;
  const bool fetches = window_fetches<Read>(p.batch * p.groups * kGroup * (source + dest));
  PackedPhase<T, Read>* all =
      reinterpret_cast<PackedPhase<T, Read>*>(to + blocking.packed_bytes) - blocking.phases;
  for (int64_t i = 0; i < blocking.phases; ++i) {
    const Contraction<T> phase = phase_of(p, blocking.taps, i);
    GroupedTables<Read> tables(phase);
    tables.fetches = fetches;
    all[i] = {phase, tables,
              pack_grouped<T, kGroup>(phase, tables, pixel, reinterpret_cast<Accumulator<T>*>(to))};
    to += tables.packed_bytes;
  }
  return all;
}

/// Destination row `row` of `p`, counted over images, depths and heights. `phases` are all of its
/// phases.
template <class T, int kGroup>
void grouped_phases(const InputGradient<T>& p, const PackedPhase<T>* phases, int64_t row,
                    char* buffer) {
  const ConvAxis &deep = p.axis[0], &high = p.axis[1];
  const int64_t h = row % high.input, d = row / high.input % deep.input;
  const int64_t image = row / high.input / deep.input;
  phases += (d % deep.stride * high.stride + h % high.stride) * p.axis[2].stride;
  for (int64_t i = 0; i < p.axis[2].stride; ++i) {
    const auto& [phase, tables, weights] = phases[i];
    const int64_t of_phase =
        (image * phase.walk[0].count + d / deep.stride) * phase.walk[1].count + h / high.stride;
    grouped_rows<T, kGroup>(phase, tables, weights, of_phase, of_phase + 1, buffer);
  }
}

template <class T, int kGroup>
void convolve_phased_groups(const InputGradient<T>& p) {
  const PhasedGroupsBlocking<T> blocking(p);
  Scratch packed(blocking.packed_bytes);
  const PackedPhase<T>* phases =
      pack_phases<T, kGroup>(p, blocking, p.source_strides.axis[2], packed.as<char>());
  const int64_t rows = p.batch * p.axis[0].input * p.axis[1].input;
  const int64_t row_work = p.axis[2].input * p.groups * kGroup * kGroup;
  parallel_for(rows, ceil_div(kSmallestWork, row_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    for (int64_t row = begin; row < end; ++row) {
      grouped_phases<T, kGroup>(p, phases, row, buffer.as<char>());
    }
  });
}

template <class T>
void phased_channels_last(const InputGradient<T>& p) {
  with_group<Accumulator<T>>(p.depth, [&]<int kGroup>() { convolve_phased_groups<T, kGroup>(p); });
}
