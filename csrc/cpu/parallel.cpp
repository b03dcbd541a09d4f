// Threads are seldom equally fast: one starts later, is interrupted or shares its core. So a thread
// does most of its even share at once, as neighbouring items find their data in its cache, and the
// rest in pieces that are left to whoever is done first.
#include "cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#include <vector>

namespace cnnops {
namespace {

/// Of a share, one part in so many is left to all threads, in at most so many pieces: a thread may
/// take half as long again as another before it is waited for, and then by a sixteenth of a share.
constexpr int64_t kRest = 4, kPieces = 4;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

/// Items [begin, end). Those from `rest` on are taken in pieces, from `next` on. On a cache line of
/// its own, as others write to it.
struct alignas(64) Share {
  int64_t begin, rest, end, piece;
  std::atomic<int64_t> next;

  void give(int64_t first, int64_t last, int64_t grain) {
    begin = first, end = last;
    const int64_t left = (end - begin + kRest / 2) / kRest;
    rest = left < grain ? end : end - left;
    piece = std::max(ceil_div(left, kPieces), grain);
    next.store(rest, std::memory_order_relaxed);
  }
};

ThreadItems::ThreadItems(Share* shares, int64_t count, int64_t own)
    : begin_(shares[own].begin),
      end_(shares[own].rest),
      shares_(shares),
      count_(count),
      own_(own) {}

bool ThreadItems::next() {
  for (; visited_ < count_; ++visited_) {
    Share& share = shares_[(own_ + visited_) % count_];
    begin_ = share.next.fetch_add(share.piece, std::memory_order_relaxed);
    end_ = std::min(begin_ + share.piece, share.end);
    if (begin_ < end_) return true;
  }
  return false;
}

void parallel_run(int64_t count, int64_t grain, void (*body)(void*, ThreadItems&), void* context) {
  if (count <= 0) return;
  const int64_t most = ceil_div(count, std::max<int64_t>(grain, 1));
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), most);
  ThreadItems all(count);
  if (threads <= 1) return body(context, all);
  std::vector<Share> shares(threads);
  for (int64_t t = 0; t < threads; ++t) {
    shares[t].give(count * t / threads, count * (t + 1) / threads, grain);
  }
  torch::stable::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    // A nested call runs inline.
    if (last - first == threads) return body(context, all);
    for (int64_t t = first; t < last; ++t) {
      ThreadItems items(shares.data(), threads, t);
      body(context, items);
    }
  });
}

}  // namespace cnnops
