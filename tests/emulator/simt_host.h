// The host twin of csrc/cuda/simt.cuh: the same names, implemented by the emulator (emulator.cpp).
//
// Every function that can fail takes the place it was called from, so that the emulator can name
// it. Memory is read and written here, in the kernel's own code, so that the sanitizers see it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <source_location>
#include <type_traits>

#include "dtype.h"

#define SIMT_KERNEL inline
#define SIMT_LAUNCH_BOUNDS(threads, blocks)
#define SIMT_PARAMETER const
#define SIMT_DEVICE inline
#define SIMT_HOST_DEVICE inline
#define SIMT_SHARED(T, name, n)          \
  static constexpr char name##_site = 0; \
  T(&name)                               \
  [n] = *static_cast<T(*)[n]>(::cnnops::simt::emulator::static_shared(&name##_site, sizeof(T[n])))
#define SIMT_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::cnnops::simt::emulator::dynamic_shared())
#define SIMT_LAUNCH(kernel, ...) \
  ::cnnops::simt::launch(::cnnops::simt::emulator::spelled<kernel>(), kernel, __VA_ARGS__)

#define threadIdx (::cnnops::simt::emulator::thread_index())
#define blockIdx (::cnnops::simt::emulator::block_index())
#define blockDim (::cnnops::simt::emulator::block_size())
#define gridDim (::cnnops::simt::emulator::grid_size())

namespace cnnops::simt {

using Where = std::source_location;

/// Lets kernels launched by this thread read, and where `writable` write, these bytes of global
/// memory, until forget_memory. Any other access is an error.
void expose_memory(const void* begin, size_t bytes, bool writable);
void forget_memory();

/// The stream that the launches of this thread must be on; at first the default one, nullptr.
void expect_stream(cudaStream_t stream);

namespace emulator {

enum class Space { kGlobal, kShared };
enum class Access { kRead, kWrite };
enum class Element { kBfloat16, kFloat16, kTf32 };

uint3 thread_index();
uint3 block_index();
dim3 block_size();
dim3 grid_size();

void* static_shared(const void* site, size_t bytes);
void* dynamic_shared();
/// `kernel` is what `spelled` returns.
void launch(const char* kernel, dim3 grid, dim3 block, size_t shared, cudaStream_t stream,
            const std::function<void()>& thread);

/// A text that ends with "kernel = " and the name of the kernel with its template arguments, as the
/// compiler spells them. Symbols do not tell: those of hidden types are not in the dynamic table.
template <auto kernel>
constexpr const char* spelled() {
  return __PRETTY_FUNCTION__;
}

/// Checks an access of the running thread, which follows: bounds, alignment, races; counts it.
void access(Space space, Access kind, const void* p, size_t bytes, const Where& where);
void copy_async(void* shared, const void* global, int bytes, bool inside, const Where& where);
void commit_copies();
void wait_copies(int groups);

void block_barrier(const Where& where);
void warp_barrier(const Where& where);
/// Lane i receives the value of lane source(i), in the collective called `name`.
uint64_t shuffle(const char* name, unsigned mask, uint64_t value, int source, const Where& where);
/// The lanes, one bit each, whose value is that of the calling lane.
unsigned match(const char* name, unsigned mask, uint64_t value, const Where& where);
int lane();
void load_matrices(uint32_t (&r)[4], const void* row, bool transposed, const Where& where);
void multiply(Element element, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
              const Where& where);
[[noreturn]] void fail(const char* what, const Where& where);

template <class T>
T shuffle_value(const char* name, unsigned mask, T value, int source, const Where& where) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = shuffle(name, mask, bits, source, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace emulator

template <class... P>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, std::type_identity_t<P>... arguments) {
  emulator::launch(name, grid, block, shared, stream, [&] { kernel(arguments...); });
}

template <class T>
T load(const T* p, Where where = Where::current()) {
  emulator::access(emulator::Space::kGlobal, emulator::Access::kRead, p, sizeof(T), where);
  return *p;
}
template <class T>
void store(T* p, std::type_identity_t<T> value, Where where = Where::current()) {
  emulator::access(emulator::Space::kGlobal, emulator::Access::kWrite, p, sizeof(T), where);
  *p = value;
}
template <class T>
T load_shared(const T* p, Where where = Where::current()) {
  emulator::access(emulator::Space::kShared, emulator::Access::kRead, p, sizeof(T), where);
  return *p;
}
template <class T>
void store_shared(T* p, std::type_identity_t<T> value, Where where = Where::current()) {
  emulator::access(emulator::Space::kShared, emulator::Access::kWrite, p, sizeof(T), where);
  *p = value;
}

template <int bytes>
void cp_async(void* shared, const void* global, bool inside, Where where = Where::current()) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  emulator::copy_async(shared, global, bytes, inside, where);
}
inline void cp_commit() { emulator::commit_copies(); }
template <int groups>
void cp_wait() {
  static_assert(groups >= 0);
  emulator::wait_copies(groups);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, Where where = Where::current()) {
  emulator::load_matrices(r, row, false, where);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Where where = Where::current()) {
  emulator::load_matrices(r, row, true, where);
}
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], bfloat16,
                         Where where = Where::current()) {
  emulator::multiply(emulator::Element::kBfloat16, d, a, b, where);
}
inline void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], float16,
                         Where where = Where::current()) {
  emulator::multiply(emulator::Element::kFloat16, d, a, b, where);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             Where where = Where::current()) {
  emulator::multiply(emulator::Element::kTf32, d, a, b, where);
}
inline void trap(Where where = Where::current()) { emulator::fail("trap", where); }

// ---- numbers -------------------------------------------------------------------------------------

template <class To, class From>
To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

inline uint32_t to_tf32(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return finite ? (bits + 0x1000u) & 0xffffe000u : bits;
}
inline float half_to_float(uint16_t bits) { return bits_as<_Float16>(bits); }
inline uint16_t float_to_half(float value) {
  return bits_as<uint16_t>(static_cast<_Float16>(value));
}
inline float bfloat_to_float(uint16_t bits) {
  return bits_as<float>(static_cast<uint32_t>(bits) << 16);
}
inline uint16_t float_to_bfloat(float value) {
  const uint32_t bits = bits_as<uint32_t>(value);
  if (value != value) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

}  // namespace cnnops::simt

// ---- CUDA's own names ----------------------------------------------------------------------------

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  cnnops::simt::emulator::block_barrier(where);
}
inline void __syncwarp(unsigned = 0xffffffffu,
                       std::source_location where = std::source_location::current()) {
  cnnops::simt::emulator::warp_barrier(where);
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane,
              std::source_location where = std::source_location::current()) {
  return cnnops::simt::emulator::shuffle_value("__shfl_sync", mask, value, lane & 31, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes,
                  std::source_location where = std::source_location::current()) {
  return cnnops::simt::emulator::shuffle_value("__shfl_xor_sync", mask, value,
                                               cnnops::simt::emulator::lane() ^ lanes, where);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate,
                              std::source_location where = std::source_location::current()) {
  const unsigned equal =
      cnnops::simt::emulator::match("__ballot_sync", mask, predicate ? 1 : 0, where);
  return predicate ? equal : ~equal;
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value,
                          std::source_location where = std::source_location::current()) {
  static_assert(std::is_integral_v<T>);
  return cnnops::simt::emulator::match("__match_any_sync", mask, static_cast<uint64_t>(value),
                                       where);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
