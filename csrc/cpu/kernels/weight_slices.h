// Slices of a weight that are read, or packed just before they are used, where the weight lies.

/// About so much of K is in a slice of packed weights: 256 x 64 floats leave room in L2.
constexpr int64_t kChannelBlock = 256;

/// How the slices of a weight lie: in rows of destination channels that are dense in K, in the
/// order in which slices take it; in rows of K, of neighbouring destination channels, a tap at a
/// time; or anyhow.
enum class WeightSlices { along_k, across_k, none };

template <class T>
WeightSlices weight_slices(const Contraction<T>& p) {
  if (weight_rows_are_dense(p, p.weight_strides) && (p.depth == 1 || p.weight_strides.depth == 1)) {
    return WeightSlices::along_k;
  }
  const bool of_taps = p.taps() == 1 || p.depth >= kChannelBlock;
  return p.weight_strides.row == 1 && of_taps ? WeightSlices::across_k : WeightSlices::none;
}

/// A slice of the weight where it lies: `rows` rows, `step` elements apart, of `count` elements.
template <class T>
struct WeightSlice {
  const T* from = nullptr;
  int64_t rows = 0, step = 0, count = 0;
  bool across = false;  // the rows are elements of K, not destination channels
  static constexpr int64_t kLine = 64 / int64_t(sizeof(T));  // elements

  WeightSlice() = default;  // none
  /// `inner` elements of K from `k` on, of one tap if they are rows, for `width` columns from
  /// `column` on. `offsets` are those of the taps in the weight.
  WeightSlice(const Contraction<T>& p, WeightSlices slices, const int64_t* offsets, int64_t group,
              int64_t column, int64_t width, int64_t k, int64_t inner)
      : from(p.weight + group * p.weight_strides.group + column * p.weight_strides.row),
        rows(p.rows - column < width ? p.rows - column : width),
        step(p.weight_strides.row),
        count(inner),
        across(slices == WeightSlices::across_k) {
    if (!across) {
      from += k;
      return;
    }
    from += offsets[k / p.depth] + k % p.depth * p.weight_strides.depth;
    count = rows, rows = inner, step = p.weight_strides.depth;
  }

  const Accumulator<T>* in_place() const { return reinterpret_cast<const Accumulator<T>*>(from); }

  /// Cache lines of it.
  int64_t lines() const { return rows * ceil_div(count, kLine); }
  /// Those of the rows that are part `part` of `parts`.
  LineFetches<Accumulator<T>> part(int64_t part, int64_t parts) const {
    const int64_t run = ceil_div(count, kLine);
    const T* first = from + part * rows / parts * step;
    return {reinterpret_cast<const Accumulator<T>*>(first), kLine, run, step - run * kLine};
  }

  void pack(Accumulator<T>* to, int64_t width) const {
    if (!across) return load_planes(from, step, rows, 1, count, to, width);
    using A = Accumulator<T>;
    for (int64_t r = 0; r < rows; ++r, to += width) {
      const T* row = from + r * step;
      int64_t c = 0;
      for (; c + kLanes<A> <= count; c += kLanes<A>) store(to + c, load_wide(row + c));
      if (c < count) store(to + c, load_partial(row + c, count - c));
    }
  }
};
