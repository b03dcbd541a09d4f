// The gradient for the input from products with all taps: what its two kernels share.
//
// A source pixel is multiplied with every tap at once, as if the kernel were 1x1 and had a row for
// each (destination channel, tap), and the products of one destination are then added up: the taps
// are folded. Nothing is gathered, no product is wasted on the zeros between strided positions, and
// however few the destination channels are, their taps fill a tile. Products live in a block of
// source pixels that stays in L2 until it is folded. Along the depth nothing waits: destinations of
// one depth add their depth taps up within the matrix product, as more source channels.
//
// A block is a band of destination rows, or part of them where rows are long, and the source pixels
// that reach it. Bands that neighbour share some of these: both multiply them, so that blocks are
// as large as L2 allows.

/// Products of a block: they share an L2 cache of 1 MiB or more with the operands.
constexpr int64_t kFoldBytes = 768 << 10;

/// Smaller blocks, though not below this, are for having kWantedItems of them. Nor below so many
/// times the source rows that neighbouring blocks both multiply.
constexpr int64_t kMinFoldBytes = 128 << 10;
constexpr int64_t kSharedRowsPay = 4;

/// Long rows are cut where fewer source rows than so many times those that bands share would fit,
/// though not below kMinFoldWidth pixels.
constexpr int64_t kMinFoldRows = 8;
constexpr int64_t kMinFoldWidth = 256;

/// Images whose planes are smaller than so many pixels share a block.
constexpr int64_t kMinFoldPixels = 256;

/// Destinations [begin, end) of an axis, and the sources [low, high) that reach them.
struct FoldRange {
  int64_t begin, end;
  int64_t low, high;
  int64_t count() const { return end - begin; }
  int64_t sources() const { return high - low; }
};

/// Sources beyond those of a stride that reach it: what neighbouring ranges share, at most.
inline int64_t shared_sources(const ConvAxis& axis) {
  const int64_t reach = (axis.kernel - 1) * axis.dilation;
  return ceil_div(reach, axis.stride);
}

inline FoldRange fold_range(const ConvAxis& axis, int64_t begin, int64_t end) {
  const int64_t first = begin + axis.pad_begin - (axis.kernel - 1) * axis.dilation;
  const int64_t last = end - 1 + axis.pad_begin;
  int64_t low = first <= 0 ? 0 : ceil_div(first, axis.stride);
  int64_t high = last < 0 ? 0 : last / axis.stride + 1;
  if (high > axis.output) high = axis.output;
  if (low > high) low = high;
  return {begin, end, low, high};
}

/// An axis cut into ranges of `step` destinations, a multiple of the stride.
struct FoldCut {
  const ConvAxis* axis;
  int64_t step, count;
  int64_t sources;  // of a range, at most

  /// Cuts into equal ranges of up to `wanted` strides.
  FoldCut(const ConvAxis& of, int64_t wanted) : axis(&of) {
    const int64_t strides = ceil_div(of.input, of.stride);
    const int64_t parts = ceil_div(strides, wanted < 1 ? 1 : wanted);
    step = ceil_div(strides, parts) * of.stride;
    count = ceil_div(of.input, step);
    const int64_t most = step / of.stride + shared_sources(of);
    sources = count == 1 || most > of.output ? of.output : most;
  }
  FoldRange range(int64_t part) const {
    const int64_t begin = part * step;
    return fold_range(*axis, begin, begin + step < axis->input ? begin + step : axis->input);
  }
};

/// The blocks of an InputGradient. An item is a block and one of `channel_blocks`, and a source
/// pixel has `bytes` of products in it.
struct FoldBlocks {
  int64_t most;  // bytes of a block that is not a single row
  FoldCut width, height;
  int64_t images, image_blocks;

  FoldBlocks(const Channels& channels, const ConvAxis* axis, int64_t channel_blocks, int64_t bytes)
      : most(most_bytes(channels, axis, channel_blocks, bytes)),
        width(axis[2], columns_of(axis, bytes)),
        height(axis[1], most / (bytes * width.sources) - shared_sources(axis[1])) {
    const int64_t plane = height.sources * width.sources;
    const int64_t fits = most / (bytes * plane), wanted = kMinFoldPixels / plane;
    images = fits < wanted ? fits : wanted;
    if (images > channels.batch) images = channels.batch;
    if (images < 1 || height.count * width.count > 1) images = 1;
    image_blocks = ceil_div(channels.batch, images);
  }

  int64_t pixels() const { return images * height.sources * width.sources; }
  /// Of one destination depth and group.
  int64_t count() const { return image_blocks * height.count * width.count; }

 private:
  static int64_t most_bytes(const Channels& channels, const ConvAxis* axis, int64_t channel_blocks,
                            int64_t bytes) {
    const int64_t planes = channels.batch * channels.groups * channel_blocks * axis[0].input;
    const int64_t row = axis[2].output * bytes;
    const int64_t wanted = planes * axis[1].output * row / kWantedItems;
    const int64_t worth = row * kSharedRowsPay * shared_sources(axis[1]);
    const int64_t least = worth > kMinFoldBytes ? worth : kMinFoldBytes;
    const int64_t bytes_of_block = wanted > least ? wanted : least;
    return bytes_of_block < kFoldBytes ? bytes_of_block : kFoldBytes;
  }

  /// Strides of the width that a block covers.
  int64_t columns_of(const ConvAxis* axis, int64_t bytes) const {
    const int64_t few = kMinFoldRows * (1 + shared_sources(axis[1]));
    const int64_t rows = axis[1].output < few ? axis[1].output : few;
    int64_t columns = ceil_div(axis[2].input, axis[2].stride);
    while (columns > kMinFoldWidth && rows * columns * bytes > most) columns = ceil_div(columns, 2);
    return columns;
  }
};

/// A block: images [image, image + images) of a group, and what it covers of their planes.
struct FoldBlock {
  int64_t group, depth;  // depth: of the destinations
  int64_t image, images;
  FoldRange height, width;

  FoldBlock(const Channels& channels, const ConvAxis* axis, const FoldBlocks& blocks,
            int64_t number)
      : height(blocks.height.range(number / blocks.width.count % blocks.height.count)),
        width(blocks.width.range(number % blocks.width.count)) {
    number /= blocks.width.count * blocks.height.count;
    depth = number % axis[0].input, number /= axis[0].input;
    image = number % blocks.image_blocks * blocks.images;
    group = number / blocks.image_blocks;
    const int64_t left = channels.batch - image;
    images = left < blocks.images ? left : blocks.images;
  }
  int64_t plane() const { return height.sources() * width.sources(); }
  int64_t pixels() const { return images * plane(); }
};

/// Destination channels of block `number` of up to `block` of them.
inline int64_t channels_of_block(const Channels& p, int64_t block, int64_t number) {
  const int64_t left = p.rows - number * block;
  return left < block ? left : block;
}

/// Calls f(tap, source) for the taps of an axis that reach destination `i`.
template <class F>
inline void for_each_reaching(const ConvAxis& axis, int64_t i, const F& f) {
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t from = i + axis.pad_begin - k * axis.dilation;
    if (from < 0) return;
    if (from % axis.stride == 0 && from / axis.stride < axis.output) f(k, from / axis.stride);
  }
}

/// Whether any tap of an axis reaches destination `i`.
inline bool is_reached(const ConvAxis& axis, int64_t i) {
  bool reached = false;
  for_each_reaching(axis, i, [&](int64_t, int64_t) { reached = true; });
  return reached;
}

/// A tap of the width as a phase of the destinations sees it: position j reads the product of
/// source j + offset, for j in [begin, end).
struct WidthTap {
  int64_t kernel, offset;
  int64_t begin, end;
};

/// The taps of the width by phases of the destinations of a range, those of phase i at
/// [first[i], first[i + 1]).
inline void list_width_taps(const ConvAxis& axis, const FoldRange& range, WidthTap* to,
                            int64_t* first) {
  int64_t found = 0;
  for (int64_t phase = 0; phase < axis.stride; ++phase) {
    first[phase] = found;
    const int64_t count = ceil_div(range.count() - phase, axis.stride);
    for (int64_t k = 0; k < axis.kernel; ++k) {
      const int64_t from = range.begin + phase + axis.pad_begin - k * axis.dilation;
      if (count <= 0 || from % axis.stride != 0) continue;
      const int64_t offset = from / axis.stride - range.low, last = range.sources() - offset;
      const int64_t begin = offset < 0 ? -offset : 0, end = last < count ? last : count;
      if (begin < end) to[found++] = {k, offset, begin, end};
    }
  }
  first[axis.stride] = found;
}

/// An item: a block of pixels, and a block of destination channels.
struct FoldItem {
  int64_t of_pixels;  // the number of the block of pixels
  FoldBlock block;
  int64_t channel_block;  // counted over groups
  int64_t first_channel;  // likewise, in the block
  int64_t channels;

  FoldItem(const Channels& p, const ConvAxis* axis, const FoldBlocks& blocks, int64_t channel_step,
           int64_t index)
      : FoldItem(p, axis, blocks, channel_step, ceil_div(p.rows, channel_step), index) {}

 private:
  FoldItem(const Channels& p, const ConvAxis* axis, const FoldBlocks& blocks, int64_t channel_step,
           int64_t channel_blocks, int64_t index)
      : of_pixels(index / channel_blocks), block(p, axis, blocks, of_pixels) {
    const int64_t number = index % channel_blocks;
    channel_block = block.group * channel_blocks + number;
    first_channel = block.group * p.rows + number * channel_step;
    channels = channels_of_block(p, channel_step, number);
  }
};
