// max_pool for training: the maximum of each window with the number of its tap in a byte, and the
// gradient by these.
//
// A byte is an eighth of an index, and lets the gradient be gathered: an input looks at the taps of
// the few windows that it lies in, and adds the gradients of those that are itself. So every
// element is written once, in registers of channels here, by rows of inputs as in pool_avg.h, and
// in registers of neighbours in pool_tap_rows.h. Elements of less than a register of channels are
// sent to where their taps are, one by one.

/// The output rows whose windows hold input row (d, h): three along an axis at most, or there are
/// no taps. Found once for all of its pixels.
struct RowsOfWindows {
  static constexpr int64_t kMost = 9;
  int64_t at[kMost];   // elements from the first output pixel
  int64_t tap[kMost];  // by which column 0 of a window would read the input row
  int64_t count = 0;

  RowsOfWindows(const PoolProblem& p, int64_t d, int64_t h) {
    const PoolWindows &depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];
    for (int64_t z = depth.first[d]; z < depth.last[d]; ++z) {
      for (int64_t y = height.first[h]; y < height.last[h]; ++y, ++count) {
        at[count] = (z * height.output + y) * width.output * p.channels;
        tap[count] = ((d - depth.start(z)) * height.kernel + h - height.start(y)) * width.kernel;
      }
    }
  }

  /// Calls f(elements from the first output pixel, tap) for each window that column w lies in.
  template <class F>
  void for_each(const PoolProblem& p, int64_t w, const F& f) const {
    const PoolWindows& width = p.axis[2];
    const int64_t first = width.first[w], windows = width.last[w] - first;
    const int64_t column = w - width.start(first), channels = p.channels, stride = width.stride;
    for (int64_t k = 0; k < count; ++k) {
      int64_t from = at[k] + first * channels, of_pixel = tap[k] + column;
      for (int64_t i = 0; i < windows; ++i, from += channels, of_pixel -= stride) {
        f(from, uint8_t(of_pixel));
      }
    }
  }
};

/// kVectors registers of channels of the gradient of input column w; `from` and `taps` are the
/// planes at the first channel.
template <int kVectors, class T>
inline void gather_channels(const PoolProblem& p, const RowsOfWindows& rows, const T* from,
                            const uint8_t* taps, int64_t w, T* to) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  Vec<Compute<T>> sum[kVectors] = {};
  rows.for_each(p, w, [&](int64_t at, uint8_t tap) {
#pragma GCC unroll 4
    for (int i = 0; i < kVectors; ++i) {
      const int64_t c = at + i * kCount;
      sum[i] += where_byte<Compute<T>>(taps + c, tap, load_compute(from + c));
    }
  });
  for (int i = 0; i < kVectors; ++i) store_compute(to + i * kCount, sum[i]);
}

/// The same of one channel.
template <class T>
inline void gather_channel(const PoolProblem& p, const RowsOfWindows& rows, const T* from,
                           const uint8_t* taps, int64_t w, T* to) {
  Compute<T> sum = 0;
  rows.for_each(p, w, [&](int64_t at, uint8_t tap) {
    if (taps[at] == tap) sum += load_one(from + at);
  });
  store_one(to, sum);
}

/// Gradients of channels_last tensors, by pixels of inputs.
template <class T>
void gather_pixels(const PoolProblem& p, const T* grad_output, const uint8_t* taps, T* grad_input) {
  const int64_t width = p.axis[2].input;
  for_each_row_task(
      p, p.axis[0].input, p.axis[1].input, width * windows_of(p),
      [&](const Row& at, int64_t row, int64_t first, int64_t last) {
        const int64_t plane = at.outer * output_plane(p) * p.channels;
        const RowsOfWindows rows(p, at.d, at.h);
        for (int64_t w = 0; w < width; ++w) {
          T* to = grad_input + (row * width + w) * p.channels;
          const auto gather = [&](auto gather_from, int64_t c) {
            gather_from(p, rows, grad_output + plane + c, taps + plane + c, w, to + c);
          };
          for_each_channel_run<T>(first, last, [&]<int kVectors>(int64_t c, int64_t lanes) {
            if (lanes == kLanes<Compute<T>>) {
              return gather(gather_channels<kVectors, T>, c);
            }
            for (int64_t i = c; i < last; ++i) gather(gather_channel<T>, i);
          });
        }
      });
}

/// Bytes that each thread of max_pool_taps_backward takes.
template <class T>
int64_t max_pool_taps_scratch(const PoolProblem& p) {
  if (p.algorithm == PoolAlgorithm::rows_by_phases) return TapBands<T>(p).bytes();
  if (__is_same(T, Compute<T>) || p.algorithm != PoolAlgorithm::tap_by_tap) return 0;
  return int64_t(sizeof(Compute<T>)) * input_plane(p) * p.channels;
}

/// Gradients of channels_last tensors, image by image: taps send the elements of grad_output to
/// where they belong among zeros, 16-bit elements into sums in scratch.
template <class T>
void scatter_taps(const PoolProblem& p, const T* grad_output, const uint8_t* taps, T* grad_input) {
  constexpr bool kInPlace = __is_same(T, Compute<T>);
  const PoolWindows &depth = p.axis[0], &height = p.axis[1], &width = p.axis[2];
  const int64_t channels = p.channels;
  const int64_t small = output_plane(p) * channels, large = input_plane(p) * channels;
  int64_t offsets[256] = {};  // of each tap from where its window begins
  for (int64_t tap = 0; tap < depth.kernel * height.kernel * width.kernel; ++tap) {
    const int64_t row = tap / width.kernel, z = row / height.kernel, y = row % height.kernel;
    offsets[tap] = ((z * height.input + y) * width.input + tap % width.kernel) * channels;
  }
  parallel_for(p.batch, grain_of(small + large), [&](int64_t begin, int64_t end) {
    Scratch scratch(max_pool_taps_scratch<T>(p));
    for (int64_t image = begin; image < end; ++image) {
      T* to = grad_input + image * large;
      Compute<T>* sums = scratch.as<Compute<T>>();
      if constexpr (kInPlace) sums = to;
      __builtin_memset(sums, 0, sizeof(Compute<T>) * large);
      const T* from = grad_output + image * small;
      const uint8_t* tap = taps + image * small;
      for (int64_t z = 0; z < depth.output; ++z) {
        for (int64_t y = 0; y < height.output; ++y) {
          const int64_t row = (depth.start(z) * height.input + height.start(y)) * width.input;
          int64_t window = (row - width.padding) * channels;
          for (int64_t x = 0; x < width.output; ++x, window += width.stride * channels) {
            for (int64_t c = 0; c < channels; ++c, ++from, ++tap) {
              // Taps are those of max_pool_taps; of any others the image is all that is certain.
              const uint64_t at = uint64_t(window + c + offsets[*tap]);
              if (at < uint64_t(large)) sums[at] += load_one(from);
            }
          }
        }
      }
      if constexpr (!kInPlace) store_row(to, sums, large);
    }
  });
}

template <class T>
void max_pool_taps(const PoolProblem& p, const T* input, T* output, uint8_t* taps) {
  if (p.algorithm == PoolAlgorithm::blocks) return max_blocks(p, input, output, taps);
  if (p.algorithm == PoolAlgorithm::shuffled_rows) {
    return max_rows_by_shuffles(p, input, output, taps);
  }
  return p.algorithm == PoolAlgorithm::pixels ? max_pixels(p, input, output, taps)
                                              : max_rows(p, input, output, taps);
}

template <class T>
void max_pool_taps_backward(const PoolProblem& p, const T* grad_output, const uint8_t* taps,
                            T* grad_input) {
  if (p.algorithm == PoolAlgorithm::pixels) return gather_pixels(p, grad_output, taps, grad_input);
  if (p.algorithm == PoolAlgorithm::rows_by_phases) {
    return gather_tap_rows(p, grad_output, taps, grad_input);
  }
#if defined(CNNOPS_TARGET_AVX512)
  if constexpr (kRolls<T>) {
    if (p.algorithm == PoolAlgorithm::rolling_rows) {
      return roll_taps(p, grad_output, taps, grad_input);
    }
  }
#endif
  return scatter_taps(p, grad_output, taps, grad_input);
}
