// The gradient for the input (transposed convolution) of planes with one source channel in a group
// and square kernels of three to five taps with stride 2, from source rows as they lie.
//
// All phases of a destination are computed at once (rolling_phases.h): every source row is read
// once and every destination row stored once, in whole registers. An item is some rows of one
// destination plane.

/// Destination rows of an item; the first two of it are finished by one turn.
constexpr int64_t kPhasedRows = 128;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct PhasedRowsBlocking {
  using A = Accumulator<T>;
  int64_t first_source;               // row of the source that the first turn adds
  int64_t pieces;                     // of a row
  int64_t lines;                      // source rows of all turns, and those to fetch ahead
  int64_t parts;                      // items of a plane
  Tap ends[2];                        // the lowest and the highest tap of the width
  Walk width;                         // a destination for each stride
  int64_t table_bytes, weight_bytes;  // of the call
  int64_t buffer_bytes;               // of each thread

  PhasedRowsBlocking(const PhasedRowsBlocking&) = delete;
  explicit PhasedRowsBlocking(const InputGradient<T>& p) {
    const ConvAxis &high = p.axis[1], &wide = p.axis[2];
    first_source = lowest_position(high);
    lines = (high.input - 1 + high.pad_begin) / 2 - first_source + 1 + kRollingAhead;
    parts = ceil_div(high.input, kPhasedRows);
    ends[0] = {lowest_position(wide), 0};
    const int64_t odd = wide.pad_begin % 2;
    ends[1] = {ends[0].offset + positions_of_phases(int(wide.kernel), int(odd)) - 1, 0};
    width.count = strides_of_input(wide);
    width.size = wide.output;
    width.taps = ends;
    width.tap_count = 2;
    pieces = ceil_div(vectors_for<A>(width.count), int64_t(kPhasesVectors));
    const int64_t taps = p.axis[0].kernel * high.kernel * wide.kernel;
    table_bytes = sizeof(RowPiece) * pieces + sizeof(int64_t) * (lines + taps);
    weight_bytes = sizeof(A) * p.groups * p.rows * taps;
    buffer_bytes = sizeof(T*) * p.axis[0].kernel;
  }

  /// The lowest source position that is spread to destination 0 or 1.
  static int64_t lowest_position(const ConvAxis& axis) {
    return -((axis.kernel - 1 - axis.pad_begin) >> 1);
  }

  Footprint footprint() const {
    return {2, 2 * kPhasesVectors * kLanes<A>, table_bytes + weight_bytes, buffer_bytes};
  }
};

template <class T, int kTaps, int kOdd>
void spread_rows(const InputGradient<T>& p) {
  using A = Accumulator<T>;
  const PhasedRowsBlocking<T> blocking(p);
  const ConvAxis &deep = p.axis[0], &high = p.axis[1];
  const int64_t channels = p.groups * p.rows, taps = deep.kernel * kTaps * kTaps;
  Scratch tables(blocking.table_bytes);
  RowPiece* pieces = tables.as<RowPiece>();
  cut_row<A>(blocking.width, blocking.pieces, pieces);
  int64_t* lines = reinterpret_cast<int64_t*>(pieces + blocking.pieces);
  for (int64_t i = 0; i < blocking.lines; ++i) {
    const int64_t y = blocking.first_source + i;
    lines[i] = y >= 0 && y < high.output ? y * p.source_strides.axis[1] : -1;
  }
  int64_t* offsets = lines + blocking.lines;
  for (int64_t k = 0; k < taps; ++k) {
    offsets[k] = k / kTaps / kTaps * p.weight_strides.axis[0] +
                 k / kTaps % kTaps * p.weight_strides.axis[1] +
                 k % kTaps * p.weight_strides.axis[2];
  }
  Scratch packed(blocking.weight_bytes);
  A* weights = packed.as<A>();
  pack_channels(p, p.weight, p.weight_strides, offsets, taps, weights);

  const int64_t items = p.batch * channels * deep.input * blocking.parts;
  const int64_t rows = high.input < kPhasedRows ? high.input : kPhasedRows;
  const int64_t item_work = rows * p.axis[2].input * ceil_div(taps, 4 * deep.stride);
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    const T** planes = buffer.as<const T*>();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % blocking.parts * kPhasedRows;
      const int64_t z = item / blocking.parts % deep.input;
      const int64_t number = item / blocking.parts / deep.input;
      const int64_t channel = number % channels, image = number / channels;
      const T* source =
          p.source + image * p.source_strides.batch + channel / p.rows * p.source_strides.channel;
      for (int64_t k = 0; k < deep.kernel; ++k) {
        const int64_t spread = z + deep.pad_begin - k * deep.dilation, at = spread / deep.stride;
        const bool reached = spread >= 0 && spread % deep.stride == 0 && at < deep.output;
        planes[k] = reached ? source + at * p.source_strides.axis[0] : nullptr;
      }
      const RollingPhases<T> in{weights + channel * taps,
                                planes,
                                deep.kernel,
                                lines + first / 2,
                                2 * (blocking.first_source + first / 2) - high.pad_begin,
                                first,
                                first + kPhasedRows < high.input ? first + kPhasedRows : high.input,
                                p.axis[2].input,
                                p.bias != nullptr ? A(widen(p.bias[channel])) : A(0)};
      T* to = p.dest + image * p.dest_strides.batch + channel * p.dest_strides.channel +
              z * p.dest_strides.axis[0] + first * p.dest_strides.axis[1];
      for (int64_t i = 0; i < blocking.pieces; ++i) {
        if (pieces[i].vectors == 2) {
          roll_phases<T, kTaps, kOdd, 2>(in, pieces[i], to, p.dest_strides.axis[1]);
        } else {
          roll_phases<T, kTaps, kOdd, 1>(in, pieces[i], to, p.dest_strides.axis[1]);
        }
      }
    }
  });
}

template <class T>
void phased_rows(const InputGradient<T>& p) {
  const bool odd = p.axis[2].pad_begin % 2 != 0;
  switch (p.axis[2].kernel) {
    case 3: return odd ? spread_rows<T, 3, 1>(p) : spread_rows<T, 3, 0>(p);
    case 4: return odd ? spread_rows<T, 4, 1>(p) : spread_rows<T, 4, 0>(p);
    default: return odd ? spread_rows<T, 5, 1>(p) : spread_rows<T, 5, 0>(p);
  }
}
