// Convolution with one source channel in a group (depthwise, multipliers) and few taps along the
// width on planar tensors, read where they lie.
//
// What is left of such a convolution is to read every source row and to store every destination row
// once. So nothing is copied: rows are computed in blocks (row_blocks.h). An item is some rows of
// one destination plane, those that are as far apart as the rows of a block.

/// Rows of an item.
constexpr int64_t kDepthwiseRows = 64;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct DepthwisePlanarBlocking {
  using A = Accumulator<T>;
  RowGroups groups;
  int64_t pieces;                     // of a row
  int64_t lines;                      // source rows under a block, of all taps of the depth
  int64_t parts;                      // items of the rows of a plane that belong together
  int64_t table_bytes, weight_bytes;  // of the call
  int64_t buffer_bytes;               // of each thread

  explicit DepthwisePlanarBlocking(const Contraction<T>& p) : groups(p.walk[1]) {
    pieces = ceil_div(vectors_for<A>(p.walk[2].count), int64_t(kBlockVectors));
    lines = p.walk[0].tap_count * groups.lines(groups.rows);
    parts = ceil_div(ceil_div(p.walk[1].count, groups.distance), kDepthwiseRows);
    table_bytes = sizeof(RowPiece) * pieces + sizeof(int64_t) * p.taps();
    weight_bytes = sizeof(A) * p.groups * p.rows * p.taps();
    buffer_bytes = sizeof(T*) * lines;
  }

  Footprint footprint() const {
    return {groups.rows, kBlockVectors * kLanes<A>, table_bytes + weight_bytes, buffer_bytes};
  }
};

/// Cuts the rows of `width` into pieces of about the same size.
template <class A>
void cut_row(const Walk& width, int64_t pieces, RowPiece* to) {
  constexpr int64_t lanes = kLanes<A>;
  const int64_t vectors = vectors_for<A>(width.count);
  for (int64_t i = 0; i < pieces; ++i) {
    RowPiece& piece = to[i];
    const int64_t first = i * vectors / pieces, last = (i + 1) * vectors / pieces;
    piece.vectors = last - first;
    piece.begin = first * lanes;
    piece.count = (last * lanes < width.count ? last * lanes : width.count) - piece.begin;
    piece.source = piece.begin * width.step + width.low();
    for (int64_t j = 0; j < (piece.vectors + 1) * width.step; ++j) {
      // Only what a destination of the piece reads.
      const int64_t end = (piece.begin + piece.count - 1) * width.step + width.high() + 1;
      piece.masks[j] = 0;
      for (int64_t lane = 0; lane < lanes; ++lane) {
        const int64_t position = piece.source + j * lanes + lane;
        const bool inside = position >= 0 && position < width.size && position < end;
        piece.masks[j] |= uint32_t(inside) << lane;
      }
    }
  }
}

/// Packs the weights as [channel][tap], those of height and width in ascending order.
template <class T>
void pack_ascending(const Contraction<T>& p, int64_t* offsets, Accumulator<T>* to) {
  const int64_t taps = p.taps(), taps_h = p.walk[1].tap_count, taps_w = p.walk[2].tap_count;
  tap_offsets(p, p.weight_strides, offsets);
  const auto descends = [](const Walk& walk) {
    return walk.tap_count > 1 && walk.taps[1].offset < walk.taps[0].offset;
  };
  const bool high = descends(p.walk[1]), wide = descends(p.walk[2]);
  for (int64_t c = 0; c < p.groups * p.rows; ++c) {
    const T* from =
        p.weight + c / p.rows * p.weight_strides.group + c % p.rows * p.weight_strides.row;
    for (int64_t k = 0; k < taps; ++k) {
      const int64_t w = k % taps_w, h = k / taps_w % taps_h, plane = k / taps_w / taps_h;
      const int64_t tap = (plane * taps_h + (high ? taps_h - 1 - h : h)) * taps_w;
      *to++ = widen(from[offsets[tap + (wide ? taps_w - 1 - w : w)]]);
    }
  }
}

/// A block of kRows rows of a destination.
template <class A, int kStep, int kTaps, int kRows>
void depthwise_rows(const RowTaps<A>& in, const A* const* lines, const RowPiece* pieces,
                    int64_t count, A* to, int64_t to_row) {
  for (int64_t i = 0; i < count; ++i) {
    switch (pieces[i].vectors) {
      case 1: row_block<A, kStep, kTaps, kRows, 1>(in, lines, pieces[i], to, to_row); break;
      case 2: row_block<A, kStep, kTaps, kRows, 2>(in, lines, pieces[i], to, to_row); break;
      case 3: row_block<A, kStep, kTaps, kRows, 3>(in, lines, pieces[i], to, to_row); break;
      default: row_block<A, kStep, kTaps, kRows, 4>(in, lines, pieces[i], to, to_row); break;
    }
  }
}

template <class T, int kStep, int kTaps>
void convolve_depthwise(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const Walk* walk = p.walk;
  const DepthwisePlanarBlocking<T> blocking(p);
  const RowGroups& groups = blocking.groups;
  const int64_t channels = p.groups * p.rows, taps = p.taps(), low = walk[1].low();

  Scratch tables(blocking.table_bytes);
  RowPiece* pieces = tables.as<RowPiece>();
  cut_row<A>(walk[2], blocking.pieces, pieces);
  Scratch weights(blocking.weight_bytes);
  pack_ascending(p, reinterpret_cast<int64_t*>(pieces + blocking.pieces), weights.as<A>());

  const int64_t of_plane = groups.distance * blocking.parts;
  const int64_t items = p.batch * channels * walk[0].count * of_plane;
  const int64_t item_work = kDepthwiseRows * walk[2].count * taps;
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    const A** lines = buffer.as<const A*>();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t part = item % blocking.parts, phase = item / blocking.parts % groups.distance;
      const int64_t d = item / of_plane % walk[0].count;
      const int64_t channel = item / of_plane / walk[0].count % channels;
      const int64_t image = item / of_plane / walk[0].count / channels;
      // Rows phase + i * distance for i from part * kDepthwiseRows on.
      const int64_t first = part * kDepthwiseRows;
      const int64_t all = ceil_div(walk[1].count - phase, groups.distance);
      const int64_t last = first + kDepthwiseRows < all ? first + kDepthwiseRows : all;
      if (first >= last) continue;
      const A* source = reinterpret_cast<const A*>(p.source) + image * p.source_strides.batch +
                        channel / p.rows * p.source_strides.channel;
      A* dest = reinterpret_cast<A*>(p.dest) + image * p.dest_strides.batch +
                channel * p.dest_strides.channel + d * p.dest_strides.axis[0];
      const int64_t to_row = groups.distance * p.dest_strides.axis[1];
      const RowTaps<A> in{weights.as<A>() + channel * taps,
                          walk[0].tap_count,
                          groups.taps,
                          groups.advance,
                          walk[2].tap_distance(),
                          p.bias != nullptr ? A(widen(p.bias[channel])) : A(0)};
      const int64_t rows = groups.rows < last - first ? groups.rows : last - first;
      const int64_t count = groups.lines(rows);
      for (int64_t i = first; i < last; i += rows) {
        // The last block overlaps the one before it where rows are left over.
        const int64_t row = phase + (i + rows <= last ? i : last - rows) * groups.distance;
        const A** line = lines;
        for (int64_t td = 0; td < walk[0].tap_count; ++td) {
          const int64_t z = walk[0].resolve(d * walk[0].step + walk[0].taps[td].offset);
          int64_t position = row * walk[1].step + low;
          for (int64_t s = 0; s < count; ++s, position += groups.source_distance) {
            const int64_t y = walk[1].resolve(position);
            *line++ = z < 0 || y < 0
                          ? nullptr
                          : source + z * p.source_strides.axis[0] + y * p.source_strides.axis[1];
          }
        }
        A* to = dest + row * p.dest_strides.axis[1];
        const auto compute = [&]<int kRows>() {
          depthwise_rows<A, kStep, kTaps, kRows>(in, lines, pieces, blocking.pieces, to, to_row);
        };
        switch (rows) {
          case 1: compute.template operator()<1>(); break;
          case 2: compute.template operator()<2>(); break;
          case 3: compute.template operator()<3>(); break;
          default: compute.template operator()<4>(); break;
        }
      }
    }
  });
}

template <class T>
void depthwise_planar(const Contraction<T>& p) {
  const int64_t taps = p.walk[2].tap_count;
  if (p.walk[2].step == 2) {
    return taps == 3 ? convolve_depthwise<T, 2, 3>(p) : convolve_depthwise<T, 2, 5>(p);
  }
  switch (taps) {
    case 3: return convolve_depthwise<T, 1, 3>(p);
    case 4: return convolve_depthwise<T, 1, 4>(p);
    case 5: return convolve_depthwise<T, 1, 5>(p);
    default: return convolve_depthwise<T, 1, 7>(p);
  }
}
