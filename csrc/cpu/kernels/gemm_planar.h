// Dense and grouped convolution with vectors along pixels: dest[rows x pixels] = weight[rows x K] *
// im2col[K x pixels] for each group, K = source channels * taps.
//
// Work is cut into items of (group, panel, row block). A panel is up to kTileColumns pixels, taken
// across image rows and images so that small maps fill it. Its part of im2col is gathered from the
// source as it lies, into a buffer that stays in L2: all of K where that fits kPanelBytes, and then
// the next row block of the same panel finds it there, else kPanelDepth rows at a time. The rows of
// the block are multiplied with kPanelDepth rows of it at a time. Sums of a panel that are one run
// of destinations stay there until K is done; others live in scratch of the accumulator type, then
// get the bias and go to the destination. Row blocks exist so that layers with many channels and
// few pixels have enough items; they depend on the shape only.

/// Most rows of im2col that are multiplied at a time: 256 x 64 floats leave room in L2, and the
/// 6 x 256 weights that meet them stay in L1.
constexpr int64_t kPanelDepth = 256;

/// A whole panel is kept up to this size: 4608 x 64 floats, the largest layer of ResNet-50.
constexpr int64_t kPanelBytes = 1280 << 10;

/// Up to so many panels read weights where they lie, although a row of them is scattered: packing
/// moves all of them three times through memory, which few uses do not pay back.
constexpr int64_t kPanelsWorthPacking = 5;

/// An item: rows [row_begin, row_end) of a group, and a panel of pixels [first, first + count).
struct GemmPlanarItem {
  int64_t group;
  int64_t panel;  // which one, counted over groups
  int64_t first, count;
  int64_t row_begin, row_end;
};

/// How a call is cut, and the scratch that it takes.
template <class T>
struct GemmPlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  int64_t inner, pixels, panels;  // K, all destination pixels, panels of them
  int64_t row_block, row_blocks;
  bool in_place, in_runs;  // weights are read where they lie: whole rows, or runs of taps
  int64_t depth_block;     // of K
  bool whole;              // a panel holds all of K
  int64_t panel_rows, sum_rows;
  PackedWeight packed;
  int64_t table_bytes;                              // of the call
  int64_t index_bytes, pointer_bytes, panel_bytes;  // of each thread

  explicit GemmPlanarBlocking(const Contraction<T>& p) {
    const int64_t taps = p.taps();
    inner = p.depth * taps;
    pixels = p.batch * p.pixels();
    panels = EvenBlocks<A>(pixels).count;
    row_block = choose_row_block(p.rows, p.groups * panels);
    row_blocks = ceil_div(p.rows, row_block);

    const bool readable = __is_same(T, A) && taps_are_contiguous(p, p.weight_strides);
    in_place = readable && (p.depth == 1 || p.weight_strides.depth == taps);
    in_runs = readable && taps > 1 && taps <= kPanelDepth && panels < kPanelsWorthPacking;
    // Blocks of K end where runs end.
    const int64_t wanted = in_runs ? kPanelDepth / taps * taps : kPanelDepth;
    depth_block = inner < wanted ? inner : wanted;

    whole = inner * columns * int64_t(sizeof(A)) <= kPanelBytes;
    panel_rows = whole ? inner : depth_block;
    sum_rows = row_block < p.rows ? row_block : p.rows;

    table_bytes = sizeof(int64_t) * taps + sizeof(Inside) * p.walk[2].tap_count;
    const int64_t bytes = packs() ? sizeof(A) * p.groups * p.rows * inner : 0;
    packed = packed_weight(bytes, p.groups, panels, row_blocks);
    index_bytes = ColumnGatherer<T>::index_bytes(p, p.source_strides, columns);
    const int64_t run = packs() || in_place ? depth_block : taps;
    pointer_bytes = sizeof(A*) * kTileRows * (depth_block / run);
    panel_bytes = sizeof(A) * columns * (panel_rows + sum_rows);
  }

  bool packs() const { return !in_place && !in_runs; }

  /// Item `index` of groups * panels * row_blocks.
  GemmPlanarItem item(const Contraction<T>& p, int64_t index) const {
    const int64_t panel = index / row_blocks, row = index % row_blocks * row_block;
    const EvenBlocks<A> cut(pixels);
    const int64_t first = cut.begin(panel % panels), last = cut.begin(panel % panels + 1);
    return {panel / panels,
            panel,
            first,
            (pixels < last ? pixels : last) - first,
            row,
            row + row_block < p.rows ? row + row_block : p.rows};
  }

  Footprint footprint() const {
    return {kTileRows, columns, table_bytes + packed.of_call(),
            packed.of_thread() + index_bytes + pointer_bytes + panel_bytes};
  }
};

/// What a thread makes items with.
template <class T>
class GemmPlanarThread {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;

 public:
  /// `weight` has data unless each thread packs it. `inside` are the destinations for which each
  /// tap of the width reads no padding, and `offsets` those of the taps in the weight.
  GemmPlanarThread(const Contraction<T>& p, const GemmPlanarBlocking<T>& blocking,
                   const WeightMatrix<A>& weight, const Inside* inside, const int64_t* offsets)
      : p_(p),
        blocking_(blocking),
        weight_(weight),
        own_(blocking.packed.of_thread()),
        index_(blocking.index_bytes),
        pointers_(blocking.pointer_bytes),
        buffer_(blocking.panel_bytes),
        gatherer_{p, p.source_strides, inside, segments_,
                  blocking.index_bytes > 0 ? index_.as<int32_t>() : nullptr} {
    if (blocking.packed.of_thread() == 0) return;
    pack_weight_rows(p, offsets, own_.as<A>());
    weight_.data = own_.as<A>();
  }

  void make(const GemmPlanarItem& item) {
    const int64_t pitch = round_up(item.count, kLanes<A>);
    point(item);
    const T* source = p_.source + item.group * p_.depth * p_.source_strides.channel;
    if (blocking_.whole && item.panel != gathered_) {
      gathered_ = item.panel;
      gatherer_.gather(source, 0, blocking_.inner, panel(), pitch);
    }
    const bool stores = run_count_ == 1 && stores_whole_registers(p_, runs_[0], pitch);
    const int64_t channel = item.group * p_.rows + item.row_begin;
    Rows<A> sums{panel() + columns * blocking_.panel_rows, pitch};
    if (stores) {
      sums.pitch = p_.dest_strides.channel;
      sums.data = reinterpret_cast<A*>(p_.dest) + runs_[0].offset + channel * sums.pitch;
    }
    for (int64_t k = 0; k < blocking_.inner; k += blocking_.depth_block) {
      const int64_t left = blocking_.inner - k;
      const int64_t count = left < blocking_.depth_block ? left : blocking_.depth_block;
      if (!blocking_.whole) gatherer_.gather(source, k, count, panel(), pitch);
      multiply_rows(item, k, count, sums, stores && k + count == blocking_.inner);
    }
    if (!stores) store(sums, channel, item.row_end - item.row_begin);
  }

 private:
  A* panel() const { return buffer_.as<A>(); }

  /// Finds out where the pixels of an item are read and go to, unless those of the item before are
  /// the same.
  void point(const GemmPlanarItem& item) {
    if (item.first == pointed_) return;
    pointed_ = item.first;
    gatherer_.set_columns(item.first, item.count);
    run_count_ = join_runs(p_.dest_strides, segments_, gatherer_.segment_count, runs_);
  }

  /// Multiplies all rows of an item with `count` rows of the panel from K = `k` on, and adds the
  /// bias if these sums are the `last`.
  void multiply_rows(const GemmPlanarItem& item, int64_t k, int64_t count, const Rows<A>& sums,
                     bool last) {
    const int vectors = vectors_for<A>(item.count);
    const int64_t pitch = vectors * kLanes<A>;
    const A* slice = blocking_.whole ? panel() + k * pitch : panel();
    const A** from = pointers_.as<const A*>();
    const int64_t run = weight_.run < count ? weight_.run : count;
    for (int64_t row = item.row_begin; row < item.row_end; row += kTileRows) {
      const int64_t left = item.row_end - row;
      const int rows = int(left < kTileRows ? left : kTileRows);
      weight_.point(item.group, row, rows, k / weight_.run, count / run, from);
      TileOperands<A> tile{from, 0, count / run, run, 1, slice, pitch};
      if (last && p_.bias != nullptr) {
        tile.bias = reinterpret_cast<const A*>(p_.bias) + item.group * p_.rows + row;
      }
      multiply<A>(tile, sums.at(row - item.row_begin), sums.pitch, k > 0, rows, vectors);
    }
  }

  /// Stores the sums of `rows` channels from `channel` on.
  void store(const Rows<A>& sums, int64_t channel, int64_t rows) const {
    const T* bias = p_.bias != nullptr ? p_.bias + channel : nullptr;
    for (int64_t r = 0; r < run_count_; ++r) {
      const DestRun& run = runs_[r];
      T* to = p_.dest + channel * p_.dest_strides.channel + run.offset;
      if (p_.dest_strides.channel == 1) {
        store_channels<T>({sums.data + run.column, sums.pitch}, bias, rows, run.length, to,
                          p_.dest_strides.axis[2]);
        continue;
      }
      for (int64_t row = 0; row < rows; ++row) {
        const A added = bias != nullptr ? widen(bias[row]) : A(0);
        store_run(sums.at(row) + run.column, added, run.length, to + row * p_.dest_strides.channel,
                  p_.dest_strides.axis[2]);
      }
    }
  }

  const Contraction<T>& p_;
  const GemmPlanarBlocking<T>& blocking_;
  WeightMatrix<A> weight_;
  Scratch own_, index_, pointers_, buffer_;
  Segment segments_[columns];
  DestRun runs_[columns];
  ColumnGatherer<T> gatherer_;
  int64_t run_count_ = 0, pointed_ = -1, gathered_ = -1;
};

template <class T>
void gemm_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const GemmPlanarBlocking<T> blocking(p);
  Scratch tables(blocking.table_bytes);
  Inside* inside = tables.as<Inside>();
  find_inside(p.walk[2], inside);
  int64_t* offsets = reinterpret_cast<int64_t*>(inside + p.walk[2].tap_count);
  tap_offsets(p, p.weight_strides, offsets);

  Scratch packed(blocking.packed.of_call());
  // One run per block of K where rows are contiguous, one per source channel where only taps are.
  WeightMatrix<A> weight{nullptr, p.rows * blocking.inner, blocking.inner, blocking.depth_block,
                         blocking.depth_block};
  if (blocking.packed.of_call() > 0) {
    pack_weight_rows(p, offsets, packed.as<A>());
    weight.data = packed.as<A>();
  } else if (!blocking.packs()) {
    weight.data = reinterpret_cast<const A*>(p.weight);
    weight.group = p.weight_strides.group;
    weight.row = p.weight_strides.row;
    if (!blocking.in_place) weight.run = p.taps(), weight.run_stride = p.weight_strides.depth;
  }

  const int64_t items = p.groups * blocking.panels * blocking.row_blocks;
  parallel_threads(items, 1, [&](ThreadItems& of_thread) {
    GemmPlanarThread<T> thread(p, blocking, weight, inside, offsets);
    of_thread.for_each([&](int64_t i, bool) { thread.make(blocking.item(p, i)); });
  });
}
