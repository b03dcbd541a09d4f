// Argument checks shared by every operator and device: one macro that raises, and integer
// arithmetic that raises instead of wrapping. Nothing here knows about torch.
//
// std::runtime_error reaches Python as RuntimeError, std::invalid_argument as ValueError.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace cnnops {

/// A list of sizes as it came from Python.
using IntList = std::vector<int64_t>;

/// Such a list that something else holds.
struct IntSpan : std::span<const int64_t> {
  using std::span<const int64_t>::span;
  IntSpan(const IntList& list) : std::span<const int64_t>(list) {}
  friend bool operator==(IntSpan a, IntSpan b) { return std::ranges::equal(a, b); }
};

/// Streams a list as torch prints it: [1, 2, 3].
inline std::ostream& operator<<(std::ostream& out, IntSpan list) {
  out << '[';
  for (size_t i = 0; i < list.size(); ++i) out << (i ? ", " : "") << list[i];
  return out << ']';
}

template <class... Parts>
std::string join(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace cnnops

/// Raises RuntimeError with the concatenated message parts when `condition` is false.
#define CNNOPS_CHECK(condition, ...) \
  if (!(condition)) throw std::runtime_error(::cnnops::join(__VA_ARGS__))

/// The same, raising ValueError: for the places where torch raises ValueError.
#define CNNOPS_CHECK_VALUE(condition, ...) \
  if (!(condition)) throw std::invalid_argument(::cnnops::join(__VA_ARGS__))

namespace cnnops {

/// a * b, raising RuntimeError when the product does not fit int64.
inline int64_t checked_mul(int64_t a, int64_t b) {
  int64_t product = 0;
  CNNOPS_CHECK(!__builtin_mul_overflow(a, b, &product), "size overflows int64: ", a, " * ", b);
  return product;
}

/// a + b, raising RuntimeError when the sum does not fit int64.
inline int64_t checked_add(int64_t a, int64_t b) {
  int64_t sum = 0;
  CNNOPS_CHECK(!__builtin_add_overflow(a, b, &sum), "size overflows int64: ", a, " + ", b);
  return sum;
}

/// The number of elements of a tensor of these sizes, raising when it, or its size in bytes at
/// 8 bytes an element, does not fit int64.
inline int64_t checked_numel(IntSpan sizes) {
  int64_t numel = 8;
  bool empty = false;
  for (int64_t size : sizes) {
    CNNOPS_CHECK(size >= 0, "Trying to create tensor with negative dimension ", size, ": ", sizes);
    empty = empty || size == 0;
  }
  if (empty) return 0;
  for (int64_t size : sizes) numel = checked_mul(numel, size);
  return numel / 8;
}

}  // namespace cnnops
