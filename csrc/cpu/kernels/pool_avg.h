// avg_pool and adaptive_avg_pool: the mean of each window, and the gradient of both.
//
// Forward: the sums of pool_row.h and pool_pixel.h, divided once. Backward is a gather: the
// gradient of an input is the sum over the windows it lies in, so every element is written once, by
// one task, in one order. A row of inputs first sums the rows of outputs above it, each divided by
// its divisor, and then spreads that sum along W.

/// What the sums of the windows are divided by.
template <class T>
class Divisors {
  static constexpr int64_t kCount = kLanes<Compute<T>>;

 public:
  explicit Divisors(const PoolProblem& p) : p_(p), same_(counts_alike(p)), table_(bytes(p)) {
    if (same()) return;
    Compute<T>* to = table_.template as<Compute<T>>();
    const PoolWindows& width = p.axis[2];
    // Twins (twin_row.h) have the outputs of another plane in the second half of a register.
    const int64_t half = width.output <= kCount / 2 ? kCount / 2 : width.output;
    for (int64_t i = 0; i < table_size(p); ++i) {
      const int64_t o = i < kCount + half ? i - kCount : i - kCount - half;
      to[i] = o >= 0 && o < width.output ? Compute<T>(width.count[o]) : Compute<T>(1);
    }
  }

  /// Bytes of the table that it keeps.
  static int64_t bytes(const PoolProblem& p) {
    if (p.divisor != 0 || counts_alike(p)) return 0;
    return int64_t(sizeof(Compute<T>)) * table_size(p);
  }

  /// Do all windows of a row divide alike?
  bool same() const { return same_ || p_.divisor != 0; }

  /// Elements that the windows of output row (d, h) have in the other two axes.
  int64_t row(int64_t d, int64_t h) const { return p_.axis[0].count[d] * p_.axis[1].count[h]; }

  Compute<T> one(int64_t row, int64_t w) const {
    return Compute<T>(p_.divisor != 0 ? p_.divisor : row * p_.axis[2].count[w]);
  }

  /// The divisors of outputs w, w + 1, ... of a row; any but 0 beyond its ends, of which w is less
  /// than a register away before the first and two behind the last.
  Vec<Compute<T>> lanes(int64_t row, int64_t w) const {
    if (same()) return broadcast(one(row, 0));
    return load(table_.template as<Compute<T>>() + kCount + w) * Compute<T>(row);
  }

  /// value / divisor for a gradient. Floats multiply by the inverse: off by an ulp, much faster.
  template <class V>
  static V share(V value, Compute<T> divisor) {
    if constexpr (kDivideOnce) {
      return value * (1 / divisor);
    } else {
      return value / divisor;
    }
  }

  /// Is multiplying by 1 / divisor the same as dividing, as for powers of two?
  static bool inverse_is_exact(Compute<T> divisor) {
    if constexpr (kDivideOnce) {
      const int64_t whole = divisor < 0 ? -int64_t(divisor) : int64_t(divisor);
      return whole != 0 && (whole & (whole - 1)) == 0;
    } else {
      return false;
    }
  }

  /// Do the windows [first, last) of an axis count alike?
  bool alike(const PoolWindows& axis, int64_t first, int64_t last) const {
    if (p_.divisor != 0) return true;
    for (int64_t o = first + 1; o < last; ++o) {
      if (axis.count[o] != axis.count[first]) return false;
    }
    return true;
  }

  /// May a sum of quotients of one divisor be divided once? Not the integers, which truncate.
  static constexpr bool kDivideOnce = !__is_same(T, int64_t);

 private:
  static bool counts_alike(const PoolProblem& p) {
    const PoolWindows& width = p.axis[2];
    for (int64_t o = 1; o < width.output; ++o) {
      if (width.count[o] != width.count[0]) return false;
    }
    return true;
  }
  /// Counts along W as elements of registers, with room on both sides.
  static int64_t table_size(const PoolProblem& p) { return p.axis[2].output + 4 * kCount; }

  const PoolProblem& p_;
  bool same_;
  Scratch table_;
};

/// Division by one number, which gives the quotients that division gives: vectors of floats are
/// multiplied by the inverse, and by it once more what is left then.
template <class T>
struct Divide {
  T divisor, inverse;

  explicit Divide(T by) : divisor(by), inverse(1 / by) {}

  Vec<T> operator()(Vec<T> value) const {
#if defined(CNNOPS_TARGET_AVX512) || defined(CNNOPS_TARGET_AVX2)
    if constexpr (!__is_same(T, int64_t)) {
      const Vec<T> about = value * inverse;
      const Vec<T> quotient = about + (value - about * divisor) * inverse;
      return quotient == quotient ? quotient : about;  // infinities leave NaN
    }
#endif
    return value / divisor;
  }
};

template <class T>
void avg_pool(const PoolProblem& p, const T* input, T* output) {
  const Divisors<T> divisors(p);
  if (p.algorithm == PoolAlgorithm::shuffled_rows) {
    return reduce_rows_by_shuffles(
        p, work_of(p), input, output, Sum(), Unscaled(), [&](int64_t d, int64_t h) {
          const int64_t row = divisors.row(d, h);
          return [&divisors, row, shared = Divide<Compute<T>>(divisors.one(row, 0))](
                     Vec<Compute<T>> sum, int64_t w) {
            return divisors.same() ? shared(sum) : sum / divisors.lanes(row, w);
          };
        });
  }
  if (p.algorithm == PoolAlgorithm::blocks) {
    return reduce_blocks(p, input, output, Sum(), [&](int64_t d, int64_t h) {
      const int64_t row = divisors.row(d, h);
      return [&divisors, row, shared = Divide<Compute<T>>(divisors.one(row, 0))](
                 Vec<Compute<T>> sum, int64_t w) {
        return divisors.same() ? shared(sum) : Divide<Compute<T>>(divisors.one(row, w))(sum);
      };
    });
  }
  if (p.algorithm == PoolAlgorithm::pixels) {
    reduce_pixels(p, input, output, Sum(), [&](int64_t d, int64_t h, int64_t w) {
      const Compute<T> divisor = divisors.one(divisors.row(d, h), w);
      return [=, exact = Divisors<T>::inverse_is_exact(divisor)](auto sum) {
        return exact ? sum * (1 / divisor) : sum / divisor;
      };
    });
  } else {
    const Divide<Compute<T>> all(divisors.one(divisors.row(0, 0), 0));
    const bool one = divisors.same() && divisors.alike(p.axis[0], 0, p.axis[0].output) &&
                     divisors.alike(p.axis[1], 0, p.axis[1].output);
    reduce_rows(p, input, output, Sum(), [&](int64_t d, int64_t h) {
      const int64_t row = one ? 0 : divisors.row(d, h);
      return [&divisors, row, shared = one ? all : Divide<Compute<T>>(divisors.one(row, 0))](
                 Vec<Compute<T>> sum, int64_t w) {
        return divisors.same() ? shared(sum) : sum / divisors.lanes(row, w);
      };
    });
  }
}

/// sums[i] = the sum over the output rows above input row (d, h) of grad_output / divisor, for
/// outputs [first, first + count), and 0 up to the next whole register.
template <class T>
inline void sum_gradient_rows(const PoolProblem& p, const Divisors<T>& divisors,
                              Readable<T> readable, const T* plane, int64_t d, int64_t h,
                              int64_t first, int64_t count, Compute<T>* sums) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolWindows& depth = p.axis[0];
  const PoolWindows& height = p.axis[1];
  const int64_t z_begin = depth.first[d], z_end = depth.last[d];
  const int64_t y_begin = height.first[h], y_end = height.last[h];
  const bool once = Divisors<T>::kDivideOnce && divisors.alike(depth, z_begin, z_end) &&
                    divisors.alike(height, y_begin, y_end);
  for (int64_t i = 0; i < count; i += kCount) {
    Vec<Compute<T>> sum = {};
    int64_t row = 1;
    for (int64_t z = z_begin; z < z_end; ++z) {
      for (int64_t y = y_begin; y < y_end; ++y) {
        const T* from = plane + (z * height.output + y) * p.axis[2].output + first;
        const Vec<Compute<T>> value = load_columns(from, readable, count, i, Compute<T>(0));
        row = divisors.row(z, y);
        sum += once ? value : value / divisors.lanes(row, first + i);
      }
    }
    store(sums + i, once ? sum / divisors.lanes(row, first + i) : sum);
  }
}

/// to[0, count) = value.
template <class T>
inline void fill_row(T* to, Compute<T> value, int64_t count) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  int64_t i = 0;
  for (; i + kCount <= count; i += kCount) store_compute(to + i, broadcast(value));
  if (i < count) store_first(to + i, broadcast(value), count - i);
}

/// One input row under windows of stride 1 or 2: input x = j * stride + phase - padding lies under
/// the taps phase, phase + stride, ... of the outputs j, j - 1, ...
template <class T>
void spread_row_by_phases(const PoolProblem& p, const Divisors<T>& divisors, Readable<T> readable,
                          const T* plane, int64_t d, int64_t h, T* grad_input) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolWindows& axis = p.axis[2];
  const int64_t stride = axis.stride;
  const int64_t reach = (axis.kernel - 1) / stride;
  // sums[kCount * n + ...] with zeros on both sides where there is no output.
  alignas(CNNOPS_VECTOR_BYTES) Compute<T> sums[2 * kCount + kPoolRowReach + kRowOutputs];
  alignas(CNNOPS_VECTOR_BYTES) Compute<T> row[2 * kRowOutputs];
  const int64_t j_end = (axis.input - 1 + axis.padding) / stride + 1;
  for (int64_t j = axis.padding / stride; j < j_end; j += kRowOutputs) {
    const int64_t count = least(kRowOutputs, j_end - j);
    const int64_t first = most(0, j - reach);
    const int64_t last = most(first, least(axis.output, j + count));
    const int64_t before = first - (j - reach);
    for (int64_t i = 0; i < before; ++i) sums[i] = 0;
    sum_gradient_rows(p, divisors, readable, plane, d, h, first, last - first, sums + before);
    for (int64_t i = before + last - first; i < reach + round_up(count, kCount); ++i) sums[i] = 0;
    for (int64_t i = 0; i < count; i += kCount) {
      Vec<Compute<T>> spread[2] = {};
      for (int64_t tap = 0; tap < axis.kernel; ++tap) {
        const int64_t back = stride == 1 ? tap : tap >> 1;
        const Vec<Compute<T>> value = load(sums + reach + i - back);
        if (stride == 1 || tap % 2 == 0) {
          spread[0] += value;
        } else {
          spread[1] += value;
        }
      }
      if (stride == 1) {
        store(row + i, spread[0]);
      } else {
        interleave<Compute<T>>(spread[0], spread[1], &spread[0], &spread[1]);
        store(row + 2 * i, spread[0]);
        store(row + 2 * i + kCount, spread[1]);
      }
    }
    const int64_t x = j * stride - axis.padding;
    const int64_t skip = x < 0 ? -x : 0;
    store_row(grad_input + x + skip, row + skip, least(count * stride, axis.input - x) - skip);
  }
}

/// One input row under any windows: each input adds up the outputs whose windows hold it. Columns
/// go in runs that share a buffer of outputs; a column under more outputs than that goes alone.
template <class T>
void spread_row_by_windows(const PoolProblem& p, const Divisors<T>& divisors, Readable<T> readable,
                           const T* plane, int64_t d, int64_t h, T* grad_input) {
  const PoolWindows& axis = p.axis[2];
  alignas(CNNOPS_VECTOR_BYTES) Compute<T> sums[kRowOutputs];
  for (int64_t x = 0, x_end = 0; x < axis.input; x = x_end) {
    const int64_t first = axis.first[x];
    x_end = x + 1;
    if (axis.last[axis.input - 1] - first <= kRowOutputs) x_end = axis.input;
    while (x_end < axis.input && axis.last[x_end] - first <= kRowOutputs) ++x_end;
    const int64_t outputs = axis.last[x_end - 1] - first;
    if (outputs <= kRowOutputs) {
      sum_gradient_rows(p, divisors, readable, plane, d, h, first, outputs, sums);
      const int64_t* from = axis.first;
      const int64_t* to = axis.last;
      for (int64_t column = x; column < x_end; ++column) {
        const int64_t o = from[column] - first, count = to[column] - from[column];
        Compute<T> sum = count > 0 ? sums[o] : 0;
        if (count > 1) sum += sums[o + 1];  // windows rarely overlap more
        for (int64_t i = 2; i < count; ++i) sum += sums[o + i];
        store_one(grad_input + column, sum);
      }
      continue;
    }
    Compute<T> sum = 0;
    for (int64_t o = 0; o < outputs; o += kRowOutputs) {
      const int64_t count = least(kRowOutputs, outputs - o);
      sum_gradient_rows(p, divisors, readable, plane, d, h, first + o, count, sums);
      for (int64_t i = 0; i < count; ++i) sum += sums[i];
    }
    store_one(grad_input + x, sum);
  }
}

/// Windows that an input lies in, about.
inline int64_t windows_of(const PoolProblem& p) {
  int64_t windows = 1;
  for (const PoolWindows& axis : p.axis) {
    const int64_t x = axis.input / 2;
    windows *= most(1, axis.input == 0 ? 1 : axis.last[x] - axis.first[x]);
  }
  return windows;
}

/// Calls f(offset of the output pixel in its plane, its divisor) for each output pixel whose window
/// holds input pixel (d, h, w).
template <class T, class F>
inline void for_each_output_pixel(const PoolProblem& p, const Divisors<T>& divisors, int64_t d,
                                  int64_t h, int64_t w, const F& f) {
  const PoolWindows& depth = p.axis[0];
  const PoolWindows& height = p.axis[1];
  const PoolWindows& width = p.axis[2];
  for (int64_t z = depth.first[d]; z < depth.last[d]; ++z) {
    for (int64_t y = height.first[h]; y < height.last[h]; ++y) {
      const int64_t row = divisors.row(z, y);
      for (int64_t x = width.first[w]; x < width.last[w]; ++x) {
        f((z * height.output + y) * width.output + x, divisors.one(row, x));
      }
    }
  }
}

/// Writes kVectors registers of channels, `lanes` of each, of the gradient of input pixel (d, h,
/// w); `from` is the plane of grad_output at the first channel. `once`: all divisors are equal.
template <int kVectors, class T>
inline void spread_to_pixel(const PoolProblem& p, const Divisors<T>& divisors, const T* from,
                            int64_t lanes, int64_t d, int64_t h, int64_t w, bool once, T* to) {
  Vec<Compute<T>> sum[kVectors] = {};
  Compute<T> last = 1;
  for_each_output_pixel(p, divisors, d, h, w, [&](int64_t pixel, Compute<T> divisor) {
    last = divisor;
    Vec<Compute<T>> value[kVectors];
    load_run<kVectors>(from + pixel * p.channels, lanes, value);
    for (int i = 0; i < kVectors; ++i) {
      sum[i] += once ? value[i] : Divisors<T>::share(value[i], divisor);
    }
  });
  for (auto& v : sum) v = once ? Divisors<T>::share(v, last) : v;
  store_run<kVectors>(to, sum, lanes);
}

/// Does input x of an axis lie under the same windows as the one before?
inline bool repeats(const PoolWindows& axis, int64_t x) {
  return x > 0 && axis.first[x] == axis.first[x - 1] && axis.last[x] == axis.last[x - 1];
}

/// Gradients of (N, C, D, H, W), by rows of inputs. Rows under the same windows are alike.
template <class T>
void spread_rows(const PoolProblem& p, const T* grad_output, T* grad_input) {
  const Divisors<T> divisors(p);
  const int64_t depth = p.axis[0].input, height = p.axis[1].input, width = p.axis[2].input;
  const bool by_phases = p.algorithm == PoolAlgorithm::rows_by_phases;
  const Readable<T> readable{grad_output, grad_output + p.batch * p.channels * output_plane(p)};
  parallel_for(p.batch * p.channels * depth * height, grain_of(width * windows_of(p)),
               [&](int64_t begin, int64_t end) {
                 Row row(depth, height, begin);
                 for (int64_t r = begin; r < end; ++r, row.advance(depth, height)) {
                   T* to = grad_input + r * width;
                   if (p.algorithm == PoolAlgorithm::whole_rows) {
                     const Compute<T> divisor = divisors.one(divisors.row(0, 0), 0);
                     fill_row(to, load_one(grad_output + r) / divisor, width);
                     continue;
                   }
                   if (r > begin && repeats(p.axis[1], row.h)) {
                     __builtin_memcpy(to, to - width, sizeof(T) * width);
                     continue;
                   }
                   const T* plane = grad_output + row.outer * output_plane(p);
                   const auto spread =
                       by_phases ? spread_row_by_phases<T> : spread_row_by_windows<T>;
                   spread(p, divisors, readable, plane, row.d, row.h, to);
                 }
               });
}

/// Gradients of channels_last tensors, by pixels of inputs.
template <class T>
void spread_pixels(const PoolProblem& p, const T* grad_output, T* grad_input) {
  const Divisors<T> divisors(p);
  const int64_t width = p.axis[2].input;
  for_each_row_task(
      p, p.axis[0].input, p.axis[1].input, width * windows_of(p),
      [&](const Row& at, int64_t row, int64_t first, int64_t last) {
        const T* plane = grad_output + at.outer * output_plane(p) * p.channels;
        const auto alike = [&](int axis, int64_t x) {
          return divisors.alike(p.axis[axis], p.axis[axis].first[x], p.axis[axis].last[x]);
        };
        const bool rows_alike = Divisors<T>::kDivideOnce && alike(0, at.d) && alike(1, at.h);
        for (int64_t w = 0; w < width; ++w) {
          T* to = grad_input + (row * width + w) * p.channels;
          if (repeats(p.axis[2], w)) {
            __builtin_memcpy(to + first, to + first - p.channels, sizeof(T) * (last - first));
            continue;
          }
          const bool once = rows_alike && alike(2, w);
          for_each_channel_run<T>(first, last, [&]<int kVectors>(int64_t c, int64_t lanes) {
            spread_to_pixel<kVectors>(p, divisors, plane + c, lanes, at.d, at.h, w, once, to + c);
          });
        }
      });
}

/// Divides the gradients of outputs by what their sums were divided by.
template <class T>
struct ShareGradient {
  const Divisors<T>& divisors;

  int64_t row(int64_t z, int64_t y) const { return divisors.row(z, y); }
  void operator()(Sources<T>* from, int64_t row, int64_t origin) const {
    if (divisors.same()) {
      const Compute<T> divisor = divisors.one(row, 0);
      from->low = Divisors<T>::share(from->low, divisor);
      from->high = Divisors<T>::share(from->high, divisor);
    } else {
      from->low /= divisors.lanes(row, origin);
      from->high /= divisors.lanes(row, origin + kLanes<Compute<T>>);
    }
  }
};

/// Gradients of (N, C, D, H, W), by blocks.
template <class T>
void spread_blocks(const PoolProblem& p, const T* grad_output, T* grad_input) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const Divisors<T> divisors(p);
  for_each_block<T>(p, false, [&](const PoolBlock& block, const BlockMemory<T>& memory) {
    load_block(p, block, grad_output, memory.source);
    const Box& from = block.from;
    Compute<T>* pixel = memory.source;
    for (int64_t z = from.begin[0]; z < from.end[0]; ++z) {
      for (int64_t y = from.begin[1]; y < from.end[1]; ++y) {
        const int64_t row = divisors.row(z, y);
        for (int64_t x = from.begin[2]; x < from.end[2]; ++x, pixel += kCount) {
          store(pixel, Divisors<T>::share(load(pixel), divisors.one(row, x)));
        }
      }
    }
    reduce_block<T>(p, block, memory, Sum(),
                    [](int64_t, int64_t) { return [](auto sum, int64_t) { return sum; }; });
    store_block<T>(p, block, memory.to, grad_input);
  });
}

template <class T>
void avg_pool_backward(const PoolProblem& p, const T* grad_output, T* grad_input) {
  if (p.algorithm == PoolAlgorithm::shuffled_rows) {
    const Divisors<T> divisors(p);
    return reduce_rows_by_shuffles(
        p, windows_of(p), grad_output, grad_input, Sum(), ShareGradient<T>{divisors},
        [](int64_t, int64_t) { return [](auto sum, int64_t) { return sum; }; });
  }
  return p.algorithm == PoolAlgorithm::pixels   ? spread_pixels(p, grad_output, grad_input)
         : p.algorithm == PoolAlgorithm::blocks ? spread_blocks(p, grad_output, grad_input)
                                                : spread_rows(p, grad_output, grad_input);
}
