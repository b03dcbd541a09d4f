// The gradient for the input (transposed convolution) of strided convolutions with few channels in
// a group, depthwise first of all, on planar tensors.
//
// There is hardly any arithmetic in it: a destination of a depthwise 3x3 convolution with stride 2
// sums two products. What counts is that every destination row is stored once, in whole registers.
// So all phases of the width are computed together, a register of each, and shuffled into the order
// of the row, and the phases of the height follow one another.
//
// An item is a band (band.h) of source rows and all destinations of one channel group and depth
// that belong to them: the band is gathered once, and behind it every tap is a shifted load.

/// Registers of sums of a block and a destination channel: enough chains of FMAs, and those of two
/// channels stay in registers.
constexpr int kPhasedRegisters = 8;

/// Destination channels of a block, which share what they load.
constexpr int kPhasedChannels = 2;

/// What the blocks of a destination row share, in one channel or two neighbours.
template <class T>
struct PhasedRow {
  using A = Accumulator<T>;
  const int64_t* offsets;  // of all taps: where each starts in the band
  const A* weight;         // of all taps
  int64_t pitch;           // from the weights of a channel to those of the next
  const int64_t* first;    // those of phase i of the width are [first[i], first[i + 1])
  const T* bias;           // of the channels, or null
  int64_t width;           // destinations
  int64_t channel;         // distance of two destination channels
};

/// The strides [j, j + kVectors registers) of a row. `rows` is where the row's sources start in the
/// band.
template <class T, int kPhases, int kChannels, int kVectors>
inline void phased_block(const PhasedRow<T>& in, const Accumulator<T>* rows, int64_t j, T* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kChannels][kVectors][kPhases];
#pragma GCC unroll 8
  for (int phase = 0; phase < kPhases; ++phase) {
    Vec<A> of_phase[kChannels][kVectors];
#pragma GCC unroll 2
    for (int c = 0; c < kChannels; ++c) {
      const A bias = in.bias != nullptr ? widen(in.bias[c]) : A(0);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) of_phase[c][v] = broadcast(bias);
    }
    for (int64_t k = in.first[phase]; k < in.first[phase + 1]; ++k) {
      const A* from = rows + in.offsets[k] + j;
      Vec<A> value[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) value[v] = load(from + v * lanes);
#pragma GCC unroll 2
      for (int c = 0; c < kChannels; ++c) {
        const Vec<A> weight = broadcast(in.weight[k + c * in.pitch]);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) of_phase[c][v] += weight * value[v];
      }
    }
#pragma GCC unroll 2
    for (int c = 0; c < kChannels; ++c) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[c][v][phase] = of_phase[c][v];
    }
  }
#pragma GCC unroll 2
  for (int c = 0; c < kChannels; ++c, to += in.channel) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      interleave_all<kPhases, A>(sum[c][v]);
#pragma GCC unroll 8
      for (int i = 0; i < kPhases; ++i) {
        const int64_t at = (j + v * lanes) * kPhases + i * lanes;
        if (at + lanes <= in.width) {
          store_narrow(to + at, sum[c][v][i]);
        } else if (at < in.width) {
          store_partial(to + at, sum[c][v][i], in.width - at);
        }
      }
    }
  }
}

/// A destination row of `strides` strides.
template <class T, int kPhases, int kChannels>
void phased_row(const PhasedRow<T>& in, const Accumulator<T>* rows, int64_t strides, T* to) {
  constexpr int lanes = kLanes<Accumulator<T>>, most = kPhasedRegisters / kPhases;
  constexpr int two = most > 2 ? 2 : most, three = most > 3 ? 3 : most;
  int64_t left = vectors_for<Accumulator<T>>(strides);
  for (int64_t j = 0; left > 0;) {
    // Blocks of about the same width.
    const int64_t vectors = ceil_div(left, ceil_div(left, int64_t(most)));
    switch (vectors) {
      case 1: phased_block<T, kPhases, kChannels, 1>(in, rows, j, to); break;
      case 2: phased_block<T, kPhases, kChannels, two>(in, rows, j, to); break;
      case 3: phased_block<T, kPhases, kChannels, three>(in, rows, j, to); break;
      default: phased_block<T, kPhases, kChannels, most>(in, rows, j, to); break;
    }
    j += vectors * lanes;
    left -= vectors;
  }
}

template <class T>
using PhasedRowKernel = void (*)(const PhasedRow<T>&, const Accumulator<T>*, int64_t, T*);

/// The code for a stride of the width; the plan asks for these.
template <class T, int kChannels>
PhasedRowKernel<T> phased_row_of(int64_t stride) {
  switch (stride) {
    case 2: return phased_row<T, 2, kChannels>;
    case 3: return phased_row<T, 3, kChannels>;
    case 4: return phased_row<T, 4, kChannels>;
    default: return phased_row<T, 8, kChannels>;
  }
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct PhasedPlanarBlocking {
  using A = Accumulator<T>;
  int64_t inner;           // taps of all source channels of a group
  Tap ends[2][2];          // the lowest and the highest tap of height and width
  ContractionShape shape;  // a destination for each stride, but for the depth and its taps
  BandLayout band;
  int64_t bands, row_phases;
  int64_t table_bytes, weight_bytes;  // of the call
  int64_t buffer_bytes;               // of each thread: a band

  PhasedPlanarBlocking(const PhasedPlanarBlocking&) = delete;
  explicit PhasedPlanarBlocking(const InputGradient<T>& p) {
    static_cast<Channels&>(shape) = p;
    inner = p.depth;
    row_phases = p.axis[0].stride * p.axis[1].stride;
    table_bytes = sizeof(int64_t) * (row_phases * p.axis[2].stride + 1);
    for (int i = 0; i < kAxes; ++i) {
      const ConvAxis& axis = p.axis[i];
      shape.walk[i].count = strides_of_input(axis);
      shape.walk[i].size = axis.output;
      inner *= axis.kernel;
      table_bytes += phase_taps_bytes(axis);
      if (i == 0) continue;
      Tap* end = ends[i - 1];
      end[0] = {offset(axis, axis.kernel - 1), 0};
      end[1] = {offset(axis, 0), 0};
      shape.walk[i].taps = end;
      shape.walk[i].tap_count = 2;
    }
    // The phases of the depth have about equally many taps.
    shape.walk[0].tap_count = ceil_div(p.axis[0].kernel, p.axis[0].stride);
    band = lay_out_band<A>(shape, 1);
    if (band.depth < p.depth) {
      band.depth = p.depth;
      band.max_rows = 1;
      band.plane = band.rows(shape.walk[1], 1) * band.row;
    }
    bands = ceil_div(shape.walk[1].count, band.max_rows);
    table_bytes += sizeof(int64_t) * inner;
    weight_bytes = sizeof(A) * p.groups * p.rows * inner;
    buffer_bytes = sizeof(A) * p.depth * p.axis[0].kernel * band.plane;
  }

  /// The source that destination stride 0 reads for a tap.
  static int64_t offset(const ConvAxis& axis, int64_t tap) {
    const int64_t reach = axis.pad_begin - tap * axis.dilation;
    return reach >= 0 ? ceil_div(reach, axis.stride) : -(-reach / axis.stride);
  }

  Footprint footprint() const {
    return {1, kPhasedRegisters * kLanes<A>, table_bytes + weight_bytes, buffer_bytes};
  }
};

/// The tables of a call. Taps are in the order (phase of depth, of height, of width; source
/// channel, tap of depth, of height, of width).
template <class T>
struct PhasedTaps {
  PhaseTaps axis[kAxes];
  int64_t* first;    // of each phase
  int64_t* offsets;  // where each tap starts in the band

  PhasedTaps(const InputGradient<T>& p, const PhasedPlanarBlocking<T>& blocking, char* tables,
             Accumulator<T>* weights) {
    for (int i = 0; i < kAxes; ++i) {
      axis[i] = list_phase_taps(p.axis[i], tables);
      tables += phase_taps_bytes(p.axis[i]);
    }
    first = reinterpret_cast<int64_t*>(tables);
    offsets = first + blocking.row_phases * p.axis[2].stride + 1;
    int64_t found = 0, phases = 0;
    for (int64_t d = 0; d < p.axis[0].stride; ++d) {
      for (int64_t h = 0; h < p.axis[1].stride; ++h) {
        for (int64_t w = 0; w < p.axis[2].stride; ++w) {
          first[phases++] = found;
          found = list(p, blocking, d, h, w, weights, found);
        }
      }
    }
    first[phases] = found;
  }

 private:
  /// Lists a phase from `found` on; returns where it ends.
  int64_t list(const InputGradient<T>& p, const PhasedPlanarBlocking<T>& blocking, int64_t d,
               int64_t h, int64_t w, Accumulator<T>* weights, int64_t found) {
    const BandLayout& band = blocking.band;
    const WeightStrides& strides = p.weight_strides;
    for (int64_t c = 0; c < p.depth; ++c) {
      for (int64_t i = 0; i < axis[0].count(d); ++i) {
        for (int64_t j = 0; j < axis[1].count(h); ++j) {
          for (int64_t k = 0; k < axis[2].count(w); ++k, ++found) {
            const Tap td = axis[0].of(d)[i], th = axis[1].of(h)[j], tw = axis[2].of(w)[k];
            offsets[found] = (c * axis[0].count(d) + i) * band.plane +
                             (th.offset - band.low[0]) * band.row + tw.offset - band.low[1];
            const T* from = p.weight + c * strides.depth + td.kernel * strides.axis[0] +
                            th.kernel * strides.axis[1] + tw.kernel * strides.axis[2];
            Accumulator<T>* to = weights + found;
            for (int64_t group = 0; group < p.groups; ++group, from += strides.group) {
              for (int64_t m = 0; m < p.rows; ++m, to += blocking.inner) {
                *to = widen(from[m * strides.row]);
              }
            }
          }
        }
      }
    }
    return found;
  }
};

template <class T>
void phased_planar(const InputGradient<T>& p) {
  using A = Accumulator<T>;
  const PhasedPlanarBlocking<T> blocking(p);
  const BandLayout& band = blocking.band;
  const ConvAxis &deep = p.axis[0], &high = p.axis[1], &wide = p.axis[2];
  const int64_t inner = blocking.inner, strides_high = blocking.shape.walk[1].count;

  Scratch tables(blocking.table_bytes);
  Scratch packed(blocking.weight_bytes);
  const A* weights = packed.as<A>();
  const PhasedTaps<T> taps(p, blocking, tables.as<char>(), packed.as<A>());
  const PhasedRowKernel<T> one_channel = phased_row_of<T, 1>(wide.stride);
  const PhasedRowKernel<T> more_channels = phased_row_of<T, kPhasedChannels>(wide.stride);

  const int64_t items = p.batch * p.groups * deep.input * blocking.bands;
  const int64_t item_work = band.max_rows * strides_of_input(wide) * p.rows * inner;
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    A* rows = buffer.as<A>();
    ContractionShape shape = blocking.shape;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % blocking.bands * band.max_rows;
      const int64_t z = item / blocking.bands % deep.input, phase = z % deep.stride;
      const int64_t number = item / blocking.bands / deep.input;
      const int64_t group = number % p.groups, image = number / p.groups;
      const int64_t left = strides_high - first;
      const int64_t count = left < band.max_rows ? left : band.max_rows;
      shape.walk[0].taps = taps.axis[0].of(phase);
      shape.walk[0].tap_count = taps.axis[0].count(phase);
      gather_band(
          shape, band,
          p.source + image * p.source_strides.batch + group * p.depth * p.source_strides.channel,
          p.source_strides, p.depth, z / deep.stride, first, count, rows);
      for (int64_t m = 0; m < p.rows;) {
        const int64_t channel = group * p.rows + m;
        const bool more = p.rows - m >= kPhasedChannels;
        m += more ? kPhasedChannels : 1;
        const T* bias = p.bias != nullptr ? p.bias + channel : nullptr;
        T* plane = p.dest + image * p.dest_strides.batch + channel * p.dest_strides.channel +
                   z * p.dest_strides.axis[0];
        for (int64_t r = 0; r < count; ++r) {
          for (int64_t i = 0; i < high.stride; ++i) {
            const int64_t h = (first + r) * high.stride + i;
            if (h >= high.input) break;
            const int64_t* of_row = taps.first + (phase * high.stride + i) * wide.stride;
            const PhasedRow<T> row{taps.offsets, weights + channel * inner, inner, of_row, bias,
                                   wide.input,   p.dest_strides.channel};
            const PhasedRowKernel<T> compute = more ? more_channels : one_channel;
            compute(row, rows + r * band.row, strides_of_input(wide),
                    plane + h * p.dest_strides.axis[1]);
          }
        }
      }
    }
  });
}
