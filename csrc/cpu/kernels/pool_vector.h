// What all pooling kernels share: the type they compute in, vectors of it, the two reductions, and
// how the work is cut.
//
// A task is a run of output rows (or planes); tasks of less than kTaskWork element visits stay on
// one thread. Nothing depends on the number of threads: every output is computed by one task, in
// one order.

/// Element visits that are worth waking a thread for.
constexpr int64_t kTaskWork = 32768;

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/// A bit for each of `lanes` positions from `at` on that lies in [0, size).
inline uint32_t lanes_inside(int64_t at, int64_t size, int64_t lanes) {
  const int64_t high = least(most(size - at, 0), lanes), low = least(most(-at, 0), high);
  return uint32_t((1u << high) - (1u << low));
}

/// Items per task where one item costs `work` element visits.
inline int64_t grain_of(int64_t work) { return most(1, kTaskWork / most(1, work)); }

/// The type in which T is compared and summed: float for the 16-bit floats, int32_t for the
/// integers below 32 bits, T otherwise.
template <class T>
struct ComputeOf {
  using type = Accumulator<T>;
};
template <>
struct ComputeOf<int16_t> {
  using type = int32_t;
};
template <>
struct ComputeOf<int8_t> {
  using type = int32_t;
};
template <>
struct ComputeOf<uint8_t> {
  using type = int32_t;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

/// T of which only elements are stored: for bfloat16 a type that rounds nothing.
template <class T>
struct ElementsOf {
  using type = T;
};
template <>
struct ElementsOf<bfloat16> {
  using type = exact_bfloat16;
};
template <class T>
using Elements = typename ElementsOf<T>::type;

/// The smallest value of T, -infinity for floats: the maximum of nothing.
template <class T>
constexpr Compute<T> lowest() {
  if constexpr (__is_same(Compute<T>, float)) {
    return -__builtin_inff();
  } else if constexpr (__is_same(Compute<T>, double)) {
    return -__builtin_inf();
  } else if constexpr (T(-1) > T(0)) {
    return 0;
  } else {
    return Compute<T>(T(1) << (8 * sizeof(T) - 2)) * -2;
  }
}

template <class T>
inline Compute<T> load_one(const T* from) {
  return widen(*from);
}
template <class T>
inline void store_one(T* to, Compute<T> value) {
  if constexpr (__is_same(Compute<T>, Accumulator<T>)) {
    *to = narrow<T>(value);
  } else {
    *to = T(value);
  }
}

/// kLanes<Compute<T>> elements of T as one register of Compute<T>, and back.
template <class T>
inline Vec<Compute<T>> load_compute(const T* from) {
  if constexpr (__is_same(Compute<T>, Accumulator<T>)) {
    return load_wide(from);
  } else {
    typename VectorOf<T, kLanes<int32_t>>::type small;
    __builtin_memcpy(&small, from, sizeof(small));
    return __builtin_convertvector(small, Vec<int32_t>);
  }
}
template <class T>
inline void store_compute(T* to, Vec<Compute<T>> v) {
  if constexpr (__is_same(Compute<T>, Accumulator<T>)) {
    store_narrow(to, v);
  } else {
    typename VectorOf<T, kLanes<int32_t>>::type small = __builtin_convertvector(v, decltype(small));
    __builtin_memcpy(to, &small, sizeof(small));
  }
}

/// Like load_compute of the first `count` lanes; the others are zero.
template <class T>
inline Vec<Compute<T>> load_first(const T* from, int64_t count) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  if (count >= kCount) return load_compute(from);
  if constexpr (__is_same(Compute<T>, Accumulator<T>)) return load_partial(from, count);
  T all[kCount] = {};
  for (int64_t i = 0; i < kCount; ++i) {
    if (i < count) all[i] = from[i];
  }
  return load_compute(all);
}

/// Stores the first `count` lanes of v.
template <class T>
inline void store_first(T* to, Vec<Compute<T>> v, int64_t count) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  if (count >= kCount) return store_compute(to, v);
  if constexpr (__is_same(Compute<T>, Accumulator<T>)) return store_partial(to, v, count);
  T all[kCount];
  store_compute(all, v);
  for (int64_t i = 0; i < count; ++i) to[i] = all[i];
}

/// Registers of neighbours, `count` elements of each, in an order that store_run undoes. Two of
/// bfloat16 are the even elements and the odd ones, halves of 32 bits: taking these apart is half
/// of what widening neighbours takes.
template <int kVectors, class T>
inline void load_run(const T* from, int64_t count, Vec<Compute<T>> (&to)[kVectors]) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  for (int i = 0; i < kVectors; ++i) {
    if constexpr (kIsBfloat16<T> && kVectors % 2 == 0) {
      if (i % 2 != 0) continue;
      const auto both = load(reinterpret_cast<const uint32_t*>(from + i * kCount));
      to[i] = (Vec<float>)(both << 16);
      to[i + 1] = (Vec<float>)(both & 0xffff0000u);
    } else {
      to[i] = load_first(from + i * kCount, count);
    }
  }
}
/// What store_run makes of two registers: the even elements and the odd ones.
template <class T>
inline Vec<uint32_t> halves_of(Vec<float> even, Vec<float> odd) {
  if constexpr (__is_same(T, exact_bfloat16)) {
    return (Vec<uint32_t>)even >> 16 | ((Vec<uint32_t>)odd & 0xffff0000u);
  } else {
#if defined(CNNOPS_TARGET_AVX512_BF16)
    const auto both = (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even);
    constexpr int lanes = kLanes<float>;
    typename VectorOf<uint16_t, 2 * lanes>::type order;
    for (int i = 0; i < 2 * lanes; ++i) order[i] = uint16_t(i / 2 + i % 2 * lanes);
    return (Vec<uint32_t>)_mm512_permutexvar_epi16((__m512i)order, both);
#else
    return rounded_bits(even) >> 16 | (rounded_bits(odd) & 0xffff0000u);
#endif
  }
}

template <int kVectors, class T>
inline void store_run(T* to, const Vec<Compute<T>> (&from)[kVectors], int64_t count) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  for (int i = 0; i < kVectors; ++i) {
    if constexpr (kIsBfloat16<T> && kVectors % 2 == 0) {
      if (i % 2 != 0) continue;
      store(reinterpret_cast<uint32_t*>(to + i * kCount), halves_of<T>(from[i], from[i + 1]));
    } else {
      store_first(to + i * kCount, from[i], count);
    }
  }
}

/// to[0, count) = row[0, count) in the type of computation.
template <class T>
inline void load_row(const T* row, Compute<T>* to, int64_t count) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  int64_t i = 0;
  for (; i + kCount <= count; i += kCount) store(to + i, load_compute(row + i));
  if (i < count) store_first(to + i, load_first(row + i, count - i), count - i);
}

/// to[0, count) = row[0, count) in the storage type.
template <class T>
inline void store_row(T* to, const Compute<T>* row, int64_t count) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  int64_t i = 0;
  for (; i + kCount <= count; i += kCount) store_compute(to + i, load(row + i));
  if (i < count) store_first(to + i, load_partial(row + i, count - i), count - i);
}

/// Reductions of elements or registers. The maximum is torch's: NaN wins over everything, and of
/// equal elements the first stays.
struct Maximum {
  template <class V>
  static auto wins(V value, V best) {
    return (value > best) | (value != value);
  }
  template <class V>
  V operator()(V best, V value) const {
    return wins(value, best) ? value : best;
  }
  template <class T>
  static constexpr Compute<T> identity() {
    return lowest<T>();
  }
};
struct Sum {
  template <class V>
  V operator()(V sum, V value) const {
    return sum + value;
  }
  template <class T>
  static constexpr Compute<T> identity() {
    return 0;
  }
};
/// Not a reduction: keeps the new value.
struct Replace {
  template <class V>
  V operator()(V, V value) const {
    return value;
  }
};

/// The lower or upper half of a vector.
template <bool kUpper, class T, int kCount>
inline typename VectorOf<T, kCount / 2>::type half_of(typename VectorOf<T, kCount>::type v) {
  constexpr int k = kUpper ? kCount / 2 : 0;
  if constexpr (kCount == 4) {
    return __builtin_shufflevector(v, v, k, k + 1);
  } else if constexpr (kCount == 8) {
    return __builtin_shufflevector(v, v, k, k + 1, k + 2, k + 3);
  } else {
    static_assert(kCount == 16);
    return __builtin_shufflevector(v, v, k, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7);
  }
}

/// Reduces the lanes of a register to one, halving it each time.
template <class T, int kCount = kLanes<T>, class Reduction>
inline T reduce_lanes(typename VectorOf<T, kCount>::type v, const Reduction& reduce) {
  if constexpr (kCount == 2) {
    return reduce(T(v[0]), T(v[1]));
  } else {
    return reduce_lanes<T, kCount / 2>(
        reduce(half_of<false, T, kCount>(v), half_of<true, T, kCount>(v)), reduce);
  }
}

/// The integer that fits a lane of Compute<T>.
template <class T, int kBytes = sizeof(Compute<T>)>
struct OffsetOf {
  using type = int32_t;
};
template <class T>
struct OffsetOf<T, 8> {
  using type = int64_t;
};
template <class T>
using Offset = typename OffsetOf<T>::type;

/// 0, 1, 2, ...
template <class T>
inline Vec<T> lane_numbers() {
  Vec<T> numbers;
  for (int lane = 0; lane < kLanes<T>; ++lane) numbers[lane] = T(lane);
  return numbers;
}

/// Number of inputs of window o along an axis.
inline int64_t taps_of(const PoolWindows& axis, int64_t o) {
  const int64_t span = axis.end[o] - axis.begin[o];
  return span <= 0 ? 0 : (span + axis.dilation - 1) / axis.dilation;
}

/// Visits of input elements that one output costs, estimated from the first window.
inline int64_t work_of(const PoolProblem& p) {
  int64_t work = 1;
  for (const PoolWindows& axis : p.axis) {
    work *= axis.output == 0 ? 1 : most(1, taps_of(axis, axis.output / 2));
  }
  return work;
}

/// One row of outputs (or inputs): which sample and channel (channels_last: sample), and where.
struct Row {
  int64_t outer;
  int64_t d;
  int64_t h;

  Row(int64_t depth, int64_t height, int64_t row)
      : outer(row / (depth * height)), d(row / height % depth), h(row % height) {}

  /// The next row, without a division.
  void advance(int64_t depth, int64_t height) {
    if (++h < height) return;
    h = 0;
    if (++d < depth) return;
    d = 0;
    ++outer;
  }
};

inline int64_t input_plane(const PoolProblem& p) {
  return p.axis[0].input * p.axis[1].input * p.axis[2].input;
}
inline int64_t output_plane(const PoolProblem& p) {
  return p.axis[0].output * p.axis[1].output * p.axis[2].output;
}

/// Calls f(offset of the input row in its plane) for each input row under output row (d, h), in
/// the order of memory.
template <class F>
inline void for_each_row(const PoolProblem& p, int64_t d, int64_t h, const F& f) {
  const PoolWindows& depth = p.axis[0];
  const PoolWindows& height = p.axis[1];
  for (int64_t z = depth.begin[d]; z < depth.end[d]; z += depth.dilation) {
    for (int64_t y = height.begin[h]; y < height.end[h]; y += height.dilation) {
      f((z * height.input + y) * p.axis[2].input);
    }
  }
}

/// Whether max pooling says where maxima are by numbers of taps, of windows without dilation, and
/// not by positions: Place is uint8_t then, and int64_t otherwise.
template <class Place>
constexpr bool kIsTap = __is_same(Place, uint8_t);

/// The source rows of a destination row: where each is, and what places in it count from.
struct SourceRows {
  int64_t count = 0;
  int64_t row[kPoolSourceRows];
  int64_t place[kPoolSourceRows];

  /// Those of row (d, h), in the order of memory; the functions are of source rows (z, y).
  template <class RowOf, class PlaceOf>
  void find(const PoolProblem& p, int64_t d, int64_t h, const RowOf& row_of,
            const PlaceOf& place_of) {
    const PoolSpans depth = spans_of(p, 0), height = spans_of(p, 1);
    count = 0;
    for (int64_t z = depth.begin[d]; z < depth.end[d]; z += depth.step) {
      for (int64_t y = height.begin[h]; y < height.end[h]; y += height.step) {
        row[count] = row_of(z, y);
        place[count++] = place_of(z, y);
      }
    }
  }
};

/// Position in its plane of the first input of output row (d, h), column 0.
inline int64_t corner_of(const PoolProblem& p, int64_t d, int64_t h) {
  return (p.axis[0].begin[d] * p.axis[1].input + p.axis[1].begin[h]) * p.axis[2].input;
}

/// Number of the tap, in the windows of output row (d, h), that reads column 0 of input row (z, y)
/// for a window that starts there.
inline int64_t tap_of_row(const PoolProblem& p, int64_t d, int64_t h, int64_t z, int64_t y) {
  const PoolWindows& height = p.axis[1];
  return ((z - p.axis[0].start(d)) * height.kernel + y - height.start(h)) * p.axis[2].kernel;
}

/// Stores the first `count` places: numbers of taps as they are, positions from `origin` on.
template <class T, class Place>
inline void store_places(Place* to, Vec<Offset<T>> at, int64_t origin, int64_t count) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  if constexpr (kIsTap<Place>) {
    store_bytes<Offset<T>>(to, at, count);
  } else if constexpr (sizeof(Offset<T>) == 8) {
    store_first(to, at + origin, count);
  } else {
    const Vec<int64_t> low =
        __builtin_convertvector(half_of<false, Offset<T>, kCount>(at), Vec<int64_t>) + origin;
    const Vec<int64_t> high =
        __builtin_convertvector(half_of<true, Offset<T>, kCount>(at), Vec<int64_t>) + origin;
    store_first(to, low, least(count, kCount / 2));
    if (count > kCount / 2) store_first(to + kCount / 2, high, count - kCount / 2);
  }
}
