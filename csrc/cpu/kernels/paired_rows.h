// Two destination rows at a time for direct kernels with one destination channel in a group,
// depthwise first of all.
//
// Such a kernel has one FMA for each vector of the source that it loads, and half of its loads,
// shifted by single elements, cross a cache line: loads are its limit and not FMAs. But most of
// what a row reads the next row reads as well, with another tap. So the taps of two neighbouring
// rows are merged: what only the first row reads, what both read, which is loaded once, and what
// only the second reads. A block has 8 accumulators, which hide the latency of an FMA: two rows of
// up to four registers, or more pairs of rows where rows are narrow.

/// Most pairs of rows of a block.
constexpr int kMaxRowPairs = 4;

/// What the rows of a pair read: offsets from where the first row starts in the band, those of the
/// first row only, then of both, then of the second only.
struct PairedTaps {
  const int64_t* offsets;
  int64_t first, both, second;

  /// Weights of a pair: those that both read are followed by the second row's.
  int64_t weights() const { return first + 2 * both + second; }
};

/// For each tap of the height the one by which the next destination row reads the same source row,
/// or -1.
inline void pair_taps(const Walk& height, int64_t* next) {
  for (int64_t t = 0; t < height.tap_count; ++t) {
    next[t] = -1;
    for (int64_t u = 0; u < height.tap_count; ++u) {
      if (height.taps[u].offset == height.taps[t].offset - height.step) next[t] = u;
    }
  }
}

/// Merges the taps of two rows. `offsets` are those of one row in the order (channel, depth tap,
/// height tap, width tap), `inner` many; the second row reads `distance` further on. Writes offsets
/// to `merged` and, for each weight of a pair, which of the `inner` it is to `order`; both have
/// space for 2 * inner.
inline PairedTaps merge_taps(const ContractionShape& shape, const int64_t* offsets, int64_t inner,
                             int64_t distance, const int64_t* next, int64_t* merged,
                             int64_t* order) {
  const int64_t taps_h = shape.walk[1].tap_count, taps_w = shape.walk[2].tap_count;
  PairedTaps paired{merged, 0, 0, 0};
  const auto height_tap = [&](int64_t k) { return k / taps_w % taps_h; };
  for (int64_t k = 0; k < inner; ++k) {
    if (next[height_tap(k)] >= 0) continue;
    *merged++ = offsets[k];
    *order++ = k;
    ++paired.first;
  }
  for (int64_t k = 0; k < inner; ++k) {
    const int64_t other = next[height_tap(k)];
    if (other < 0) continue;
    *merged++ = offsets[k];
    *order++ = k;
    *order++ = k + (other - height_tap(k)) * taps_w;
    ++paired.both;
  }
  for (int64_t k = 0; k < inner; ++k) {
    bool read_by_first = false;
    for (int64_t t = 0; t < taps_h; ++t) read_by_first |= next[t] == height_tap(k);
    if (read_by_first) continue;
    *merged++ = offsets[k] + distance;
    *order++ = k;
    ++paired.second;
  }
  return paired;
}

/// What the blocks of a group share.
template <class T>
struct PairedRows {
  using A = Accumulator<T>;
  PairedTaps taps;
  const A* weight;  // of the group, in the order of the merged taps
  A bias;
  int64_t source_row;  // elements from the source of one destination row to the next
  int64_t width;       // destinations of a row
  bool stores;         // destinations are neighbours: sums go there, not to scratch
  int64_t sums_row;    // elements from row to row of the sums,
  int64_t dest_row;    // and of the destination
};

/// sums += taps of rows kFirst to kLast (0 and 1) of each pair. Inlined, so that sums are
/// registers.
template <class A, int kPairs, int kVectors, int kFirst, int kLast>
[[gnu::always_inline]] inline void add_paired(const A* const (&rows)[kPairs],
                                              const int64_t* offsets, int64_t count,
                                              const A*& weight,
                                              Vec<A> (&sums)[2][kPairs][kVectors]) {
  constexpr int lanes = kLanes<A>;
  for (int64_t k = 0; k < count; ++k) {
#pragma GCC unroll 4
    for (int pair = 0; pair < kPairs; ++pair) {
      Vec<A> x[kVectors];
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) x[j] = load(rows[pair] + offsets[k] + j * lanes);
#pragma GCC unroll 2
      for (int r = kFirst; r <= kLast; ++r) {
        const Vec<A> value = broadcast(weight[r - kFirst]);
#pragma GCC unroll 4
        for (int j = 0; j < kVectors; ++j) sums[r][pair][j] += value * x[j];
      }
    }
    weight += kLast - kFirst + 1;
  }
}

/// kVectors registers, from `w` on, of 2 * kPairs rows. `rows` is where the first row starts in the
/// band, `sums` and `to` where its results go.
template <class T, int kPairs, int kVectors>
inline void paired_block(const PairedRows<T>& in, int64_t w, const Accumulator<T>* rows,
                         Accumulator<T>* sums, T* to) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  Vec<A> sum[2][kPairs][kVectors];
  const A* from[kPairs];
#pragma GCC unroll 4
  for (int pair = 0; pair < kPairs; ++pair) {
    from[pair] = rows + 2 * pair * in.source_row + w;
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sum[0][pair][j] = sum[1][pair][j] = broadcast(in.bias);
  }
  const int64_t* offsets = in.taps.offsets;
  const A* weight = in.weight;
  add_paired<A, kPairs, kVectors, 0, 0>(from, offsets, in.taps.first, weight, sum);
  offsets += in.taps.first;
  add_paired<A, kPairs, kVectors, 0, 1>(from, offsets, in.taps.both, weight, sum);
  offsets += in.taps.both;
  add_paired<A, kPairs, kVectors, 1, 1>(from, offsets, in.taps.second, weight, sum);
#pragma GCC unroll 4
  for (int pair = 0; pair < kPairs; ++pair) {
#pragma GCC unroll 2
    for (int r = 0; r < 2; ++r) {
      const int64_t row = 2 * pair + r;
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) {
        const int64_t at = w + j * lanes;
        if (!in.stores) {
          store(sums + row * in.sums_row + at, sum[r][pair][j]);
        } else if (at + lanes <= in.width) {
          store_narrow(to + row * in.dest_row + at, sum[r][pair][j]);
        } else {
          store_partial(to + row * in.dest_row + at, sum[r][pair][j], in.width - at);
        }
      }
    }
  }
}

/// 2 * kPairs destination rows.
template <class T, int kPairs>
inline void paired_group(const PairedRows<T>& in, const Accumulator<T>* rows, Accumulator<T>* sums,
                         T* to) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  int64_t left = vectors_for<Accumulator<T>>(in.width);
  if constexpr (kPairs == 4) return paired_block<T, 4, 1>(in, 0, rows, sums, to);
  if constexpr (kPairs == 2) {
    return left == 1 ? paired_block<T, 2, 1>(in, 0, rows, sums, to)
                     : paired_block<T, 2, 2>(in, 0, rows, sums, to);
  }
  // Blocks of about the same width: a last one of a single register would wait for its FMAs.
  for (int64_t w = 0; left > 0;) {
    const int64_t blocks = ceil_div(left, int64_t(kBandVectors));
    const int64_t vectors = ceil_div(left, blocks);
    switch (vectors) {
      case 1: paired_block<T, 1, 1>(in, w, rows, sums, to); break;
      case 2: paired_block<T, 1, 2>(in, w, rows, sums, to); break;
      case 3: paired_block<T, 1, 3>(in, w, rows, sums, to); break;
      default: paired_block<T, 1, 4>(in, w, rows, sums, to); break;
    }
    w += vectors * lanes;
    left -= vectors;
  }
}

/// `count` destination rows, at least two. The last block overlaps the one before it where rows
/// are left over: it computes the same again.
template <class T>
inline void paired_rows(const PairedRows<T>& in, int64_t count, const Accumulator<T>* rows,
                        Accumulator<T>* sums, T* to) {
  const int64_t vectors = vectors_for<Accumulator<T>>(in.width);
  int64_t pairs = vectors == 1 ? kMaxRowPairs : vectors == 2 ? 2 : 1;
  while (2 * pairs > count) pairs /= 2;
  for (int64_t h = 0; h < count; h += 2 * pairs) {
    const int64_t row = h + 2 * pairs <= count ? h : count - 2 * pairs;
    const Accumulator<T>* from = rows + row * in.source_row;
    Accumulator<T>* sums_of = sums + row * in.sums_row;
    T* dest = to + row * in.dest_row;
    switch (pairs) {
      case 1: paired_group<T, 1>(in, from, sums_of, dest); break;
      case 2: paired_group<T, 2>(in, from, sums_of, dest); break;
      default: paired_group<T, 4>(in, from, sums_of, dest); break;
    }
  }
}
