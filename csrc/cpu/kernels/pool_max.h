// max_pool and adaptive_max_pool: the maximum of each window and, when asked, where in the input
// plane it was.
//
// Values alone go through the reductions of pool_row.h and pool_pixel.h. With indices every tap is
// compared in the order of memory, since that order decides between equal elements; each lane keeps
// the position of its best element as an offset from the start of its window, in an integer as wide
// as the lane, and int64 indices are formed when the output is stored. For a gradient (pool_taps.h)
// lanes keep the number of the tap instead, which is stored in a byte. Place is the type of either:
// int64_t or uint8_t.

/// Number of the tap of window (d, h, w) that reads input (z, y, x).
inline int64_t tap_of(const PoolProblem& p, int64_t d, int64_t h, int64_t w, int64_t z, int64_t y,
                      int64_t x) {
  const PoolWindows *depth = p.axis, *height = p.axis + 1, *width = p.axis + 2;
  return ((z - depth->start(d)) * height->kernel + y - height->start(h)) * width->kernel + x -
         width->start(w);
}

/// Calls f(offset of the input row in its plane, tap that reads its column 0) for each input row
/// under the windows (d, h, w), in the order of memory.
template <class F>
inline void for_each_tap_row(const PoolProblem& p, int64_t d, int64_t h, int64_t w, const F& f) {
  const PoolWindows& depth = p.axis[0];
  const PoolWindows& height = p.axis[1];
  for (int64_t z = depth.begin[d]; z < depth.end[d]; z += depth.dilation) {
    for (int64_t y = height.begin[h]; y < height.end[h]; y += height.dilation) {
      f((z * height.input + y) * p.axis[2].input, tap_of(p, d, h, w, z, y, 0));
    }
  }
}

struct Smaller {
  template <class V>
  V operator()(V a, V b) const {
    return a < b ? a : b;
  }
};
struct Larger {
  template <class V>
  V operator()(V a, V b) const {
    return a > b ? a : b;
  }
};

/// Folds from[0, count) into the best value so far; `index` follows, with from[0] at `position`.
template <class T>
inline void max_run(const T* from, int64_t count, int64_t position, Compute<T>* best,
                    int64_t* index) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const auto update = [&](Compute<T> value, int64_t at) {
    const bool wins = Maximum::wins(value, *best);
    *best = wins ? value : *best;
    *index = wins ? at : *index;
  };
  int64_t i = 0;
  if (count >= 2 * kCount) {
    Vec<Offset<T>> offset = lane_numbers<Offset<T>>();
    Vec<Offset<T>> at = offset;
    Vec<Compute<T>> lanes = load_compute(from);
    for (i = kCount; i + kCount <= count; i += kCount) {
      const Vec<Compute<T>> value = load_compute(from + i);
      offset += Offset<T>(kCount);
      const auto wins = Maximum::wins(value, lanes);
      lanes = wins ? value : lanes;
      at = wins ? offset : at;
    }
    // Over the lanes: the first of the elements equal to the maximum, or the last NaN.
    const Compute<T> most_of = reduce_lanes<Compute<T>>(lanes, Maximum());
    const Vec<Offset<T>> none = {};
    const Offset<T> where =
        most_of == most_of
            ? reduce_lanes<Offset<T>>(lanes == most_of ? at : none + Offset<T>(count), Smaller())
            : reduce_lanes<Offset<T>>(lanes != lanes ? at : none - Offset<T>(1), Larger());
    update(most_of, position + where);
  }
  for (; i < count; ++i) update(load_one(from + i), position + i);
}

/// One output row of (N, C, D, H, W), windows on a grid of stride 1 or 2.
template <class T, class Place>
void max_row_by_phases(const PoolProblem& p, Readable<T> readable, const T* plane, int64_t d,
                       int64_t h, T* output, Place* places) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolWindows& axis = p.axis[2];
  const int64_t corner = corner_of(p, d, h);
  const int64_t corner_tap = tap_of(p, d, h, 0, p.axis[0].begin[d], p.axis[1].begin[h], 0);
  Phases<T> columns;
  alignas(CNNOPS_VECTOR_BYTES) Compute<T> best[kRowOutputs];
  alignas(CNNOPS_VECTOR_BYTES) Offset<T> offsets[kRowOutputs];
  for (int64_t first = 0; first < axis.output; first += kRowOutputs) {
    const int64_t count = least(kRowOutputs, axis.output - first);
    // Offsets count from the column where the window would start if there were no border.
    const int64_t start = axis.start(first);
    const int64_t origin = kIsTap<Place> ? corner_tap - axis.padding : 0;
    for (int64_t i = 0; i < count; ++i) {
      offsets[i] = Offset<T>(origin + axis.begin[first + i] - (start + i * axis.stride));
    }
    for (int64_t i = count; i < round_up(count, kCount); ++i) offsets[i] = 0;
    for (int64_t i = 0; i < count; i += kCount) store(best + i, broadcast(lowest<T>()));
    for_each_tap_row(p, d, h, 0, [&](int64_t row, int64_t row_tap) {
      columns.split_row(plane + row, readable, axis, first, count, lowest<T>());
      const int64_t place = kIsTap<Place> ? row_tap - axis.padding : row - corner;
      for (int64_t i = 0; i < count; i += kCount) {
        Vec<Compute<T>> value = load(best + i);
        Vec<Offset<T>> at = load(offsets + i);
        for (int64_t tap = 0; tap < axis.kernel; ++tap) {
          const Vec<Compute<T>> next = load(columns.tap(axis, tap) + i);
          const auto wins = Maximum::wins(next, value);
          value = wins ? next : value;
          at = wins ? broadcast(Offset<T>(place + tap * axis.dilation)) : at;
        }
        store(best + i, value);
        store(offsets + i, at);
      }
    });
    for (int64_t i = 0; i < count; i += kCount) {
      store_first(output + first + i, load(best + i), count - i);
    }
    int64_t i = 0;
    if constexpr (kIsTap<Place>) {
      for (; i + kCount <= count; i += kCount)
        store_bytes<Offset<T>>(places + first + i, load(offsets + i));
    }
    for (; i < count; ++i) {
      const int64_t in_plane = kIsTap<Place> ? 0 : corner + start + i * axis.stride;
      places[first + i] = Place(in_plane + offsets[i]);
    }
  }
}

/// One window, row by row.
template <class T>
inline void max_window(const PoolProblem& p, const T* plane, int64_t d, int64_t h, int64_t w,
                       Compute<T>* best, int64_t* index) {
  const PoolWindows& axis = p.axis[2];
  const int64_t begin = axis.begin[w], end = axis.end[w];
  for_each_row(p, d, h, [&](int64_t row) {
    if (axis.dilation == 1) {
      return max_run(plane + row + begin, end - begin, row + begin, best, index);
    }
    for (int64_t x = begin; x < end; x += axis.dilation) {
      max_run(plane + row + x, 1, row + x, best, index);
    }
  });
}

/// One output row of (N, C, D, H, W), any windows: first the maximum of each input column and the
/// row it is in, then of the columns of each window. Columns come out of the order of memory, so
/// positions decide between equal elements.
template <class T>
void max_row_by_windows(const PoolProblem& p, Readable<T> readable, const T* plane, int64_t d,
                        int64_t h, T* output, int64_t* indices) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  constexpr int64_t kColumns = 512;
  const PoolWindows& axis = p.axis[2];
  const int64_t corner = corner_of(p, d, h);
  alignas(CNNOPS_VECTOR_BYTES) Compute<T> values[kColumns];
  alignas(CNNOPS_VECTOR_BYTES) Offset<T> offsets[kColumns];
  for (int64_t first = 0; first < axis.output;) {
    const WindowGroup group(axis, first, axis.output, kColumns);
    const int64_t span = group.end - group.begin;
    const bool by_columns = span <= kColumns;
    for (int64_t i = 0; i < span && by_columns; i += kCount) {
      Vec<Compute<T>> best = broadcast(lowest<T>());
      Vec<Offset<T>> at = {};
      for_each_row(p, d, h, [&](int64_t row) {
        const Vec<Compute<T>> value =
            load_columns(plane + row + group.begin, readable, span, i, lowest<T>());
        const auto wins = Maximum::wins(value, best);
        best = wins ? value : best;
        at = wins ? broadcast(Offset<T>(row - corner)) : at;
      });
      store(values + i, best);
      store(offsets + i, at);
    }
    for (int64_t w = first; w < first + group.count; ++w) {
      Compute<T> best = lowest<T>();
      int64_t index = corner + axis.begin[w];
      if (!by_columns) max_window(p, plane, d, h, w, &best, &index);
      for (int64_t x = axis.begin[w]; x < axis.end[w] && by_columns; x += axis.dilation) {
        const Compute<T> value = values[x - group.begin];
        const int64_t at = corner + x + offsets[x - group.begin];
        const bool wins = (value > best) | ((value == best) & (at < index)) |
                          ((value != value) & ((best == best) | (at > index)));
        best = wins ? value : best;
        index = wins ? at : index;
      }
      store_one(output + w, best);
      indices[w] = index;
    }
    first += group.count;
  }
}

/// All rows of a (N, C, D, H, W) tensor; taps are only asked for where rows go by phases.
template <class T, class Place>
void max_rows(const PoolProblem& p, const T* input, T* output, Place* places) {
  const int64_t width = p.axis[2].output;
  const Readable<T> readable{input, input + p.batch * p.channels * input_plane(p)};
  const int64_t depth = p.axis[0].output, height = p.axis[1].output;
  parallel_for(p.batch * p.channels * depth * height, grain_of(width * work_of(p)),
               [&](int64_t begin, int64_t end) {
                 Row row(depth, height, begin);
                 for (int64_t r = begin; r < end; ++r, row.advance(depth, height)) {
                   const T* plane = input + row.outer * input_plane(p);
                   T* to = output + r * width;
                   Place* place = places + r * width;
                   if (p.algorithm == PoolAlgorithm::rows_by_phases) {
                     max_row_by_phases(p, readable, plane, row.d, row.h, to, place);
                   } else if constexpr (!kIsTap<Place>) {
                     if (p.algorithm == PoolAlgorithm::whole_rows) {
                       Compute<T> best = lowest<T>();
                       *place = 0;
                       max_run(plane, p.axis[2].input, 0, &best, place);
                       store_one(to, best);
                     } else {
                       max_row_by_windows(p, readable, plane, row.d, row.h, to, place);
                     }
                   }
                 }
               });
}

/// `kVectors` registers of channels of one output pixel, `lanes` of each; `from` is the plane at
/// the first channel.
template <int kVectors, class T, class Place>
inline void max_channels(const PoolProblem& p, const T* from, int64_t lanes, int64_t d, int64_t h,
                         int64_t w, T* output, Place* places) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  const PoolWindows& axis = p.axis[2];
  const int64_t corner = corner_of(p, d, h) + axis.begin[w];
  const int64_t corner_tap =
      tap_of(p, d, h, w, p.axis[0].begin[d], p.axis[1].begin[h], axis.begin[w]);
  Vec<Compute<T>> best[kVectors];
  Vec<Offset<T>> at[kVectors];
  for (int i = 0; i < kVectors; ++i) {
    best[i] = broadcast(lowest<T>());
    at[i] = broadcast(Offset<T>(kIsTap<Place> ? corner_tap : 0));
  }
  for_each_tap_row(p, d, h, w, [&](int64_t row, int64_t row_tap) {
    for (int64_t x = axis.begin[w]; x < axis.end[w]; x += axis.dilation) {
      const auto place = broadcast(Offset<T>(kIsTap<Place> ? row_tap + x : row + x - corner));
      for (int i = 0; i < kVectors; ++i) {
        const Vec<Compute<T>> value = load_first(from + (row + x) * p.channels + i * kCount, lanes);
        const auto wins = Maximum::wins(value, best[i]);
        best[i] = wins ? value : best[i];
        at[i] = wins ? place : at[i];
      }
    }
  });
  for (int i = 0; i < kVectors; ++i) {
    store_first(output + i * kCount, best[i], lanes);
    if constexpr (kIsTap<Place>) {
      if (lanes == kCount) {
        store_bytes<Offset<T>>(places + i * kCount, at[i]);
        continue;
      }
    }
    for (int64_t lane = 0; lane < lanes; ++lane) {
      places[i * kCount + lane] = Place((kIsTap<Place> ? 0 : corner) + at[i][lane]);
    }
  }
}

/// All pixels of a channels_last tensor.
template <class T, class Place>
void max_pixels(const PoolProblem& p, const T* input, T* output, Place* places) {
  const int64_t width = p.axis[2].output;
  for_each_row_task(
      p, p.axis[0].output, p.axis[1].output, width * work_of(p),
      [&](const Row& at, int64_t row, int64_t first, int64_t last) {
        const T* plane = input + at.outer * input_plane(p) * p.channels;
        for (int64_t w = 0; w < width; ++w) {
          T* to = output + (row * width + w) * p.channels;
          Place* place = places + (row * width + w) * p.channels;
          for_each_channel_run<T>(first, last, [&]<int kVectors>(int64_t c, int64_t lanes) {
            max_channels<kVectors>(p, plane + c, lanes, at.d, at.h, w, to + c, place + c);
          });
        }
      });
}

template <class T>
void max_pool(const PoolProblem& p, const T* input, T* output, int64_t* indices) {
  if (indices != nullptr) {
    if (p.algorithm == PoolAlgorithm::blocks) return max_blocks(p, input, output, indices);
    if (p.algorithm == PoolAlgorithm::shuffled_rows) {
      return max_rows_by_shuffles(p, input, output, indices);
    }
    return p.algorithm == PoolAlgorithm::pixels ? max_pixels(p, input, output, indices)
                                                : max_rows(p, input, output, indices);
  }
  if (p.algorithm == PoolAlgorithm::pixels) {
    reduce_pixels(p, input, output, Maximum(),
                  [](int64_t, int64_t, int64_t) { return [](auto value) { return value; }; });
  } else if (p.algorithm == PoolAlgorithm::shuffled_rows) {
    reduce_rows_by_shuffles(p, work_of(p), input, output, Maximum(), Unscaled(),
                            [](int64_t, int64_t) { return [](auto v, int64_t) { return v; }; });
  } else if (p.algorithm == PoolAlgorithm::blocks) {
    reduce_blocks(p, input, output, Maximum(),
                  [](int64_t, int64_t) { return [](auto value, int64_t) { return value; }; });
  } else {
    reduce_rows(p, input, output, Maximum(),
                [](int64_t, int64_t) { return [](auto value, int64_t) { return value; }; });
  }
}
