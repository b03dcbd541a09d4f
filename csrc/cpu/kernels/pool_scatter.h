// Moving elements between small planes and the positions in large planes that indices name: the
// gradient of max pooling (scatter_add), max_unpool (scatter), and the adjoint of both (gather).
//
// Every index has been checked to lie in its plane. A task owns whole planes, for channels_last all
// positions of a block of channels, so nothing is shared and elements are added in the order of the
// small tensor.

/// A channels_last sample is cut into blocks of at least this many channels, as many as give
/// kScatterTasks tasks in all.
constexpr int64_t kScatterChannels = 64;
constexpr int64_t kScatterTasks = 8;

/// Channels of a block, if they are not fewer in the last one.
inline int64_t channels_of_task(const IndexedProblem& p) {
  const int64_t cuts = (kScatterTasks + p.batch - 1) / p.batch;
  return least(p.channels, round_up((p.channels + cuts - 1) / cuts, kScatterChannels));
}

/// Calls f(first small element, first large element, channels, step) for the planes of every task:
/// element i of channel c is at i * step + c from the first. (N, C, D, H, W): one channel a call.
template <class F>
inline void for_each_plane(const IndexedProblem& p, const F& f) {
  const int64_t per_plane = p.small + p.large;
  if (!p.channels_last) {
    parallel_for(p.batch * p.channels, grain_of(per_plane), [&](int64_t begin, int64_t end) {
      for (int64_t plane = begin; plane < end; ++plane) {
        f(plane * p.small, plane * p.large, int64_t(1), int64_t(1));
      }
    });
    return;
  }
  const int64_t width = channels_of_task(p);
  const int64_t blocks = (p.channels + width - 1) / width;
  parallel_for(p.batch * blocks, grain_of(per_plane * width), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t n = task / blocks, c = task % blocks * width;
      f(n * p.channels * p.small + c, n * p.channels * p.large + c, least(width, p.channels - c),
        p.channels);
    }
  });
}

/// Zeroes the large planes of a task, then calls f(large element, small element) pair by pair.
template <class T, class F>
inline void scatter_planes(const IndexedProblem& p, const T* small, const int64_t* indices,
                           T* large, const F& f) {
  for_each_plane(p, [&](int64_t small_at, int64_t large_at, int64_t channels, int64_t step) {
    T* to = large + large_at;
    const T* from = small + small_at;
    const int64_t* index = indices + small_at;
    if (channels == step) {
      __builtin_memset(to, 0, p.large * channels * sizeof(T));
    } else {
      for (int64_t i = 0; i < p.large; ++i) {
        __builtin_memset(to + i * step, 0, channels * sizeof(T));
      }
    }
    if (step == 1) {
      for (int64_t i = 0; i < p.small; ++i) f(to + index[i], from[i]);
      return;
    }
    for (int64_t i = 0; i < p.small * step; i += step) {
      for (int64_t c = 0; c < channels; ++c) f(to + index[i + c] * step + c, from[i + c]);
    }
  });
}

/// Sums of 16-bit elements that wait in scratch at a time: 1 MB of floats.
constexpr int64_t kScatterSums = int64_t(1) << 18;

/// Large positions whose sums are in scratch together, of so many channels each.
inline int64_t positions_at_once(const IndexedProblem& p, int64_t channels) {
  return least(p.large, most(1, kScatterSums / channels));
}

/// scatter_add of a narrow type. Windows overlap, so sums form in the accumulator type and are
/// rounded once: some positions at a time, each time with those small elements that go there.
template <class T>
void scatter_add_narrow(const IndexedProblem& p, const T* small, const int64_t* indices, T* large) {
  using A = Accumulator<T>;
  for_each_plane(p, [&](int64_t small_at, int64_t large_at, int64_t channels, int64_t step) {
    const int64_t positions = positions_at_once(p, channels);
    Scratch scratch(sizeof(A) * positions * channels);
    A* sums = scratch.as<A>();
    const T* from = small + small_at;
    const int64_t* index = indices + small_at;
    for (int64_t first = 0; first < p.large; first += positions) {
      const int64_t count = least(positions, p.large - first);
      __builtin_memset(sums, 0, sizeof(A) * count * channels);
      for (int64_t i = 0; i < p.small * step; i += step) {
        for (int64_t c = 0; c < channels; ++c) {
          const int64_t at = index[i + c] - first;
          if (at >= 0 && at < count) sums[at * channels + c] += widen(from[i + c]);
        }
      }
      T* to = large + large_at + first * step;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < channels; ++c) to[i * step + c] = narrow<T>(sums[i * channels + c]);
      }
    }
  });
}

template <class T>
void scatter_add(const IndexedProblem& p, const T* small, const int64_t* indices, T* large) {
  if constexpr (sizeof(T) < sizeof(Accumulator<T>)) {
    scatter_add_narrow(p, small, indices, large);
  } else {
    scatter_planes(p, small, indices, large, [](T* to, T value) { *to += value; });
  }
}

/// Bytes of scratch that each thread of scatter_add takes.
template <class T>
int64_t scatter_add_scratch(const IndexedProblem& p) {
  if (sizeof(T) == sizeof(Accumulator<T>)) return 0;
  const int64_t channels = p.channels_last ? channels_of_task(p) : 1;
  return int64_t(sizeof(Accumulator<T>)) * positions_at_once(p, channels) * channels;
}

template <class T>
void scatter(const IndexedProblem& p, const T* small, const int64_t* indices, T* large) {
  scatter_planes(p, small, indices, large, [](T* to, T value) { *to = value; });
}

template <class T>
void gather(const IndexedProblem& p, const T* large, const int64_t* indices, T* small) {
  for_each_plane(p, [&](int64_t small_at, int64_t large_at, int64_t channels, int64_t step) {
    for (int64_t i = 0; i < p.small; ++i) {
      const int64_t to = small_at + i * step;
      for (int64_t c = 0; c < channels; ++c) {
        small[to + c] = large[large_at + indices[to + c] * step + c];
      }
    }
  });
}
