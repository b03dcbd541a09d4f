// Weight gradient with vectors along K = taps * source channels: sums[rows x K] = grad^T[rows x
// pixels] * im2col[pixels x K] for each group.
//
// A tile broadcasts six neighbouring channels of grad at the same pixel, and the reduction walks
// from pixel to pixel. In place that walk would take a cache set, and with many channels a page,
// for each pixel, so a few channels at a time are copied closer together, as accumulators. A panel
// of im2col, kTileColumns of K for a chunk of pixels, is copied in runs of channels straight from
// the source. Items are (group, some panels of K, split): the panels share each copy of grad;
// splits as in weight_gemm_planar. grad must be dense: one distance between all pixels.

/// Pixels of a chunk: a panel of them, 128 x 64 floats, stays in L1 for all tiles of rows.
constexpr int64_t kPanelPixels = 128;

/// K of an item, in several panels. Copying grad costs then little beside 256 multiply-adds of
/// every element of it.
constexpr int64_t kItemColumns = 256;

/// Rows of grad that are copied at a time: neighbours among the pixels lie 384 bytes of floats
/// apart, over all sets of the cache.
constexpr int64_t kGradBlock = 16 * kTileRows;

/// Consecutive elements of K that lie side by side in the source when no padding is among them:
/// some channels of a tap, or with kernel_rows_are_runs (gemm_channels_last) of several taps of a
/// row.
struct PanelRun {
  int64_t tap[kAxes];  // of the first element
  int64_t channel;     // of the first element
  int64_t length;
  int64_t column;  // in the panel
};

/// Cuts elements [k, k + width) of K into runs; returns how many. K may end before the panel does.
inline int64_t cut_into_runs(const ContractionShape& shape, bool merged, int64_t k, int64_t width,
                             PanelRun* runs) {
  const int64_t taps_w = shape.walk[2].tap_count, taps_h = shape.walk[1].tap_count;
  const int64_t inner = shape.depth * shape.taps();
  const int64_t unit = merged ? taps_w * shape.depth : shape.depth;
  const int64_t end = k + width < inner ? k + width : inner;
  int64_t found = 0;
  for (int64_t at = k; at < end;) {
    const int64_t unit_end = (at / unit + 1) * unit;
    const int64_t length = (unit_end < end ? unit_end : end) - at;
    const int64_t tap = at / shape.depth;
    runs[found++] = {{tap / taps_w / taps_h, tap / taps_w % taps_h, tap % taps_w},
                     at % shape.depth,
                     length,
                     at - k};
    at += length;
  }
  return found;
}

/// Rows of im2col for pixels [first, first + count): the elements of K in `runs`, `width` a row.
template <class T>
void gather_panel(const WeightContraction<T>& p, int64_t group, int64_t first, int64_t count,
                  const PanelRun* runs, int64_t run_count, int64_t width, Accumulator<T>* to) {
  const Walk* walk = p.walk;
  const T* source = p.source + group * p.depth;
  const int64_t used = runs[run_count - 1].column + runs[run_count - 1].length;
  int64_t w = first % walk[2].count, row = first / walk[2].count;
  int64_t h = row % walk[1].count, plane = row / walk[1].count;
  for (int64_t i = 0; i < count; ++i, to += width) {
    const T* image = source + plane / walk[0].count * p.source_strides.batch;
    const int64_t d = plane % walk[0].count;
    for (int64_t r = 0; r < run_count; ++r) {
      const PanelRun& run = runs[r];
      const int64_t z = walk[0].resolve(d * walk[0].step + walk[0].taps[run.tap[0]].offset);
      const int64_t y = walk[1].resolve(h * walk[1].step + walk[1].taps[run.tap[1]].offset);
      if (z < 0 || y < 0) {
        fill(to + run.column, run.length, Accumulator<T>(0));
        continue;
      }
      const T* line = image + z * p.source_strides.axis[0] + y * p.source_strides.axis[1];
      const int64_t x = w * walk[2].step + walk[2].taps[run.tap[2]].offset;
      const int64_t last = x + (run.channel + run.length - 1) / p.depth;
      if (x >= 0 && last < walk[2].size) {
        copy_strided(line + x * p.source_strides.axis[2] + run.channel, 1, run.length,
                     to + run.column);
        continue;
      }
      for (int64_t j = 0; j < run.length; ++j) {
        const int64_t position = walk[2].resolve(x + (run.channel + j) / p.depth);
        const int64_t c = (run.channel + j) % p.depth;
        to[run.column + j] =
            position < 0 ? Accumulator<T>(0) : widen(line[position * p.source_strides.axis[2] + c]);
      }
    }
    fill(to + used, width - used, Accumulator<T>(0));
    if (++w == walk[2].count) {
      w = 0;
      if (++h == walk[1].count) h = 0, ++plane;
    }
  }
}

/// Adds the splits of `sums`, [splits][groups][rows][padded K], and stores them as weights.
template <class T>
void store_weight_channels_last(const WeightContraction<T>& p, const Accumulator<T>* sums,
                                int64_t padded_inner, int64_t splits) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t taps = p.taps();
  const int64_t split = p.groups * p.rows * padded_inner;
  Scratch table(sizeof(int64_t) * taps);
  int64_t* offsets = table.as<int64_t>();
  tap_offsets(p, p.dest_strides, offsets);
  parallel_for(p.groups * p.rows, ceil_div(16384, padded_inner), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* to = p.dest + i / p.rows * p.dest_strides.group + i % p.rows * p.dest_strides.row;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const A* from = sums + i * padded_inner + tap * p.depth;
        for (int64_t c = 0; c < p.depth; c += lanes) {
          const int64_t count = p.depth - c < lanes ? p.depth - c : lanes;
          Vec<A> sum = load_partial(from + c, count);
          for (int64_t s = 1; s < splits; ++s) sum += load_partial(from + s * split + c, count);
          if (p.dest_strides.depth == 1) {
            store_partial(to + offsets[tap] + c, sum, count);
          } else {
            for (int64_t j = 0; j < count; ++j) {
              to[offsets[tap] + (c + j) * p.dest_strides.depth] = narrow<T>(sum[j]);
            }
          }
        }
      }
    }
  });
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGemmChannelsLastBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  static_assert(kItemColumns % columns == 0);
  int64_t inner, padded_inner, items;  // K; parts of it
  int64_t row_block;                   // rows of grad that are copied at a time
  int64_t pixels, chunks;
  int64_t set, splits, chunks_of_split;  // elements of one set of sums
  int64_t sum_bytes, table_bytes;        // of the call
  int64_t panel_bytes, grad_bytes;       // of each thread

  explicit WeightGemmChannelsLastBlocking(const WeightContraction<T>& p) {
    inner = p.depth * p.taps();
    padded_inner = round_up(inner, kLanes<A>);
    items = ceil_div(inner, kItemColumns);
    row_block = p.rows < kGradBlock ? p.rows : kGradBlock;
    pixels = p.batch * p.pixels();
    chunks = ceil_div(pixels, kPanelPixels);
    set = p.groups * p.rows * padded_inner;
    splits = choose_splits(p.groups * items, chunks, set * sizeof(A));
    chunks_of_split = ceil_div(chunks, splits);
    sum_bytes = sizeof(A) * splits * set;
    table_bytes = sizeof(int64_t) * p.taps();
    panel_bytes = sizeof(A) * kPanelPixels * kItemColumns;
    grad_bytes = sizeof(A) * kPanelPixels * row_block;
  }

  Footprint footprint() const {
    return {kTileRows, columns, sum_bytes + table_bytes, panel_bytes + grad_bytes};
  }
};

template <class T>
void weight_gemm_channels_last(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  const WeightGemmChannelsLastBlocking<T> blocking(p);
  constexpr int64_t columns = blocking.columns;
  const int64_t padded_inner = blocking.padded_inner, pixels = blocking.pixels;
  const int64_t items = blocking.items, chunks = blocking.chunks, splits = blocking.splits;
  const int64_t pixel = p.grad_strides.axis[2];  // also from row to row and image to image

  const bool merged = kernel_rows_are_runs(p, p.source_strides);
  Scratch workspace(blocking.sum_bytes);
  parallel_for(p.groups * items * splits, 1, [&](int64_t begin, int64_t end) {
    Scratch panel_buffer(blocking.panel_bytes);
    Scratch grad_buffer(blocking.grad_bytes);
    A* grad = grad_buffer.as<A>();
    PanelRun runs[columns];
    for (int64_t item = begin; item < end; ++item) {
      const int64_t split = item % splits, k = item / splits % items * kItemColumns;
      const int64_t group = item / splits / items;
      const int64_t left = padded_inner - k;
      const int64_t width = left < kItemColumns ? left : kItemColumns;
      A* sums = workspace.as<A>() + split * blocking.set + group * p.rows * padded_inner + k;
      const int64_t chunk_begin = split * blocking.chunks_of_split;
      const int64_t chunk_last = chunk_begin + blocking.chunks_of_split;
      const int64_t chunk_end = chunk_last < chunks ? chunk_last : chunks;
      if (chunk_begin >= chunk_end) {
        for (int64_t row = 0; row < p.rows; ++row) fill(sums + row * padded_inner, width, A(0));
      }
      for (int64_t chunk = chunk_begin; chunk < chunk_end; ++chunk) {
        const int64_t first = chunk * kPanelPixels;
        const int64_t count = pixels - first < kPanelPixels ? pixels - first : kPanelPixels;
        for (int64_t column = 0; column < width; column += columns) {
          const int64_t wide = width - column < columns ? width - column : columns;
          const int64_t run_count = cut_into_runs(p, merged, k + column, wide, runs);
          gather_panel(p, group, first, count, runs, run_count, wide,
                       panel_buffer.as<A>() + column * count);
        }
        const T* source = p.grad + first * pixel + group * p.rows;
        for (int64_t block = 0; block < p.rows; block += blocking.row_block) {
          const int64_t rows_left = p.rows - block;
          const int64_t rows_here = rows_left < blocking.row_block ? rows_left : blocking.row_block;
          for (int64_t i = 0; i < count; ++i) {
            copy_strided(source + i * pixel + block, 1, rows_here, grad + i * rows_here);
          }
          for (int64_t column = 0; column < width; column += columns) {
            const int64_t wide = width - column < columns ? width - column : columns;
            const A* panel = panel_buffer.as<A>() + column * count;
            A* to = sums + block * padded_inner + column;
            for (int64_t row = 0; row < rows_here; row += kTileRows) {
              const int rows = int(rows_here - row < kTileRows ? rows_here - row : kTileRows);
              const A* pointers[kTileRows];
              for (int r = 0; r < rows; ++r) pointers[r] = grad + row + r;
              multiply<A>({pointers, 0, 1, count, rows_here, panel, wide}, to + row * padded_inner,
                          padded_inner, chunk > chunk_begin, rows, vectors_for<A>(wide));
            }
          }
        }
      }
    }
  });
  store_weight_channels_last(p, workspace.as<A>(), padded_inner, splits);
}
