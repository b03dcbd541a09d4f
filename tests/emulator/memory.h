// The memory that kernels may touch: what the host exposes of global memory, and the shared memory
// of the block that runs.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "emulator/shadow.h"

namespace cnnops::simt::emulator {

/// The history of the exposed global memory at p: nullptr where only reading is allowed, and then
/// no race is possible. Sets `error` where an access is not allowed.
Shadow* find_global(const void* p, size_t bytes, bool writes, std::string& error);

/// Fills memory with bytes of 0xFF, NaN for every floating-point type, unseen by the sanitizers.
void fill_unseen(void* p, size_t bytes);

/// The shared memory of a block, arrays with forbidden bytes between them.
class SharedMemory {
 public:
  static constexpr size_t kMostStatic = 48 << 10;
  static constexpr size_t kMost = 99 << 10;  // of the smallest multiprocessor, of 100 KiB

  SharedMemory();

  void begin_block();
  /// Says what was overrun since the block began, empty where nothing was.
  std::string end_block() const;
  /// Forgets all history, after a launch that failed.
  void reset();

  /// The array of this declaration, the same for all threads of the block, full of NaN at first.
  void* static_array(const void* site, size_t bytes, size_t dynamic_bytes, std::string& error);
  void* dynamic_array(size_t bytes);

  /// The history of shared memory, and an error where [p, p + bytes) is not within one array.
  Shadow* find(const void* p, size_t bytes, std::string& error);

 private:
  struct Array {
    const void* site;
    char* begin;
    size_t bytes;
  };
  void* make(const void* site, size_t bytes);

  char* memory_;
  Shadow shadow_;
  std::vector<Array> arrays_;
  size_t used_ = 0;          // of memory_
  size_t static_bytes_ = 0;  // of all static arrays
};

}  // namespace cnnops::simt::emulator
