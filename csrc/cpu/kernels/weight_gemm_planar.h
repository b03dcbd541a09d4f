// Weight gradient with vectors along destination channels: sums[K x rows] = im2col[K x pixels] *
// grad^T[pixels x rows] for each group, K = source channels * taps.
//
// Pixels, flattened over images, go in chunks of kPixelChunk. For a chunk the rows of the virtual
// im2col matrix are gathered as in the forward pass, and grad is transposed through registers;
// neither matrix ever exists as a whole. Items are (group, block of K, block of rows, split): a
// split is a fixed share of the chunks with its own sums, used where there are too few blocks, and
// the splits are added in order.

constexpr int64_t kPixelChunk = 256;
constexpr int64_t kInnerBlock = 32 * kTileRows;  // grad is transposed once for each block of K
constexpr int64_t kMaxSplitBytes = int64_t(16) << 20;  // workspace beyond one set of sums
constexpr int64_t kGradRows = 2048;  // destination channels of a chunk of grad: 2 MB of floats

/// Shares of the reduction: enough for kWantedItems, within the workspace bound.
inline int64_t choose_splits(int64_t items, int64_t chunks, int64_t bytes_each) {
  int64_t splits = ceil_div(kWantedItems, items < 1 ? 1 : items);
  if (splits > chunks) splits = chunks;
  if (splits * bytes_each > kMaxSplitBytes) splits = kMaxSplitBytes / bytes_each;
  return splits < 1 ? 1 : splits;
}

/// Writes grad of channels [0, rows) over the runs of a chunk as blocks [pixel][columns of the
/// block].
template <class T>
void transpose_grad(const T* grad, const Strides& strides, int64_t rows, const DestRun* runs,
                    int64_t run_count, int64_t pixels, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int64_t columns = kTileColumns<A>;
  constexpr int lanes = kLanes<A>;
  const int64_t padded_rows = round_up(rows, lanes);
  const int64_t pixel = strides.axis[2];
  for (int64_t first = 0; first < padded_rows; first += lanes) {
    const int64_t block = first / columns * columns;
    const int64_t width = padded_rows - block < columns ? padded_rows - block : columns;
    A* out = to + block * pixels + (first - block);
    const int64_t channels = rows - first < lanes ? rows - first : lanes;
    for (int64_t r = 0; r < run_count; ++r) {
      const DestRun& run = runs[r];
      const T* from = grad + first * strides.channel + run.offset;
      for (int64_t i = 0; i < run.length; i += lanes) {
        const int64_t count = run.length - i < lanes ? run.length - i : lanes;
        Vec<A> square[lanes];
        for (int64_t c = 0; c < lanes; ++c) {
          const T* at = from + c * strides.channel + i * pixel;
          if (c >= channels) {
            square[c] = Vec<A>{};
          } else if (pixel == 1) {
            square[c] = count == lanes ? load_wide(at) : load_partial(at, count);
          } else {
            alignas(64) A values[lanes] = {};
            for (int64_t j = 0; j < count; ++j) values[j] = widen(at[j * pixel]);
            square[c] = load(values);
          }
        }
        transpose<A>(square);
        for (int64_t j = 0; j < count; ++j) store(out + (run.column + i + j) * width, square[j]);
      }
    }
  }
}

/// Adds the splits of `sums`, [splits][groups][K][padded rows], and stores them as weights whose
/// destination channels are neighbours.
template <class T>
void store_weight_rows(const WeightContraction<T>& p, const Accumulator<T>* sums, int64_t splits) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t taps = p.taps(), inner = p.depth * taps, padded_rows = round_up(p.rows, lanes);
  const int64_t split = p.groups * inner * padded_rows;
  Scratch table(sizeof(int64_t) * taps);
  int64_t* offsets = table.as<int64_t>();
  tap_offsets(p, p.dest_strides, offsets);
  parallel_for(p.groups * inner, ceil_div(16384, padded_rows), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / inner, k = i % inner;
      T* to = p.dest + group * p.dest_strides.group + k / taps * p.dest_strides.depth +
              offsets[k % taps];
      for (int64_t row = 0; row < p.rows; row += lanes) {
        Vec<A> sum{};
        for (int64_t s = 0; s < splits; ++s) {
          sum += load(sums + s * split + i * padded_rows + row);
        }
        if (row + lanes <= p.rows) {
          store_narrow(to + row, sum);
        } else {
          store_partial(to + row, sum, p.rows - row);
        }
      }
    }
  });
}

/// Adds the splits of `sums`, [splits][groups][K][padded rows], and stores them as weights.
template <class T>
void store_weight_planar(const WeightContraction<T>& p, const Accumulator<T>* sums,
                         int64_t splits) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t taps = p.taps(), inner = p.depth * taps, padded_rows = round_up(p.rows, lanes);
  const int64_t split = p.groups * inner * padded_rows;
  Scratch table(sizeof(int64_t) * taps);
  int64_t* offsets = table.as<int64_t>();
  tap_offsets(p, p.dest_strides, offsets);
  const bool contiguous = p.dest_strides.depth == taps && taps_are_contiguous(p, p.dest_strides);
  const int64_t pieces = padded_rows / lanes;
  parallel_for(p.groups * pieces, ceil_div(16384, inner * lanes), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces, first = i % pieces * lanes;
      const int64_t rows = p.rows - first < lanes ? p.rows - first : lanes;
      const A* from = sums + group * inner * padded_rows + first;
      T* to = p.dest + group * p.dest_strides.group + first * p.dest_strides.row;
      for (int64_t k = 0; k < inner; k += lanes) {
        const int64_t count = inner - k < lanes ? inner - k : lanes;
        Vec<A> square[lanes] = {};
        for (int64_t j = 0; j < count; ++j) {
          for (int64_t s = 0; s < splits; ++s)
            square[j] += load(from + s * split + (k + j) * padded_rows);
        }
        transpose<A>(square);
        for (int64_t r = 0; r < rows; ++r) {
          T* row = to + r * p.dest_strides.row;
          if (contiguous) {
            store_partial(row + k, square[r], count);
            continue;
          }
          for (int64_t j = 0; j < count; ++j) {
            const int64_t channel = (k + j) / taps, tap = (k + j) % taps;
            row[channel * p.dest_strides.depth + offsets[tap]] = narrow<T>(square[r][j]);
          }
        }
      }
    }
  });
}

/// Whether sums can be the weight itself: one set of whole registers of neighbouring destination
/// channels.
template <class T>
bool sums_are_weights(const WeightContraction<T>& p, int64_t splits) {
  return __is_same(T, Accumulator<T>) && splits == 1 && p.taps() == 1 && p.dest_strides.row == 1 &&
         p.rows % kLanes<Accumulator<T>> == 0;
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGemmPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  int64_t inner, inner_block, blocks;  // K
  int64_t padded_rows, row_block, row_blocks;
  int64_t pixels, chunks;
  int64_t set, splits, chunks_of_split;              // elements of one set of sums
  int64_t sum_bytes, inside_bytes, offset_bytes;     // of the call
  int64_t index_bytes, buffer_bytes, segment_bytes;  // of each thread

  explicit WeightGemmPlanarBlocking(const WeightContraction<T>& p) {
    inner = p.depth * p.taps();
    inner_block = inner < kInnerBlock ? inner : kInnerBlock;
    blocks = ceil_div(inner, inner_block);
    padded_rows = round_up(p.rows, kLanes<A>);
    row_block = padded_rows < kGradRows ? padded_rows : kGradRows;
    row_blocks = ceil_div(padded_rows, row_block);
    pixels = p.batch * p.pixels();
    chunks = ceil_div(pixels, kPixelChunk);
    set = p.groups * inner * padded_rows;
    splits = choose_splits(p.groups * blocks * row_blocks, chunks, set * sizeof(A));
    chunks_of_split = ceil_div(chunks, splits);

    sum_bytes = sums_are_weights(p, splits) ? 0 : sizeof(A) * splits * set;
    inside_bytes = sizeof(Inside) * p.walk[2].tap_count;
    offset_bytes = sizeof(int64_t) * p.taps();
    index_bytes = ColumnGatherer<T>::index_bytes(p, p.source_strides, kPixelChunk);
    buffer_bytes = sizeof(A) * kPixelChunk * (inner_block + row_block);
    segment_bytes = kPixelChunk * (sizeof(Segment) + sizeof(DestRun));
  }

  Footprint footprint() const {
    return {kTileRows, columns, sum_bytes + inside_bytes + offset_bytes,
            index_bytes + buffer_bytes + segment_bytes};
  }
};

template <class T>
void weight_gemm_planar(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  const WeightGemmPlanarBlocking<T> blocking(p);
  constexpr int64_t columns = blocking.columns;
  const int64_t inner = blocking.inner, inner_block = blocking.inner_block;
  const int64_t blocks = blocking.blocks, row_blocks = blocking.row_blocks;
  const int64_t padded_rows = blocking.padded_rows, pixels = blocking.pixels;
  const int64_t chunks = blocking.chunks, splits = blocking.splits;

  Scratch table(blocking.inside_bytes);
  find_inside(p.walk[2], table.as<Inside>());
  Scratch workspace(blocking.sum_bytes);
  const bool direct = sums_are_weights(p, splits);
  parallel_for(p.groups * blocks * row_blocks * splits, 1, [&](int64_t begin, int64_t end) {
    Scratch index(blocking.index_bytes);
    Scratch buffer(blocking.buffer_bytes);
    Scratch segment_buffer(blocking.segment_bytes);
    A* matrix = buffer.as<A>();
    A* grad = matrix + kPixelChunk * inner_block;
    Segment* segments = segment_buffer.as<Segment>();
    DestRun* runs = reinterpret_cast<DestRun*>(segments + kPixelChunk);
    ColumnGatherer<T> gatherer{p, p.source_strides, table.as<Inside>(), segments,
                               blocking.index_bytes > 0 ? index.as<int32_t>() : nullptr};
    for (int64_t item = begin; item < end; ++item) {
      const int64_t split = item % splits, k = item / splits % blocks * inner_block;
      const int64_t first_row = item / splits / blocks % row_blocks * blocking.row_block;
      const int64_t group = item / splits / blocks / row_blocks;
      const int64_t run = inner - k < inner_block ? inner - k : inner_block;
      const int64_t rows_left = p.rows - first_row;
      const int64_t rows_here = rows_left < blocking.row_block ? rows_left : blocking.row_block;
      const int64_t padded_here = round_up(rows_here, kLanes<A>);
      const Rows<A> sums =
          direct ? Rows<A>{reinterpret_cast<A*>(p.dest) + group * p.dest_strides.group +
                               k * p.dest_strides.depth + first_row,
                           p.dest_strides.depth}
                 : Rows<A>{workspace.as<A>() + split * blocking.set +
                               (group * inner + k) * padded_rows + first_row,
                           padded_rows};
      const int64_t chunk_begin = split * blocking.chunks_of_split;
      const int64_t chunk_last = chunk_begin + blocking.chunks_of_split;
      const int64_t chunk_end = chunk_last < chunks ? chunk_last : chunks;
      if (chunk_begin >= chunk_end) {
        for (int64_t i = 0; i < run; ++i) fill(sums.at(i), padded_here, A(0));
      }
      for (int64_t chunk = chunk_begin; chunk < chunk_end; ++chunk) {
        const int64_t first = chunk * kPixelChunk;
        const int64_t count = pixels - first < kPixelChunk ? pixels - first : kPixelChunk;
        gatherer.set_columns(first, count);
        const int64_t run_count = join_runs(p.grad_strides, segments, gatherer.segment_count, runs);
        const T* source = p.source + group * p.depth * p.source_strides.channel;
        Rows<const A> rows_of_source = gatherer.in_place(source, k);
        if (rows_of_source.data == nullptr) {
          gatherer.gather(source, k, run, matrix, kPixelChunk);
          rows_of_source = {matrix, kPixelChunk};
        }
        transpose_grad(p.grad + (group * p.rows + first_row) * p.grad_strides.channel,
                       p.grad_strides, rows_here, runs, run_count, count, grad);
        for (int64_t column = 0; column < padded_here; column += columns) {
          const int64_t width = padded_here - column < columns ? padded_here - column : columns;
          for (int64_t i = 0; i < run; i += kTileRows) {
            const int rows = int(run - i < kTileRows ? run - i : kTileRows);
            const A* pointers[kTileRows];
            for (int r = 0; r < rows; ++r) pointers[r] = rows_of_source.at(i + r);
            multiply<A>({pointers, 0, 1, count, 1, grad + column * count, width},
                        sums.at(i) + column, sums.pitch, chunk > chunk_begin, rows,
                        vectors_for<A>(width));
          }
        }
      }
    }
  });
  if (direct) return;
  const auto store_weights =
      p.dest_strides.row == 1 ? store_weight_rows<T> : store_weight_planar<T>;
  store_weights(p, workspace.as<A>(), splits);
}
