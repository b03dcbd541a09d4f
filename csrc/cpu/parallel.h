// The one way CPU kernels use threads: torch's own pool. Kernels cut work by the problem, never by
// the number of threads, so results do not depend on it.
#pragma once

#include <cstdint>

namespace cnnops {

/// Calls body(context, begin, end) over disjoint ranges that cover [0, count), on torch's threads,
/// of which no more are used than have `grain` items each. A thread that is done with most of its
/// share takes what others have left, in pieces of at least `grain` items, so that a body is called
/// several times; the work before its first item should be small. Runs inline when nested. What
/// `body` throws, a bad_alloc of its scratch at most, reaches the caller once every thread is done.
void parallel_run(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t),
                  void* context);

/// Calls f(begin, end) over disjoint ranges that cover [0, count).
template <class F>
inline void parallel_for(int64_t count, int64_t grain, const F& f) {
  parallel_run(
      count, grain,
      [](void* context, int64_t begin, int64_t end) {
        (*static_cast<const F*>(context))(begin, end);
      },
      const_cast<F*>(&f));
}

}  // namespace cnnops
