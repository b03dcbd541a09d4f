#include "cpu/scratch.h"

#include <cstdlib>
#include <new>

namespace cnnops {
namespace {

/// At most this many bytes, in this many buffers, stay with a thread between calls.
constexpr size_t kCachedBytes = size_t(32) << 20;
constexpr int kCachedBuffers = 8;

struct Cache {
  struct Buffer {
    void* data;
    size_t bytes;
  };
  Buffer buffers[kCachedBuffers];
  int count = 0;
  size_t total = 0;

  ~Cache() {
    for (int i = 0; i < count; ++i) std::free(buffers[i].data);
  }

  /// The smallest cached buffer that holds `bytes` without wasting more than three quarters of it.
  bool take(size_t bytes, Buffer* taken) {
    int best = -1;
    for (int i = 0; i < count; ++i) {
      const size_t size = buffers[i].bytes;
      if (size >= bytes && size / 4 <= bytes && (best < 0 || size < buffers[best].bytes)) best = i;
    }
    if (best < 0) return false;
    *taken = buffers[best];
    total -= taken->bytes;
    buffers[best] = buffers[--count];
    return true;
  }

  /// Keeps the buffer, making room by dropping the oldest ones; false where it is too large.
  bool keep(Buffer buffer) {
    if (buffer.bytes > kCachedBytes) return false;
    while (count == kCachedBuffers || total + buffer.bytes > kCachedBytes) {
      std::free(buffers[0].data);
      total -= buffers[0].bytes;
      for (int i = 1; i < count; ++i) buffers[i - 1] = buffers[i];
      --count;
    }
    buffers[count++] = buffer;
    total += buffer.bytes;
    return true;
  }
};

thread_local Cache cache;

}  // namespace

Scratch::Scratch(size_t bytes) {
  const size_t step = 4096;
  bytes_ = bytes < step ? step : (bytes + step - 1) / step * step;
  Cache::Buffer taken;
  if (cache.take(bytes_, &taken)) {
    data_ = taken.data;
    bytes_ = taken.bytes;
    return;
  }
  data_ = std::aligned_alloc(kScratchAlignment, bytes_);
  if (data_ == nullptr) throw std::bad_alloc();
}

Scratch::~Scratch() {
  if (!cache.keep({data_, bytes_})) std::free(data_);
}

}  // namespace cnnops
