// Moving elements between small planes and the positions in large planes that indices name: the
// gradient of max pooling (scatter_add), max_unpool (scatter), and the adjoint of both (gather).
//
// A task owns whole planes, for channels_last all positions of a block of channels, so nothing is
// shared and elements are added in the order of the small tensor. It takes a run of positions of
// the small planes at a time, whose indices it passes over twice while they are in cache. First it
// finds how far they reach, which tells whether all of them lie in their plane and how much of the
// plane must be zero by now: windows move on through a plane, so what is zeroed there is still in
// cache when elements come. Then elements move, one by one: stores to as many places are what takes
// the time, and scattering registers has to do them just the same.

/// A channels_last sample is cut into blocks of at least this many channels, as many as give
/// kScatterTasks tasks in all: shorter pieces of pixels are not fetched ahead of their use.
constexpr int64_t kScatterChannels = 256;
constexpr int64_t kScatterTasks = 8;

/// Indices of a run, about: 32 KB.
constexpr int64_t kScatterRun = 4096;

/// Where planes are added to, so many take turns if there are enough: neighbours of one often go to
/// one place, and would wait for each other's sums.
constexpr int64_t kScatterPlanes = 4, kManyScatterPlanes = 64;

/// Positions that are zeroed together: small planes at once.
constexpr int64_t kScatterZeroed = 256;

/// Channels of a task, if they are not fewer in the last one.
inline int64_t channels_of_task(const IndexedProblem& p) {
  if (!p.channels_last) return 1;
  const int64_t cuts = (kScatterTasks + p.batch - 1) / p.batch;
  return least(p.channels, round_up((p.channels + cuts - 1) / cuts, kScatterChannels));
}

/// What a task owns: `count` planes that follow each other, or those of `channels` neighbouring
/// channels; where they begin in the small and in the large tensor, and how far apart positions lie
/// in both.
struct Planes {
  int64_t count;
  int64_t channels;
  int64_t small, large;
  int64_t step;
};

/// Calls f(planes) for every task. If planes take turns, a task may have several.
template <class F>
inline void for_each_task(const IndexedProblem& p, bool turns, const F& f) {
  const int64_t outer = p.channels_last ? p.batch : p.batch * p.channels;
  const int64_t step = p.channels_last ? p.channels : 1;
  const int64_t width = channels_of_task(p), blocks = (step + width - 1) / width;
  const bool several = turns && !p.channels_last && outer >= kManyScatterPlanes;
  const int64_t together = several ? kScatterPlanes : 1;
  const int64_t tasks = (outer + together - 1) / together * blocks;
  const int64_t work = (p.small + p.large) * width * together;
  parallel_for(tasks, grain_of(work), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task / blocks * together, c = task % blocks * width;
      const int64_t count = least(together, outer - first), plane = first * step;
      f(Planes{count, least(width, step - c), plane * p.small + c, plane * p.large + c, step});
    }
  });
}

/// Calls f(first element, elements) for the pieces without gaps that the positions [first, last) of
/// `planes`, which have `positions` each, consist of, counted from where the planes begin.
template <class F>
inline void for_each_piece(const Planes& planes, int64_t positions, int64_t first, int64_t last,
                           const F& f) {
  for (int64_t j = 0; j < planes.count; ++j, first += positions, last += positions) {
    if (planes.channels == planes.step) {
      f(first * planes.step, (last - first) * planes.step);
      continue;
    }
    for (int64_t i = first; i < last; ++i) f(i * planes.step, planes.channels);
  }
}

/// Positions [first, last) of the small planes of a task, whose indices lie in [lowest, highest].
struct Run {
  int64_t first, last;
  int64_t lowest, highest;
};

/// Calls f(run) for all runs of a task, in order; stops and returns false at one with an index
/// outside its plane.
template <class F>
inline bool for_each_run(const IndexedProblem& p, const Planes& planes, const int64_t* indices,
                         const F& f) {
  constexpr int64_t kCount = kLanes<int64_t>;
  const int64_t side_by_side = planes.count * planes.channels;
  const int64_t step = most(1, kScatterRun / side_by_side);
  for (int64_t first = 0; first < p.small; first += step) {
    const int64_t last = least(p.small, first + step);
    Vec<int64_t> low = broadcast(p.large), high = broadcast(int64_t(-1));
    int64_t lowest = p.large, highest = -1;
    for_each_piece(planes, p.small, first, last, [&](int64_t begin, int64_t count) {
      const int64_t* from = indices + planes.small + begin;
      int64_t i = 0;
      for (; i + kCount <= count; i += kCount) {
        const Vec<int64_t> index = load(from + i);
        low = index < low ? index : low;
        high = index > high ? index : high;
      }
      for (; i < count; ++i) {
        lowest = least(lowest, from[i]);
        highest = most(highest, from[i]);
      }
    });
    if ((last - first) * side_by_side >= kCount) {
      lowest = least(lowest, reduce_lanes<int64_t>(low, Smaller()));
      highest = most(highest, reduce_lanes<int64_t>(high, Larger()));
    }
    if (lowest < 0 || highest >= p.large) return false;
    f(Run{first, last, lowest, highest});
  }
  return true;
}

/// Calls f(planes) for every task, which returns whether all indices lie in their planes; do they?
template <class F>
inline bool all_tasks(const IndexedProblem& p, bool turns, const F& f) {
  bool valid = true;
  for_each_task(p, turns, [&](const Planes& planes) {
    if (!f(planes)) __atomic_store_n(&valid, false, __ATOMIC_RELAXED);
  });
  return valid;
}

/// Combines the elements of a run with those that its indices name: x = combine(x, element).
template <class T, class Combine>
inline void scatter_run(const IndexedProblem& p, const Planes& planes, const Run& run,
                        const T* small, const int64_t* indices, T* large, const Combine& combine) {
  const int64_t step = planes.step, channels = planes.channels;
  T* to = large + planes.large;
  const T* from = small + planes.small + run.first * step;
  const int64_t* index = indices + planes.small + run.first * step;
  if (step == 1) {
    const auto move = [&](int64_t plane, int64_t i) {
      T* at = to + plane * p.large + index[plane * p.small + i];
      *at = combine(*at, from[plane * p.small + i]);
    };
    const int64_t count = run.last - run.first;
    if (planes.count == kScatterPlanes) {
      for (int64_t i = 0; i < count; ++i) {
#pragma GCC unroll 4
        for (int64_t plane = 0; plane < kScatterPlanes; ++plane) move(plane, i);
      }
      return;
    }
    for (int64_t plane = 0; plane < planes.count; ++plane) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < count; ++i) move(plane, i);
    }
    return;
  }
  for (int64_t i = run.first; i < run.last; ++i, from += step, index += step) {
#pragma GCC unroll 8
    for (int64_t c = 0; c < channels; ++c) {
      T* at = to + index[c] * step + c;
      *at = combine(*at, from[c]);
    }
  }
}

/// large = 0, then combined with all elements of small.
template <class T, class Combine>
inline bool scatter_all(const IndexedProblem& p, const T* small, const int64_t* indices, T* large,
                        const Combine& combine) {
  const bool turns = __is_same(Combine, Sum);
  return all_tasks(p, turns, [&](const Planes& planes) {
    int64_t zeroed = 0;
    const auto zero_until = [&](int64_t end) {
      for_each_piece(planes, p.large, zeroed, end, [&](int64_t begin, int64_t count) {
        __builtin_memset(large + planes.large + begin, 0, count * sizeof(T));
      });
      zeroed = most(zeroed, end);
    };
    const bool valid = for_each_run(p, planes, indices, [&](const Run& run) {
      if (run.highest >= zeroed) {
        zero_until(least(p.large, round_up(run.highest + 1, kScatterZeroed)));
      }
      scatter_run(p, planes, run, small, indices, large, combine);
    });
    if (zeroed < p.large) zero_until(p.large);
    return valid;
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
bool scatter_add_narrow(const IndexedProblem& p, const T* small, const int64_t* indices, T* large) {
  using A = Accumulator<T>;
  return all_tasks(p, false, [&](const Planes& planes) {
    const int64_t positions = positions_at_once(p, planes.channels);
    Scratch scratch(sizeof(A) * positions * planes.channels);
    A* sums = scratch.as<A>();
    int64_t first = 0;
    do {
      const int64_t count = least(positions, p.large - first);
      __builtin_memset(sums, 0, sizeof(A) * count * planes.channels);
      const bool valid = for_each_run(p, planes, indices, [&](const Run& run) {
        if (run.highest < first || run.lowest >= first + count) return;
        for (int64_t i = run.first; i < run.last; ++i) {
          for (int64_t c = 0; c < planes.channels; ++c) {
            const int64_t element = planes.small + i * planes.step + c;
            const int64_t at = indices[element] - first;
            if (at >= 0 && at < count) sums[at * planes.channels + c] += widen(small[element]);
          }
        }
      });
      if (!valid) return false;
      const A* sum = sums;
      for_each_piece(planes, p.large, first, first + count, [&](int64_t begin, int64_t elements) {
        T* to = large + planes.large + begin;
        for (int64_t i = 0; i < elements; ++i) to[i] = narrow<T>(sum[i]);
        sum += elements;
      });
      first += count;
    } while (first < p.large);
    return true;
  });
}

template <class T>
bool scatter_add(const IndexedProblem& p, const T* small, const int64_t* indices, T* large) {
  if constexpr (sizeof(T) < sizeof(Accumulator<T>)) {
    return scatter_add_narrow(p, small, indices, large);
  } else {
    return scatter_all(p, small, indices, large, Sum());
  }
}

/// Bytes of scratch that each thread of scatter_add takes.
template <class T>
int64_t scatter_add_scratch(const IndexedProblem& p) {
  if (sizeof(T) == sizeof(Accumulator<T>)) return 0;
  const int64_t channels = channels_of_task(p);
  return int64_t(sizeof(Accumulator<T>)) * positions_at_once(p, channels) * channels;
}

template <class T>
bool scatter(const IndexedProblem& p, const T* small, const int64_t* indices, T* large) {
  return scatter_all(p, small, indices, large, Replace());
}

template <class T>
bool gather(const IndexedProblem& p, const T* large, const int64_t* indices, T* small) {
  return all_tasks(p, false, [&](const Planes& planes) {
    return for_each_run(p, planes, indices, [&](const Run& run) {
      for (int64_t i = run.first; i < run.last; ++i) {
        for (int64_t c = 0; c < planes.channels; ++c) {
          const int64_t element = planes.small + i * planes.step + c;
          small[element] = large[planes.large + indices[element] * planes.step + c];
        }
      }
    });
  });
}
