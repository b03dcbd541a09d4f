// Reading and transforming the tiles of a tensor for Winograd's minimal filtering
// (winograd_transform.h), with vectors along channels in both memory formats: channels_last tensors
// are read in place; planar ones pass through registers transposed, a register's worth of channels
// by as many columns at a time. Borders are resolved where a tile is read.
//
// Channels go in chunks, so that what one item of work multiplies stays in cache.
//
// The taps of a dilated kernel meet every dilation-th position only: an axis falls apart into as
// many phases, each with tiles of its own. Tiles of all phases that start side by side are a group:
// together they cover columns without gaps.
//
// A kernel with more taps than its form is a sum over groups of them, each of which reads the tiles
// of the outputs at a shift of its own; with a stride, a group has every stride-th tap and reads
// every stride-th position.

/// Channels of a chunk: 64 x 64 floats of the weights of one point stay in L1.
constexpr int64_t kWinogradChannels = 64;

/// Planar tiles are read in bands of so many registers: 6 rows of 96 columns stay in L1, and a tile
/// of each phase fits.
constexpr int64_t kWinogradBandRegisters = 6 * 8 * kMaxWinogradDilation;

/// Positions of the largest tile.
constexpr int64_t kMaxTilePositions = 6 * 8;

/// One cache line between what belongs to two points, tiles, weights or products, which would
/// otherwise all lie in the same cache sets.
constexpr int64_t kPointGap = 16;

/// The taps of a kernel, cut into groups of those of a form along rows and columns, and of one
/// along the depth. Taps count from the lowest position on: the walk of a gradient has them
/// backwards.
struct KernelTaps {
  const WinogradForm& form;
  int64_t count[kAxes];     // taps
  int64_t distance[kAxes];  // of neighbours
  int64_t step[kAxes];      // from one tap of a group to the next
  int64_t groups[kAxes], all_groups;
  int64_t of_group;                        // taps of a group, those past the last counted in
  int64_t first[kAxes][kMaxWinogradTaps];  // the first tap of each group of an axis
  int64_t order[kAxes][kMaxWinogradTaps];  // the tap of a walk at each position

  KernelTaps(const ContractionShape& shape, const WinogradForm& form) : form(form) {
    all_groups = 1;
    of_group = form.rows.taps * form.columns.taps;
    for (int axis = 0; axis < kAxes; ++axis) {
      const Walk& walk = shape.walk[axis];
      count[axis] = walk.tap_count;
      distance[axis] = walk.tap_distance();
      step[axis] = walk.step;
      groups[axis] = 0;
      for (int64_t phase = 0; phase < walk.step; ++phase) {
        for (int64_t t = phase; t < walk.tap_count; t += taps(axis) * walk.step) {
          first[axis][groups[axis]++] = t;
        }
      }
      all_groups *= groups[axis];
      for (int64_t t = 0; t < walk.tap_count; ++t) {
        order[axis][(walk.taps[t].offset - walk.low()) / distance[axis]] = t;
      }
    }
  }

  /// Taps of a group along an axis.
  int64_t taps(int axis) const { return axis == 0 ? 1 : form.axis(axis).taps; }

  /// From one output of a tile to the next along rows or columns.
  int64_t dilation(int axis) const { return form.axis(axis).taps > 1 ? distance[axis] : 1; }

  /// The index of a group along an axis.
  int64_t group_on(int axis, int64_t group) const {
    return axis == 2   ? group % groups[2]
           : axis == 1 ? group / groups[2] % groups[1]
                       : group / (groups[2] * groups[1]);
  }
  /// How far the first tap of a group lies above the lowest one.
  int64_t shift(int axis, int64_t group) const {
    return first[axis][group_on(axis, group)] * distance[axis];
  }
  /// Tap i of those of a group along an axis, past the last where there is none.
  int64_t on_axis(int axis, int64_t group, int64_t i) const {
    return first[axis][group_on(axis, group)] + i * step[axis];
  }
  /// Tap i of a group, row by row, as the walks count them, or -1 past the last.
  int64_t at(int64_t group, int64_t i) const {
    const int64_t y = on_axis(1, group, i / form.columns.taps);
    const int64_t x = on_axis(2, group, i % form.columns.taps);
    if (y >= count[1] || x >= count[2]) return -1;
    const int64_t z = order[0][on_axis(0, group, 0)];
    return (z * count[1] + order[1][y]) * count[2] + order[2][x];
  }
  /// Whether the transformed kernel of a group is not zero at a point: at infinity it is the last
  /// tap.
  bool has_point(int64_t group, int64_t point) const {
    const int64_t on[kAxes] = {0, point / form.columns.points(), point % form.columns.points()};
    for (int axis = 1; axis < kAxes; ++axis) {
      const MinimalFilter& filter = form.axis(axis);
      const bool infinity = filter.has_infinity() && on[axis] + 1 == filter.points();
      if (infinity && on_axis(axis, group, filter.taps - 1) >= count[axis]) return false;
    }
    return true;
  }
};

/// The tiles of `step` outputs along an axis of `count` of them.
struct TileAxis {
  int64_t step, dilation;
  int64_t tiles;

  TileAxis(int64_t count, int64_t step, int64_t dilation)
      : step(step), dilation(dilation), tiles(winograd_axis_tiles(count, step, dilation)) {}

  /// The first output of a tile; the others follow at the distance `dilation`.
  int64_t origin(int64_t tile) const {
    return tile / dilation * (step * dilation) + tile % dilation;
  }
};

/// Neighbouring tiles of one row of tiles.
struct TileRun {
  int64_t plane, row, column, count;
};

/// Where transformed tiles go: elements from tile to tile, slice to slice and point to point. A
/// slice is a chunk of channels, side by side, as a group of taps meets it; those of a chunk follow
/// each other.
struct TilePlace {
  int64_t tile, slice, point;
};

/// Tiles of side[0] x side[1] positions, step[0] and step[1] apart, and what transforms them.
struct TileForm {
  int64_t step[2], side[2];
  int64_t points;
  void (*transform)(const float* from, int64_t row, int64_t column, int64_t count, int64_t pitch,
                    float* to);
};

/// What the outputs of one tile read.
inline TileForm input_tiles(const FormTransforms& transforms) {
  const MinimalFilter &rows = transforms.form.rows, &columns = transforms.form.columns;
  return {{rows.outputs, columns.outputs},
          {rows.points(), columns.points()},
          transforms.form.points(),
          transforms.input};
}
/// The outputs of one tile, or the gradient of them.
inline TileForm output_tiles(const FormTransforms& transforms) {
  const MinimalFilter &rows = transforms.form.rows, &columns = transforms.form.columns;
  return {{rows.outputs, columns.outputs},
          {rows.outputs, columns.outputs},
          transforms.form.points(),
          transforms.gradient};
}

/// The tiles of `data`, whose planes, rows and columns `walks` lead to from those of the output. Of
/// the input each group of taps reads a slice of its own, so far on; the outputs have one slice.
/// Neighbours in a tile lie `spread` apart: the dilation of the kernel or the stride.
template <class T>
struct WinogradTiles {
  static constexpr int lanes = kLanes<float>;

  const T* data;
  Strides strides;
  Walk walk[kAxes];
  TileForm form;
  const KernelTaps& taps;
  int64_t channels;
  TileAxis rows, columns;
  int64_t spread[2];    // of rows, of columns
  int64_t slices;       // of each chunk of channels
  int64_t low[kAxes];   // the first position of tile 0
  int64_t last[kAxes];  // the last position that counts; what lies beyond is zero
  int64_t tiles;
  int64_t row_groups, groups;  // of tiles: those of a row of them, and all
  int64_t chunks;              // of channels
  int64_t pitch;               // channels of a chunk, in whole registers

  WinogradTiles(const T* data, const Strides& strides, const Walk (&walks)[kAxes],
                const TileForm& form, const KernelTaps& taps, int64_t slices, int64_t batch,
                int64_t channels)
      : data(data),
        strides(strides),
        form(form),
        taps(taps),
        channels(channels),
        rows(walks[1].count, form.step[0], taps.dilation(1)),
        columns(walks[2].count, form.step[1], taps.dilation(2)),
        slices(slices) {
    for (int axis = 0; axis < kAxes; ++axis) {
      walk[axis] = walks[axis];
      if (axis > 0) spread[axis - 1] = walk[axis].step * taps.dilation(axis);
      low[axis] = walk[axis].low();
      last[axis] = (walk[axis].count - 1) * walk[axis].step + walk[axis].high();
    }
    const int64_t tile_rows = batch * walk[0].count * rows.tiles;
    tiles = tile_rows * columns.tiles;
    row_groups = ceil_div(columns.tiles, columns.dilation);
    groups = tile_rows * row_groups;
    chunks = ceil_div(channels, kWinogradChannels);
    pitch = chunks > 1 ? kWinogradChannels : round_up(channels, lanes);
  }

  /// The first tile of a group, or past the last of all.
  int64_t group_begin(int64_t group) const {
    if (group >= groups) return tiles;
    return group / row_groups * columns.tiles + group % row_groups * columns.dilation;
  }

  /// The run that starts with tile `first`, of at most `most` tiles.
  TileRun run_at(int64_t first, int64_t most) const {
    const int64_t row = first / columns.tiles, column = first % columns.tiles;
    const int64_t left = columns.tiles - column;
    return {row / rows.tiles, row % rows.tiles, column, left < most ? left : most};
  }

  int64_t slice_channels(int64_t slice) const {
    const int64_t left = channels - slice / slices * kWinogradChannels;
    return left < kWinogradChannels ? left : kWinogradChannels;
  }

  /// Transforms slices [begin, end) of tiles [first, first + count); `to` is where slice 0 of the
  /// first goes.
  void transform(int64_t first, int64_t count, int64_t begin, int64_t end, const TilePlace& place,
                 float* to) const {
    const bool in_place = strides.channel == 1;
    // Groups that fit a band.
    const int64_t fit = (band_columns() / spread[1] - form.side[1]) / form.step[1] + 1;
    for (int64_t tile = 0; tile < count;) {
      TileRun run = run_at(first + tile, count - tile);
      const int64_t most = fit * columns.dilation - run.column % columns.dilation;
      if (!in_place && run.count > most) run.count = most;
      for (int64_t slice = begin; slice < end; ++slice) {
        float* out = to + tile * place.tile + slice * place.slice;
        const int64_t chunk = slice / slices, tap_group = slice % slices;
        const T* from = plane(run.plane, tap_group);
        if (from != nullptr) from += chunk * kWinogradChannels * strides.channel;
        const int64_t y = rows.origin(run.row) * walk[1].step + low[1] + taps.shift(1, tap_group);
        const int64_t x = low[2] + taps.shift(2, tap_group);
        if (in_place) {
          transform_pixels(run, y, x, from, slice_channels(slice), place, out);
        } else {
          transform_bands(run, y, x, from, slice_channels(slice), place, out);
        }
      }
      tile += run.count;
    }
  }

 private:
  /// The position that `position` of an axis reads; -1 for zero.
  int64_t resolve(int axis, int64_t position) const {
    return position > last[axis] ? -1 : walk[axis].resolve(position);
  }

  /// The plane under a plane of outputs, or nullptr where that is padding.
  const T* plane(int64_t index, int64_t tap_group) const {
    const Walk& depth = walk[0];
    const int64_t z =
        resolve(0, index % depth.count * depth.step + low[0] + taps.shift(0, tap_group));
    const T* image = data + index / depth.count * strides.batch;
    return z < 0 ? nullptr : image + z * strides.axis[0];
  }

  /// A run of tiles whose channels lie side by side, from row y and column x + its origin on: in
  /// place if they are floats, but for those at the border.
  void transform_pixels(const TileRun& run, int64_t y, int64_t x, const T* from, int64_t count,
                        const TilePlace& place, float* to) const {
    alignas(64) float patch[kMaxTilePositions][kWinogradChannels];
    const int64_t row = strides.axis[1], column = strides.axis[2];
    const int64_t high = spread[0], wide = spread[1];
    const bool rows_inside =
        from != nullptr && y >= 0 && y + (form.side[0] - 1) * high < walk[1].size;
    for (int64_t tile = 0; tile < run.count; ++tile, to += place.tile) {
      const int64_t left = x + columns.origin(run.column + tile) * walk[2].step;
      if constexpr (__is_same(T, float)) {
        if (rows_inside && left >= 0 && left + (form.side[1] - 1) * wide < walk[2].size) {
          form.transform(from + y * row + left * column, high * row, wide * column, count,
                         place.point, to);
          continue;
        }
      }
      for (int64_t i = 0; i < form.side[0]; ++i) {
        const int64_t from_y = from == nullptr ? -1 : resolve(1, y + i * high);
        for (int64_t j = 0; j < form.side[1]; ++j) {
          const int64_t from_x = from_y < 0 ? -1 : resolve(2, left + j * wide);
          float* to_pixel = patch[i * form.side[1] + j];
          if (from_x < 0) {
            fill(to_pixel, count, 0.0f);
          } else {
            copy_strided(from + from_y * row + from_x * column, 1, count, to_pixel);
          }
        }
      }
      form.transform(patch[0], form.side[1] * kWinogradChannels, kWinogradChannels, count,
                     place.point, to);
    }
  }

  int64_t band_columns() const { return kWinogradBandRegisters / form.side[0]; }

  /// A run of tiles whose columns lie side by side: `lanes` channels at a time are transposed into
  /// a band [row][column][channel].
  void transform_bands(const TileRun& run, int64_t y, int64_t x, const T* from, int64_t count,
                       const TilePlace& place, float* to) const {
    const int64_t band_pitch = band_columns() * lanes;
    alignas(64) float band[kWinogradBandRegisters * lanes];
    const int64_t step = walk[2].step, begin = columns.origin(run.column) * step;
    const int64_t width = columns.origin(run.column + run.count - 1) * step - begin +
                          (form.side[1] - 1) * spread[1] + 1;
    for (int64_t c = 0; c < count; c += lanes) {
      const int64_t some = count - c < lanes ? count - c : lanes;
      for (int64_t i = 0; i < form.side[0]; ++i) {
        const int64_t from_y = from == nullptr ? -1 : resolve(1, y + i * spread[0]);
        float* row = band + i * band_pitch;
        if (from_y < 0) {
          fill(row, width * lanes, 0.0f);
        } else {
          read_band_row(from + c * strides.channel + from_y * strides.axis[1], some, x + begin,
                        width, row);
        }
      }
      for (int64_t tile = 0; tile < run.count; ++tile) {
        const int64_t column = columns.origin(run.column + tile) * step - begin;
        form.transform(band + column * lanes, band_pitch, spread[1] * lanes, lanes, place.point,
                       to + tile * place.tile + c);
      }
    }
  }

  /// Positions [x, x + width) of a row for up to `lanes` channels, as [position][channel].
  void read_band_row(const T* row, int64_t count, int64_t x, int64_t width, float* to) const {
    const int64_t stride = strides.channel, size = walk[2].size;
    const int64_t begin = x < 0 ? (-x < width ? -x : width) : 0;
    const int64_t inside = size - x < width ? size - x : width,
                  end = inside < begin ? begin : inside;
    const auto border = [&](int64_t from, int64_t until) {
      for (int64_t i = from; i < until; ++i) {
        const int64_t position = resolve(2, x + i);
        alignas(64) float values[lanes] = {};
        for (int64_t c = 0; c < count && position >= 0; ++c) {
          values[c] = widen(row[c * stride + position]);
        }
        store(to + i * lanes, load(values));
      }
    };
    border(0, begin);
    if (begin < end) {
      load_planes<T>(row + x + begin, stride, count, 1, end - begin, to + begin * lanes, lanes);
    }
    border(end, width);
  }
};
