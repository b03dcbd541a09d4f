// 1x1 convolution of planar tensors: dest[rows x pixels] = weight[rows x K] * source[K x pixels]
// for each image and group, where source and dest are matrices as they lie.
//
// Nothing is gathered and no sum waits in scratch: tiles read planes of the source and write planes
// of the destination, but for the last pixels of an image that do not fill a panel of kTileColumns.
// Each row of a panel in place is another page, so the first tile of rows copies the panel while it
// reads it, and the tiles after it read the copy.
// An item is (image, group, block of panels, row block). A block has up to kBlockPanels panels,
// which a tile of rows goes through one after another, so that each plane of the destination is
// written in runs of a kilobyte that the prefetcher follows.

constexpr int64_t kBlockPanels = 4;

/// Up to so large a K the lines that a tile writes come later than it does.
constexpr int64_t kShallow = 64;

/// Brings the lines of the next tile to L1, `rows` of a full tile `pitch` elements apart.
template <class A>
inline void fetch_ahead(const A* next, int64_t pitch, int rows) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t j = 0; j < kTileColumns<A>; j += kLanes<A>) {
      __builtin_prefetch(next + r * pitch + j, 1);
    }
  }
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct PointwisePlanarBlocking {
  using A = Accumulator<T>;
  static constexpr int64_t columns = kTileColumns<A>;
  int64_t pixels, depth_block;
  int64_t registers, blocks;  // of an image
  int64_t block_pixels;       // at most
  int64_t row_block, row_blocks;
  bool in_place;                       // rows of the weight are dense
  int64_t packed_bytes, buffer_bytes;  // of the call, of each thread

  explicit PointwisePlanarBlocking(const Contraction<T>& p) {
    pixels = p.walk[2].count;
    depth_block = p.depth < kPanelDepth ? p.depth : kPanelDepth;
    const int64_t panels = ceil_div(pixels, columns), images = p.batch * p.groups;
    // Fewer panels where there would be too few items.
    int64_t most = images * panels / kWantedItems;
    most = most < 1 ? 1 : most > kBlockPanels ? kBlockPanels : most;
    blocks = ceil_div(panels, most);
    registers = ceil_div(pixels, kLanes<A>);
    block_pixels = ceil_div(registers, blocks) * kLanes<A>;
    row_block = choose_row_block(p.rows, images * blocks);
    row_blocks = ceil_div(p.rows, row_block);
    in_place = p.depth == 1 || p.weight_strides.depth == 1;
    packed_bytes = in_place ? 0 : sizeof(A) * p.groups * p.rows * p.depth;
    const int64_t sum_rows = row_block < p.rows ? row_block : p.rows;
    buffer_bytes = sizeof(A) * (columns * sum_rows + block_pixels * depth_block);
  }

  /// The first pixel of a block: blocks are as even as they get.
  int64_t begin(int64_t block) const { return block * registers / blocks * kLanes<A>; }

  Footprint footprint() const { return {kTileRows, columns, packed_bytes, buffer_bytes}; }
};

template <class T>
void pointwise_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const PointwisePlanarBlocking<T> blocking(p);
  constexpr int lanes = kLanes<A>;
  Scratch packed(blocking.packed_bytes);
  const A* weight = reinterpret_cast<const A*>(p.weight);
  int64_t weight_row = p.weight_strides.row, weight_group = p.weight_strides.group;
  if (!blocking.in_place) {
    int64_t offset;
    tap_offsets(p, p.weight_strides, &offset);
    pack_weight_rows(p, &offset, packed.as<A>());
    weight = packed.as<A>(), weight_row = p.depth, weight_group = p.rows * p.depth;
  }

  const int64_t items = p.batch * p.groups * blocking.blocks * blocking.row_blocks;
  const int64_t item_work = blocking.block_pixels * blocking.row_block * p.depth;
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    A* panels = buffer.as<A>();
    A* sums = panels + blocking.block_pixels * blocking.depth_block;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t row_begin = item % blocking.row_blocks * blocking.row_block;
      const int64_t rest = item / blocking.row_blocks, image = rest / blocking.blocks;
      const int64_t block = rest % blocking.blocks, first = blocking.begin(block);
      const int64_t last = blocking.begin(block + 1);
      const int64_t count = (last < blocking.pixels ? last : blocking.pixels) - first;
      const int64_t rows_left = p.rows - row_begin;
      const int64_t rows = rows_left < blocking.row_block ? rows_left : blocking.row_block;
      const int64_t group = image % p.groups, channel = group * p.rows + row_begin;
      const A* source = reinterpret_cast<const A*>(p.source) +
                        image / p.groups * p.source_strides.batch +
                        group * p.depth * p.source_strides.channel + first;
      A* dest = reinterpret_cast<A*>(p.dest) + image / p.groups * p.dest_strides.batch +
                channel * p.dest_strides.channel + first;
      const A* bias = p.bias != nullptr ? reinterpret_cast<const A*>(p.bias) + channel : nullptr;
      const A* matrix = weight + group * weight_group + row_begin * weight_row;

      // Panels of about as many registers each. One that ends in part of a register is copied, and
      // its sums wait in scratch.
      const EvenBlocks<A> panel_blocks(count);
      const int64_t over = count % lanes, tail = panel_blocks.begin(panel_blocks.count - 1);
      const int64_t tail_width = panel_blocks.registers * lanes - tail;
      for (int64_t k = 0; k < p.depth; k += blocking.depth_block) {
        const int64_t to_go = p.depth - k;
        const int64_t depth = to_go < blocking.depth_block ? to_go : blocking.depth_block;
        const A* planes = source + k * p.source_strides.channel;
        for (int64_t i = 0; over > 0 && i < depth; ++i) {
          copy_strided(planes + i * p.source_strides.channel + tail, 1, count - tail,
                       panels + tail * blocking.depth_block + i * tail_width);
        }
        for (int64_t row = 0; row < rows; row += kTileRows) {
          const int some = int(rows - row < kTileRows ? rows - row : kTileRows);
          const A* from[kTileRows];
          for (int r = 0; r < some; ++r) from[r] = matrix + (row + r) * weight_row + k;
          TileOperands<A> tile{from, 0, 1, depth, 1, planes, p.source_strides.channel};
          if (bias != nullptr && k + depth == p.depth) tile.bias = bias + row;
          for (int64_t i = 0; i < panel_blocks.count; ++i) {
            const int64_t pixel = panel_blocks.begin(i), width = panel_blocks.begin(i + 1) - pixel;
            const bool waits = over > 0 && i + 1 == panel_blocks.count, copied = row > 0 || waits;
            A* panel = panels + pixel * blocking.depth_block;
            tile.b = copied ? panel : planes + pixel;
            tile.b_step = copied ? width : p.source_strides.channel;
            tile.copy = !copied && row + kTileRows < rows ? panel : nullptr;
            const Rows<A> c = waits ? Rows<A>{sums + row * width, width}
                                    : Rows<A>{dest + row * p.dest_strides.channel + pixel,
                                              p.dest_strides.channel};
            if (p.depth <= kShallow && i + 1 < panel_blocks.count) {
              fetch_ahead(dest + row * p.dest_strides.channel + panel_blocks.begin(i + 1),
                          p.dest_strides.channel, some);
            }
            multiply<A>(tile, c.data, c.pitch, k > 0, some, int(width / lanes));
          }
        }
      }
      for (int64_t row = 0; over > 0 && row < rows; ++row) {
        copy_strided(sums + row * tail_width, 1, count - tail,
                     dest + row * p.dest_strides.channel + tail);
      }
    }
  });
}
