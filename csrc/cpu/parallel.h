// The one way CPU kernels use threads: torch's own pool. Kernels cut work by the problem, never by
// the number of threads, so results do not depend on it.
//
// What one thread has written takes another several times as long to read as memory does, or as to
// compute it: packed weights and transformed tiles, unless large, are better made by each thread
// that reads them.
#pragma once

#include <cstdint>

namespace cnnops {

struct Share;

/// The items of a thread, one at least: most of its even share at once and then, in pieces, what it
/// or others have left.
class ThreadItems {
 public:
  /// All of [0, count).
  explicit ThreadItems(int64_t count) : end_(count) {}
  /// Those of share `own` of `count`.
  ThreadItems(Share* shares, int64_t count, int64_t own);

  /// Calls f(i, last) for each; `last` says whether the next, if any, is not its successor.
  template <class F>
  void for_each(const F& f) {
    do {
      for (int64_t i = begin_; i < end_; ++i) f(i, i + 1 == end_);
    } while (next());
  }
  /// Calls f(begin, end) for each range of them.
  template <class F>
  void for_each_range(const F& f) {
    do {
      if (begin_ < end_) f(begin_, end_);
    } while (next());
  }

 private:
  /// Turns to a range that is left; false when there is none.
  bool next();

  int64_t begin_ = 0, end_;
  Share* shares_ = nullptr;
  int64_t count_ = 0, own_ = 0, visited_ = 0;
};

/// Calls body(context, items) on each of torch's threads that has any of the items [0, count), of
/// which no more threads are used than have `grain` each. Runs inline when nested. What `body`
/// throws, a bad_alloc of its scratch at most, reaches the caller once every thread is done.
void parallel_run(int64_t count, int64_t grain, void (*body)(void*, ThreadItems&), void* context);

/// Calls f(items) on each thread that has any.
template <class F>
inline void parallel_threads(int64_t count, int64_t grain, const F& f) {
  parallel_run(
      count, grain,
      [](void* context, ThreadItems& items) { (*static_cast<const F*>(context))(items); },
      const_cast<F*>(&f));
}

/// Calls f(begin, end) over disjoint ranges that cover [0, count), several times on a thread: the
/// work before the first item of a range should be small.
template <class F>
inline void parallel_for(int64_t count, int64_t grain, const F& f) {
  parallel_threads(count, grain, [&](ThreadItems& items) { items.for_each_range(f); });
}

}  // namespace cnnops
