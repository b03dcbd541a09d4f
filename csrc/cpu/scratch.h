// Scratch memory for kernels: cache-line aligned and, per thread, kept between calls.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cnnops {

/// Alignment of every scratch buffer: one cache line, and the widest vector register.
constexpr size_t kScratchAlignment = 64;

/// An aligned, uninitialised buffer that lives as long as this object. Small buffers come from a
/// per-thread cache, so that repeated calls neither allocate nor fault pages in.
/// Raises std::bad_alloc when memory is short, so create it outside parallel regions where the
/// size is large.
class Scratch {
 public:
  explicit Scratch(size_t bytes);
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  template <class T>
  [[gnu::always_inline]] T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  size_t bytes_;
};

}  // namespace cnnops
