// Convolution with few source channels in a group (depthwise, multipliers, small groups, first
// layers): no GEMM, vectors along the width.
//
// An item is a band (band.h) of destination rows of one image, group and depth. The band is gathered
// once and then read from cache by every tap and destination channel. Per block, kChannels x kVectors
// accumulators stay in registers over all taps: one channel for depthwise, four where the group has
// them, so that a loaded vector serves four FMAs. The bound is one load per FMA for depthwise.

constexpr int kDirectChannels = 4;

/// Sums of kVectors registers of consecutive destinations for kChannels destination channels.
template <class A, int kChannels, int kVectors>
inline void direct_block(const ContractionShape& shape, const BandLayout& band, const A* rows,
                         int64_t band_rows, const int64_t* starts, const A* weight,
                         int64_t weight_row, A* to, int64_t pitch) {
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[kChannels][kVectors] = {};
  const Walk* walk = shape.walk;
  const int64_t taps_w = walk[2].tap_count;
  for (int64_t plane = 0; plane < shape.depth * walk[0].tap_count; ++plane) {
    for (int64_t th = 0; th < walk[1].tap_count; ++th) {
      const A* row = rows + (plane * band_rows + walk[1].taps[th].offset - band.low[0]) * band.row;
      for (int64_t tw = 0; tw < taps_w; ++tw) {
        Vec<A> x[kVectors];
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) x[j] = load(row + starts[tw] + j * lanes);
#pragma GCC unroll 4
        for (int i = 0; i < kChannels; ++i) {
          const Vec<A> w = broadcast(weight[i * weight_row + tw]);
#pragma GCC unroll 4
          for (int j = 0; j < kVectors; ++j) sum[i][j] += w * x[j];
        }
      }
      weight += taps_w;
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kChannels; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) store(to + i * pitch + j * lanes, sum[i][j]);
  }
}

template <class A, int kChannels>
inline void direct_blocks(const ContractionShape& shape, const BandLayout& band, const A* rows,
                          int64_t band_rows, const int64_t* starts, const A* weight,
                          int64_t weight_row, A* to, int64_t pitch) {
  constexpr int lanes = kLanes<A>;
  constexpr int most = kChannels > 1 && CNNOPS_VECTOR_BYTES < 64 ? 2 : kBandVectors;
  const int64_t width = shape.walk[2].count;
  for (int64_t w = 0; w < width;) {
    const int64_t left = vectors_for<A>(width - w);
    if (left >= most) {
      direct_block<A, kChannels, most>(shape, band, rows + w, band_rows, starts, weight, weight_row,
                                       to + w, pitch);
      w += most * lanes;
    } else if (left >= 2) {
      direct_block<A, kChannels, 2>(shape, band, rows + w, band_rows, starts, weight, weight_row,
                                    to + w, pitch);
      w += 2 * lanes;
    } else {
      direct_block<A, kChannels, 1>(shape, band, rows + w, band_rows, starts, weight, weight_row,
                                    to + w, pitch);
      w += lanes;
    }
  }
}

template <class T>
void direct_planar(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const Walk* walk = p.walk;
  const int64_t taps = p.taps(), inner = p.depth * taps;
  const BandLayout band = lay_out_band(p, kLanes<A>, sizeof(A));
  const int64_t bands = ceil_div(walk[1].count, band.max_rows);
  const int64_t most_rows = band.rows(walk[1], band.max_rows);
  const int64_t pitch = round_up(walk[2].count, kLanes<A>);

  Scratch tables(sizeof(int64_t) * (taps + walk[2].tap_count));
  int64_t* starts = tables.as<int64_t>();
  for (int64_t t = 0; t < walk[2].tap_count; ++t) starts[t] = band.start(walk[2], t);
  tap_offsets(p, p.weight_strides, starts + walk[2].tap_count);
  Scratch weights(sizeof(A) * p.groups * p.rows * inner);
  pack_weight_rows(p, starts + walk[2].tap_count, weights.as<A>());

  const int64_t items = p.batch * p.groups * walk[0].count * bands;
  const int64_t item_work = band.max_rows * walk[2].count * p.rows * inner;
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(sizeof(A) * (p.depth * walk[0].tap_count * most_rows * band.row +
                                kDirectChannels * pitch));
    A* sums = buffer.as<A>();
    A* rows = sums + kDirectChannels * pitch;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t first = item % bands * band.max_rows;
      const int64_t d = item / bands % walk[0].count;
      const int64_t group = item / bands / walk[0].count % p.groups;
      const int64_t image = item / bands / walk[0].count / p.groups;
      const int64_t left = walk[1].count - first;
      const int64_t count = left < band.max_rows ? left : band.max_rows;
      const int64_t band_rows = band.rows(walk[1], count);
      const T* source = p.source + image * p.source_strides.batch +
                        group * p.depth * p.source_strides.channel;
      gather_band(p, band, source, p.source_strides, d, first, count, rows);
      for (int64_t row = 0; row < p.rows;) {
        const bool several = p.rows - row >= kDirectChannels;
        const int64_t channel = group * p.rows + row;
        const A* weight = weights.as<A>() + channel * inner;
        for (int64_t h = 0; h < count; ++h) {
          const A* from = rows + h * walk[1].step * band.row;
          if (several) {
            direct_blocks<A, kDirectChannels>(p, band, from, band_rows, starts, weight, inner, sums, pitch);
          } else {
            direct_blocks<A, 1>(p, band, from, band_rows, starts, weight, inner, sums, pitch);
          }
          T* to = p.dest + image * p.dest_strides.batch + d * p.dest_strides.axis[0] +
                  (first + h) * p.dest_strides.axis[1];
          for (int64_t i = 0; i < (several ? kDirectChannels : 1); ++i) {
            const A bias = p.bias != nullptr ? widen(p.bias[channel + i]) : A(0);
            store_run(sums + i * pitch, bias, walk[2].count,
                      to + (channel + i) * p.dest_strides.channel, p.dest_strides.axis[2]);
          }
        }
        row += several ? kDirectChannels : 1;
      }
    }
  });
}
