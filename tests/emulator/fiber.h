// Fibers: stacks to switch between within one thread of the host, known to AddressSanitizer and
// ThreadSanitizer (EMULATOR_ASAN, EMULATOR_TSAN). Each emulated CUDA thread runs on one.
#pragma once

#include <cstddef>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cnnops::simt::emulator {

/// A stack that runs a function, leaving it in between.
class Fiber {
 public:
  Fiber();
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Makes the next `resume` call `entry`, which must never return but leave for good. What the
  /// stack held before is forgotten.
  void start(void (*entry)());
  /// Runs the fiber, from outside of all fibers, until it leaves.
  void resume();
  /// Returns to `resume`, from within the fiber; `for_good` where it will not run on.
  void leave(bool for_good);
  /// The first thing that `entry` calls.
  void entered();

 private:
  char* memory_ = nullptr;
#if defined(__x86_64__)
  void* top_ = nullptr;
  void* outside_ = nullptr;
#else
  ucontext_t context_;
  ucontext_t outside_;
#endif
  // What the sanitizers need to know of both sides.
  void* fake_stack_ = nullptr;
  void* outside_fake_stack_ = nullptr;
  const void* outside_stack_ = nullptr;
  std::size_t outside_size_ = 0;
  void* thread_ = nullptr;
  void* outside_thread_ = nullptr;
};

/// ThreadSanitizer: what the running fiber did before `publish(key)` happens before what a fiber
/// does after it has then called `observe(key)`. Nothing elsewhere.
void publish(void* key);
void observe(void* key);
/// ThreadSanitizer: the emulator reads or writes on behalf of the running fiber.
void saw_read(const void* p, std::size_t bytes);
void saw_write(const void* p, std::size_t bytes);
/// AddressSanitizer: forbids or allows plain access to these bytes.
void forbid(const void* p, std::size_t bytes);
void allow(const void* p, std::size_t bytes);

}  // namespace cnnops::simt::emulator
