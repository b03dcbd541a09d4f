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

/// Planes, and weights of a row, that are fetched ahead.
constexpr int64_t kPlanesAhead = 6, kWeightsAhead = 8;

/// So many tiles fetch the next panel: each with every so many-th plane that it multiplies one of
/// that panel, as few lines at a time as the rest of the work hides.
constexpr int64_t kTilesToFetch = 4;

/// Planes that are multiplied at a time: a panel of 128 KB of floats stays in L2, from where it
/// comes as fast as from L1, and sums of fewer would have to be read again.
constexpr int64_t kPlanesAtOnce = 512;

/// Planes of a panel that stay in L1: 40 KB of floats.
constexpr int64_t kPlanesInL1 = 160;

/// Whether planes are fetched ahead: one that is a single line in a panel, as with registers of 32
/// bytes, costs as much to fetch as it gains. The processor's prefetchers follow planes that are
/// nearer than kFarBytes.
constexpr bool kFetchesPlanes = CNNOPS_VECTOR_BYTES == 64;
constexpr int64_t kFarBytes = 2048;

/// Planes that are a multiple of so many bytes apart meet in a quarter of the sets of L1 or fewer,
/// which repeat after 4 KB, and those of a panel that are more than kMeetingPlanes displace each
/// other.
constexpr int64_t kMeetingBytes = 1024, kMeetingPlanes = 32;

/// Up to kTileVectors registers of pixels, and where their planes are read.
template <class A>
struct PlanePanel {
  int64_t pixel, width;  // the first pixel, and how many there are in whole registers
  int64_t last;          // pixels of the last register
  const A* planes;       // where they are read,
  int64_t plane;         // and the elements from one to the next
  A* copy;               // where the next tile copies them to, side by side, if anywhere

  /// Turns to planes of the source, `stride` elements apart.
  void read(const A* source, int64_t stride) {
    planes = source + pixel, plane = stride, copy = nullptr;
  }
  /// Turns to a copy of these.
  void read_copy(const A* from) { planes = from, plane = width, copy = nullptr; }
};

/// What a tile does beside multiplying: nothing, fetch planes ahead, fetch those of the next panel
/// too, or all that and copy planes.
enum class PlaneReads { kPlain, kFetching, kFetchingNext, kCopying };

/// One of these as a type.
template <PlaneReads kReads>
struct Reads {
  static constexpr PlaneReads value = kReads;
};

/// Copies `depth` planes of a panel side by side, of the last register what there is.
template <class A>
void copy_planes(const PlanePanel<A>& panel, int64_t depth, A* to) {
  const int64_t last = panel.width - kLanes<A>;
  const A* from = panel.planes;
  for (int64_t k = 0; k < depth; ++k, from += panel.plane, to += panel.width) {
    for (int64_t i = 0; i < last; i += kLanes<A>) {
      __builtin_prefetch(from + kPlanesAhead * panel.plane + i);
      store(to + i, load(from + i));
    }
    store(to + last, load_partial(from + last, panel.last));
  }
}

/// What the tiles of an item share.
struct PlaneTiles {
  int64_t weight_row, weight_step;  // elements from one row of the weight to the next, from k to k
  int64_t depth;                    // planes
  int64_t pitch;                    // elements from one plane of the destination to the next
  bool accumulate;                  // to what is in the destination
  int64_t next_plane = 0;  // elements between planes of the next panel, where it is fetched
};

/// A tile: kRows rows of the weight times the planes of a panel. Fetches the lines at `written`,
/// where the tile after it writes, and from `next` on planes of the next panel.
template <class A, int kRows, int kVectors, PlaneReads kReads>
void multiply_planes(const PlaneTiles& tiles, const A* weight, const PlanePanel<A>& panel,
                     const A* bias, A* dest, const A* written, const A* next) {
  using Sums = TileSums<A, kRows, kVectors>;
  constexpr bool kCopies = kReads == PlaneReads::kCopying;
  Sums sums;
  const A* rows[kRows];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) rows[i] = weight + i * tiles.weight_row;
  const A* planes = panel.planes;
  A* copy = panel.copy;
  const int64_t depth = tiles.depth, plane = panel.plane, step = tiles.weight_step;
  int64_t offset = 0;
  // Called at two places, and the sums would not stay in registers were it not inlined at both.
  const auto multiply_plane = [&](int64_t k) __attribute__((always_inline)) {
    if (kFetchesPlanes && kReads >= PlaneReads::kFetchingNext && k % kTilesToFetch == 0) {
      Sums::fetch_to_l2(next);
      next += tiles.next_plane;
    }
    if constexpr (kReads != PlaneReads::kPlain) Sums::fetch(planes + kPlanesAhead * plane);
    __builtin_prefetch(rows[kRows - 1] + offset + kWeightsAhead * step);
    sums.template add_products<kCopies>(rows, offset, planes, copy);
    planes += plane, offset += step;
    if constexpr (kCopies) copy += kVectors * kLanes<A>;
  };
  // One row of lines at a time: all at once, they would hold up the planes.
  const int64_t part = depth / kRows;
  for (int i = 0; i < kRows; ++i, written += tiles.pitch) {
    Sums::fetch_to_write(written);
    for (int64_t k = 0; k < part; ++k) multiply_plane(k);
  }
  for (int64_t k = part * kRows; k < depth; ++k) multiply_plane(k);
  if (bias != nullptr) sums.add_bias(bias);
  sums.store_to(dest, tiles.pitch, panel.last, tiles.accumulate);
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct PointwisePlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  int64_t pixels, depth_block;
  EvenBlocks<A> panels;  // of an image
  int64_t blocks;        // of these
  int64_t row_block, row_blocks;
  bool packs;                          // the weight
  bool copies;                         // every panel, not just one that ends within a register
  bool whole;                          // panels are copied with all of K,
  int64_t copied_depth;                // else so many planes at a time
  int64_t packed_bytes, buffer_bytes;  // of the call, of each thread

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
    packed_bytes = packs ? sizeof(A) * p.groups * p.rows * p.depth : 0;
    whole = p.depth * columns * int64_t(sizeof(A)) <= kPanelBytes;
    copied_depth = whole ? p.depth : depth_block;
    const int64_t copied = copies ? block_panels() : pixels % kLanes<A> != 0;
    buffer_bytes = sizeof(A) * copied * columns * copied_depth;
  }

  /// Panels of a block at most, and the first of a block.
  int64_t block_panels() const { return ceil_div(panels.count, blocks); }
  int64_t begin(int64_t block) const { return block * panels.count / blocks; }

  Footprint footprint() const { return {kTileRows, columns, packed_bytes, buffer_bytes}; }
};

template <class T>
void pointwise_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const PointwisePlanarBlocking<T> blocking(p);
  constexpr int lanes = kLanes<A>;
  Scratch packed(blocking.packed_bytes);
  const A* weight = reinterpret_cast<const A*>(p.weight);
  WeightStrides strides = p.weight_strides;
  int64_t offset;
  tap_offsets(p, strides, &offset);
  weight += offset;
  if (blocking.packs) {
    pack_weight_rows(p, &offset, packed.as<A>());
    weight = packed.as<A>();
    strides = {p.rows * p.depth, p.depth, 1, {0, 0, 0}};
  }

  const int64_t items = p.batch * p.groups * blocking.blocks * blocking.row_blocks;
  const int64_t block_pixels = blocking.block_panels() * blocking.columns;
  const int64_t item_work = block_pixels * blocking.row_block * p.depth;
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    PlanePanel<A> panels[kBlockPanels];
    int64_t copied = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row_begin = item % blocking.row_blocks * blocking.row_block;
      const int64_t rest = item / blocking.row_blocks, image = rest / blocking.blocks;
      const int64_t block = rest % blocking.blocks, first = blocking.begin(block);
      const int64_t count = blocking.begin(block + 1) - first;
      const int64_t rows_left = p.rows - row_begin;
      const int64_t rows = rows_left < blocking.row_block ? rows_left : blocking.row_block;
      const int64_t group = image % p.groups, channel = group * p.rows + row_begin;
      const A* source = reinterpret_cast<const A*>(p.source) +
                        image / p.groups * p.source_strides.batch +
                        group * p.depth * p.source_strides.channel;
      A* dest = reinterpret_cast<A*>(p.dest) + image / p.groups * p.dest_strides.batch +
                channel * p.dest_strides.channel;
      const A* bias = p.bias != nullptr ? reinterpret_cast<const A*>(p.bias) + channel : nullptr;
      const A* matrix = weight + group * strides.group + row_begin * strides.row;

      for (int64_t i = 0; i < count; ++i) {
        const int64_t pixel = blocking.panels.begin(first + i);
        const int64_t width = blocking.panels.begin(first + i + 1) - pixel;
        const int64_t left = blocking.pixels - pixel;
        panels[i] = {pixel, width, left < width ? left % lanes : lanes, nullptr, 0, nullptr};
      }
      const int64_t past = panels[count - 1].pixel + panels[count - 1].width;
      const bool again = blocking.whole && copied == rest;
      copied = rest;
      for (int64_t k = 0; k < p.depth; k += blocking.depth_block) {
        const int64_t to_go = p.depth - k;
        const int64_t depth = to_go < blocking.depth_block ? to_go : blocking.depth_block;
        const bool ends = depth == to_go;
        const int64_t plane = p.source_strides.channel, pitch = p.dest_strides.channel;
        PlaneTiles tiles{strides.row, strides.depth, depth, pitch, k > 0};
        for (int64_t i = 0; i < count; ++i) {
          panels[i].read(source + k * plane, plane);
          if (!blocking.copies && panels[i].last == lanes) continue;
          A* copy = buffer.as<A>() + (blocking.whole ? k * panels[i].width : 0);
          if (blocking.copies) copy += i * blocking.columns * blocking.copied_depth;
          // Only a tile of all its rows copies.
          if (!again && panels[i].last == lanes && tile_rows(rows) == kTileRows) {
            panels[i].copy = copy;
            continue;
          }
          if (!again) copy_planes(panels[i], depth, copy);
          panels[i].read_copy(copy);
        }
        for (int64_t row = 0, tile = 0; row < rows; ++tile) {
          const int some = tile_rows(rows - row);
          const A* added = bias != nullptr && ends ? bias + row : nullptr;
          const A* from = matrix + row * strides.row + k * strides.depth;
          A* to = dest + row * pitch;
          // After the last panel the next rows, or the same rows of what follows.
          const A* after = row + some < rows ? to + some * pitch : dest;
          const int64_t turn = row + some < rows || !ends ? panels[0].pixel : past;
          const bool fetches_next = count == 1 && tile < kTilesToFetch;
          const int64_t fetched = k + tile * (depth / kTilesToFetch);
          tiles.next_plane = fetches_next ? plane : 0;
          for (int64_t i = 0; i < count; ++i) {
            PlanePanel<A>& panel = panels[i];
            const A* written = i + 1 < count ? to + panels[i + 1].pixel : after + turn;
            const A* next = fetches_next ? source + fetched * plane + past : panel.planes;
            const bool in_l1 = depth <= kPlanesInL1 && (row > 0 || again);
            const bool fetches = !in_l1 && panel.plane * int64_t(sizeof(A)) >= kFarBytes;
            A* at = to + panel.pixel;
            with_tile_size(some, int(panel.width / lanes), [&](auto height, auto width) {
              constexpr int kRows = decltype(height)::value, kVectors = decltype(width)::value;
              const auto multiply = [&](auto reads) {
                multiply_planes<A, kRows, kVectors, decltype(reads)::value>(
                    tiles, from, panel, added, at, written, next);
              };
              if constexpr (kRows < kTileRows) {
                // At most two of the tiles: not worth code of their own for each way to read.
                multiply(Reads<kFetchesPlanes ? PlaneReads::kFetchingNext : PlaneReads::kPlain>());
              } else {
                if (panel.copy != nullptr) return multiply(Reads<PlaneReads::kCopying>());
                if constexpr (kFetchesPlanes) {
                  if (fetches_next) return multiply(Reads<PlaneReads::kFetchingNext>());
                  if (fetches) return multiply(Reads<PlaneReads::kFetching>());
                }
                multiply(Reads<PlaneReads::kPlain>());
              }
            });
            if (panel.copy != nullptr) panel.read_copy(panel.copy);
          }
          row += some;
        }
      }
    }
  });
}
