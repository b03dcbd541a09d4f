// Convolution in groups of equally many (1, 2, 4 or 8) source and destination channels, depthwise
// first of all, vectors along channels: a register holds several groups.
//
// Lane g * kGroup + m of a destination register sums, over the channels c of its group, weight
// (g, m, c) times source lane g * kGroup + c. For each c a shuffle spreads the source channel over
// its group, and the weights are repacked so that those of all lanes lie side by side:
// [tap][c][channel].
//
// An item is a row of destination pixels, along which a window slides (grouped_window.h). Channels
// that do not fill a register are covered by a last register that overlaps the one before; fewer
// than one register of them by partial loads.

inline void reverse(int64_t* values, int64_t count) {
  for (int64_t i = 0, j = count - 1; i < j; ++i, --j) {
    const int64_t value = values[i];
    values[i] = values[j];
    values[j] = value;
  }
}

/// The tables of a call that reads elements of T, and the scratch that they take.
template <class T>
struct GroupedTables {
  using A = Accumulator<T>;
  int64_t pitch;   // channels and what fills the last register: partial blocks load whole ones
  PixelRows rows;  // of a destination row
  bool fetches = false;  // what is far from the processor
  int64_t packed_bytes;  // of the call: weights, bias, a pixel of zeros, tables
  int64_t buffer_bytes;  // of each thread: where a row reads

  explicit GroupedTables(const ContractionShape& p) : rows(p.walk[2]) {
    const int64_t lines = p.walk[0].tap_count * p.walk[1].tap_count;
    pitch = round_up(p.groups * p.depth, kLanes<A>);
    packed_bytes = sizeof(A) * (p.taps() * p.depth + 2) * pitch +
                   sizeof(int64_t) * (p.taps() + rows.positions());
    buffer_bytes = (sizeof(WindowLine<T>) + sizeof(T*)) * lines;
  }

  Footprint footprint() const { return {kWindowPixels, kLanes<A>, packed_bytes, buffer_bytes}; }
};

/// Packed weights and bias, and what else all rows read.
template <class T>
struct GroupedWeights {
  using A = Accumulator<T>;
  const A* weight;  // [tap][source channel of a group][channel]
  const A* bias;
  const T* zeros;            // a pixel
  const int64_t* positions;  // that rows read

  /// Those of the channels from `channel` on.
  GroupedWeights from(int64_t channel) const {
    return {weight + channel, bias + channel, zeros, positions};
  }
};

/// Elements of a weight side by side that are worth transposing.
constexpr int64_t kMinTransposedRun = 4;

/// Packs the weights of a register of channels, the first of which is `channel`. `offsets` are
/// those of the taps in a channel's weight.
template <class T, int kGroup>
void pack_register(const Contraction<T>& p, const int64_t* offsets, int64_t channel,
                   Accumulator<T>* to, int64_t pitch) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t left = p.groups * kGroup - channel, count = left < lanes ? left : lanes;
  const T* from[lanes];
  for (int64_t l = 0; l < count; ++l) {
    from[l] = p.weight + (channel + l) / kGroup * p.weight_strides.group +
              (channel + l) % kGroup * p.weight_strides.row;
  }
  const auto element = [&](int64_t i) {
    return offsets[i / kGroup] + i % kGroup * p.weight_strides.depth;
  };
  const int64_t rows = p.taps() * kGroup;
  for (int64_t i = 0, run = 1; i < rows; i += run, to += run * pitch) {
    // As many as are neighbours, in ascending or descending order.
    const int64_t step = i + 1 < rows ? element(i + 1) - element(i) : 0;
    const bool neighbours = step == 1 || step == -1;
    for (run = 1; neighbours && run < lanes && i + run < rows; ++run) {
      if (element(i + run) != element(i) + run * step) break;
    }
    if (run < kMinTransposedRun) {
      for (int64_t j = 0; j < run; ++j) {
        for (int64_t l = 0; l < count; ++l) to[j * pitch + l] = widen(from[l][element(i + j)]);
      }
      continue;
    }
    const int64_t low = step == 1 ? element(i) : element(i + run - 1);
    Vec<A> square[lanes] = {};
    for (int64_t l = 0; l < count; ++l) {
      square[l] = run == lanes ? load_wide(from[l] + low) : load_partial(from[l] + low, run);
    }
    transpose<A>(square);
    for (int64_t j = 0; j < run; ++j) {
      store(to + (step == 1 ? j : run - 1 - j) * pitch, square[j]);
    }
  }
}

/// Packs for a source of type Read whose pixels are `pixel` elements apart. `to` has
/// tables.packed_bytes.
template <class T, int kGroup, class Read = T>
GroupedWeights<Read> pack_grouped(const Contraction<T>& p, const GroupedTables<Read>& tables,
                                  int64_t pixel, Accumulator<T>* to) {
  const int64_t taps = p.taps(), taps_w = p.walk[2].tap_count, pitch = tables.pitch;
  Accumulator<T>* weight = to;
  Accumulator<T>* bias = weight + taps * kGroup * pitch;
  Read* zeros = reinterpret_cast<Read*>(bias + pitch);
  int64_t* offsets = reinterpret_cast<int64_t*>(bias + 2 * pitch);
  int64_t* positions = offsets + taps;
  tap_offsets(p, p.weight_strides, offsets);
  tables.rows.fill(p.walk[2], pixel, positions);
  // The window takes the taps of the width in ascending order.
  const bool descends = taps_w > 1 && p.walk[2].taps[1].offset < p.walk[2].taps[0].offset;
  for (int64_t t = 0; descends && t < taps; t += taps_w) reverse(offsets + t, taps_w);
  fill(weight, taps * kGroup * pitch, Accumulator<T>(0));
  fill(bias, 2 * pitch, Accumulator<T>(0));
  const int64_t channels = p.groups * kGroup;
  for (int64_t c = 0; c < channels; ++c) bias[c] = p.bias != nullptr ? widen(p.bias[c]) : 0;
  for (int64_t c = 0; c < channels; c += kLanes<Accumulator<T>>) {
    pack_register<T, kGroup>(p, offsets, c, weight + c, pitch);
  }
  return {weight, bias, zeros, positions};
}

/// Destination rows [begin, end), counted over images, depths and heights, of a problem whose
/// channels have stride 1. `buffer` has tables.buffer_bytes.
template <class T, int kGroup>
void grouped_rows(const Contraction<T>& p, const GroupedTables<T>& tables,
                  const GroupedWeights<T>& weights, int64_t begin, int64_t end, char* buffer) {
  const Walk* walk = p.walk;
  const int64_t channels = p.groups * kGroup, taps_w = walk[2].tap_count, pitch = tables.pitch;
  const int64_t lines = walk[0].tap_count * walk[1].tap_count;
  const Strides &from = p.source_strides, &dest = p.dest_strides;
  WindowLine<T>* found = reinterpret_cast<WindowLine<T>*>(buffer);
  const T** fresh = reinterpret_cast<const T**>(found + lines);
  const PixelRows& rows = tables.rows;
  // What the destination row before has not read lies above this.
  const int64_t stale = walk[1].high() - (tables.fetches ? walk[1].step : 0);
  for (int64_t item = begin; item < end; ++item) {
    const int64_t h = item % walk[1].count, d = item / walk[1].count % walk[0].count;
    const int64_t image = item / walk[1].count / walk[0].count;
    int64_t line_count = 0, fresh_count = 0;
    const Accumulator<T>* weight = weights.weight;
    for (int64_t td = 0; td < walk[0].tap_count; ++td) {
      const int64_t z = walk[0].resolve(d * walk[0].step + walk[0].taps[td].offset);
      for (int64_t th = 0; th < walk[1].tap_count; ++th, weight += taps_w * kGroup * pitch) {
        const int64_t y = walk[1].resolve(h * walk[1].step + walk[1].taps[th].offset);
        if (z < 0 || y < 0) continue;
        const T* line = p.source + image * from.batch + z * from.axis[0] + y * from.axis[1];
        found[line_count++] = {line, weight};
        if (walk[1].taps[th].offset > stale) fresh[fresh_count++] = line;
      }
    }
    T* to = p.dest + image * dest.batch + d * dest.axis[0] + h * dest.axis[1];
    const Window<T> window{.lines = found,
                           .line_count = line_count,
                           .positions = weights.positions,
                           .taps = taps_w,
                           .first = 0,
                           .step = rows.step,
                           .turns = rows.step,
                           .whole = taps_w / rows.step,
                           .rest = taps_w % rows.step,
                           .position = rows.distance * from.axis[2],
                           .pixel = rows.pixel * from.axis[2],
                           .zeros = weights.zeros,
                           .fetches = tables.fetches,
                           .fresh = fresh,
                           .fresh_count = fresh_count,
                           .column = walk[2].low() * from.axis[2]};
    window_rows<T, kGroup>(window, rows, weights.bias, pitch, channels, to, dest.axis[2]);
  }
}

template <class T, int kGroup>
void convolve_groups(const Contraction<T>& p) {
  GroupedTables<T> tables(p);
  tables.fetches = window_fetches<T>(p.batch * p.groups * kGroup * (source_plane(p) + p.pixels()));
  Scratch packed(tables.packed_bytes);
  const GroupedWeights<T> weights =
      pack_grouped<T, kGroup>(p, tables, p.source_strides.axis[2], packed.as<Accumulator<T>>());
  const int64_t rows = p.batch * p.walk[0].count * p.walk[1].count;
  const int64_t row_work = p.walk[2].count * p.taps() * p.groups * kGroup * kGroup;
  parallel_for(rows, ceil_div(kSmallestWork, row_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(tables.buffer_bytes);
    grouped_rows<T, kGroup>(p, tables, weights, begin, end, buffer.as<char>());
  });
}

template <class T>
void grouped_channels_last(const Contraction<T>& p) {
  with_group<Accumulator<T>>(p.depth, [&]<int kGroup>() { convolve_groups<T, kGroup>(p); });
}
