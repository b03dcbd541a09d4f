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

/// Channels of a chunk: 64 x 64 floats of the weights of one point stay in L1.
constexpr int64_t kWinogradChannels = 64;

/// Planar tiles are read in bands of so many columns: 6 x 72 registers stay in L1, and a tile of
/// each phase fits.
constexpr int64_t kWinogradBandColumns = 6 * kMaxWinogradDilation;

/// One cache line between what belongs to two points, tiles, weights or products, which would
/// otherwise all lie in the same cache sets.
constexpr int64_t kPointGap = 16;

/// Where the walks of a 3x3 kernel have the tap at (row, column): a gradient's run backwards.
struct KernelTaps {
  int64_t at[3][3];
  int64_t dilation[2];

  explicit KernelTaps(const ContractionShape& shape) {
    int64_t order[2][3];
    for (int axis = 0; axis < 2; ++axis) {
      const Walk& walk = shape.walk[1 + axis];
      dilation[axis] = walk.tap_distance();
      for (int64_t t = 0; t < 3; ++t) {
        order[axis][(walk.taps[t].offset - walk.low()) / dilation[axis]] = t;
      }
    }
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) at[i][j] = order[0][i] * 3 + order[1][j];
    }
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

/// Where transformed tiles go: elements from tile to tile, chunk to chunk and point to point. The
/// channels of a chunk lie side by side.
struct TilePlace {
  int64_t tile, chunk, point;
};

/// The tiles of `data`, whose planes, rows and columns `walks` lead to from those of the output,
/// for a kernel of this dilation along height and width. Transform takes a tile of side x side
/// positions, from the lowest tap on, to points x points.
template <class Transform>
struct WinogradTiles {
  static constexpr int lanes = kLanes<float>;
  static constexpr int side = Transform::side, points = Transform::points;

  const float* data;
  Strides strides;
  Walk walk[kAxes];
  int64_t channels;
  TileAxis rows, columns;
  int64_t low[2];   // the first position of tile 0
  int64_t last[2];  // the last position that counts; what lies beyond is zero
  int64_t tiles;
  int64_t row_groups, groups;  // of tiles: those of a row of them, and all
  int64_t chunks;              // of channels
  int64_t pitch;               // channels of a chunk, in whole registers

  WinogradTiles(const float* data, const Strides& strides, const Walk (&walks)[kAxes],
                const int64_t (&dilation)[2], int64_t batch, int64_t channels)
      : data(data),
        strides(strides),
        channels(channels),
        rows(walks[1].count, Transform::step, dilation[0]),
        columns(walks[2].count, Transform::step, dilation[1]) {
    for (int axis = 0; axis < kAxes; ++axis) walk[axis] = walks[axis];
    for (int axis = 0; axis < 2; ++axis) {
      low[axis] = walk[1 + axis].low();
      last[axis] = walk[1 + axis].count - 1 + walk[1 + axis].high();
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

  int64_t chunk_channels(int64_t chunk) const {
    const int64_t left = channels - chunk * kWinogradChannels;
    return left < kWinogradChannels ? left : kWinogradChannels;
  }

  /// Transforms chunks [begin, end) of tiles [first, first + count); `to` is where chunk 0 of the
  /// first goes.
  void transform(int64_t first, int64_t count, int64_t begin, int64_t end, const TilePlace& place,
                 float* to) const {
    const bool in_place = strides.channel == 1;
    // Groups that fit a band.
    const int64_t fit = (kWinogradBandColumns / columns.dilation - side) / Transform::step + 1;
    for (int64_t tile = 0; tile < count;) {
      TileRun run = run_at(first + tile, count - tile);
      const int64_t most = fit * columns.dilation - run.column % columns.dilation;
      if (!in_place && run.count > most) run.count = most;
      for (int64_t chunk = begin; chunk < end; ++chunk) {
        float* out = to + tile * place.tile + chunk * place.chunk;
        const float* from = plane(run.plane);
        if (from != nullptr) from += chunk * kWinogradChannels * strides.channel;
        if (in_place) {
          transform_pixels(run, from, chunk_channels(chunk), place, out);
        } else {
          transform_bands(run, from, chunk_channels(chunk), place, out);
        }
      }
      tile += run.count;
    }
  }

 private:
  /// The position that `position` of an axis reads; -1 for zero.
  int64_t resolve(int axis, int64_t position) const {
    return position > last[axis] ? -1 : walk[1 + axis].resolve(position);
  }

  /// The plane under a plane of outputs, or nullptr where that is padding.
  const float* plane(int64_t index) const {
    const Walk& depth = walk[0];
    const int64_t z = depth.resolve(index % depth.count * depth.step + depth.taps[0].offset);
    const float* image = data + index / depth.count * strides.batch;
    return z < 0 ? nullptr : image + z * strides.axis[0];
  }

  /// Transforms `count` channels of the tile at `from`, side by side.
  static void transform_tile(const float* from, int64_t row, int64_t column, int64_t count,
                             int64_t point_pitch, float* to) {
    for (int64_t c = 0; c < count; c += lanes, from += lanes, to += lanes) {
      const auto put = [&](int i, int j, Vec<float> v) {
        store(to + (i * points + j) * point_pitch, v);
      };
      if (c + lanes <= count) {
        Transform::apply([&](int i, int j) { return load(from + i * row + j * column); }, put);
      } else {
        Transform::apply(
            [&](int i, int j) { return load_partial(from + i * row + j * column, count - c); },
            put);
      }
    }
  }

  /// A run of tiles whose channels lie side by side: in place but for those at the border.
  void transform_pixels(const TileRun& run, const float* from, int64_t count,
                        const TilePlace& place, float* to) const {
    alignas(64) float patch[side][side][kWinogradChannels];
    const int64_t row = strides.axis[1], column = strides.axis[2];
    const int64_t high = rows.dilation, wide = columns.dilation;
    const int64_t y = rows.origin(run.row) + low[0];
    for (int64_t tile = 0; tile < run.count; ++tile, to += place.tile) {
      const int64_t x = columns.origin(run.column + tile) + low[1];
      const bool inside = y >= 0 && x >= 0 && y + (side - 1) * high < walk[1].size &&
                          x + (side - 1) * wide < walk[2].size && from != nullptr;
      if (inside) {
        transform_tile(from + y * row + x * column, high * row, wide * column, count, place.point,
                       to);
        continue;
      }
      for (int i = 0; i < side; ++i) {
        const int64_t from_y = from == nullptr ? -1 : resolve(0, y + i * high);
        for (int j = 0; j < side; ++j) {
          const int64_t from_x = from_y < 0 ? -1 : resolve(1, x + j * wide);
          if (from_x < 0) {
            fill(patch[i][j], count, 0.0f);
          } else {
            copy_strided(from + from_y * row + from_x * column, 1, count, patch[i][j]);
          }
        }
      }
      transform_tile(patch[0][0], side * kWinogradChannels, kWinogradChannels, count, place.point,
                     to);
    }
  }

  /// A run of tiles whose columns lie side by side: `lanes` channels at a time are transposed into
  /// a band [row][column][channel].
  void transform_bands(const TileRun& run, const float* from, int64_t count, const TilePlace& place,
                       float* to) const {
    constexpr int64_t band_pitch = kWinogradBandColumns * lanes;
    alignas(64) float band[side * band_pitch];
    const int64_t begin = columns.origin(run.column), x = begin + low[1];
    const int64_t width =
        columns.origin(run.column + run.count - 1) - begin + (side - 1) * columns.dilation + 1;
    for (int64_t c = 0; c < count; c += lanes) {
      const int64_t some = count - c < lanes ? count - c : lanes;
      for (int i = 0; i < side; ++i) {
        const int64_t y = resolve(0, rows.origin(run.row) + low[0] + i * rows.dilation);
        float* row = band + i * band_pitch;
        if (from == nullptr || y < 0) {
          fill(row, width * lanes, 0.0f);
        } else {
          read_band_row(from + c * strides.channel + y * strides.axis[1], some, x, width, row);
        }
      }
      for (int64_t tile = 0; tile < run.count; ++tile) {
        const int64_t column = columns.origin(run.column + tile) - begin;
        transform_tile(band + column * lanes, band_pitch, columns.dilation * lanes, lanes,
                       place.point, to + tile * place.tile + c);
      }
    }
  }

  /// Positions [x, x + width) of a row for up to `lanes` channels, as [position][channel].
  void read_band_row(const float* row, int64_t count, int64_t x, int64_t width, float* to) const {
    const int64_t stride = strides.channel, size = walk[2].size;
    const int64_t begin = x < 0 ? (-x < width ? -x : width) : 0;
    const int64_t inside = size - x < width ? size - x : width,
                  end = inside < begin ? begin : inside;
    const auto border = [&](int64_t from, int64_t until) {
      for (int64_t i = from; i < until; ++i) {
        const int64_t position = resolve(1, x + i);
        alignas(64) float values[lanes] = {};
        for (int64_t c = 0; c < count && position >= 0; ++c) {
          values[c] = row[c * stride + position];
        }
        store(to + i * lanes, load(values));
      }
    };
    border(0, begin);
    if (begin < end) {
      load_planes(row + x + begin, stride, count, 1, end - begin, to + begin * lanes, lanes);
    }
    border(end, width);
  }
};
