// Convolution in groups of equally many (1, 2, 4 or 8) source and destination channels, depthwise
// first of all, vectors along channels: a register holds several groups.
//
// Lane g * kGroup + m of a destination register sums, over the channels c of its group, weight
// (g, m, c) times source lane g * kGroup + c. For each c a shuffle spreads the source channel over
// its group, and the weights are repacked so that those of all lanes lie side by side:
// [tap][c][channel].
//
// An item is a row of destination pixels. Where taps read neighbours a window slides over the
// source (grouped_window.h). With dilations pixels go four at a time, so that a loaded weight
// vector serves four of them; for taps that read zeros at some of the four, only the others are
// added. Padding that reads inside the source has no such order: those pixels go alone. Channels
// that do not fill a register are covered by a last register that overlaps the one before; fewer
// than one register of them by partial loads.

constexpr int kGroupedPixels = 4;

/// The source of one destination row: a pointer for each (depth, height) tap, null where padding.
template <class T>
struct GroupedRow {
  const T* const* lines;
  int64_t line_count;
  const int64_t* columns;  // for each tap of the width: element offset in a line of pixel 0
  const uint8_t* reads;    // for each tap of the width: bit i is set where pixel i reads the source
  int64_t taps_w;
  int64_t pixel;  // elements between the sources of neighbouring destinations
};

/// sum += the part of source channels kChannel and on of every group. `weight` points to the first
/// register of theirs; those of the next channel are `pitch` elements on.
template <class A, int kGroup, int kChannel, int kPixels, int kVectors>
inline void add_channels(const Vec<A> (&x)[kPixels][kVectors], const A* weight, int64_t pitch,
                         int reads, Vec<A> (&sum)[kPixels][kVectors]) {
  const bool all = reads == (1 << kPixels) - 1;
  Vec<A> w[kVectors];
#pragma GCC unroll 2
  for (int j = 0; j < kVectors; ++j) w[j] = load(weight + j * kLanes<A>);
#pragma GCC unroll 4
  for (int i = 0; i < kPixels; ++i) {
    if (!all && (reads >> i & 1) == 0) continue;
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) sum[i][j] += w[j] * spread<A, kGroup, kChannel>(x[i][j]);
  }
  if constexpr (kChannel + 1 < kGroup) {
    add_channels<A, kGroup, kChannel + 1>(x, weight + pitch, pitch, reads, sum);
  }
}

/// Destination channels [c, c + lanes * kVectors) of kPixels pixels; with kPartial the first
/// `count`. `pitch` is the distance of the weights of neighbouring taps and source channels.
template <class T, int kGroup, int kPixels, int kVectors, bool kPartial>
inline void grouped_block(const GroupedRow<T>& row, const Accumulator<T>* weight,
                          const Accumulator<T>* bias, int64_t pitch, int64_t c, int64_t count,
                          T* to, int64_t to_pixel) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kPixels][kVectors];
#pragma GCC unroll 4
  for (int i = 0; i < kPixels; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) sum[i][j] = load(bias + c + j * lanes);
  }
  weight += c;
  for (int64_t line = 0; line < row.line_count; ++line) {
    const T* base = row.lines[line];
    if (base == nullptr) {
      weight += row.taps_w * kGroup * pitch;
      continue;
    }
    for (int64_t t = 0; t < row.taps_w; ++t, weight += kGroup * pitch) {
      const int reads = row.reads[t];
      if (reads == 0) continue;
      const T* from = base + row.columns[t] + c;
      Vec<A> x[kPixels][kVectors] = {};
#pragma GCC unroll 4
      for (int i = 0; i < kPixels; ++i) {
        if ((reads >> i & 1) == 0) continue;
#pragma GCC unroll 2
        for (int j = 0; j < kVectors; ++j) {
          const T* at = from + i * row.pixel + j * lanes;
          x[i][j] = kPartial ? load_partial(at, count) : load_wide(at);
        }
      }
      add_channels<A, kGroup, 0>(x, weight, pitch, reads, sum);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kPixels; ++i) {
#pragma GCC unroll 2
    for (int j = 0; j < kVectors; ++j) {
      T* out = to + i * to_pixel + c + j * lanes;
      if (kPartial) {
        store_partial(out, sum[i][j], count);
      } else {
        store_narrow(out, sum[i][j]);
      }
    }
  }
}

/// All channels of kPixels pixels.
template <class T, int kGroup, int kPixels>
inline void grouped_pixels(const GroupedRow<T>& row, const Accumulator<T>* weight,
                           const Accumulator<T>* bias, int64_t pitch, int64_t channels, T* to,
                           int64_t to_pixel) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  if (channels < lanes) {
    return grouped_block<T, kGroup, kPixels, 1, true>(row, weight, bias, pitch, 0, channels, to,
                                                      to_pixel);
  }
  int64_t c = 0;
  if constexpr (kGroup == 1) {
    for (; c + 2 * lanes <= channels; c += 2 * lanes) {
      grouped_block<T, kGroup, kPixels, 2, false>(row, weight, bias, pitch, c, 0, to, to_pixel);
    }
  }
  for (; c < channels; c += lanes) {
    const int64_t at = c + lanes <= channels ? c : channels - lanes;
    grouped_block<T, kGroup, kPixels, 1, false>(row, weight, bias, pitch, at, 0, to, to_pixel);
  }
}

/// Fills `columns` and `reads` for `pixels` destinations from `w` on. False where a pixel reads
/// padding that is not zero and is not the only one: its source is then not where its neighbours'
/// order says.
inline bool point_taps(const Walk& walk, int64_t w, int pixels, int64_t stride, int64_t* columns,
                       uint8_t* reads) {
  for (int64_t t = 0; t < walk.tap_count; ++t) {
    const int64_t x = w * walk.step + walk.taps[t].offset;
    columns[t] = x * stride;
    reads[t] = 0;
    for (int i = 0; i < pixels; ++i) {
      const int64_t at = x + i * walk.step;
      const int64_t position = walk.resolve(at);
      if (position < 0) continue;
      reads[t] |= uint8_t(1 << i);
      if (position == at) continue;
      if (pixels > 1) return false;
      columns[t] = position * stride;
    }
  }
  return true;
}

inline void reverse(int64_t* values, int64_t count) {
  for (int64_t i = 0, j = count - 1; i < j; ++i, --j) {
    const int64_t value = values[i];
    values[i] = values[j];
    values[j] = value;
  }
}

/// The tables of a call, and the scratch that they take.
template <class T>
struct GroupedTables {
  using A = Accumulator<T>;
  int64_t pitch;  // channels and what fills the last register: partial blocks load whole ones
  bool slides;    // a window slides over the source
  bool fetches = false;  // and fetches what is far from the processor
  int64_t positions;     // of the width that the window looks up
  int64_t packed_bytes;  // of the call: weights, bias, a pixel of zeros, tables
  int64_t buffer_bytes;  // of each thread: where a row reads

  explicit GroupedTables(const Contraction<T>& p) {
    const int64_t lines = p.walk[0].tap_count * p.walk[1].tap_count;
    pitch = round_up(p.groups * p.depth, kLanes<A>);
    slides = taps_are_neighbours(p.walk[2]);
    positions = slides ? p.walk[2].positions(p.walk[2].count) : 0;
    packed_bytes =
        sizeof(A) * (p.taps() * p.depth + 2) * pitch + sizeof(int64_t) * (p.taps() + positions);
    buffer_bytes = 2 * sizeof(T*) * lines + (sizeof(int64_t) + 1) * p.walk[2].tap_count;
  }

  Footprint footprint() const { return {kGroupedPixels, kLanes<A>, packed_bytes, buffer_bytes}; }
};

/// Packed weights and bias, and what else all rows read.
template <class T>
struct GroupedWeights {
  using A = Accumulator<T>;
  const A* weight;  // [tap][source channel of a group][channel]
  const A* bias;
  const T* zeros;            // a pixel
  const int64_t* positions;  // of the width, for the window

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

/// Packs for a source whose pixels are `pixel` elements apart. `to` has tables.packed_bytes.
template <class T, int kGroup>
GroupedWeights<T> pack_grouped(const Contraction<T>& p, const GroupedTables<T>& tables,
                               int64_t pixel, Accumulator<T>* to) {
  const int64_t taps = p.taps(), taps_w = p.walk[2].tap_count, pitch = tables.pitch;
  Accumulator<T>* weight = to;
  Accumulator<T>* bias = weight + taps * kGroup * pitch;
  T* zeros = reinterpret_cast<T*>(bias + pitch);
  int64_t* offsets = reinterpret_cast<int64_t*>(bias + 2 * pitch);
  int64_t* positions = offsets + taps;
  tap_offsets(p, p.weight_strides, offsets);
  if (tables.slides) {
    fill_positions(p.walk[2], pixel, positions);
    // The window takes the taps of the width in ascending order.
    const bool descends = taps_w > 1 && p.walk[2].taps[1].offset < p.walk[2].taps[0].offset;
    for (int64_t t = 0; descends && t < taps; t += taps_w) reverse(offsets + t, taps_w);
  }
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
  const T** line_table = reinterpret_cast<const T**>(buffer);
  const T** fresh = line_table + lines;
  int64_t* columns = reinterpret_cast<int64_t*>(fresh + lines);
  uint8_t* reads = reinterpret_cast<uint8_t*>(columns + taps_w);
  // What the destination row before has not read lies above this.
  const int64_t stale = tables.fetches ? walk[1].high() - walk[1].step : walk[1].high();
  const GroupedRow<T> row{line_table, lines, columns, reads, taps_w, walk[2].step * from.axis[2]};
  for (int64_t item = begin; item < end; ++item) {
    const int64_t h = item % walk[1].count, d = item / walk[1].count % walk[0].count;
    const int64_t image = item / walk[1].count / walk[0].count;
    int64_t fresh_count = 0;
    for (int64_t td = 0; td < walk[0].tap_count; ++td) {
      const int64_t z = walk[0].resolve(d * walk[0].step + walk[0].taps[td].offset);
      for (int64_t th = 0; th < walk[1].tap_count; ++th) {
        const int64_t y = walk[1].resolve(h * walk[1].step + walk[1].taps[th].offset);
        const T*& line = line_table[td * walk[1].tap_count + th];
        line = z < 0 || y < 0 ? nullptr
                              : p.source + image * from.batch + z * from.axis[0] + y * from.axis[1];
        if (line != nullptr && walk[1].taps[th].offset > stale) fresh[fresh_count++] = line;
      }
    }
    T* to = p.dest + image * dest.batch + d * dest.axis[0] + h * dest.axis[1];
    if (tables.slides) {
      const int64_t step = walk[2].step;
      const Window<T> window{.lines = line_table,
                             .line_count = lines,
                             .positions = weights.positions,
                             .line_taps = taps_w,
                             .first = 0,
                             .taps = taps_w,
                             .step = step,
                             .whole = taps_w / step,
                             .rest = taps_w % step,
                             .position = from.axis[2],
                             .zeros = weights.zeros,
                             .fetches = tables.fetches,
                             .fresh = fresh,
                             .fresh_count = fresh_count,
                             .column = walk[2].low() * from.axis[2]};
      window_row<T, kGroup>(window, weights.weight, weights.bias, pitch, channels, walk[2].count,
                            to, dest.axis[2]);
      continue;
    }
    for (int64_t w = 0; w < walk[2].count;) {
      // The last four overlap those before where pixels are left over.
      const int64_t last = walk[2].count - kGroupedPixels, at = w < last ? w : last;
      const bool four =
          last >= 0 && point_taps(walk[2], at, kGroupedPixels, from.axis[2], columns, reads);
      if (!four) point_taps(walk[2], w, 1, from.axis[2], columns, reads);
      T* pixel = to + (four ? at : w) * dest.axis[2];
      if (four) {
        grouped_pixels<T, kGroup, kGroupedPixels>(row, weights.weight, weights.bias, pitch,
                                                  channels, pixel, dest.axis[2]);
      } else {
        grouped_pixels<T, kGroup, 1>(row, weights.weight, weights.bias, pitch, channels, pixel,
                                     dest.axis[2]);
      }
      w += four ? kGroupedPixels : 1;
    }
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
