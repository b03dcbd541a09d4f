#include "emulator/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <new>

#include "emulator/fiber.h"
#include "emulator/simt_host.h"

namespace cnnops::simt {
namespace emulator {
namespace {

struct Region {
  uintptr_t begin, end;
  bool writable;
  Shadow shadow;  // of writable memory only
};

/// Each host thread has its own calls.
std::vector<Region>& regions() {
  thread_local std::vector<Region> all;
  return all;
}

constexpr size_t kArena = 320 << 10;
constexpr size_t kBetween = 64;
constexpr size_t kAlignment = 128;
constexpr unsigned char kCanary = 0xA5;

void* pages(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

void fill(void* p, size_t bytes, unsigned char byte) {
  auto* bytes_of = static_cast<volatile unsigned char*>(p);
  size_t i = 0;
  for (; i < bytes && (reinterpret_cast<uintptr_t>(bytes_of + i) & 7) != 0; ++i) bytes_of[i] = byte;
  for (; i + 8 <= bytes; i += 8) {
    *reinterpret_cast<volatile uint64_t*>(bytes_of + i) = 0x0101010101010101u * byte;
  }
  for (; i < bytes; ++i) bytes_of[i] = byte;
}

}  // namespace

void fill_unseen(void* p, size_t bytes) { fill(p, bytes, 0xFF); }

Shadow* find_global(const void* p, size_t bytes, bool writes, std::string& error) {
  const auto begin = reinterpret_cast<uintptr_t>(p);
  const Region* nearest = nullptr;
  uintptr_t least = UINTPTR_MAX;
  bool readable = false;
  for (Region& region : regions()) {
    if (begin >= region.begin && begin + bytes <= region.end) {
      if (region.writable) return &region.shadow;
      readable = true;
    }
    const uintptr_t distance = begin < region.begin         ? region.begin - begin
                               : begin + bytes > region.end ? begin + bytes - region.end
                                                            : 0;
    if (distance < least) {
      least = distance;
      nearest = &region;
    }
  }
  if (readable && !writes) return nullptr;
  error = std::string(writes ? "writes " : "reads ") + std::to_string(bytes) +
          " bytes of global memory ";
  if (readable) {
    error += "that it may only read";
  } else if (nearest == nullptr) {
    error += "but nothing was exposed to it";
  } else {
    error += "out of bounds: " + std::to_string(least) + " bytes " +
             (begin < nearest->begin ? "before the begin" : "past the end") + " of " +
             std::to_string(nearest->end - nearest->begin) + " bytes";
  }
  return nullptr;
}

SharedMemory::SharedMemory()
    : memory_(static_cast<char*>(pages(kArena))), shadow_(memory_, kArena) {}

void SharedMemory::begin_block() {
  arrays_.clear();
  used_ = 0;
  static_bytes_ = 0;
  allow(memory_, kArena);
  fill(memory_, kBetween, kCanary);
  used_ = kAlignment;
  forbid(memory_, kArena);
}

std::string SharedMemory::end_block() const {
  allow(memory_, kArena);
  const auto overrun = [](const char* begin, const char* end) {
    for (const char* p = begin; p < end; ++p) {
      if (static_cast<unsigned char>(*p) != kCanary) return true;
    }
    return false;
  };
  if (overrun(memory_, memory_ + kBetween))
    return "shared memory was written before its first array";
  for (const Array& array : arrays_) {
    const char* const end = array.begin + array.bytes;
    if (overrun(end, end + kBetween)) {
      return "shared memory was written past the end of an array of " +
             std::to_string(array.bytes) + " bytes";
    }
  }
  return {};
}

void SharedMemory::reset() {
  shadow_.~Shadow();
  new (&shadow_) Shadow(memory_, kArena);
}

void* SharedMemory::make(const void* site, size_t bytes) {
  char* const begin = memory_ + used_;
  const size_t padded = (bytes + kBetween + kAlignment - 1) / kAlignment * kAlignment;
  used_ += padded;
  if (used_ > kArena) std::abort();  // kMost and the bytes between many arrays fit
  allow(begin, padded);
  fill_unseen(begin, bytes);
  fill(begin + bytes, kBetween, kCanary);
  forbid(begin + bytes, padded - bytes);
  arrays_.push_back({site, begin, bytes});
  return begin;
}

void* SharedMemory::static_array(const void* site, size_t bytes, size_t dynamic_bytes,
                                 std::string& error) {
  for (const Array& array : arrays_) {
    if (array.site == site) return array.begin;
  }
  static_bytes_ += bytes;
  const bool fits = static_bytes_ <= kMostStatic && static_bytes_ + dynamic_bytes <= kMost;
  if (!fits) {
    error = std::to_string(static_bytes_) + " bytes of static and " +
            std::to_string(dynamic_bytes) +
            " bytes of dynamic shared memory: a block has at most " + std::to_string(kMostStatic) +
            " and " + std::to_string(kMost) + " in all";
    return nullptr;
  }
  return make(site, bytes);
}

void* SharedMemory::dynamic_array(size_t bytes) {
  for (const Array& array : arrays_) {
    if (array.site == this) return array.begin;
  }
  return make(this, bytes);
}

Shadow* SharedMemory::find(const void* p, size_t bytes, std::string& error) {
  const char* const begin = static_cast<const char*>(p);
  for (const Array& array : arrays_) {
    if (begin >= array.begin && begin + bytes <= array.begin + array.bytes) return &shadow_;
  }
  const ptrdiff_t offset = begin - memory_;
  error = offset >= 0 && offset < static_cast<ptrdiff_t>(kArena)
              ? "access beyond an array of shared memory"
              : "access to shared memory with an address that is not in shared memory";
  return nullptr;
}

}  // namespace emulator

void expose_memory(const void* begin, size_t bytes, bool writable) {
  if (bytes == 0) return;
  const auto address = reinterpret_cast<uintptr_t>(begin);
  for (const emulator::Region& region : emulator::regions()) {
    if (region.begin == address && region.end == address + bytes && region.writable == writable) {
      return;
    }
  }
  emulator::regions().push_back(
      {address, address + bytes, writable, emulator::Shadow(begin, writable ? bytes : 4)});
}

void forget_memory() { emulator::regions().clear(); }

}  // namespace cnnops::simt
