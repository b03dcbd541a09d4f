// Finds races: who last wrote and read each byte of a piece of memory, and whether a barrier lies
// between that and the access at hand.
//
// It does not depend on the order in which threads happen to run: two accesses conflict when
// nothing orders them, also if this time they came in the right order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

namespace cnnops::simt::emulator {

/// The thread that runs, and when: `epoch` counts the barriers and the blocks of all launches,
/// `warp_epoch` the warp barriers of its warp.
struct Moment {
  uint32_t epoch;
  uint32_t launch_begin;  // the epochs in which the launch and the block began
  uint32_t block_begin;
  uint32_t warp_epoch;
  int thread;
  std::source_location where;
};

/// The history of the bytes from `begin`.
class Shadow {
 public:
  Shadow(const void* begin, size_t bytes);
  ~Shadow();
  Shadow(Shadow&&) noexcept;
  Shadow& operator=(Shadow&&) = delete;

  /// Records an access and returns what it conflicts with, empty where with nothing. The bytes, 1,
  /// 2 or a multiple of 4, are aligned to 4 or their number.
  std::string read(const void* p, size_t bytes, const Moment& now);
  std::string write(const void* p, size_t bytes, const Moment& now);
  /// A write that is under way until `finish_copy`: until then any other access conflicts.
  std::string begin_copy(const void* p, size_t bytes, const Moment& now);
  void finish_copy(const void* p, size_t bytes, const Moment& now);

 private:
  struct Entry;
  template <class F>
  std::string visit(const void* p, size_t bytes, const F& f);

  uintptr_t begin_;
  size_t words_;
  Entry* word_;  // of aligned words
  Entry* byte_;  // of bytes, for accesses smaller than a word; pages that are not used cost nothing
};

}  // namespace cnnops::simt::emulator
