// Dense and grouped convolution with vectors along pixels, over strips of the source: dest[rows x
// pixels] = weight[rows x K] * strips, K = source channels * taps, for kernels of several taps.
//
// The source rows under a chunk of destination rows are copied once for each kernel line, as
// accumulators and with padding resolved, one behind the other and `pitch` elements apart. There
// what a tap reads for consecutive pixels is consecutive, from row to row too: a tap is an offset,
// and im2col, which would hold every element once for each tap, does not exist. Strides split a row
// into as many phases. The pixels between two rows are computed with the rest and dropped, so this
// suits rows that are long beside their padding (plan.h); zeros on both sides of a row are shared
// with its neighbours.
//
// Items are (group, chunk, row block). Tiles keep their sums in registers for all of K. A strip
// stays in L2 for all tiles of rows, and the lines that one channel brings to L1 serve all its
// taps.

/// Destination columns of a chunk: several panels, so that few end in part of a register.
constexpr int64_t kShiftedColumns = 256;

/// Strips of a chunk take about so much of L2.
constexpr int64_t kShiftedBytes = 768 << 10;

/// Where things lie in the strips of a chunk: [channel][line][phase] blocks of rows.
struct ShiftedLayout {
  int64_t phases;  // of the width: its stride
  int64_t pitch;   // from one row to the next
  int64_t block;   // elements of all rows of a phase, and what a register may read past them
  int64_t channel;

  ShiftedLayout(const ContractionShape& shape, const Strips& strips, const Strips::Chunk& chunk,
                int lanes) {
    const Walk& width = shape.walk[2];
    phases = width.step;
    pitch = width.shifted_pitch(chunk.width);
    block = round_up(chunk.rows * pitch + strips.span + lanes, lanes);
    channel = strips.lines() * phases * block;
  }

  /// Where each tap starts in a channel.
  void tap_starts(const ContractionShape& shape, const Strips& strips, int64_t* to) const {
    const Walk& width = shape.walk[2];
    for (int64_t line = 0; line < strips.lines(); ++line) {
      for (int64_t t = 0; t < width.tap_count; ++t) {
        const int64_t position = width.taps[t].offset - strips.low;
        *to++ = (line * phases + position % phases) * block + position / phases;
      }
    }
  }
};

/// Copies the strips of all channels of a group whose channel 0 is at `source`.
template <class T>
void copy_shifted_strips(const Contraction<T>& p, const Strips& strips, const Strips::Chunk& chunk,
                         const ShiftedLayout& layout, const T* source, Accumulator<T>* to) {
  const Walk& width = p.walk[2];
  const int64_t stride = p.source_strides.axis[2];
  const int64_t positions = width.positions(chunk.width);
  for (int64_t phase = 0; phase < layout.phases; ++phase) {
    // A phase is a walk of its own; the last positions of some phases are none.
    Walk walk = width;
    const int64_t count = phase < positions ? (positions - 1 - phase) / width.step + 1 : 0;
    const int64_t used = count < layout.pitch ? count : layout.pitch;
    const int64_t offset = strips.low + phase;
    walk.count = chunk.x + count;
    const Inside inside{walk.inside_begin(offset), walk.inside_end(offset)};
    for (int64_t line = 0; line < strips.lines(); ++line) {
      Accumulator<T>* block = to + (line * layout.phases + phase) * layout.block;
      for (int64_t r = 0; r < chunk.rows; ++r) {
        const T* row = strips.source_row(source, p.source_strides, chunk.row + r, line);
        Accumulator<T>* at = block + r * layout.pitch;
        for (int64_t c = 0; c < p.depth; ++c, at += layout.channel) {
          if (row == nullptr) {
            fill(at, layout.pitch, Accumulator<T>(0));
            continue;
          }
          gather_run(walk, inside, offset, chunk.x, used, row + c * p.source_strides.channel,
                     stride, at);
          if (used < layout.pitch) fill(at + used, layout.pitch - used, Accumulator<T>(0));
        }
      }
      const int64_t end = chunk.rows * layout.pitch;
      for (int64_t c = 0; c < p.depth; ++c) {
        fill(block + c * layout.channel + end, layout.block - end, Accumulator<T>(0));
      }
    }
  }
}

/// Operands of a tile of shifted rows.
template <class A>
struct ShiftedOperands {
  const A* rows[kTileRows];  // of the weight, K elements each
  const A* strips;           // of the first column
  const int64_t* starts;     // of each tap in a channel
  int64_t taps, channels, channel;
  const A* bias;  // one for each row, or none
};

template <class A, int kRows, int kVectors>
void multiply_shifted_tile(const ShiftedOperands<A>& in, A* c, int64_t pitch) {
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kRows][kVectors] = {};
  const A* a[kRows];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) a[i] = in.rows[i];
  const A* strips = in.strips;
  int64_t k = 0;
  for (int64_t channel = 0; channel < in.channels; ++channel, strips += in.channel) {
    for (int64_t tap = 0; tap < in.taps; ++tap, ++k) {
      const A* b = strips + in.starts[tap];
      Vec<A> column[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) column[j] = load(b + j * lanes);
#pragma GCC unroll 6
      for (int i = 0; i < kRows; ++i) {
        const Vec<A> value = broadcast(a[i][k]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sum[i][j] += value * column[j];
      }
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    const Vec<A> bias = in.bias != nullptr ? broadcast(in.bias[i]) : Vec<A>{};
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(c + i * pitch + j * lanes, sum[i][j] + bias);
  }
}

/// The destinations of columns [begin, begin + width) of a chunk.
template <class T>
int64_t shifted_runs(const Contraction<T>& p, const Strips::Chunk& chunk, int64_t pitch,
                     int64_t begin, int64_t width, Segment* segments, DestRun* runs) {
  const Walk* walk = p.walk;
  int64_t found = 0;
  for (int64_t r = begin / pitch; r < chunk.rows && r * pitch < begin + width; ++r) {
    const int64_t row = r * pitch;
    const int64_t first = row > begin ? row : begin;
    const int64_t end = row + chunk.width < begin + width ? row + chunk.width : begin + width;
    if (first >= end) continue;
    const int64_t h = (chunk.row + r) % walk[1].count, plane = (chunk.row + r) / walk[1].count;
    segments[found++] = {plane / walk[0].count,
                         {plane % walk[0].count, h},
                         chunk.x + first - row,
                         end - first,
                         first - begin};
  }
  return join_runs(p.dest_strides, segments, found, runs);
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct ShiftedPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  int64_t inner;  // K
  Strips strips;
  int64_t row_block, row_blocks;
  bool in_place;                                // rows of the weight are dense
  int64_t offset_bytes, packed_bytes;           // of the call
  int64_t strip_bytes, start_bytes, sum_bytes;  // of each thread

  /// Columns of a chunk whose strips fit.
  static int64_t columns_of(const Contraction<T>& p) {
    const int64_t lines = p.walk[0].tap_count * p.walk[1].tap_count;
    const int64_t fit = kShiftedBytes / int64_t(sizeof(A)) / (p.depth * lines * p.walk[2].step);
    return fit < columns ? columns : fit < kShiftedColumns ? fit : kShiftedColumns;
  }

  explicit ShiftedPlanarBlocking(const Contraction<T>& p)
      : inner(p.depth * p.taps()), strips(p, columns_of(p), false) {
    row_block = choose_row_block(p.rows, p.groups * strips.chunks());
    row_blocks = ceil_div(p.rows, row_block);
    in_place = __is_same(T, A) && taps_are_contiguous(p, p.weight_strides) &&
               (p.depth == 1 || p.weight_strides.depth == p.taps());
    offset_bytes = sizeof(int64_t) * p.taps();
    packed_bytes = in_place ? 0 : sizeof(A) * p.groups * p.rows * inner;
    const ShiftedLayout layout(p, strips, strips.chunk(0), kLanes<A>);
    strip_bytes = sizeof(A) * p.depth * layout.channel;
    start_bytes = sizeof(int64_t) * p.taps();
    sum_bytes = sizeof(A) * kTileRows * columns;
  }

  Footprint footprint() const {
    return {kTileRows, columns, offset_bytes + packed_bytes, strip_bytes + start_bytes + sum_bytes};
  }
};

template <class T>
void shifted_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const ShiftedPlanarBlocking<T> blocking(p);
  const Strips& strips = blocking.strips;
  constexpr int lanes = kLanes<A>;
  const int64_t inner = blocking.inner, taps = p.taps(), row_blocks = blocking.row_blocks;

  Scratch offsets(blocking.offset_bytes);
  Scratch packed(blocking.packed_bytes);
  const A* weight = reinterpret_cast<const A*>(p.weight);
  int64_t weight_row = p.weight_strides.row, weight_group = p.weight_strides.group;
  if (!blocking.in_place) {
    tap_offsets(p, p.weight_strides, offsets.as<int64_t>());
    pack_weight_rows(p, offsets.as<int64_t>(), packed.as<A>());
    weight = packed.as<A>(), weight_row = inner, weight_group = p.rows * inner;
  }

  parallel_for(p.groups * strips.chunks() * row_blocks, 1, [&](int64_t begin, int64_t end) {
    Scratch strip_buffer(blocking.strip_bytes);
    Scratch start_buffer(blocking.start_bytes);
    Scratch sum_buffer(blocking.sum_bytes);
    int64_t* starts = start_buffer.as<int64_t>();
    A* sums = sum_buffer.as<A>();
    Segment segments[blocking.columns];
    DestRun runs[blocking.columns];
    int64_t copied = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item / row_blocks / strips.chunks();
      const Strips::Chunk chunk = strips.chunk(item / row_blocks % strips.chunks());
      const ShiftedLayout layout(p, strips, chunk, lanes);
      if (copied != item / row_blocks) {
        copied = item / row_blocks;
        layout.tap_starts(p, strips, starts);
        copy_shifted_strips(p, strips, chunk, layout,
                            p.source + group * p.depth * p.source_strides.channel,
                            strip_buffer.as<A>());
      }
      const int64_t row_begin = item % row_blocks * blocking.row_block;
      const int64_t row_last = row_begin + blocking.row_block;
      const int64_t row_end = row_last < p.rows ? row_last : p.rows;
      const int64_t first_channel = group * p.rows;
      const A* matrix = weight + group * weight_group;

      // Panels of about as many registers each, and where they go.
      const EvenBlocks<A> panels((chunk.rows - 1) * layout.pitch + chunk.width);
      for (int64_t panel = 0; panel < panels.count; ++panel) {
        const int64_t column = panels.begin(panel), width = panels.begin(panel + 1) - column;
        const int64_t run_count =
            shifted_runs(p, chunk, layout.pitch, column, width, segments, runs);
        if (run_count == 0) continue;
        const bool stores = run_count == 1 && stores_whole_registers(p, runs[0], width);
        ShiftedOperands<A> tile{
            {}, strip_buffer.as<A>() + column, starts, taps, p.depth, layout.channel, nullptr};
        for (int64_t row = row_begin; row < row_end; row += kTileRows) {
          const int rows = int(row_end - row < kTileRows ? row_end - row : kTileRows);
          for (int r = 0; r < rows; ++r) tile.rows[r] = matrix + (row + r) * weight_row;
          T* dest = p.dest + (first_channel + row) * p.dest_strides.channel;
          const Rows<A> c =
              stores ? Rows<A>{reinterpret_cast<A*>(dest) + runs[0].offset, p.dest_strides.channel}
                     : Rows<A>{sums, width};
          if (stores && p.bias != nullptr) {
            tile.bias = reinterpret_cast<const A*>(p.bias) + first_channel + row;
          }
          with_tile_size(rows, int(width / lanes), [&](auto height, auto vectors) {
            multiply_shifted_tile<A, decltype(height)::value, decltype(vectors)::value>(
                tile, c.data, c.pitch);
          });
          for (int r = 0; !stores && r < rows; ++r) {
            const A bias = p.bias != nullptr ? widen(p.bias[first_channel + row + r]) : A(0);
            for (int64_t i = 0; i < run_count; ++i) {
              store_run(c.at(r) + runs[i].column, bias, runs[i].length,
                        dest + r * p.dest_strides.channel + runs[i].offset, p.dest_strides.axis[2]);
            }
          }
        }
      }
    }
  });
}
