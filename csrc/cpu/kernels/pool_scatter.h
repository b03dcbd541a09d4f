// Moving elements between small planes and the positions in large planes that indices name: the
// gradient of max pooling (scatter_add), max_unpool (scatter), and the adjoint of both (gather).
//
// Every index has been checked to lie in its plane. A task owns whole planes, for channels_last all
// positions of a block of channels, so nothing is shared and elements are added in the order of the
// small tensor.

/// Channels of a channels_last task: a cache line or more, few enough to give several tasks.
constexpr int64_t kScatterChannels = 32;

/// Calls f(first small element, first large element, channels, step) for the planes of every task:
/// element i of channel c is at i * step + c from the first. (N, C, D, H, W) has one channel a call.
template <class F>
inline void for_each_plane(const IndexedProblem& p, const F& f) {
  const int64_t width = p.channels_last ? kScatterChannels : 1;
  const int64_t blocks = (p.channels + width - 1) / width;
  const int64_t step = p.channels_last ? p.channels : 1;
  parallel_for(p.batch * blocks, grain_of((p.small + p.large) * least(width, p.channels)),
               [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t c = task % blocks * width;
      const int64_t small = task / blocks * p.channels * p.small;
      const int64_t large = task / blocks * p.channels * p.large;
      f(small + c * (p.channels_last ? 1 : p.small), large + c * (p.channels_last ? 1 : p.large),
        least(width, p.channels - c), step);
    }
  });
}

/// Zeroes the large planes of a task, then calls f(large element, small element) pair by pair.
template <class T, class F>
inline void scatter_planes(const IndexedProblem& p, const T* small, const int64_t* indices,
                           T* large, const F& f) {
  for_each_plane(p, [&](int64_t small_at, int64_t large_at, int64_t channels, int64_t step) {
    T* to = large + large_at;
    if (channels == step) {
      __builtin_memset(to, 0, p.large * channels * sizeof(T));
    } else {
      for (int64_t i = 0; i < p.large; ++i) {
        __builtin_memset(to + i * step, 0, channels * sizeof(T));
      }
    }
    for (int64_t i = 0; i < p.small; ++i) {
      const int64_t from = small_at + i * step;
      for (int64_t c = 0; c < channels; ++c) {
        f(to + indices[from + c] * step + c, small[from + c]);
      }
    }
  });
}

template <class T>
void scatter_add(const IndexedProblem& p, const T* small, const int64_t* indices, T* large) {
  scatter_planes(p, small, indices, large,
                 [](T* to, T value) { *to = narrow<T>(widen(*to) + widen(value)); });
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
