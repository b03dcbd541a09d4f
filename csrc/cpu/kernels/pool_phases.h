// Rows of a strided window as contiguous vectors, for pooling of (N, C, D, H, W) along W.
//
// With stride s, output column o reads inputs o * s - padding + tap * dilation. Input columns split
// into s phases (column modulo s), and within its phase the tap of consecutive outputs is contiguous. So a row
// is copied once into phases, padding filled in and elements widened, and all taps of all outputs are
// plain vector loads, whatever the padding and however short the row. Strides 1 and 2 are split
// with shuffles; larger strides have little overlap between windows and go by window instead
// (pool_row.h).

/// Outputs worked on at a time, and how far beyond them (in outputs) a window may reach. Both
/// phases stay in the first-level cache.
constexpr int64_t kRowOutputs = 256;
constexpr int64_t kRowReach = 128;

template <class T>
struct Phases {
  static constexpr int64_t kLength = kRowOutputs + kRowReach + kLanes<Compute<T>>;
  alignas(CNNOPS_VECTOR_BYTES) Compute<T> data[2][kLength];

  static bool fit(const PoolWindows& axis) {
    return (axis.stride == 1 || axis.stride == 2) &&
           (axis.kernel - 1) * axis.dilation / axis.stride < kRowReach;
  }

  /// Combines a row of `width` elements into the phases for outputs [first, first + count):
  /// data = combine(data, row); padding counts as `padding`.
  template <class Combine>
  void add_row(const T* row, const PoolWindows& axis, int64_t first, int64_t count,
               Compute<T> padding, const Combine& combine) {
    constexpr int64_t kCount = kLanes<Compute<T>>;
    const int64_t stride = axis.stride;
    const int64_t start = first * stride - axis.padding;
    const int64_t length =
        round_up(count, kCount) + (axis.kernel - 1) * axis.dilation / stride + 1;
    const auto add_one = [&](int64_t j) {
      for (int64_t phase = 0; phase < stride; ++phase) {
        const int64_t x = start + j * stride + phase;
        const Compute<T> value = x < 0 || x >= axis.input ? padding : load_one(row + x);
        data[phase][j] = combine(data[phase][j], value);
      }
    };
    int64_t j = 0;
    for (; j < length && start + j * stride < 0; ++j) add_one(j);
    const T* from = row + start;
    if (stride == 1) {
      for (; j + kCount <= length && start + j + kCount <= axis.input; j += kCount) {
        store(data[0] + j, combine(load(data[0] + j), load_compute(from + j)));
      }
    } else {
      for (; j + kCount <= length && start + 2 * (j + kCount) <= axis.input; j += kCount) {
        Vec<Compute<T>> even, odd;
        deinterleave<Compute<T>>(load_compute(from + 2 * j), load_compute(from + 2 * j + kCount),
                                 &even, &odd);
        store(data[0] + j, combine(load(data[0] + j), even));
        store(data[1] + j, combine(load(data[1] + j), odd));
      }
    }
    for (; j < length; ++j) add_one(j);
  }

  /// Where tap number `tap` of the first output is; those of the next outputs follow.
  const Compute<T>* tap(const PoolWindows& axis, int64_t tap) const {
    const int64_t x = tap * axis.dilation;
    return data[x % axis.stride] + x / axis.stride;
  }
};
