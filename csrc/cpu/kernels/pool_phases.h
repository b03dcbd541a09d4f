// Rows of a strided window as contiguous vectors, for pooling of (N, C, D, H, W) along W.
//
// With stride s, output column o reads inputs o * s - padding + tap * dilation. Input columns split
// into s phases (column modulo s), and within its phase the tap of consecutive outputs is
// contiguous. So a row is copied once into phases, padding filled in and elements widened, and all
// taps of all outputs are plain vector loads, whatever the padding and however short the row.
// Strides 1 and 2 are split with shuffles; windows of larger strides overlap little and are taken
// one by one instead (pool_row.h).

/// Outputs worked on at a time. With what a window may reach beyond them, both phases stay in the
/// first-level cache.
constexpr int64_t kRowOutputs = 256;

/// The tensor that a row is part of.
template <class T>
struct Readable {
  const T* begin;
  const T* end;
};

/// Columns x, x + 1, ... of a row of `width`, those outside it replaced by `padding`. The lanes
/// outside are read and dropped where they belong to neighbours in the tensor.
template <class T>
inline Vec<Compute<T>> load_columns(const T* row, Readable<T> readable, int64_t width, int64_t x,
                                    Compute<T> padding) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  if (x >= 0 && x + kCount <= width) return load_compute(row + x);
  if (x >= width || x + kCount <= 0) return broadcast(padding);
  if (x >= readable.begin - row && x + kCount <= readable.end - row) {
    const Vec<Offset<T>> lanes = lane_numbers<Offset<T>>();
    const auto inside =
        (lanes >= Offset<T>(most(-x, 0))) & (lanes < Offset<T>(least(width - x, kCount)));
    return inside ? load_compute(row + x) : broadcast(padding);
  }
  Vec<Compute<T>> result = broadcast(padding);
  for (int64_t lane = most(-x, 0); lane < least(width - x, kCount); ++lane) {
    result[lane] = load_one(row + x + lane);
  }
  return result;
}

/// The phases of one row, `stride` of them.
template <class T>
struct Phases {
  static constexpr int64_t kLength = kRowOutputs + kPoolRowReach + 2 * kLanes<Compute<T>>;
  alignas(CNNOPS_VECTOR_BYTES) Compute<T> data[2][kLength];

  /// Splits a row into the phases for outputs [first, first + count); padding counts as `padding`.
  void split_row(const T* row, Readable<T> readable, const PoolWindows& axis, int64_t first,
                 int64_t count, Compute<T> padding) {
    constexpr int64_t kCount = kLanes<Compute<T>>;
    const int64_t stride = axis.stride;
    const int64_t start = first * stride - axis.padding;
    const int64_t length = count + ((axis.kernel - 1) * axis.dilation) / stride;
    for (int64_t j = 0; j < length; j += kCount) {
      const int64_t x = start + j * stride;
      const Vec<Compute<T>> low = load_columns(row, readable, axis.input, x, padding);
      if (stride == 1) {
        store(data[0] + j, low);
      } else {
        const Vec<Compute<T>> high = load_columns(row, readable, axis.input, x + kCount, padding);
        Vec<Compute<T>> even, odd;
        deinterleave<Compute<T>>(low, high, &even, &odd);
        store(data[0] + j, even);
        store(data[1] + j, odd);
      }
    }
  }

  /// Where tap number `tap` of the first output is; those of the next outputs follow.
  const Compute<T>* tap(const PoolWindows& axis, int64_t tap) const {
    const int64_t x = tap * axis.dilation;
    return axis.stride == 1 ? data[0] + x : data[x & 1] + (x >> 1);
  }
};
