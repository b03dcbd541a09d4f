// The gradient of max pooling by taps, of planes (N, C, D, H, W): registers of neighbouring inputs
// gather what the windows that they lie in send them.
//
// Along an axis of stride s, cell j is window j and the inputs s * j ... s * j + s - 1. An input
// with the number `phase` in its cell is a tap of window j + shift, by the same shift in all cells.
// So for the inputs of a phase a tap is a comparison of neighbouring bytes with its number and a
// sum of neighbouring gradients. Where all rows take as many cells as the longer of inputs and
// windows fill, that is one run through all rows and planes: a register need not end where a row
// does, since a window that is reached around that corner would have the tap in its padding, where
// no maximum is. What a band of cells reads is copied to scratch, gradients as sums are formed,
// with bytes that are no tap where there is no window.

/// Cells of a band, about: what they read and the inputs they hold stay in L1.
constexpr int64_t kBandCells = 512;

/// Registers of cells that are summed at a time.
constexpr int kCellVectors = 4;

/// No tap: there are 6 along an axis at most.
constexpr uint8_t kNoTap = 255;
constexpr int kMostTaps = 6 * 6 * 6;

/// The windows that have the inputs of a cell along an axis, from the cell on.
struct TapShifts {
  int64_t low, high;  // these and those between, not above and not below 0

  explicit TapShifts(const PoolWindows& axis)
      : low(shift(axis, axis.kernel - 1)), high(shift(axis, 0)) {}

  /// The number in its cell of an input that is tap `tap`, and the shift to the window.
  static int64_t phase(const PoolWindows& axis, int64_t tap) {
    return (tap + axis.padding) % axis.stride;
  }
  static int64_t shift(const PoolWindows& axis, int64_t tap) {
    return (phase(axis, tap) + axis.padding - tap) / axis.stride;
  }
  int64_t reach() const { return high - low; }
};

/// How planes are cut into bands, and what one takes.
template <class T>
struct TapBands {
  static constexpr int64_t kStep = kCellVectors * kLanes<Compute<T>>;
  TapShifts depth, height, width;
  int64_t cells[3];         // of a plane, along each axis
  int64_t all_rows, parts;  // rows of cells of all planes, and parts that each is cut into
  int64_t rows, columns;    // of a band: some rows, or a part of one
  int64_t lead;             // elements before the window of the first cell
  int64_t pitch, slice;  // elements of a row that is copied, and of the rows for a shift of depth
  int64_t sources;       // elements that are copied, up to the last that is read
  int64_t results;       // inputs of a phase of depth and height

  explicit TapBands(const PoolProblem& p) : depth(p.axis[0]), height(p.axis[1]), width(p.axis[2]) {
    for (int i = 0; i < 3; ++i) {
      const PoolWindows& axis = p.axis[i];
      cells[i] = most((axis.input + axis.stride - 1) / axis.stride, axis.output);
    }
    all_rows = p.batch * p.channels * cells[0] * cells[1];
    parts = (cells[2] + kBandCells - 1) / kBandCells;
    columns = (cells[2] + parts - 1) / parts;
    rows = parts > 1 ? 1 : least(all_rows, kBandCells / columns);
    // Whole rows lie behind room for what is reached around the first corner, and aligned.
    lead = parts > 1 ? -width.low : round_up(-width.low, kStep);
    pitch = parts > 1 ? columns + width.reach() : columns;
    slice = (rows + height.reach()) * pitch;
    sources = round_up(lead + (depth.reach() + 1) * slice + width.high + kStep, kStep);
    results = round_up(rows * columns, kStep) * p.axis[2].stride;
  }

  int64_t bands() const { return (all_rows + rows - 1) / rows * parts; }

  /// From the first element that is copied to the window of which tap (z, y, x) is an input of the
  /// first cell.
  int64_t offset(const PoolProblem& p, int64_t z, int64_t y, int64_t x) const {
    return (TapShifts::shift(p.axis[0], z) - depth.low) * slice +
           (TapShifts::shift(p.axis[1], y) - height.low) * pitch + TapShifts::shift(p.axis[2], x) +
           lead;
  }
  int64_t bytes() const { return (sources + 2 * results) * int64_t(sizeof(Compute<T>)) + sources; }
};

/// The taps of each phase of inputs, in the order of their windows.
struct TapList {
  struct Tap {
    int64_t offset;
    uint8_t number;
  };
  Tap taps[kMostTaps];
  int begin[9];  // of each phase, 4 * depth + 2 * height + width, and the end

  template <class T>
  TapList(const PoolProblem& p, const TapBands<T>& bands) {
    const PoolWindows &depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];
    int count = 0;
    for (int phase = 0; phase < 8; ++phase) {
      begin[phase] = count;
      for (int64_t z = depth.kernel - 1; z >= 0; --z) {
        if (TapShifts::phase(depth, z) != phase >> 2) continue;
        for (int64_t y = height.kernel - 1; y >= 0; --y) {
          if (TapShifts::phase(height, y) != (phase >> 1 & 1)) continue;
          for (int64_t x = width.kernel - 1; x >= 0; --x) {
            if (TapShifts::phase(width, x) != (phase & 1)) continue;
            const int64_t number = (z * height.kernel + y) * width.kernel + x;
            taps[count++] = {bands.offset(p, z, y, x), uint8_t(number)};
          }
        }
      }
    }
    begin[8] = count;
  }
};

/// One band of cells: `rows` from `row` on, `columns` from `column` on.
template <class T>
struct TapBand {
  static constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolProblem& p;
  const TapBands<T>& bands;
  Compute<T>* grads;    // copies of gradients
  uint8_t* taps;        // and of taps
  Compute<T>* results;  // inputs of a phase of depth and height
  int64_t row, rows, column, columns;

  TapBand(const PoolProblem& p, const TapBands<T>& bands, void* scratch)
      : p(p), bands(bands), grads(static_cast<Compute<T>*>(scratch)) {
    results = grads + bands.sources;
    taps = reinterpret_cast<uint8_t*>(results + 2 * bands.results);
    __builtin_memset(taps, kNoTap, bands.sources);
  }

  void move_to(int64_t band) {
    row = band / bands.parts * bands.rows;
    rows = least(bands.rows, bands.all_rows - row);
    column = band % bands.parts * bands.columns;
    columns = least(bands.columns, bands.cells[2] - column);
  }

  /// Copies what the band reads.
  void copy(const T* grad_output, const uint8_t* from_taps) const {
    const int64_t depth = p.axis[0].output, height = p.axis[1].output, width = p.axis[2].output;
    const bool whole = bands.parts == 1;
    // There is a window in every cell: rows follow one another.
    const bool joined =
        whole && depth == bands.cells[0] && height == bands.cells[1] && width == bands.cells[2];
    const int64_t low = whole ? 0 : column + bands.width.low, high = low + bands.pitch;
    const int64_t begin = most(0, low), end = most(begin, least(width, high));
    for (int64_t shift = bands.depth.low; shift <= bands.depth.high; ++shift) {
      const int64_t first = row + shift * bands.cells[1] + bands.height.low;
      const int64_t last = first + rows + bands.height.reach();
      int64_t at = (shift - bands.depth.low) * bands.slice + (whole ? bands.lead : 0);
      Row source(bands.cells[0], bands.cells[1], most(0, first));
      for (int64_t i = first, count; i < last; i += count, at += count * bands.pitch) {
        if (i < 0 || i >= bands.all_rows) {
          count = least(last, i < 0 ? 0 : last) - i;
          __builtin_memset(taps + at, kNoTap, count * bands.pitch);
          continue;
        }
        count = joined ? least(last, bands.all_rows) - i : 1;
        if (source.d < depth && source.h < height) {
          const int64_t from = ((source.outer * depth + source.d) * height + source.h) * width;
          const int64_t elements = joined ? count * width : end - begin;
          if (begin > low) __builtin_memset(taps + at, kNoTap, begin - low);
          __builtin_memcpy(taps + at + begin - low, from_taps + from + begin, elements);
          load_row(grad_output + from + begin, grads + at + begin - low, elements);
          if (end < high) __builtin_memset(taps + at + end - low, kNoTap, high - end);
        } else {
          __builtin_memset(taps + at, kNoTap, bands.pitch);
        }
        source.advance(bands.cells[0], bands.cells[1]);
      }
    }
  }

  /// Sums of the inputs of a phase, kCellVectors registers of cells from `cell` on.
  void sum(const TapList& list, int phase, int64_t cell,
           Vec<Compute<T>> (&sums)[kCellVectors]) const {
    for (auto& sum : sums) sum = Vec<Compute<T>>{};
    for (int t = list.begin[phase]; t < list.begin[phase + 1]; ++t) {
      const int64_t at = list.taps[t].offset + cell;
#pragma GCC unroll 4
      for (int i = 0; i < kCellVectors; ++i) {
        sums[i] += where_byte<Compute<T>>(taps + at + i * kCount, list.taps[t].number,
                                          load(grads + at + i * kCount));
      }
    }
  }

  /// The inputs of both phases of width for one of depth and height. Meanwhile as many elements
  /// are fetched from `ahead` on, where they are going to be stored.
  void gather(const TapList& list, int phase, Compute<T>* inputs, const T* ahead) const {
    const int64_t stride = p.axis[2].stride;
    for (int64_t cell = 0; cell < rows * columns; cell += TapBands<T>::kStep) {
      Vec<Compute<T>> sums[kCellVectors], odd[kCellVectors];
      sum(list, phase, cell, sums);
      Compute<T>* to = inputs + cell * stride;
#pragma GCC unroll 1
      for (int64_t i = 0; i < TapBands<T>::kStep * stride; i += 64 / int64_t(sizeof(T))) {
        __builtin_prefetch(ahead + cell * stride + i, 1);
      }
      if (stride == 1) {
        for (int i = 0; i < kCellVectors; ++i) store(to + i * kCount, sums[i]);
        continue;
      }
      sum(list, phase + 1, cell, odd);
      for (int i = 0; i < kCellVectors; ++i) {
        Vec<Compute<T>> low, high;
        interleave<Compute<T>>(sums[i], odd[i], &low, &high);
        store(to + 2 * i * kCount, low);
        store(to + (2 * i + 1) * kCount, high);
      }
    }
  }

  /// Where the first input of a cell is, of a phase of depth.
  T* first_input(const Row& cell, int64_t depth_phase, T* grad_input) const {
    const PoolWindows &depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];
    const int64_t d = cell.d * depth.stride + depth_phase, h = cell.h * height.stride;
    const int64_t at = (cell.outer * depth.input + d) * height.input + h;
    return grad_input + at * width.input + column * width.stride;
  }

  /// Stores the inputs of a phase of depth, in the order of memory.
  void store_inputs(int64_t depth_phase, T* grad_input) const {
    const PoolWindows& depth = p.axis[0];
    Row cell(bands.cells[0], bands.cells[1], row);
    for (int64_t i = 0; i < rows;) {
      const int64_t some = least(rows - i, bands.cells[1] - cell.h);
      if (cell.d * depth.stride + depth_phase < depth.input) {
        const int64_t pitch = columns * p.axis[2].stride;
        store_rows(results + i * pitch, pitch, cell.h, some,
                   first_input(cell, depth_phase, grad_input));
      }
      i += some;
      cell.h = bands.cells[1] - 1;
      cell.advance(bands.cells[0], bands.cells[1]);
    }
  }

  /// Stores the inputs of `some` rows of cells from `cell_row` of their plane on. What whole
  /// registers write beyond the end of a row, the rows that follow write again.
  void store_rows(const Compute<T>* from, int64_t pitch, int64_t cell_row, int64_t some,
                  T* to) const {
    const PoolWindows &height = p.axis[1], &width = p.axis[2];
    const int64_t count = least(pitch, width.input - column * width.stride);
    const int64_t begin = cell_row * height.stride;
    const int64_t end_row = least(begin + some * height.stride, height.input);
    if (count <= 0 || end_row <= begin) return;
    const T* end = to + (end_row - begin - 1) * width.input + count;
    int64_t phase = 0;
    for (int64_t h = begin; h < end_row; ++h, to += width.input) {
      const Compute<T>* inputs = from + phase * bands.results;
      int64_t x = 0;
      for (; x < count && end - (to + x) >= kCount; x += kCount) {
        store_compute(to + x, load(inputs + x));
      }
      if (x < count) store_row(to + x, inputs + x, count - x);
      if (++phase == height.stride) phase = 0, from += pitch;
    }
  }
};

template <class T>
void gather_tap_rows(const PoolProblem& p, const T* grad_output, const uint8_t* taps,
                     T* grad_input) {
  const TapBands<T> bands(p);
  const TapList list(p, bands);
  const int64_t work = bands.rows * bands.columns * p.axis[0].kernel * p.axis[1].kernel *
                       p.axis[2].kernel / 4;  // a register takes longer than an element
  parallel_for(bands.bands(), grain_of(work), [&](int64_t begin, int64_t end) {
    Scratch scratch(bands.bytes());
    TapBand<T> band(p, bands, scratch.as<void>());
    for (int64_t b = begin; b < end; ++b) {
      band.move_to(b);
      band.copy(grad_output, taps);
      const Row first(bands.cells[0], bands.cells[1], band.row);
      for (int64_t z = 0; z < p.axis[0].stride; ++z) {
        const T* ahead = band.first_input(first, z, grad_input);
        for (int64_t y = 0; y < p.axis[1].stride; ++y, ahead += bands.results) {
          band.gather(list, int(4 * z + 2 * y), band.results + y * bands.results, ahead);
        }
        band.store_inputs(z, grad_input);
      }
    }
  });
}
