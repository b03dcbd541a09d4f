#include "emulator/fiber.h"

#include <sys/mman.h>

#include <cstdlib>

#ifdef EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef EMULATOR_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" void __tsan_read_range(void*, unsigned long);
extern "C" void __tsan_write_range(void*, unsigned long);
#endif

namespace cnnops::simt::emulator {
namespace {

constexpr size_t kGuard = 4096;
#if defined(EMULATOR_ASAN) || defined(EMULATOR_TSAN)
constexpr size_t kStack = 256 << 10;
#else
constexpr size_t kStack = 128 << 10;
#endif

}  // namespace

#if defined(__x86_64__)

// Saves the registers that a call preserves and the stack pointer to *from, and takes both from the
// stack `to`. swapcontext() does the same with two system calls.
extern "C" void emulator_switch(void** from, void* to);
__asm__(
    ".text\n"
    ".globl emulator_switch\n"
    ".hidden emulator_switch\n"
    ".type emulator_switch, @function\n"
    "emulator_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size emulator_switch, .-emulator_switch\n");

#endif

Fiber::Fiber() {
  void* memory = mmap(nullptr, kStack + kGuard, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, kGuard, PROT_NONE) != 0) std::abort();
  memory_ = static_cast<char*>(memory);
}

Fiber::~Fiber() {
#ifdef EMULATOR_TSAN
  if (thread_ != nullptr) __tsan_destroy_fiber(thread_);
#endif
  munmap(memory_, kStack + kGuard);
}

void Fiber::start(void (*entry)()) {
  char* const stack = memory_ + kGuard;
  allow(stack, kStack);
#ifdef EMULATOR_TSAN
  if (thread_ == nullptr) thread_ = __tsan_create_fiber(0);
#endif
#if defined(__x86_64__)
  void** top = reinterpret_cast<void**>(stack + kStack - 64);
  *--top = nullptr;  // where a call would have left the address to return to
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  top_ = top;
#else
  getcontext(&context_);
  context_.uc_stack.ss_sp = stack;
  context_.uc_stack.ss_size = kStack;
  context_.uc_link = nullptr;
  makecontext(&context_, entry, 0);
#endif
}

void Fiber::resume() {
#ifdef EMULATOR_ASAN
  __sanitizer_start_switch_fiber(&outside_fake_stack_, memory_ + kGuard, kStack);
#endif
#ifdef EMULATOR_TSAN
  outside_thread_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(thread_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__x86_64__)
  emulator_switch(&outside_, top_);
#else
  swapcontext(&outside_, &context_);
#endif
#ifdef EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(outside_fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::entered() {
#ifdef EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &outside_stack_, &outside_size_);
#endif
}

void Fiber::leave([[maybe_unused]] bool for_good) {
#ifdef EMULATOR_ASAN
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_stack_, outside_stack_, outside_size_);
#endif
#ifdef EMULATOR_TSAN
  __tsan_switch_to_fiber(outside_thread_, __tsan_switch_to_fiber_no_sync);
#endif
#if defined(__x86_64__)
  emulator_switch(&top_, outside_);
#else
  swapcontext(&context_, &outside_);
#endif
#ifdef EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(fake_stack_, &outside_stack_, &outside_size_);
#endif
}

void publish([[maybe_unused]] void* key) {
#ifdef EMULATOR_TSAN
  __tsan_release(key);
#endif
}

void observe([[maybe_unused]] void* key) {
#ifdef EMULATOR_TSAN
  __tsan_acquire(key);
#endif
}

void saw_read([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#ifdef EMULATOR_TSAN
  __tsan_read_range(const_cast<void*>(p), bytes);
#endif
}

void saw_write([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#ifdef EMULATOR_TSAN
  __tsan_write_range(const_cast<void*>(p), bytes);
#endif
}

void forbid([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#ifdef EMULATOR_ASAN
  __asan_poison_memory_region(p, bytes);
#endif
}

void allow([[maybe_unused]] const void* p, [[maybe_unused]] size_t bytes) {
#ifdef EMULATOR_ASAN
  __asan_unpoison_memory_region(p, bytes);
#endif
}

}  // namespace cnnops::simt::emulator
