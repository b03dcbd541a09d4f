// 1x1 convolution of planar tensors: dest[rows x pixels] = weight[rows x K] * source[K x pixels]
// for each image and group, where source and dest are matrices as they lie.
//
// Nothing is gathered and no sum waits in scratch: tiles read planes of the source and write planes
// of the destination, in place. Each row of a panel in place is another page, which no prefetcher
// of the processor follows, and so is each row of a tile's sums. So while a tile multiplies it
// fetches planes ahead of those that it multiplies, the lines that the tile after it writes, and,
// where blocks are one panel, a part of the panel after this one. That hides what copies of panels
// would save, unless registers of every other plane span two lines or all planes meet in a few sets
// of L1: then the first tile of a panel copies what it reads. A panel that ends within a register
// is always copied, before. An item is (image, group, block of panels, row block). Neighbouring
// items of a thread share the copied panel of their block.

/// Panels of a block at most: a tile of rows goes through them one after another, and so writes
/// each plane of the destination in runs of a kilobyte. Where the source is larger than the
/// destination, a block is one panel, which stays in the caches near the core.
constexpr int64_t kBlockPanels = 4;

/// Elements of the planes of a block that has several panels: 64 KB of floats come from L2 as fast
/// as a tile takes them.
constexpr int64_t kBlockElements = 1 << 14;

/// Planes that are multiplied at a time: a panel of 128 KB of floats stays in L2, from where it
/// comes as fast as from L1, and sums of fewer would have to be read again.
constexpr int64_t kPlanesAtOnce = 512;

/// Planes of a panel that stay in L1: 40 KB of floats.
constexpr int64_t kPlanesInL1 = 160;

/// Planes that are a multiple of so many bytes apart meet in a quarter of the sets of L1 or fewer,
/// which repeat after 4 KB, and those of a panel that are more than kMeetingPlanes displace each
/// other.
constexpr int64_t kMeetingBytes = 1024, kMeetingPlanes = 32;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct PointwisePlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  int64_t pixels, depth_block;
  EvenBlocks<A> panels;  // of an image
  int64_t blocks;        // of these
  int64_t row_block, row_blocks;
  bool packs;            // the weight
  bool copies;           // every panel, not just one that ends within a register
  bool whole;            // panels are copied with all of K,
  int64_t copied_depth;  // else so many planes at a time
  PackedWeight packed;
  int64_t buffer_bytes;  // of each thread

  explicit PointwisePlanarBlocking(const Contraction<T>& p) : panels(p.walk[2].count) {
    pixels = p.walk[2].count;
    const int64_t plane_bytes = p.source_strides.channel * int64_t(sizeof(A));
    const bool spans = p.source_strides.channel % kLanes<A> != 0;
    const bool meets = plane_bytes % kMeetingBytes == 0 && p.depth > kMeetingPlanes;
    copies = (spans || (meets && p.depth <= kPlanesInL1)) && p.rows > 2 * kTileRows;
    depth_block = even_part(p.depth, kPlanesAtOnce);
    const int64_t images = p.batch * p.groups;
    // Fewer panels where there would be too few items.
    const int64_t wanted = images * panels.count / kWantedItems;
    int64_t most = p.rows > p.depth ? kBlockElements / (columns * p.depth) : 1;
    if (most > kBlockPanels) most = kBlockPanels;
    if (most > wanted) most = wanted;
    blocks = ceil_div(panels.count, most < 1 ? 1 : most);
    row_block = choose_row_block(p.rows, images * blocks);
    row_blocks = ceil_div(p.rows, row_block);
    const bool dense_rows = p.depth == 1 || p.weight_strides.depth == 1;
    packs = !dense_rows && p.batch * panels.count > kPanelsWorthPacking;
    const int64_t bytes = packs ? sizeof(A) * p.groups * p.rows * p.depth : 0;
    packed = packed_weight(bytes, p.groups, images * blocks, row_blocks);
    whole = p.depth * columns * int64_t(sizeof(A)) <= kPanelBytes;
    copied_depth = whole ? p.depth : depth_block;
    const int64_t copied = copies ? block_panels() : pixels % kLanes<A> != 0;
    buffer_bytes = sizeof(A) * copied * columns * copied_depth;
  }

  /// Panels of a block at most, and the first of a block.
  int64_t block_panels() const { return ceil_div(panels.count, blocks); }
  int64_t begin(int64_t block) const { return block * panels.count / blocks; }

  Footprint footprint() const {
    return {kTileRows, columns, packed.of_call(), packed.of_thread() + buffer_bytes};
  }
};

/// Some planes of an item: K from `k` on, of which they may be the last.
struct PlaneSlice {
  int64_t k, depth;
  bool last;
};

/// What a thread makes items with.
template <class T>
class PointwisePlanarThread {
  using A = Accumulator<T>;
  static constexpr int lanes = kLanes<A>;

  /// Where the operands of an item begin.
  struct Item {
    int64_t block;   // of panels, counted over images and groups
    int64_t panels;  // of the block
    int64_t past;    // the pixel after them
    int64_t rows;
    const A *source, *weight, *bias;
    A* dest;
  };

  /// What tile `number` of an item fetches of the panel after its only one, and whether.
  struct NextPanel {
    bool fetches;
    const A* planes;
  };

 public:
  /// `weight` has row 0 of group 0, with these strides, unless each thread packs it; the tap is
  /// `offset` elements into it.
  PointwisePlanarThread(const Contraction<T>& p, const PointwisePlanarBlocking<T>& blocking,
                        const A* weight, const WeightStrides& strides, int64_t offset)
      : p_(p),
        blocking_(blocking),
        weight_(weight),
        weight_strides_(strides),
        own_(blocking.packed.of_thread()),
        buffer_(blocking.buffer_bytes) {
    if (blocking.packed.of_thread() == 0) return;
    pack_weight_rows(p, &offset, own_.as<A>());
    weight_ = own_.as<A>();
  }

  void make(int64_t index) {
    const Item item = point(index);
    const bool again = blocking_.whole && item.block == copied_;
    copied_ = item.block;
    for (int64_t k = 0; k < p_.depth; k += blocking_.depth_block) {
      const int64_t left = p_.depth - k;
      const bool last = left <= blocking_.depth_block;
      const PlaneSlice slice{k, last ? left : blocking_.depth_block, last};
      for (int64_t i = 0; i < item.panels; ++i) read(item, slice, i, again);
      multiply_slice(item, slice, again);
    }
  }

 private:
  /// Item `index`; its panels are not read yet.
  Item point(int64_t index) {
    const int64_t row = index % blocking_.row_blocks * blocking_.row_block;
    const int64_t number = index / blocking_.row_blocks, image = number / blocking_.blocks;
    const int64_t block = number % blocking_.blocks, first = blocking_.begin(block);
    const int64_t group = image % p_.groups, channel = group * p_.rows + row;
    const int64_t rows_left = p_.rows - row, panels = blocking_.begin(block + 1) - first;
    for (int64_t i = 0; i < panels; ++i) {
      const int64_t pixel = blocking_.panels.begin(first + i);
      const int64_t width = blocking_.panels.begin(first + i + 1) - pixel;
      const int64_t left = blocking_.pixels - pixel;
      panels_[i] = {pixel, width, left < width ? left % lanes : lanes, nullptr, 0, nullptr};
    }
    Item item{};
    item.block = number, item.panels = panels;
    item.past = panels_[panels - 1].pixel + panels_[panels - 1].width;
    item.rows = rows_left < blocking_.row_block ? rows_left : blocking_.row_block;
    item.source = reinterpret_cast<const A*>(p_.source) +
                  image / p_.groups * p_.source_strides.batch +
                  group * p_.depth * p_.source_strides.channel;
    item.dest = reinterpret_cast<A*>(p_.dest) + image / p_.groups * p_.dest_strides.batch +
                channel * p_.dest_strides.channel;
    item.bias = p_.bias != nullptr ? reinterpret_cast<const A*>(p_.bias) + channel : nullptr;
    item.weight = weight_ + group * weight_strides_.group + row * weight_strides_.row;
    return item;
  }

  /// Turns panel `i` to the planes of a slice: where they lie, or a copy, which may be there
  /// `again` from the item before.
  void read(const Item& item, const PlaneSlice& slice, int64_t i, bool again) {
    const int64_t plane = p_.source_strides.channel;
    PlanePanel<A>& panel = panels_[i];
    panel.read(item.source + slice.k * plane, plane);
    const bool whole_registers = panel.last == lanes;
    if (!blocking_.copies && whole_registers) return;
    A* copy = buffer_.as<A>() + (blocking_.whole ? slice.k * panel.width : 0);
    if (blocking_.copies) copy += i * blocking_.columns * blocking_.copied_depth;
    // Only a tile of all its rows copies.
    if (!again && whole_registers && tile_rows(item.rows) == kTileRows) {
      panel.copy = copy;
      return;
    }
    if (!again) copy_planes(panel, slice.depth, copy);
    panel.read_copy(copy);
  }

  /// Multiplies the planes of a slice with all rows of an item.
  void multiply_slice(const Item& item, const PlaneSlice& slice, bool again) {
    const int64_t pitch = p_.dest_strides.channel;
    PlaneTiles tiles{weight_strides_.row, weight_strides_.depth, slice.depth, pitch, slice.k > 0};
    int some;
    for (int64_t row = 0, tile = 0; row < item.rows; row += some, ++tile) {
      some = tile_rows(item.rows - row);
      const A* weight = item.weight + row * weight_strides_.row + slice.k * weight_strides_.depth;
      const A* bias = slice.last && item.bias != nullptr ? item.bias + row : nullptr;
      A* to = item.dest + row * pitch;
      // After the last panel the next rows, or the same rows of what follows.
      const bool rows_follow = row + some < item.rows;
      const A* after = rows_follow ? to + some * pitch : item.dest;
      after += rows_follow || !slice.last ? panels_[0].pixel : item.past;
      const NextPanel next = next_panel(item, slice, tile);
      tiles.next_plane = next.fetches ? p_.source_strides.channel : 0;
      const bool in_l1 = slice.depth <= kPlanesInL1 && (row > 0 || again);
      for (int64_t i = 0; i < item.panels; ++i) {
        PlanePanel<A>& panel = panels_[i];
        const A* written = i + 1 < item.panels ? to + panels_[i + 1].pixel : after;
        const bool far = panel.plane * int64_t(sizeof(A)) >= kFarBytes;
        const PlaneReads reads = panel.copy != nullptr ? PlaneReads::kCopying
                                 : next.fetches        ? PlaneReads::kFetchingNext
                                 : far && !in_l1       ? PlaneReads::kFetching
                                                       : PlaneReads::kPlain;
        multiply_planes<A>(reads, tiles, some, weight, panel, bias, to + panel.pixel, written,
                           next.fetches ? next.planes : panel.planes);
        if (panel.copy != nullptr) panel.read_copy(panel.copy);
      }
    }
  }

  NextPanel next_panel(const Item& item, const PlaneSlice& slice, int64_t tile) const {
    const int64_t plane = slice.k + tile * (slice.depth / kTilesToFetch);
    return {item.panels == 1 && tile < kTilesToFetch,
            item.source + plane * p_.source_strides.channel + item.past};
  }

  const Contraction<T>& p_;
  const PointwisePlanarBlocking<T>& blocking_;
  const A* weight_;
  const WeightStrides& weight_strides_;
  Scratch own_, buffer_;
  PlanePanel<A> panels_[kBlockPanels];
  int64_t copied_ = -1;  // the block whose panels are copied
};

template <class T>
void pointwise_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const PointwisePlanarBlocking<T> blocking(p);
  Scratch packed(blocking.packed.of_call());
  WeightStrides strides = p.weight_strides;
  int64_t offset;
  tap_offsets(p, strides, &offset);
  const A* weight = reinterpret_cast<const A*>(p.weight) + offset;
  if (blocking.packed.of_call() > 0) {
    pack_weight_rows(p, &offset, packed.as<A>());
    weight = packed.as<A>();
  }
  if (blocking.packs) strides = {p.rows * p.depth, p.depth, 1, {0, 0, 0}};

  const int64_t items = p.batch * p.groups * blocking.blocks * blocking.row_blocks;
  const int64_t block_pixels = blocking.block_panels() * blocking.columns;
  const int64_t item_work = block_pixels * blocking.row_block * p.depth;
  parallel_threads(items, ceil_div(kSmallestWork, item_work), [&](ThreadItems& of_thread) {
    PointwisePlanarThread<T> thread(p, blocking, weight, strides, offset);
    of_thread.for_each([&](int64_t i, bool) { thread.make(i); });
  });
}
