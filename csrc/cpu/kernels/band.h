// Bands: the source rows that some destination rows need, gathered into scratch for the direct
// kernels. Elements are accumulators, padding is resolved, and the `step` phases of the width lie
// apart, so that what one tap reads for consecutive destinations is consecutive. Behind this every
// tap is a shifted vector load and there are no borders.

/// A band fits this much where it can: half of a small L2, and close to L1.
constexpr int64_t kBandBytes = 96 << 10;

/// Most registers of consecutive destinations that a direct kernel handles at a time.
constexpr int kBandVectors = 4;

/// Where things lie in a band: [source channel][depth tap] planes of [row][phase][position].
struct BandLayout {
  int64_t low[2];    // smallest tap offset of height and width
  int64_t span[2];   // largest minus smallest
  int64_t phase;     // elements of one phase of a row
  int64_t row;       // elements of a row
  int64_t depth;     // source channels of a band
  int64_t max_rows;  // destination rows of a band
  int64_t plane;     // elements of a plane: the source rows under max_rows destination rows

  // Each phase as a walk of its own, and its positions inside the source.
  Walk phases[kMaxDirectStep];
  Inside inside[kMaxDirectStep];

  /// Source rows under `count` destination rows.
  int64_t rows(const Walk& height, int64_t count) const {
    return (count - 1) * height.step + span[0] + 1;
  }
  /// Where a tap of the width starts in a row.
  int64_t start(const Walk& width, int64_t tap) const {
    const int64_t offset = width.taps[tap].offset - low[1];
    return offset % width.step * phase + offset / width.step;
  }
  /// Where a tap of height and width starts in a plane, from the first source row of the
  /// destination.
  int64_t start(const Walk& height, int64_t th, const Walk& width, int64_t tw) const {
    return (height.taps[th].offset - low[0]) * row + start(width, tw);
  }
  /// Elements of a band.
  int64_t size(const ContractionShape& shape) const {
    return depth * shape.walk[0].tap_count * plane;
  }
};

/// Destination rows of a band when the elements of a row are far apart (channels_last):
/// neighbouring groups use the same cache lines, so that they should come back to them soon.
constexpr int64_t kStridedRows = 8;

/// The layout of bands of accumulators A. Bands that would be too large with every source channel
/// hold only some. `stride` is the distance of elements of a source row.
template <class A>
BandLayout lay_out_band(const ContractionShape& shape, int64_t stride) {
  constexpr int lanes = kLanes<A>;
  BandLayout band;
  for (int axis = 0; axis < 2; ++axis) {
    band.low[axis] = shape.walk[1 + axis].low();
    band.span[axis] = shape.walk[1 + axis].high() - band.low[axis];
  }
  const Walk &height = shape.walk[1], &width = shape.walk[2];
  // Kernels read whole registers of destinations.
  band.phase = round_up(round_up(width.count, lanes) + band.span[1] / width.step + 1, lanes);
  band.row = band.phase * width.step;

  // As many channels as leave room for two destination rows, then as many rows as fit.
  const int64_t channel_row = band.row * int64_t(sizeof(A)) * shape.walk[0].tap_count;
  const int64_t channels = kBandBytes / (channel_row * band.rows(height, 2));
  band.depth = channels < 1 ? 1 : channels < shape.depth ? channels : shape.depth;
  const int64_t rows = kBandBytes / (channel_row * band.depth);
  band.max_rows = rows <= band.span[0] ? 1 : (rows - band.span[0] - 1) / height.step + 1;
  if (stride > 1 && band.max_rows > kStridedRows) band.max_rows = kStridedRows;
  band.max_rows = even_part(height.count, band.max_rows);

  band.plane = band.rows(height, band.max_rows) * band.row;

  const int64_t positions = (width.count - 1) * width.step + band.span[1] + 1;
  for (int64_t phase = 0; phase < width.step; ++phase) {
    Walk& walk = band.phases[phase];
    walk = width;
    walk.count = phase < positions ? (positions - 1 - phase) / width.step + 1 : 0;
    const int64_t offset = band.low[1] + phase;
    band.inside[phase] = {walk.inside_begin(offset), walk.inside_end(offset)};
  }
  return band;
}

#if defined(CNNOPS_TARGET_AVX512)
/// Both phases of a row of a band, from a source row of neighbours with zeros for padding.
template <class A>
void gather_phase_pair(const BandLayout& band, const A* row, A* to) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t size = band.phases[0].size;
  const auto read = [&](int64_t x) {
    if (x >= 0 && x + lanes <= size) return load(row + x);
    const int64_t first = x < 0 ? -x : 0, end = size - x;
    if (first >= lanes || end <= 0) return Vec<A>{};
    const uint32_t until = end < lanes ? (1u << end) - 1 : (1u << lanes) - 1;
    return load_masked(row + x, until & -(1u << first));
  };
  int64_t x = band.low[1];
  for (int64_t i = 0; i < band.phase; i += lanes, x += 2 * lanes) {
    Vec<A> even, odd;
    deinterleave<A>(read(x), read(x + lanes), &even, &odd);
    store(to + i, even);
    store(to + band.phase + i, odd);
  }
}
#endif

/// One row of a band from a source row of elements `stride` apart; null reads as zeros.
template <class T>
void gather_band_row(const BandLayout& band, const T* row, int64_t stride, Accumulator<T>* to) {
  if (row == nullptr) return fill(to, band.row, Accumulator<T>(0));
#if defined(CNNOPS_TARGET_AVX512)
  if constexpr (__is_same(T, Accumulator<T>)) {
    const Walk& walk = band.phases[0];
    if (walk.step == 2 && stride == 1 && walk.mode == PaddingMode::zeros) {
      return gather_phase_pair(band, row, to);
    }
  }
#endif
  for (int64_t phase = 0; phase < band.phases[0].step; ++phase, to += band.phase) {
    const Walk& walk = band.phases[phase];
    const Inside inside = band.inside[phase];
    if (walk.mode == PaddingMode::zeros && inside.begin < inside.end) {
      // Zeros as whole registers, and the run over them.
      fill(to, band.phase, Accumulator<T>(0));
      const int64_t first = inside.begin * walk.step + band.low[1] + phase;
      const int64_t next = inside.end - inside.begin > 1 ? walk.step * stride : 1;
      copy_strided(row + first * stride, next, inside.end - inside.begin, to + inside.begin);
      continue;
    }
    gather_run(walk, band.inside[phase], band.low[1] + phase, 0, walk.count, row, stride, to);
    fill(to + walk.count, band.phase - walk.count, Accumulator<T>(0));
  }
}

/// The band of `channels` source channels under destination rows [first, first + count) at depth
/// `d`; `source` is the first of the channels in the image.
template <class T>
void gather_band(const ContractionShape& shape, const BandLayout& band, const T* source,
                 const Strides& strides, int64_t channels, int64_t d, int64_t first, int64_t count,
                 Accumulator<T>* to) {
  const Walk* walk = shape.walk;
  const int64_t rows = band.rows(walk[1], count);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t td = 0; td < walk[0].tap_count; ++td, to += band.plane) {
      const int64_t z = walk[0].resolve(d * walk[0].step + walk[0].taps[td].offset);
      const T* plane = source + c * strides.channel + z * strides.axis[0];
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t y = walk[1].resolve(first * walk[1].step + band.low[0] + r);
        const T* row = z < 0 || y < 0 ? nullptr : plane + y * strides.axis[1];
        gather_band_row(band, row, strides.axis[2], to + r * band.row);
      }
    }
  }
}
