// Weight gradient in groups of equally many (1, 2, 4 or 8) source and destination channels, vectors
// along channels; lanes and shuffles as in grouped_channels_last.
//
// An item is a few registers of channels and a fixed share of the bands of destination rows, which
// it walks over band by band, so that what the rows of a kernel share is still in cache. Pixels
// whose taps all read inside the source run without checks. Depthwise, some kernel rows of up to
// eight taps keep their sums in registers together, 7 to 14 of them: a loaded pixel of grad serves
// all, and enough FMAs are under way. In other groups up to three taps do, with a sum for each
// source channel. Sums are closed for every band, so that long reductions lose no more than short
// ones; shares are added in order.

/// Destination rows of a band: what the kernel rows of a register of channels read is mostly in L1,
/// and what is fetched along with it, of the next register, still in L2.
constexpr int64_t kCorrelatedRows = 8;

/// Registers of channels of an item: neighbours of so many lines are fetched one after another, and
/// their sums stay in L1.
constexpr int64_t kCorrelatedPieces = 8;
constexpr int64_t kCorrelatedSums = 4 << 10;

/// Taps of a kernel row whose sums are kept in registers together, by the channels of a group.
constexpr int grouped_taps(int64_t group) { return group == 1 ? kTapsAtOnce : group <= 4 ? 3 : 1; }

/// And kernel rows, of so many taps each.
constexpr int grouped_lines(int64_t group, int taps) {
  return group > 1 || taps == 8 ? 1 : taps >= 5 ? 2 : taps >= 3 ? 3 : 4;
}
constexpr int kMostLines = 4;

/// A kernel row that reads inside the source: where, and the sums of its taps.
template <class T>
struct CorrelatedLine {
  const T* source;
  Accumulator<T>* sums;
};

/// sum[c] += grad * source channel c of the group, for channels kChannel and on.
template <class A, int kGroup, int kChannel>
inline void correlate_channels(Vec<A> grad, Vec<A> x, Vec<A> (&sum)[kGroup]) {
  sum[kChannel] += grad * spread<A, kGroup, kChannel>(x);
  if constexpr (kChannel + 1 < kGroup) correlate_channels<A, kGroup, kChannel + 1>(grad, x, sum);
}

/// A destination row of some channels: what all its lines share.
template <class T>
struct CorrelatedRow {
  const Walk& walk;  // of the width
  const T* grad;
  int64_t grad_pixel, source_pixel;
  int64_t count;  // channels, where they are no whole register
};

/// Adds grad * source over the pixels of a row to the sums of the taps [tap, tap + kTaps) of kLines
/// kernel rows, [tap][source channel][lanes].
template <class T, int kGroup, bool kPartial, int kLines, int kTaps>
inline void correlate_pixels(const CorrelatedRow<T>& row, int64_t tap,
                             const CorrelatedLine<T>* lines) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const Walk& walk = row.walk;
  const auto read = [&row](const T* from) {
    return kPartial ? load_partial(from, row.count) : load_wide(from);
  };
  Vec<A> sum[kLines][kTaps][kGroup];
  const T* source[kLines];
#pragma GCC unroll 8
  for (int l = 0; l < kLines; ++l) {
    source[l] = lines[l].source;
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
      for (int c = 0; c < kGroup; ++c) {
        sum[l][t][c] = load(lines[l].sums + ((tap + t) * kGroup + c) * lanes);
      }
    }
  }
  int64_t offset[kTaps], begin = 0, end = walk.count;
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
    offset[t] = walk.taps[tap + t].offset;
    const int64_t from = walk.inside_begin(offset[t]), until = walk.inside_end(offset[t]);
    begin = from > begin ? from : begin;
    end = until < end ? until : end;
  }
  if (end < begin) end = begin;
  for (int64_t w = begin; w < end; ++w) {
    const Vec<A> g = read(row.grad + w * row.grad_pixel);
    const int64_t first = w * walk.step;
#pragma GCC unroll 8
    for (int l = 0; l < kLines; ++l) {
      const T* from = source[l] + first * row.source_pixel;
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        correlate_channels<A, kGroup, 0>(g, read(from + offset[t] * row.source_pixel), sum[l][t]);
      }
    }
  }
  // The borders, left and right: one loop for both, as they are rare and two take long to compile.
  for (int64_t w = begin > 0 ? 0 : end; w < walk.count; w = w + 1 == begin ? end : w + 1) {
    const Vec<A> g = read(row.grad + w * row.grad_pixel);
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
      const int64_t x = walk.resolve(w * walk.step + offset[t]);
      if (x < 0) continue;
#pragma GCC unroll 8
      for (int l = 0; l < kLines; ++l) {
        correlate_channels<A, kGroup, 0>(g, read(source[l] + x * row.source_pixel), sum[l][t]);
      }
    }
  }
#pragma GCC unroll 8
  for (int l = 0; l < kLines; ++l) {
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) {
#pragma GCC unroll 8
      for (int c = 0; c < kGroup; ++c) {
        store(lines[l].sums + ((tap + t) * kGroup + c) * lanes, sum[l][t][c]);
      }
    }
  }
}

/// The same for `count` kernel rows.
template <class T, int kGroup, bool kPartial, int kTaps>
inline void correlate_lines(const CorrelatedRow<T>& row, int64_t tap,
                            const CorrelatedLine<T>* lines, int64_t count) {
  constexpr int together = grouped_lines(kGroup, kTaps);
  int64_t i = 0;
  for (; together > 1 && i + together <= count; i += together) {
    correlate_pixels<T, kGroup, kPartial, together, kTaps>(row, tap, lines + i);
  }
  for (; i < count; ++i) correlate_pixels<T, kGroup, kPartial, 1, kTaps>(row, tap, lines + i);
}

/// The same for all taps of the width: parts of about as many.
template <class T, int kGroup, bool kPartial>
inline void correlate_taps_of_lines(const CorrelatedRow<T>& row, const CorrelatedLine<T>* lines,
                                    int64_t count) {
  constexpr int most = grouped_taps(kGroup);
  const int64_t taps = row.walk.tap_count, part = even_part(taps, most);
  const auto add = [&]<int kTaps>(int64_t tap) {
    if constexpr (kTaps <= most) {
      correlate_lines<T, kGroup, kPartial, kTaps>(row, tap, lines, count);
    }
  };
  for (int64_t tap = 0; tap < taps; tap += part) {
    switch (taps - tap < part ? taps - tap : part) {
      case 1: add.template operator()<1>(tap); break;
      case 2: add.template operator()<2>(tap); break;
      case 3: add.template operator()<3>(tap); break;
      case 4: add.template operator()<4>(tap); break;
      case 5: add.template operator()<5>(tap); break;
      case 6: add.template operator()<6>(tap); break;
      case 7: add.template operator()<7>(tap); break;
      default: add.template operator()<8>(tap); break;
    }
  }
}

/// How a call is cut, and the scratch that it takes.
template <class T>
struct WeightGroupedChannelsLastBlocking {
  using A = Accumulator<T>;
  int64_t rows, bands;               // destination rows of a band, bands of an image
  int64_t item_pieces, blocks;       // registers of channels of an item, items of a share
  int64_t pieces, piece_sums, set;   // registers of channels, sums of one, of all
  int64_t splits, share;             // shares of the bands of all images, bands of one
  int64_t tile_rows;                 // sums of a register of channels that stay in registers
  int64_t sum_bytes, table_bytes;    // of the call
  int64_t line_bytes, buffer_bytes;  // of each thread

  /// Bands of up to `most_rows` rows, items of up to `most_pieces` registers of channels.
  WeightGroupedChannelsLastBlocking(const WeightContraction<T>& p, int64_t most_rows,
                                    int64_t most_pieces) {
    const int64_t all_rows = p.walk[0].count * p.walk[1].count;
    rows = even_part(all_rows, most_rows);
    bands = ceil_div(all_rows, rows);
    pieces = ceil_div(p.groups * p.depth, kLanes<A>);
    piece_sums = p.taps() * p.depth * kLanes<A>;
    const int64_t near = kCorrelatedSums / piece_sums;
    item_pieces = even_part(pieces, near < 1 ? 1 : near < most_pieces ? near : most_pieces);
    blocks = ceil_div(pieces, item_pieces);
    set = pieces * piece_sums;
    splits = choose_splits(blocks, p.batch * bands, sizeof(A) * set);
    share = ceil_div(p.batch * bands, splits);
    // Groups that are stored one by one are read as whole registers.
    sum_bytes = sizeof(A) * (splits * set + kLanes<A>);
    table_bytes = sizeof(int64_t) * WeightSums<T>::table_elements(p);
    line_bytes = sizeof(CorrelatedLine<A>) * p.walk[0].tap_count * p.walk[1].tap_count;
    buffer_bytes = sizeof(A) * item_pieces * piece_sums + line_bytes;
    const int64_t taps = even_part(p.walk[2].tap_count, grouped_taps(p.depth));
    tile_rows = taps * grouped_lines(p.depth, int(taps)) * p.depth;
  }
  explicit WeightGroupedChannelsLastBlocking(const WeightContraction<T>& p)
      : WeightGroupedChannelsLastBlocking(p, kCorrelatedRows, kCorrelatedPieces) {}

  Footprint footprint() const {
    return {tile_rows, kLanes<A>, sum_bytes + table_bytes, buffer_bytes};
  }
};

/// Adds row `row`, counted over depths and heights, of one image to the sums of `count` channels,
/// whose source and grad start at `source` and `grad` and have stride 1. `lines` is space for all
/// kernel rows.
template <class T, int kGroup>
void correlate_row(const Walk* walk, int64_t row, const T* grad, const Strides& of_grad,
                   const T* source, const Strides& of_source, int64_t count,
                   CorrelatedLine<T>* lines, Accumulator<T>* sums) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  const int64_t taps_w = walk[2].tap_count;
  const int64_t h = row % walk[1].count, d = row / walk[1].count;
  int64_t found = 0;
  for (int64_t td = 0; td < walk[0].tap_count; ++td) {
    const int64_t z = walk[0].resolve(d * walk[0].step + walk[0].taps[td].offset);
    for (int64_t th = 0; th < walk[1].tap_count; ++th, sums += taps_w * kGroup * lanes) {
      const int64_t y = walk[1].resolve(h * walk[1].step + walk[1].taps[th].offset);
      if (z < 0 || y < 0) continue;
      lines[found++] = {source + z * of_source.axis[0] + y * of_source.axis[1], sums};
    }
  }
  const CorrelatedRow<T> pixels{walk[2], grad + d * of_grad.axis[0] + h * of_grad.axis[1],
                                of_grad.axis[2], of_source.axis[2], count};
  if (count == lanes) {
    correlate_taps_of_lines<T, kGroup, false>(pixels, lines, found);
  } else {
    correlate_taps_of_lines<T, kGroup, true>(pixels, lines, found);
  }
}

/// Lets correlate(image, first row, last row, first channel, last channel, scratch, space for
/// lines, sums) add to the sums of all bands, and stores them as weights. The scratch is
/// `extra_bytes` of each thread.
template <class T, int kGroup, class F>
void correlate_groups(const WeightContraction<T>& p,
                      const WeightGroupedChannelsLastBlocking<T>& blocking, int64_t extra_bytes,
                      const F& correlate) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const int64_t channels = p.groups * kGroup;
  const int64_t piece_sums = blocking.piece_sums, set = blocking.set;
  const int64_t bands = p.batch * blocking.bands, rows = p.walk[0].count * p.walk[1].count;

  Scratch workspace(blocking.sum_bytes);
  const int64_t item_rows = blocking.item_pieces * blocking.share * blocking.rows;
  const int64_t grain = ceil_div(kSmallestWork, item_rows * p.walk[2].count * piece_sums);
  parallel_for(blocking.blocks * blocking.splits, grain, [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    Scratch extra(extra_bytes);
    A* band_sums = reinterpret_cast<A*>(buffer.as<char>() + blocking.line_bytes);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t split = item / blocking.blocks;
      const int64_t piece = item % blocking.blocks * blocking.item_pieces;
      const int64_t next = piece + blocking.item_pieces;
      const int64_t last_piece = next < blocking.pieces ? next : blocking.pieces;
      const int64_t last_channel = last_piece * lanes < channels ? last_piece * lanes : channels;
      const int64_t item_sums = (last_piece - piece) * piece_sums;
      A* sums = workspace.as<A>() + split * set + piece * piece_sums;
      fill(sums, item_sums, A(0));
      const int64_t last_band = (split + 1) * blocking.share;
      for (int64_t band = split * blocking.share; band < bands && band < last_band; ++band) {
        const int64_t image = band / blocking.bands;
        const int64_t row = band % blocking.bands * blocking.rows;
        const int64_t last_row = row + blocking.rows < rows ? row + blocking.rows : rows;
        fill(band_sums, item_sums, A(0));
        correlate(image, row, last_row, piece * lanes, last_channel, extra.as<A>(),
                  buffer.as<void>(), band_sums);
        for (int64_t i = 0; i < item_sums; i += lanes) {
          store(sums + i, load(sums + i) + load(band_sums + i));
        }
      }
    }
  });

  Scratch table(blocking.table_bytes);
  const WeightSums<T> result(p, lanes, blocking.splits, set, table.as<int64_t>());
  // The rows of all groups of a register are stored at once where they lie at even distances.
  const WeightStrides& strides = p.dest_strides;
  const int64_t row = kGroup == 1 ? strides.group : strides.row;
  const int64_t together = strides.group == kGroup * row ? lanes : kGroup;
  parallel_for(blocking.pieces, ceil_div(16384, piece_sums), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin * lanes; c < end * lanes && c < channels; c += together) {
      const int64_t left = channels - c;
      result.store(workspace.as<A>() + c / lanes * piece_sums + c % lanes,
                   left < together ? left : together, p.dest + c / kGroup * strides.group, row);
    }
  });
}

template <class T, int kGroup>
void correlate_channels_last(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const auto correlate = [&](int64_t image, int64_t row, int64_t last_row, int64_t first,
                             int64_t last, A*, void* lines, A* sums) {
    const T* grad = p.grad + image * p.grad_strides.batch;
    const T* source = p.source + image * p.source_strides.batch;
    for (; row < last_row; ++row) {
      for (int64_t c = first; c < last; c += lanes) {
        correlate_row<T, kGroup>(p.walk, row, grad + c, p.grad_strides, source + c,
                                 p.source_strides, last - c < lanes ? last - c : lanes,
                                 static_cast<CorrelatedLine<T>*>(lines),
                                 sums + (c - first) * kGroup * p.taps());
      }
    }
  };
  correlate_groups<T, kGroup>(p, WeightGroupedChannelsLastBlocking<T>(p), 0, correlate);
}
