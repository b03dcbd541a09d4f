// Weight gradient with few channels in a group, vectors along grad channels and source elements
// broadcast: sums[K x rows] = im2col^T[K x pixels] * grad[pixels x rows] for each group, K = taps *
// source channels.
//
// The counterpart of broadcast_pixels.h. The sums of a group stay in cache, so that the reduction
// over pixels can go block by block (source_block.h): im2col is neither gathered nor transposed,
// because up to 24 elements of K lie at one distance in the block and are the rows of a tile
// (affine_tile.h), which then walks over all pixels of the block. Grad is read in place where it is
// channels_last accumulators, those of a tile or for few tiles; of several tiles of columns the
// first copies each closer together as it reads it. Other grad is copied for a block and the
// columns of a tile. In place, the last register of a pixel may reach into those after it, which
// adds to sums that are of no use, and blocks that nothing follows are copied. Blocks of pixels
// that lie in a row, source and grad in place, are short enough for these columns to stay in L1,
// and bring each other to it. Items are (group, split); splits are shares of the blocks with sums
// of their own, added in order. Sums that are not split are stored while they are in the cache of
// the thread that made them. A kernel with few output channels comes turned around (plan/weight.h):
// then grad and source are each other.

/// Where a block starts in channel 0 of `grad`.
template <class T>
const T* grad_of_block(const WeightContraction<T>& p, const T* grad, const PixelBlock& block) {
  const Strides& strides = p.grad_strides;
  return grad + block.image * strides.batch + block.d * strides.axis[0] +
         block.h * strides.axis[1] + block.w * strides.axis[2];
}

/// Copies `rows` channels of grad of a block, which starts at `from`, as [row][pixel][padded
/// channels].
template <class T>
void copy_grad_block(const WeightContraction<T>& p, const T* from, const PixelBlock& block,
                     int64_t rows, int64_t padded_rows, Accumulator<T>* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const Strides& strides = p.grad_strides;
  for (int64_t h = 0; h < block.rows; ++h, from += strides.axis[1]) {
    A* row = to + h * block.width * padded_rows;
    if (strides.channel != 1) {
      load_planes(from, strides.channel, rows, strides.axis[2], block.width, row, padded_rows);
      continue;
    }
    for (int64_t c = 0; c < padded_rows; c += lanes) {
      const int64_t channels = rows - c < lanes ? rows - c : lanes;
      const T* at = from + c;
      A* out = row + c;
      for (int64_t i = 0; i < block.width; ++i, at += strides.axis[2], out += padded_rows) {
        store(out, channels == lanes ? load_wide(at) : load_partial(at, channels));
      }
    }
  }
}

/// Columns of grad that all tiles of a block read, each in turn, stay in L1: so many bytes.
constexpr int64_t kGradColumnBytes = 32 << 10;

/// Elements of K that pay for copying the columns of a tile closer together.
constexpr int64_t kMinCopiedInner = 48;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightBroadcastPixelsBlocking {
  using A = Accumulator<T>;
  int64_t inner, padded_rows;  // K, grad channels
  EvenBlocks<A> columns;       // those of a tile,
  int64_t widest;              // at most
  SourceBlockLayout layout;
  SourceRuns runs;                               // the rows of tiles
  bool reads_grad;                               // in place, at least a first time:
  bool copies_columns;                           // of several tiles, closer together
  bool fetches;                                  // the pixels of the next block
  int64_t blocks, set, splits, blocks_of_split;  // elements of one set of sums
  int64_t split_bytes, table_bytes;              // of the call
  int64_t copied_bytes, grad_bytes, sum_bytes;   // of each thread

  explicit WeightBroadcastPixelsBlocking(const WeightContraction<T>& p)
      : inner(p.depth * p.taps()),
        padded_rows(round_up(p.rows, kLanes<A>)),
        columns(p.rows),
        widest(columns.widest()),
        layout(SourceBlockLayout::make<T>(p, p.source_strides,
                                          kGradColumnBytes / int64_t(sizeof(A) * widest))),
        runs(p, layout) {
    const Strides& grad = p.grad_strides;
    const bool even = layout.rows == 1 || (layout.width == p.walk[2].count &&
                                           grad.axis[1] == layout.width * grad.axis[2]);
    const bool close = columns.count == 1 || inner < kMinCopiedInner;
    const bool fills_registers = padded_rows == p.rows;
    const int64_t size[kAxes] = {p.walk[0].count, p.walk[1].count, p.walk[2].count};
    const bool followed = fills_registers || pixels_are_even(grad, p.batch, size);
    reads_grad = __is_same(T, A) && grad.channel == 1 && followed && even;
    copies_columns = !close;
    fetches = layout.in_place && layout.rows == 1 && grad.channel == 1;
    blocks = p.batch * PixelBlocks{p, layout}.of_image();
    set = p.groups * inner * padded_rows;
    splits = choose_product_splits(p, p.groups, blocks, sizeof(A) * set);
    blocks_of_split = ceil_div(blocks, splits);
    split_bytes = splits > 1 ? sizeof(A) * splits * set : 0;
    sum_bytes = splits > 1 ? 0 : sizeof(A) * inner * padded_rows;
    table_bytes = sizeof(int64_t) * (runs.count + layout.rows + WeightSums<T>::table_elements(p));
    copied_bytes = sizeof(A) * layout.elements;
    grad_bytes = reads_grad && fills_registers && close
                     ? 0
                     : sizeof(A) * layout.rows * layout.width * widest;
  }

  Footprint footprint() const {
    const int64_t most = affine_rows(vectors_for<A>(widest));
    return {runs.run < most ? runs.run : most, widest, split_bytes + table_bytes,
            copied_bytes + grad_bytes + sum_bytes};
  }
};

/// The pixels of the next block, of source and grad: tile by tile a line of each of them is
/// brought.
template <class A>
struct NextPixels {
  struct Part {
    const A* at;
    int64_t step, channels;  // from pixel to pixel, and how many are left to be brought
  };
  Part parts[2];

  void fetch_in(AffineOperands<A>& tile) {
    constexpr int64_t line = 64 / int64_t(sizeof(A));
    Part& part = parts[parts[0].channels > 0 ? 0 : 1];
    tile.fetch = part.channels > 0 ? reinterpret_cast<const char*>(part.at) : nullptr;
    tile.fetch_step = part.channels > 0 ? part.step * int64_t(sizeof(A)) : 0;
    part.at += line, part.channels -= line;
  }
};

/// The columns of grad that the tiles of a block read.
template <class T>
struct GradColumns {
  int64_t column, width;
  const Accumulator<T>* from;
  int64_t step;          // from pixel to pixel
  Accumulator<T>* copy;  // where the first tile copies them to, if anywhere
};

/// What a thread makes items with.
template <class T>
class WeightBroadcastPixelsThread {
  using A = Accumulator<T>;

 public:
  /// `starts` are those of the runs of K, and `rows` those of the rows of a block.
  WeightBroadcastPixelsThread(const WeightContraction<T>& p,
                              const WeightBroadcastPixelsBlocking<T>& blocking,
                              const int64_t* starts, const int64_t* rows)
      : p_(p),
        blocking_(blocking),
        starts_(starts),
        rows_(rows),
        blocks_{p, blocking.layout},
        copied_(blocking.copied_bytes),
        grad_(blocking.grad_bytes),
        sums_(blocking.sum_bytes) {}

  /// Sums that are not split.
  A* own_sums() const { return sums_.as<A>(); }

  /// The sums of share `split` of the blocks, of a group.
  void add_up(int64_t group, int64_t split, A* sums) {
    fill(sums, blocking_.inner * blocking_.padded_rows, A(0));
    const SplitRange range(split, blocking_.blocks_of_split, blocking_.blocks);
    for (int64_t i = range.begin; i < range.end; ++i) {
      add_block(group, i, i + 1 == range.end, sums);
    }
  }

 private:
  /// Elements from a pixel of the source that a tap reads to that of the next pixel.
  int64_t source_step() const { return p_.walk[2].step * blocking_.layout.strides.axis[2]; }

  /// Adds block `index`, the `last` of the share or not.
  void add_block(int64_t group, int64_t index, bool last, A* sums) {
    const PixelBlock block = blocks_.at(index);
    const A* source = source_of_block(p_, blocking_.layout, p_.source, p_.source_strides, group,
                                      block, copied_.as<A>());
    const T* grad = grad_of_block(p_, p_.grad + group * p_.rows * p_.grad_strides.channel, block);
    const int64_t pixel = p_.grad_strides.axis[2];
    // Each block that follows has a pixel at least.
    const int64_t following = (blocking_.blocks - 1 - index) * pixel;
    const bool reads_grad = blocking_.reads_grad && following >= blocking_.padded_rows - p_.rows;
    NextPixels<A> next{{{source + block.width * source_step(), source_step(), p_.depth},
                        {reinterpret_cast<const A*>(grad) + block.width * pixel, pixel, p_.rows}}};
    for (int64_t i = 0; i < blocking_.columns.count; ++i) {
      const GradColumns<T> columns = read_columns(grad, block, i, reads_grad);
      multiply_columns(block, source, columns, blocking_.fetches && !last ? &next : nullptr, sums);
    }
  }

  /// Block `number` of columns of grad: where they lie, or copied.
  GradColumns<T> read_columns(const T* grad, const PixelBlock& block, int64_t number,
                              bool reads_grad) {
    const int64_t column = blocking_.columns.begin(number);
    const int64_t width = blocking_.columns.width(number), left = p_.rows - column;
    // Of several tiles the first copies the columns as it reads them, if it has all its rows.
    const int64_t most = affine_rows(vectors_for<A>(width));
    const bool copies_first = blocking_.copies_columns && blocking_.runs.step == 1 &&
                              tile_rows(blocking_.runs.run, most) == most;
    if (reads_grad && (copies_first || !blocking_.copies_columns)) {
      return {column, width, reinterpret_cast<const A*>(grad) + column, p_.grad_strides.axis[2],
              copies_first ? grad_.as<A>() : nullptr};
    }
    copy_grad_block(p_, grad + column * p_.grad_strides.channel, block, left < width ? left : width,
                    width, grad_.as<A>());
    return {column, width, grad_.as<A>(), width, nullptr};
  }

  /// Multiplies all of K with some columns of grad of a block. Tiles bring pixels of the `next`
  /// block, if any.
  void multiply_columns(const PixelBlock& block, const A* source, const GradColumns<T>& columns,
                        NextPixels<A>* next, A* sums) const {
    const SourceRuns& runs = blocking_.runs;
    const int vectors = vectors_for<A>(columns.width), most = affine_rows(vectors);
    const int64_t pitch = blocking_.padded_rows;
    AffineOperands<A> tile{source,      runs.step,     rows_,        block.rows,
                           block.width, source_step(), columns.from, columns.step};
    tile.copy = columns.copy;
    for (int64_t run = 0; run < runs.count; ++run) {
      int some;
      for (int64_t k = 0; k < runs.run; k += some) {
        some = tile_rows(runs.run - k, most);
        tile.a = source + starts_[run] + k * runs.step;
        if (next != nullptr) next->fetch_in(tile);
        A* c = sums + (run * runs.run + k) * pitch + columns.column;
        multiply_affine<A>(tile, {c, pitch, kLanes<A>, c, pitch}, some, vectors);
        if (tile.copy == nullptr) continue;
        tile.b = tile.copy, tile.b_step = columns.width, tile.copy = nullptr;
      }
    }
  }

  const WeightContraction<T>& p_;
  const WeightBroadcastPixelsBlocking<T>& blocking_;
  const int64_t *starts_, *rows_;
  PixelBlocks blocks_;
  Scratch copied_, grad_, sums_;
};

template <class T>
void weight_broadcast_pixels(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const WeightBroadcastPixelsBlocking<T> blocking(p);
  const SourceBlockLayout& layout = blocking.layout;
  const int64_t padded_rows = blocking.padded_rows, splits = blocking.splits;
  const int64_t of_group = blocking.inner * padded_rows;

  Scratch tables(blocking.table_bytes);
  int64_t* starts = tables.as<int64_t>();
  int64_t* rows = starts + blocking.runs.count;
  blocking.runs.point(p, layout, starts);
  for (int64_t h = 0; h < layout.rows; ++h) rows[h] = h * p.walk[1].step * layout.strides.axis[1];

  const WeightSums<T> result(p, padded_rows, splits, blocking.set, rows + layout.rows);
  const auto store_rows = [&](const A* sums, int64_t group, int64_t first) {
    const WeightStrides& strides = p.dest_strides;
    const int64_t left = p.rows - first;
    result.store(sums + first, left < lanes ? left : lanes,
                 p.dest + group * strides.group + first * strides.row, strides.row);
  };

  Scratch workspace(blocking.split_bytes);
  parallel_threads(p.groups * splits, 1, [&](ThreadItems& items) {
    WeightBroadcastPixelsThread<T> thread(p, blocking, starts, rows);
    items.for_each([&](int64_t item, bool) {
      const int64_t group = item % p.groups, split = item / p.groups;
      A* sums = splits == 1 ? thread.own_sums()
                            : workspace.as<A>() + split * blocking.set + group * of_group;
      thread.add_up(group, split, sums);
      for (int64_t first = 0; splits == 1 && first < padded_rows; first += lanes) {
        store_rows(sums, group, first);
      }
    });
  });
  if (splits == 1) return;
  const int64_t pieces = padded_rows / lanes;
  const int64_t grain = ceil_div(16384, blocking.inner * lanes);
  parallel_for(p.groups * pieces, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / pieces;
      store_rows(workspace.as<A>() + group * of_group, group, i % pieces * lanes);
    }
  });
}
