// Convolution with one source channel in a group (depthwise, multipliers) and few taps along the
// width on planar tensors, read where they lie.
//
// What is left of such a convolution is to read every source row and to store every destination row
// once. So nothing is copied. Under square kernels the rows of a plane are computed one by one,
// with the sums of all that are under way in registers (rolling_rows.h); others, tall ones and
// single rows among them, in blocks of rows (row_blocks.h). An item is some rows of one destination
// plane, those that are as far apart as the taps of the height.

/// Rows of an item.
constexpr int64_t kDepthwiseRows = 64;

/// How a call is cut, and the scratch that it takes.
template <class T>
struct DepthwisePlanarBlocking {
  using A = Accumulator<T>;
  RowGroups groups;
  bool roll;             // or go by blocks
  int64_t most_vectors;  // of a piece
  int64_t pieces;        // of a row
  int64_t lines;         // source rows of a phase where they roll, or under a block of a plane
  int64_t parts;         // items of the rows of a plane that belong together
  int64_t table_bytes, weight_bytes;  // of the call
  int64_t buffer_bytes;               // of each thread

  explicit DepthwisePlanarBlocking(const Contraction<T>& p)
      : groups(p.walk[1]), roll(rows_roll(p.walk[1], p.walk[2])) {
    const Walk &height = p.walk[1], &width = p.walk[2];
    const int64_t rows = ceil_div(height.count, groups.distance);
    parts = ceil_div(rows, kDepthwiseRows);
    table_bytes = 2 * sizeof(int64_t) * p.taps();
    if (roll) {
      most_vectors = rolling_vectors(width.step, width.tap_count);
      const int64_t turns = rows + rows_under_way(width.step, width.tap_count) - 1;
      lines = (turns + kRollingAhead) * height.step;
      table_bytes += sizeof(int64_t) * lines * groups.distance;
      buffer_bytes = sizeof(T*) * p.walk[0].tap_count;
    } else {
      most_vectors = kBlockVectors;
      lines = groups.lines(groups.rows);
      buffer_bytes = sizeof(T*) * p.walk[0].tap_count * (1 + lines);
    }
    pieces = ceil_div(vectors_for<A>(width.count), most_vectors);
    table_bytes += sizeof(RowPiece) * pieces;
    weight_bytes = sizeof(A) * p.groups * p.rows * p.taps();
  }

  Footprint footprint() const {
    return {groups.rows, most_vectors * kLanes<A>, table_bytes + weight_bytes, buffer_bytes};
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

/// Packs the weights of kernels with one source channel in a group as [channel][tap], those of
/// taps at `offsets`.
template <class T>
void pack_channels(const Channels& channels, const T* weight, const WeightStrides& strides,
                   const int64_t* offsets, int64_t taps, Accumulator<T>* to) {
  for (int64_t c = 0; c < channels.groups * channels.rows; ++c) {
    const T* from = weight + c / channels.rows * strides.group + c % channels.rows * strides.row;
    for (int64_t k = 0; k < taps; ++k) *to++ = widen(from[offsets[k]]);
  }
}

/// The same with the taps of height and width in ascending order. `offsets` holds two of all taps.
template <class T>
void pack_ascending(const Contraction<T>& p, int64_t* offsets, Accumulator<T>* to) {
  const int64_t taps = p.taps(), taps_h = p.walk[1].tap_count, taps_w = p.walk[2].tap_count;
  int64_t* ascending = offsets + taps;
  tap_offsets(p, p.weight_strides, offsets);
  const auto descends = [](const Walk& walk) {
    return walk.tap_count > 1 && walk.taps[1].offset < walk.taps[0].offset;
  };
  const bool high = descends(p.walk[1]), wide = descends(p.walk[2]);
  for (int64_t k = 0; k < taps; ++k) {
    const int64_t w = k % taps_w, h = k / taps_w % taps_h, plane = k / taps_w / taps_h;
    const int64_t tap = (plane * taps_h + (high ? taps_h - 1 - h : h)) * taps_w;
    ascending[k] = offsets[tap + (wide ? taps_w - 1 - w : w)];
  }
  pack_channels(p, p.weight, p.weight_strides, ascending, taps, to);
}

/// Where each source row of a phase begins that its rows read in their turns, phase after phase, or
/// -1 for one of zeros.
template <class T>
void list_rolling_rows(const Contraction<T>& p, const DepthwisePlanarBlocking<T>& blocking,
                       int64_t* to) {
  const Walk& height = p.walk[1];
  for (int64_t phase = 0; phase < blocking.groups.distance; ++phase) {
    int64_t position = phase * height.step + height.low();
    for (int64_t i = 0; i < blocking.lines; ++i, position += blocking.groups.source_distance) {
      const int64_t y = height.resolve(position);
      *to++ = y < 0 ? -1 : y * p.source_strides.axis[1];
    }
  }
}

/// What a thread computes items of.
template <class T>
struct DepthwiseCall {
  using A = Accumulator<T>;
  const Contraction<T>& p;
  const DepthwisePlanarBlocking<T>& blocking;
  const RowPiece* pieces;
  const int64_t* rolling_rows;
  const A* weights;
};

/// Rows phase + i * distance of a destination plane for i from `first` to `last`.
struct DepthwiseItem {
  int64_t image, channel, d, phase, first, last;

  template <class T>
  DepthwiseItem(const DepthwiseCall<T>& call, int64_t item) {
    const Contraction<T>& p = call.p;
    const int64_t parts = call.blocking.parts, distance = call.blocking.groups.distance;
    const int64_t channels = p.groups * p.rows;
    first = item % parts * kDepthwiseRows;
    phase = (item /= parts) % distance;
    d = (item /= distance) % p.walk[0].count;
    channel = (item /= p.walk[0].count) % channels;
    image = item / channels;
    const int64_t all = ceil_div(p.walk[1].count - phase, distance);
    last = first + kDepthwiseRows < all ? first + kDepthwiseRows : all;
  }
};

/// The source planes that the taps of the depth read for an item; null where one is zeros.
template <class T>
void list_source_planes(const Contraction<T>& p, const DepthwiseItem& item, const T** to) {
  const T* source = p.source + item.image * p.source_strides.batch +
                    item.channel / p.rows * p.source_strides.channel;
  for (int64_t td = 0; td < p.walk[0].tap_count; ++td) {
    const int64_t z = p.walk[0].resolve(item.d * p.walk[0].step + p.walk[0].taps[td].offset);
    *to++ = z < 0 ? nullptr : source + z * p.source_strides.axis[0];
  }
}

/// The rows of an item, one by one.
template <class T, int kStep, int kTaps>
void roll_item(const DepthwiseCall<T>& call, const DepthwiseItem& item, const T* const* planes,
               T* to, int64_t to_row) {
  using A = Accumulator<T>;
  const Contraction<T>& p = call.p;
  const RollingPlane<T> in{
      call.weights + item.channel * p.taps(),
      planes,
      p.walk[0].tap_count,
      call.rolling_rows + item.phase * call.blocking.lines + item.first * kStep,
      item.last - item.first,
      p.walk[2].tap_distance(),
      p.bias != nullptr ? A(widen(p.bias[item.channel])) : A(0)};
  for (int64_t i = 0; i < call.blocking.pieces; ++i) {
    roll_plane<T, kStep, kTaps>(in, call.pieces[i], to, to_row);
  }
}

/// A block of kRows rows of a destination.
template <class T, int kStep, int kTaps, int kRows>
void depthwise_rows(const RowTaps<Accumulator<T>>& in, const T* const* lines,
                    const RowPiece* pieces, int64_t count, T* to, int64_t to_row) {
  for (int64_t i = 0; i < count; ++i) {
    switch (pieces[i].vectors) {
      case 1: row_block<T, kStep, kTaps, kRows, 1>(in, lines, pieces[i], to, to_row); break;
      case 2: row_block<T, kStep, kTaps, kRows, 2>(in, lines, pieces[i], to, to_row); break;
      case 3: row_block<T, kStep, kTaps, kRows, 3>(in, lines, pieces[i], to, to_row); break;
      default: row_block<T, kStep, kTaps, kRows, 4>(in, lines, pieces[i], to, to_row); break;
    }
  }
}

/// The same in blocks. `lines` is a buffer.
template <class T, int kStep, int kTaps>
void block_item(const DepthwiseCall<T>& call, const DepthwiseItem& item, const T* const* planes,
                const T** lines, T* to, int64_t to_row) {
  using A = Accumulator<T>;
  const Contraction<T>& p = call.p;
  const Walk* walk = p.walk;
  const RowGroups& groups = call.blocking.groups;
  const RowTaps<A> in{call.weights + item.channel * p.taps(),
                      walk[0].tap_count,
                      groups.taps,
                      groups.advance,
                      walk[2].tap_distance(),
                      p.bias != nullptr ? A(widen(p.bias[item.channel])) : A(0)};
  const int64_t all = item.last - item.first;
  const int64_t rows = groups.rows < all ? groups.rows : all, count = groups.lines(rows);
  for (int64_t i = 0; i < all; i += rows) {
    // The last block overlaps the one before it where rows are left over.
    const int64_t first = i + rows <= all ? i : all - rows;
    const int64_t row = item.phase + (item.first + first) * groups.distance;
    const T** line = lines;
    for (int64_t td = 0; td < walk[0].tap_count; ++td) {
      int64_t position = row * walk[1].step + walk[1].low();
      for (int64_t s = 0; s < count; ++s, position += groups.source_distance) {
        const int64_t y = walk[1].resolve(position);
        const bool zeros = planes[td] == nullptr || y < 0;
        *line++ = zeros ? nullptr : planes[td] + y * p.source_strides.axis[1];
      }
    }
    const auto compute = [&]<int kRows>() {
      depthwise_rows<T, kStep, kTaps, kRows>(in, lines, call.pieces, call.blocking.pieces,
                                             to + first * to_row, to_row);
    };
    switch (rows) {
      case 1: compute.template operator()<1>(); break;
      case 2: compute.template operator()<2>(); break;
      case 3: compute.template operator()<3>(); break;
      default: compute.template operator()<4>(); break;
    }
  }
}

template <class T, int kStep, int kTaps>
void convolve_depthwise(const Contraction<T>& p) {
  using A = Accumulator<T>;
  const Walk* walk = p.walk;
  const DepthwisePlanarBlocking<T> blocking(p);
  Scratch tables(blocking.table_bytes);
  RowPiece* pieces = tables.as<RowPiece>();
  cut_row<A>(walk[2], blocking.pieces, pieces);
  int64_t* offsets = reinterpret_cast<int64_t*>(pieces + blocking.pieces);
  Scratch weights(blocking.weight_bytes);
  pack_ascending(p, offsets, weights.as<A>());
  int64_t* rolling_rows = offsets + 2 * p.taps();
  if (blocking.roll) list_rolling_rows(p, blocking, rolling_rows);

  const DepthwiseCall<T> call{p, blocking, pieces, rolling_rows, weights.as<A>()};
  const int64_t items =
      p.batch * p.groups * p.rows * walk[0].count * blocking.groups.distance * blocking.parts;
  const int64_t rows = walk[1].count < kDepthwiseRows ? walk[1].count : kDepthwiseRows;
  const int64_t item_work = rows * walk[2].count * p.taps();
  parallel_for(items, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
    Scratch buffer(blocking.buffer_bytes);
    const T** planes = buffer.as<const T*>();
    for (int64_t i = begin; i < end; ++i) {
      const DepthwiseItem item(call, i);
      if (item.first >= item.last) continue;
      list_source_planes(p, item, planes);
      T* to = p.dest + item.image * p.dest_strides.batch + item.channel * p.dest_strides.channel +
              item.d * p.dest_strides.axis[0] +
              (item.phase + item.first * blocking.groups.distance) * p.dest_strides.axis[1];
      const int64_t to_row = blocking.groups.distance * p.dest_strides.axis[1];
      if (blocking.roll) {
        roll_item<T, kStep, kTaps>(call, item, planes, to, to_row);
      } else {
        block_item<T, kStep, kTaps>(call, item, planes, planes + walk[0].tap_count, to, to_row);
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
