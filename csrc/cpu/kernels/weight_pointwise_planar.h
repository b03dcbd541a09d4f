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

/// An item: rows [first, first + rows) of grad of a group, for a share of the chunks.
struct DotItem {
  int64_t group, split;
  int64_t first, rows;
};

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

  /// Item `index` of groups * row_blocks * splits.
  DotItem item(const WeightContraction<T>& p, int64_t index) const {
    const int64_t first = index / splits % row_blocks * row_block, left = p.rows - first;
    return {index / splits / row_blocks, index % splits, first,
            left < row_block ? left : row_block};
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

/// What a thread makes items with.
template <class T>
class WeightPointwisePlanarThread {
  static constexpr int64_t lanes = kLanes<T>;

  /// Channels of both sides under a chunk of `count` pixels.
  struct Chunk {
    Rows<const T> grad, source;
    int64_t count;
  };

 public:
  WeightPointwisePlanarThread(const WeightContraction<T>& p,
                              const WeightPointwisePlanarBlocking<T>& blocking)
      : p_(p), blocking_(blocking), sums_(blocking.sum_bytes) {}

  /// Adds up an item, to the weight or, with splits, to `shared`.
  void make(const DotItem& item, T* shared) {
    fill(sums_.as<T>(), item.rows * pitch(), T(0));
    const SplitRange range(item.split, blocking_.chunks_of_split,
                           p_.batch * blocking_.chunks_of_image);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const Chunk chunk = chunk_of(item, i);
      for (int64_t c = 0; c < p_.depth; c += kDotTiles * kDotDepth) add_channels(item, chunk, c);
    }
    for (int64_t row = 0; row < item.rows; ++row) {
      const int64_t m = item.first + row;
      T* to = p_.dest + item.group * p_.dest_strides.group + m * p_.dest_strides.row;
      int64_t step = p_.dest_strides.depth;
      if (blocking_.splits > 1) {
        to = shared + item.split * blocking_.set + (item.group * p_.rows + m) * p_.depth, step = 1;
      }
      add_up_lanes(sums_.as<T>() + row * pitch(), p_.depth, to, step);
    }
  }

 private:
  /// Elements from the sums of one row to those of the next.
  int64_t pitch() const { return p_.depth * lanes; }

  Chunk chunk_of(const DotItem& item, int64_t index) const {
    const int64_t image = index / blocking_.chunks_of_image;
    const int64_t pixel = index % blocking_.chunks_of_image * blocking_.chunk;
    const int64_t left = p_.walk[2].count - pixel;
    const Strides &grad = p_.grad_strides, &source = p_.source_strides;
    return {
        {p_.grad + (item.group * p_.rows + item.first) * grad.channel + image * grad.batch + pixel,
         grad.channel},
        {p_.source + item.group * p_.depth * source.channel + image * source.batch + pixel,
         source.channel},
        left < blocking_.chunk ? left : blocking_.chunk};
  }

  /// Multiplies all rows of a chunk with a few channels of the source, from `first` on. While the
  /// first channels are multiplied, the rows of grad that come next are brought, and after that the
  /// next channels of the source.
  void add_channels(const DotItem& item, const Chunk& chunk, int64_t first) {
    const auto& [grad, source, count] = chunk;
    const int64_t last = first + kDotTiles * kDotDepth, until = last < p_.depth ? last : p_.depth;
    const T* next = until < p_.depth ? source.at(until) : source.at(0) + count;
    const T* next_end = next + (until - first) * source.pitch;
    const int64_t tiles = ceil_div(item.rows, kDotRows) * ceil_div(until - first, kDotDepth);
    const int64_t of_tile = tiles < until - first ? kDotFetches : 1;
    int high;
    for (int64_t row = 0; row < item.rows; row += high) {
      high = tile_rows(item.rows - row, kDotRows);
      const T* next_rows = row + high < item.rows ? grad.at(row + high) : grad.at(0) + count;
      for (int64_t c = first; c < until; c += kDotDepth) {
        const int wide = int(until - c < kDotDepth ? until - c : kDotDepth);
        Rows<const T> coming{next, of_tile > 1 ? source.pitch : 0};
        if (first == 0) {
          coming = {next_rows + (c > 0 ? kDotFetches * grad.pitch : 0), grad.pitch};
        } else if (next < next_end) {
          next += of_tile * source.pitch;
        }
        multiply_tile(chunk, row, high, c, wide, coming);
      }
    }
  }

  void multiply_tile(const Chunk& chunk, int64_t row, int high, int64_t channel, int wide,
                     const Rows<const T>& coming) {
    T* sums = sums_.as<T>() + row * pitch() + channel * lanes;
    with_tile_size(wide, high, [&](auto depth_here, auto rows_here) {
      multiply_planes<T, decltype(rows_here)::value, decltype(depth_here)::value>(
          {chunk.grad.at(row), chunk.grad.pitch}, {chunk.source.at(channel), chunk.source.pitch},
          chunk.count, sums, pitch(), coming);
    });
  }

  const WeightContraction<T>& p_;
  const WeightPointwisePlanarBlocking<T>& blocking_;
  Scratch sums_;
};

template <class T>
void weight_pointwise_planar(const WeightContraction<T>& p) {
  const WeightPointwisePlanarBlocking<T> blocking(p);
  Scratch shared(blocking.shared_bytes);
  const int64_t items = p.groups * blocking.row_blocks * blocking.splits;
  parallel_threads(items, 1, [&](ThreadItems& of_thread) {
    WeightPointwisePlanarThread<T> thread(p, blocking);
    of_thread.for_each([&](int64_t i, bool) { thread.make(blocking.item(p, i), shared.as<T>()); });
  });
  if (blocking.splits > 1) {
    int64_t offset;
    tap_offsets(p, p.dest_strides, &offset);
    add_splits(p, shared.as<T>(), blocking.splits, &offset);
  }
}
