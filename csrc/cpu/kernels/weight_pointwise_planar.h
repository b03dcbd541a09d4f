// Weight gradient of a 1x1 kernel over planes as they lie, vectors along the pixels of both sides:
// dest[m][c] = sum over images and pixels of grad[m][pixel] * source[c][pixel].
//
// A tile loads a register of pixels of a few channels of each side and keeps the sum of every pair,
// lane by lane: nothing is copied, transposed or broadcast, and 10 loads serve 24 FMAs (8 serve 12
// where there are 16 registers). Sums of all pairs of an item wait in L2 for the next chunk of
// pixels, [row][channel][lanes]; lanes are added up once, at the end, squares of pairs at a time,
// which long planes pay for. Of a chunk a few channels of the source stay in L1 while those of grad
// go by, and tiles bring the next few, a line or two with each register of pixels. Items are
// (group, block of rows, split); a split is a fixed share of the chunks, and the splits are added
// in order.

/// Channels of grad and of the source in a tile: as many sums as in the tile of tile.h.
constexpr int kDotRows = kTileVectors, kDotDepth = kTileRows;

/// Bytes of a plane in a chunk: so much of two tiles' channels of the source, and of the rows of
/// one tile, fits L1.
constexpr int64_t kDotBytes = 2048;
constexpr int64_t kDotTiles = 2;

/// Bytes of the sums of an item, which stay in L2 beside a chunk; and rows of an item, at most and,
/// for having more items, at least. Each item reads all of the source of its pixels, so that shares
/// of the pixels make better items where these are enough.
constexpr int64_t kDotSumBytes = 768 << 10;
constexpr int64_t kMostDotRows = 64, kLeastDotRows = 16, kLeastDotRowsOfShares = 32;

/// Pixels of a split at least: adding up the lanes of a pair takes about as long as 200 of them.
constexpr int64_t kMinDotPixels = 1536;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightPointwisePlanarBlocking {
  int64_t row_block, row_blocks;    // channels of grad
  int64_t chunk, chunks_of_image;   // pixels
  int64_t splits, chunks_of_split;  // chunks of all images
  int64_t set;                      // elements of the weight
  int64_t shared_bytes, sum_bytes;  // sums of splits; of each thread

  explicit WeightPointwisePlanarBlocking(const WeightContraction<T>& p) {
    constexpr int64_t lanes = kLanes<T>, lane_bytes = sizeof(T) * lanes;
    const int64_t pixels = p.walk[2].count;
    chunk = round_up(even_part(pixels, kDotBytes / int64_t(sizeof(T))), lanes);
    chunks_of_image = ceil_div(pixels, chunk);
    const int64_t chunks = p.batch * chunks_of_image;

    const int64_t fit = kDotSumBytes / (p.depth * lane_bytes);
    const int64_t shares = p.batch * pixels / kMinDotPixels;
    const int64_t least = shares > 1 ? kLeastDotRowsOfShares : kLeastDotRows;
    const int64_t wanted = p.groups * p.rows * (shares > 1 ? shares : 1) / kWantedItems;
    int64_t rows = wanted < least ? least : wanted;
    rows = rows < kMostDotRows ? rows : kMostDotRows;
    rows = rows < fit ? rows : fit < 1 ? 1 : fit;
    row_block = round_up(even_part(p.rows, rows), kDotRows);
    row_blocks = ceil_div(p.rows, row_block);

    set = p.groups * p.rows * p.depth;
    splits = choose_product_splits(p, p.groups * row_blocks, chunks, set * int64_t(sizeof(T)),
                                   kMinDotPixels);
    chunks_of_split = ceil_div(chunks, splits);
    shared_bytes = splits > 1 ? sizeof(T) * splits * set : 0;
    sum_bytes = lane_bytes * row_block * p.depth;
  }

  Footprint footprint() const { return {kDotRows, kDotDepth, shared_bytes, sum_bytes}; }
};

/// Channels that a tile brings, at most.
constexpr int kDotFetches = 2;

/// sums[i][j] += grad channel i * source channel j, lane by lane, over `count` pixels; sums of a
/// row of pairs are `pitch` elements apart. Brings as much of kDotFetches channels of `next`.
template <class T, int kRows, int kDepth>
void multiply_planes(const Rows<const T>& grad, const Rows<const T>& source, int64_t count, T* sums,
                     int64_t pitch, const Rows<const T>& next) {
  constexpr int lanes = kLanes<T>;
  Vec<T> sum[kRows][kDepth];
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 6
    for (int j = 0; j < kDepth; ++j) sum[i][j] = load(sums + i * pitch + j * lanes);
  }
  const auto add = [&](const auto& read) {
    Vec<T> g[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) g[i] = read(grad.at(i));
#pragma GCC unroll 6
    for (int j = 0; j < kDepth; ++j) {
      Vec<T> x = read(source.at(j));
      load_once<kRows, T>(x);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; ++i) sum[i][j] += g[i] * x;
    }
  };
  int64_t at = 0;
  for (; at + lanes <= count; at += lanes) {
#pragma GCC unroll 2
    for (int i = 0; i < kDotFetches; ++i) __builtin_prefetch(next.at(i) + at, 0, 2);
    add([at](const T* plane) { return load(plane + at); });
  }
  if (at < count) add([=](const T* plane) { return load_partial(plane + at, count - at); });
#pragma GCC unroll 4
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 6
    for (int j = 0; j < kDepth; ++j) store(sums + i * pitch + j * lanes, sum[i][j]);
  }
}

template <class T>
void weight_pointwise_planar(const WeightContraction<T>& p) {
  constexpr int lanes = kLanes<T>;
  const WeightPointwisePlanarBlocking<T> blocking(p);
  const int64_t splits = blocking.splits, row_blocks = blocking.row_blocks;
  const int64_t depth = p.depth, pitch = depth * lanes, pixels = p.walk[2].count;
  const int64_t block = kDotTiles * kDotDepth;
  Scratch workspace(blocking.shared_bytes);

  parallel_for(p.groups * row_blocks * splits, 1, [&](int64_t begin, int64_t end) {
    Scratch sum_buffer(blocking.sum_bytes);
    T* sums = sum_buffer.as<T>();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t split = item % splits, first = item / splits % row_blocks * blocking.row_block;
      const int64_t group = item / splits / row_blocks;
      const int64_t left = p.rows - first,
                    rows = left < blocking.row_block ? left : blocking.row_block;
      const T* grad = p.grad + (group * p.rows + first) * p.grad_strides.channel;
      const T* source = p.source + group * depth * p.source_strides.channel;
      fill(sums, rows * pitch, T(0));

      const int64_t chunks = p.batch * blocking.chunks_of_image;
      const int64_t last = (split + 1) * blocking.chunks_of_split;
      for (int64_t i = split * blocking.chunks_of_split; i < (last < chunks ? last : chunks); ++i) {
        const int64_t image = i / blocking.chunks_of_image;
        const int64_t pixel = i % blocking.chunks_of_image * blocking.chunk;
        const int64_t count = pixels - pixel < blocking.chunk ? pixels - pixel : blocking.chunk;
        const Rows<const T> of_grad{grad + image * p.grad_strides.batch + pixel,
                                    p.grad_strides.channel};
        const Rows<const T> of_source{source + image * p.source_strides.batch + pixel,
                                      p.source_strides.channel};
        for (int64_t c = 0; c < depth; c += block) {
          const int64_t until = c + block < depth ? c + block : depth;
          // While the first channels of the source are multiplied, the rows of grad that come next
          // are brought, and after that the next channels of the source.
          const T* next = until < depth ? of_source.at(until) : of_source.at(0) + count;
          const T* next_end = next + (until - c) * of_source.pitch;
          const int64_t tiles = ceil_div(rows, kDotRows) * ceil_div(until - c, kDotDepth);
          const int64_t of_tile = tiles < until - c ? kDotFetches : 1;
          int high;
          for (int64_t row = 0; row < rows; row += high) {
            high = tile_rows(rows - row, kDotRows);
            const T* next_rows = row + high < rows ? of_grad.at(row + high) : of_grad.at(0) + count;
            for (int64_t j = c; j < until; j += kDotDepth) {
              const int wide = int(until - j < kDotDepth ? until - j : kDotDepth);
              Rows<const T> coming{next, of_tile > 1 ? of_source.pitch : 0};
              if (c == 0) {
                coming = {next_rows + (j > 0 ? kDotFetches * of_grad.pitch : 0), of_grad.pitch};
              } else if (next < next_end) {
                next += of_tile * of_source.pitch;
              }
              with_tile_size(wide, high, [&](auto depth_here, auto rows_here) {
                multiply_planes<T, decltype(rows_here)::value, decltype(depth_here)::value>(
                    {of_grad.at(row), of_grad.pitch}, {of_source.at(j), of_source.pitch}, count,
                    sums + row * pitch + j * lanes, pitch, coming);
              });
            }
          }
        }
      }

      for (int64_t row = 0; row < rows; ++row) {
        const int64_t m = first + row;
        T* to = p.dest + group * p.dest_strides.group + m * p.dest_strides.row;
        int64_t step = p.dest_strides.depth;
        if (splits > 1) {
          to = workspace.as<T>() + split * blocking.set + (group * p.rows + m) * depth, step = 1;
        }
        add_up_lanes(sums + row * pitch, depth, to, step);
      }
    }
  });
  if (splits > 1) {
    int64_t offset;
    tap_offsets(p, p.dest_strides, &offset);
    add_splits(p, workspace.as<T>(), splits, &offset);
  }
}
