// Weight gradient of bfloat16 by instructions that add up the products of pairs: sums[rows x
// columns] = grad^T[rows x pixels] * im2col[pixels x columns] for each group, columns = taps *
// source channels, with the units of pair_products.h. K is the pixels: chunks of 32, whichever rows
// and images they lie in, of which two neighbours are a pair. grad is lines, and what a tap reads
// of the source columns, both copied: of planes the lines are as they lie and columns are turned in
// registers, and of channels_last pixels it is the other way round.
//
// Items are (group, part of the rows, part of the source channels, split). K is cut into slices;
// for each the lines of all rows of an item are copied, and then, tap by tap, columns of 32
// channels, which meet all of them. Sums lie as [row][block of 32 channels][tap][channel] and stay
// in L2. A split is a fixed share of the slices with its own sums, and the splits are added in
// order; without splits an item stores its part of the weight.

/// Bytes of the sums of an item: half of L2, beside lines and columns of a slice.
constexpr int64_t kPairSumBytes = int64_t(512) << 10;

/// How a call is cut, and the scratch that it takes.
struct WeightPairBlocking {
  bool planar;
  int64_t taps, pixels;
  int64_t slice, slices;                  // chunks of a slice
  int64_t row_part, row_parts;            // rows of an item
  int64_t blocks, block_part, col_parts;  // of 32 source channels, those of an item
  int64_t items;                          // of a split
  int64_t splits, slices_of_split;
  int64_t item_sums;                              // elements
  int64_t sum_bytes;                              // of the call
  int64_t item_sum_bytes, tile_bytes, tap_bytes;  // of each thread

  explicit WeightPairBlocking(const WeightContraction<bfloat16>& p) {
    planar = p.source_strides.channel != 1 || p.grad_strides.channel != 1;
    taps = p.taps();
    pixels = p.batch * p.pixels();
    const int64_t chunks = ceil_div(pixels, kPairDepth);
    slice = even_part(chunks < 1 ? 1 : chunks, kPairSlice);
    slices = ceil_div(chunks, slice);
    row_part = round_up(even_part(p.rows, kPairPartRows), kPairBlock);
    row_parts = ceil_div(p.rows, row_part);
    blocks = ceil_div(p.depth, kPairBlock);
    const int64_t of_block = sizeof(float) * row_part * taps * kPairBlock;
    block_part = even_part(blocks, of_block < kPairSumBytes ? kPairSumBytes / of_block : 1);
    col_parts = ceil_div(blocks, block_part);
    items = p.groups * row_parts * col_parts;
    item_sums = row_part * pitch();
    splits = choose_product_splits(p, items, slices, items * item_sums * int64_t(sizeof(float)));
    slices_of_split = ceil_div(slices, splits);
    sum_bytes = splits > 1 ? sizeof(float) * splits * items * item_sums : 0;
    item_sum_bytes = splits > 1 ? 0 : sizeof(float) * item_sums;
    tile_bytes =
        sizeof(bfloat16) * kPairTile * slice * (row_part / kPairRows + kPairBlock / kPairRows);
    tap_bytes = sizeof(int64_t) * taps + sizeof(PairLines) * slice * (row_part / kPairRows) +
                sizeof(bool) * slice;
  }

  /// Elements of a row of sums.
  int64_t pitch() const { return block_part * taps * kPairBlock; }

  Footprint footprint() const {
    return {kPairBlock, kPairBlock, sum_bytes, item_sum_bytes + tile_bytes + tap_bytes};
  }
};

inline Footprint weight_pairs_footprint(const WeightContraction<bfloat16>& p) {
  return WeightPairBlocking(p).footprint();
}

/// A part of the weight: rows [row, row + rows) of a group, blocks of 32 source channels [block,
/// block + blocks).
struct WeightPairPart {
  int64_t group, row, rows, block, blocks;

  WeightPairPart(const WeightContraction<bfloat16>& p, const WeightPairBlocking& blocking,
                 int64_t item) {
    const int64_t col_part = item % blocking.col_parts;
    const int64_t row_part = item / blocking.col_parts % blocking.row_parts;
    group = item / blocking.col_parts / blocking.row_parts;
    row = row_part * blocking.row_part;
    rows = p.rows - row < blocking.row_part ? p.rows - row : blocking.row_part;
    block = col_part * blocking.block_part;
    const int64_t left = blocking.blocks - block;
    blocks = left < blocking.block_part ? left : blocking.block_part;
  }
};

/// Adds up `splits` sets of sums of a part, `split` elements apart, and stores it. `offsets` are
/// those of the taps in the weight.
inline void store_weight_pairs(const WeightContraction<bfloat16>& p,
                               const WeightPairBlocking& blocking, const WeightPairPart& part,
                               const float* sums, int64_t split, int64_t splits,
                               const int64_t* offsets) {
  constexpr int lanes = kLanes<float>;
  const WeightStrides& strides = p.dest_strides;
  bfloat16* dest = p.dest + part.group * strides.group + part.row * strides.row;
  for (int64_t r = 0; r < part.rows; ++r, sums += blocking.pitch(), dest += strides.row) {
    const float* from = sums;
    for (int64_t block = part.block; block < part.block + part.blocks; ++block) {
      for (int64_t tap = 0; tap < blocking.taps; ++tap, from += kPairBlock) {
        for (int64_t c = 0; c < kPairBlock; c += lanes) {
          const int64_t channel = block * kPairBlock + c, left = p.depth - channel;
          if (left <= 0) break;
          Vec<float> sum = load(from + c);
          for (int64_t s = 1; s < splits; ++s) sum += load(from + s * split + c);
          bfloat16* to = dest + offsets[tap] + channel * strides.depth;
          if (strides.depth == 1) {
            store_partial(to, sum, left < lanes ? left : lanes);
            continue;
          }
          const Halves half = narrow_all<bfloat16>(sum);
          for (int64_t j = 0; j < lanes && j < left; ++j, to += strides.depth) to->bits = half[j];
        }
      }
    }
  }
}

/// Copies chunks of 32 pixels, `count` pixels from `first` on: 16 channels a tile, from `c` on, as
/// lines or as columns, those of a tile `pitch` elements behind those of the one before. Chunks of
/// nothing but padding are `empty`.
inline void copy_pair_chunks(PairPixels& pixels, const TapOffset& offset, bool planar, bool lines,
                             int64_t first, int64_t count, int64_t c, int64_t channels,
                             int64_t tiles, int64_t pitch, bfloat16* to, bool* empty) {
  for (int64_t i = 0; i < count; i += kPairDepth, to += kPairTile) {
    pixels.turn_to(first + i, count - i < kPairDepth ? count - i : kPairDepth);
    const bool reads = planar ? pixels.cut_pieces(offset) : pixels.point(offset);
    *empty++ = !reads;
    for (int64_t j = 0; reads && j < tiles; ++j) {
      const int64_t left = channels - j * kPairRows, some = left < 0 ? 0 : left;
      const int64_t here = some < kPairRows ? some : kPairRows;
      bfloat16* tile = to + j * pitch;
      if (planar) {
        pixels.copy_plane_lines(c + j * kPairRows, here, tile);
      } else {
        pixels.copy_pixel_columns(c + j * kPairRows, here, tile);
      }
      if (planar != lines) turn_pairs(tile);
    }
  }
}

template <class Unit>
void weight_pair_products(const WeightContraction<bfloat16>& p) {
  const WeightPairBlocking blocking(p);
  const int64_t taps = blocking.taps, slice = blocking.slice, pitch = blocking.pitch();
  const int64_t splits = blocking.splits, items = blocking.items;
  const bool planar = blocking.planar;

  // grad as a source that its own pixels read.
  constexpr Tap kSame{0, 0};
  ContractionShape same = p;
  for (Walk& walk : same.walk) walk = {walk.count, 1, walk.count, PaddingMode::zeros, &kSame, 1};

  Scratch workspace(blocking.sum_bytes);
  parallel_for(items * splits, 1, [&](int64_t begin, int64_t end) {
    Scratch item_sums(blocking.item_sum_bytes);
    Scratch tiles(blocking.tile_bytes);
    Scratch tables(blocking.tap_bytes);
    bfloat16* const columns = tiles.as<bfloat16>();
    bfloat16* const rows = columns + kPairBlock / kPairRows * slice * kPairTile;
    PairLines* const lines = tables.as<PairLines>();
    int64_t* const offsets =
        reinterpret_cast<int64_t*>(lines + slice * (blocking.row_part / kPairRows));
    bool* const empty = reinterpret_cast<bool*>(offsets + taps);
    tap_offsets(p, p.dest_strides, offsets);
    Unit::begin();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t split = item % splits;
      const WeightPairPart part(p, blocking, item / splits);
      float* const sums =
          splits > 1 ? workspace.as<float>() + (split * items + item / splits) * blocking.item_sums
                     : item_sums.as<float>();
      PairPixels source(p, p.source_strides,
                        p.source + part.group * p.depth * p.source_strides.channel);
      PairPixels grad(same, p.grad_strides,
                      p.grad + (part.group * p.rows + part.row) * p.grad_strides.channel);
      const SplitRange range(split, blocking.slices_of_split, blocking.slices);
      if (range.begin >= range.end) fill(sums, blocking.item_sums, 0.0f);
      for (int64_t index = range.begin; index < range.end; ++index) {
        const int64_t pixel = index * slice * kPairDepth, left = blocking.pixels - pixel;
        const int64_t count = left < slice * kPairDepth ? left : slice * kPairDepth;
        const int64_t chunks = ceil_div(count, kPairDepth);
        const int64_t row_tiles = round_up(part.rows, kPairBlock) / kPairRows;
        copy_pair_chunks(grad, {}, planar, true, pixel, count, 0, part.rows, row_tiles,
                         slice * kPairTile, rows, empty);
        for (int64_t k = 0; k < row_tiles * slice; ++k) {
          const int64_t rest = count - k % slice * kPairDepth;
          const int64_t pairs = ceil_div(rest < kPairDepth ? rest : kPairDepth, 2);
          lines[k] = {rows + k * kPairTile, kPairTileLine, pairs};
        }
        float* to = sums;
        for (int64_t block = part.block; block < part.block + part.blocks; ++block) {
          const int64_t c = block * kPairBlock, channels = p.depth - c;
          each_tap(p, 0, taps, [&](const TapOffset& offset) {
            const bool wide = channels > kPairRows;
            copy_pair_chunks(source, offset, planar, false, pixel, count, c, channels, wide ? 2 : 1,
                             slice * kPairTile, columns, empty);
            for (int64_t row = 0; row < part.rows; row += kPairBlock) {
              const int64_t n = part.rows - row < kPairBlock ? part.rows - row : kPairBlock;
              Unit::multiply({lines + row / kPairRows * slice, slice, n, columns, kPairTile,
                              slice * kPairTile, empty, wide, chunks, to + row * pitch, pitch,
                              index > range.begin});
            }
            to += kPairBlock;
          });
        }
      }
      if (splits == 1) store_weight_pairs(p, blocking, part, sums, 0, 1, offsets);
    }
    Unit::end();
  });
  if (splits == 1) return;
  parallel_for(items, 1, [&](int64_t begin, int64_t end) {
    Scratch table(sizeof(int64_t) * taps);
    tap_offsets(p, p.dest_strides, table.as<int64_t>());
    for (int64_t item = begin; item < end; ++item) {
      store_weight_pairs(p, blocking, WeightPairPart(p, blocking, item),
                         workspace.as<float>() + item * blocking.item_sums,
                         items * blocking.item_sums, splits, table.as<int64_t>());
    }
  });
}
