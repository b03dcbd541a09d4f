// Convolution with few channels in a group on one side or both (depthwise, multipliers, small
// groups, first layers and their input gradients): no GEMM, vectors along the width.
//
// An item is a band (band.h) of destination rows of one image, group and depth. The band is
// gathered once and then read from cache by every tap and destination channel. Per block, kChannels
// x kVectors accumulators stay in registers over all taps: one channel for depthwise, up to four
// where the group has them, so that a loaded vector serves four FMAs, and up to eight for rows of a
// single register, which would not hide the FMA latency otherwise. Where the source channels of a
// group do not fit a band they come in turns, and the sums of a block of destination channels wait
// in scratch.

constexpr int64_t kDirectChannels = 4;
constexpr int64_t kDirectChannelsOfNarrowRows = 8;

/// What all blocks of a band share.
template <class A>
struct DirectBand {
  const ContractionShape& shape;
  const BandLayout& layout;
  const int64_t* starts;  // for each tap of the width: where it starts in a row
  int64_t channels;       // source channels in the band
  int64_t rows;           // source rows in the band
  int64_t weight_row;     // elements between the weights of neighbouring destination channels
};

/// Sums of kVectors registers of consecutive destinations for kChannels destination channels.
template <class A, int kChannels, int kVectors>
inline void direct_block(const DirectBand<A>& band, const A* rows, const A* weight, A* sums,
                         int64_t pitch, bool accumulate) {
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kChannels][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kChannels; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      sum[i][j] = accumulate ? load(sums + i * pitch + j * lanes) : Vec<A>{};
    }
  }
  const Walk* walk = band.shape.walk;
  const int64_t taps_w = walk[2].tap_count;
  for (int64_t plane = 0; plane < band.channels * walk[0].tap_count; ++plane) {
    for (int64_t th = 0; th < walk[1].tap_count; ++th, weight += taps_w) {
      const int64_t line = plane * band.rows + walk[1].taps[th].offset - band.layout.low[0];
      const A* row = rows + line * band.layout.row;
      for (int64_t tw = 0; tw < taps_w; ++tw) {
        Vec<A> x[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) x[j] = load(row + band.starts[tw] + j * lanes);
#pragma GCC unroll 8
        for (int i = 0; i < kChannels; ++i) {
          const Vec<A> w = broadcast(weight[i * band.weight_row + tw]);
#pragma GCC unroll 4
          for (int j = 0; j < kVectors; ++j) sum[i][j] += w * x[j];
        }
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kChannels; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(sums + i * pitch + j * lanes, sum[i][j]);
  }
}

/// One destination row of kChannels destination channels.
template <class A, int kChannels>
inline void direct_row(const DirectBand<A>& band, const A* rows, const A* weight, A* sums,
                       int64_t pitch, bool accumulate) {
  constexpr int lanes = kLanes<A>;
  constexpr int most = kChannels > 1 && CNNOPS_VECTOR_BYTES < 64 ? 2 : kBandVectors;
  const int64_t width = band.shape.walk[2].count;
  for (int64_t w = 0; w < width;) {
    const int64_t left = vectors_for<A>(width - w);
    if (left >= most) {
      direct_block<A, kChannels, most>(band, rows + w, weight, sums + w, pitch, accumulate);
      w += most * lanes;
    } else if (left >= 2) {
      direct_block<A, kChannels, 2>(band, rows + w, weight, sums + w, pitch, accumulate);
      w += 2 * lanes;
    } else {
      direct_block<A, kChannels, 1>(band, rows + w, weight, sums + w, pitch, accumulate);
      w += lanes;
    }
  }
}

/// One destination row of 1 to kDirectChannels destination channels, or of up to
/// kDirectChannelsOfNarrowRows where the row fits a register.
template <class A>
inline void direct_channels(const DirectBand<A>& band, const A* rows, const A* weight, A* sums,
                            int64_t pitch, bool accumulate, int64_t channels) {
  switch (channels) {
    case 1: return direct_row<A, 1>(band, rows, weight, sums, pitch, accumulate);
    case 2: return direct_row<A, 2>(band, rows, weight, sums, pitch, accumulate);
    case 3: return direct_row<A, 3>(band, rows, weight, sums, pitch, accumulate);
    case 4: return direct_row<A, 4>(band, rows, weight, sums, pitch, accumulate);
    case 5: return direct_block<A, 5, 1>(band, rows, weight, sums, pitch, accumulate);
    case 6: return direct_block<A, 6, 1>(band, rows, weight, sums, pitch, accumulate);
    case 7: return direct_block<A, 7, 1>(band, rows, weight, sums, pitch, accumulate);
    default: return direct_block<A, 8, 1>(band, rows, weight, sums, pitch, accumulate);
  }
}

template <class T>
void direct_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const Walk* walk = p.walk;
  const int64_t taps = p.taps(), inner = p.depth * taps;
  const BandLayout layout = lay_out_band<A>(p, p.source_strides.axis[2]);
  const int64_t bands = ceil_div(walk[1].count, layout.max_rows);
  const int64_t width = round_up(walk[2].count, kLanes<A>);
  const int64_t most = width == kLanes<A> ? kDirectChannelsOfNarrowRows : kDirectChannels;

  Scratch tables(sizeof(int64_t) * (taps + walk[2].tap_count));
  int64_t* starts = tables.as<int64_t>();
  for (int64_t t = 0; t < walk[2].tap_count; ++t) starts[t] = layout.start(walk[2], t);
  tap_offsets(p, p.weight_strides, starts + walk[2].tap_count);
  Scratch weights(sizeof(A) * p.groups * p.rows * inner);
  pack_weight_rows(p, starts + walk[2].tap_count, weights.as<A>());

  const int64_t items = p.batch * p.groups * walk[0].count * bands;
  const int64_t item_work = layout.max_rows * walk[2].count * p.rows * inner;
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    const int64_t pitch = layout.max_rows * width;  // elements of sums of one destination channel
    Scratch buffer(sizeof(A) * (layout.size(p) + most * pitch));
    A* sums = buffer.as<A>();
    A* rows = sums + most * pitch;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t group = item % p.groups, rest = item / p.groups;
      const int64_t first = rest % bands * layout.max_rows;
      const int64_t d = rest / bands % walk[0].count;
      const int64_t image = rest / bands / walk[0].count;
      const int64_t left = walk[1].count - first;
      const int64_t count = left < layout.max_rows ? left : layout.max_rows;
      const T* source =
          p.source + image * p.source_strides.batch + group * p.depth * p.source_strides.channel;
      for (int64_t row = 0; row < p.rows; row += most) {
        const int64_t channels = p.rows - row < most ? p.rows - row : most;
        const int64_t channel = group * p.rows + row;
        for (int64_t c = 0; c < p.depth; c += layout.depth) {
          const int64_t some = p.depth - c < layout.depth ? p.depth - c : layout.depth;
          const DirectBand<A> band{p, layout, starts, some, layout.rows(walk[1], count), inner};
          if (row == 0 || layout.depth < p.depth) {
            gather_band(p, layout, source + c * p.source_strides.channel, p.source_strides, some, d,
                        first, count, rows);
          }
          const A* weight = weights.as<A>() + channel * inner + c * taps;
          for (int64_t h = 0; h < count; ++h) {
            direct_channels(band, rows + h * walk[1].step * layout.row, weight, sums + h * width,
                            pitch, c > 0, channels);
          }
        }
        T* to = p.dest + image * p.dest_strides.batch + d * p.dest_strides.axis[0] +
                first * p.dest_strides.axis[1];
        for (int64_t i = 0; i < channels; ++i) {
          const A bias = p.bias != nullptr ? widen(p.bias[channel + i]) : A(0);
          for (int64_t h = 0; h < count; ++h) {
            store_run(sums + i * pitch + h * width, bias, walk[2].count,
                      to + (channel + i) * p.dest_strides.channel + h * p.dest_strides.axis[1],
                      p.dest_strides.axis[2]);
          }
        }
      }
    }
  });
}
