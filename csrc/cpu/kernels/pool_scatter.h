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
  const int64_t cuts = (kScatterTasks + p.batch - 1) / p.batch;
  const int64_t width = round_up((p.channels + cuts - 1) / cuts, kScatterChannels);
  const int64_t blocks = (p.channels + width - 1) / width;
  parallel_for(p.batch * blocks, grain_of(per_plane * least(width, p.channels)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t n = task / blocks, c = task % blocks * width;
                   f(n * p.channels * p.small + c, n * p.channels * p.large + c,
                     least(width, p.channels - c), p.channels);
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
