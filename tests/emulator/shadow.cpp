#include "emulator/shadow.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>
#include <utility>

#include "emulator/text.h"

namespace cnnops::simt::emulator {

struct Shadow::Entry {
  enum Readers : uint8_t { kNone, kThread, kWarp, kBlock };

  uint32_t write_epoch, write_warp_epoch;
  uint32_t read_epoch, read_warp_epoch;
  uint16_t writer, reader;
  Readers readers;
  bool copying;
  bool has_bytes;  // of words: their bytes have entries too
  std::source_location written, was_read;
};

namespace {

constexpr int kWarp = 32;

/// An earlier access by `thread`: does what the running thread does now come after it for sure?
bool ordered(uint32_t epoch, uint32_t warp_epoch, int thread, const Moment& now) {
  if (epoch < now.launch_begin) return true;
  if (epoch < now.block_begin) return false;  // another block of the same launch
  if (epoch < now.epoch || thread == now.thread) return true;
  return thread / kWarp == now.thread / kWarp && warp_epoch < now.warp_epoch;
}

std::string conflict(const char* what, int thread, uint32_t epoch, const Moment& now,
                     const std::source_location& where) {
  const bool other_block = epoch < now.block_begin;
  return std::string(what) + " by thread " + std::to_string(thread) +
         (other_block ? " of another block" : "") + " at " + place(where) +
         (other_block ? "" : ", with no barrier between");
}

template <class T>
T* zero_pages(size_t count) {
  void* memory = mmap(nullptr, count * sizeof(T), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<T*>(memory);
}

}  // namespace

Shadow::Shadow(const void* begin, size_t bytes)
    : begin_(reinterpret_cast<uintptr_t>(begin) & ~uintptr_t{3}),
      words_((reinterpret_cast<uintptr_t>(begin) + bytes - begin_ + 3) / 4),
      word_(zero_pages<Entry>(words_)),
      byte_(zero_pages<Entry>(words_ * 4)) {}

Shadow::Shadow(Shadow&& other) noexcept
    : begin_(other.begin_),
      words_(other.words_),
      word_(std::exchange(other.word_, nullptr)),
      byte_(std::exchange(other.byte_, nullptr)) {}

Shadow::~Shadow() {
  if (word_ != nullptr) munmap(word_, words_ * sizeof(Entry));
  if (byte_ != nullptr) munmap(byte_, words_ * 4 * sizeof(Entry));
}

/// Calls f(entry, whether it stands for all the bytes that are accessed there) for all entries that
/// say something about the bytes, until it finds a conflict.
template <class F>
std::string Shadow::visit(const void* p, size_t bytes, const F& f) {
  const size_t offset = reinterpret_cast<uintptr_t>(p) - begin_;
  if (bytes < 4) {
    Entry& word = word_[offset / 4];
    word.has_bytes = true;
    std::string found = f(word, false);
    for (size_t i = 0; i < bytes && found.empty(); ++i) found = f(byte_[offset + i], true);
    return found;
  }
  for (size_t i = offset / 4; i < (offset + bytes) / 4; ++i) {
    std::string found = f(word_[i], true);
    for (size_t j = 4 * i; word_[i].has_bytes && j < 4 * i + 4 && found.empty(); ++j) {
      found = f(byte_[j], false);
    }
    if (!found.empty()) return found;
  }
  return {};
}

std::string Shadow::read(const void* p, size_t bytes, const Moment& now) {
  return visit(p, bytes, [&](Entry& e, bool record) -> std::string {
    if (e.copying) return conflict("cp.async not waited for", e.writer, now.epoch, now, e.written);
    if (!ordered(e.write_epoch, e.write_warp_epoch, e.writer, now)) {
      return conflict("written", e.writer, e.write_epoch, now, e.written);
    }
    if (!record) return {};
    const bool same_warp = e.reader / kWarp == now.thread / kWarp;
    const bool before_collective =
        e.readers != Entry::kBlock && same_warp && e.read_warp_epoch < now.warp_epoch;
    if (e.read_epoch != now.epoch || before_collective ||
        (e.readers == Entry::kThread && e.reader == now.thread)) {
      // Whatever this read comes after for sure, a write that comes after this read does too.
      e.readers = Entry::kThread;
    } else if (e.readers != Entry::kBlock) {
      e.readers = same_warp ? Entry::kWarp : Entry::kBlock;
    }
    e.read_epoch = now.epoch;
    e.read_warp_epoch = now.warp_epoch;
    e.reader = static_cast<uint16_t>(now.thread);
    e.was_read = now.where;
    return {};
  });
}

std::string Shadow::write(const void* p, size_t bytes, const Moment& now) {
  return visit(p, bytes, [&](Entry& e, bool record) -> std::string {
    if (e.copying) return conflict("cp.async not waited for", e.writer, now.epoch, now, e.written);
    if (!ordered(e.write_epoch, e.write_warp_epoch, e.writer, now)) {
      return conflict("written", e.writer, e.write_epoch, now, e.written);
    }
    bool free = e.readers == Entry::kNone || e.read_epoch < now.launch_begin ||
                (e.read_epoch >= now.block_begin && e.read_epoch < now.epoch);
    if (!free && e.read_epoch >= now.block_begin) {
      const bool same_warp = e.reader / kWarp == now.thread / kWarp;
      free = (e.readers == Entry::kThread && e.reader == now.thread) ||
             (e.readers != Entry::kBlock && same_warp && e.read_warp_epoch < now.warp_epoch);
    }
    if (!free) return conflict("read", e.reader, e.read_epoch, now, e.was_read);
    if (!record) return {};
    e.write_epoch = now.epoch;
    e.write_warp_epoch = now.warp_epoch;
    e.writer = static_cast<uint16_t>(now.thread);
    e.written = now.where;
    return {};
  });
}

std::string Shadow::begin_copy(const void* p, size_t bytes, const Moment& now) {
  std::string found = write(p, bytes, now);
  if (!found.empty()) return found;
  return visit(p, bytes, [](Entry& e, bool record) -> std::string {
    if (record) e.copying = true;
    return {};
  });
}

void Shadow::finish_copy(const void* p, size_t bytes, const Moment& now) {
  visit(p, bytes, [&](Entry& e, bool record) -> std::string {
    if (!record) return {};
    e.copying = false;
    e.write_epoch = now.epoch;
    e.write_warp_epoch = now.warp_epoch;
    return {};
  });
}

}  // namespace cnnops::simt::emulator
