#include "cpu/pair_units.h"

#include <cstdint>

#include "cpu/switches.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace cnnops {

namespace {

#if defined(__x86_64__) && defined(__linux__)

/// Bits of EDX that CPUID fills for subleaf 0 of leaf 7.
constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;

/// Bit of leaf 1's ECX that says XGETBV may be executed.
constexpr unsigned kOsxsave = 1u << 27;

/// Components of the extended state: the configuration of tiles, and their data.
constexpr uint64_t kTileState = uint64_t(3) << 17;

bool cpu_has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kOsxsave) == 0) return false;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  return (d & kAmxBf16) != 0 && (d & kAmxTile) != 0;
}

/// Whether the operating system saves the registers of AMX.
bool system_saves_tiles() {
  uint32_t low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & kTileState) == kTileState;
}

/// Asks Linux for the registers, which it grants to all threads of a process or to none.
bool system_grants_tiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // of arch_prctl
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

bool has_avx512_bf16() { return __builtin_cpu_supports("avx512bf16"); }

bool has_matrix_unit() { return cpu_has_amx() && system_saves_tiles() && system_grants_tiles(); }

/// Zen 4 and 5 start as many dot products as multiply-adds. On Sapphire Rapids, which has AMX for
/// these, they are a quarter as many, which makes half as many products.
bool has_fast_dot_products() { return __builtin_cpu_is("amd"); }

#else

bool has_avx512_bf16() { return false; }
bool has_matrix_unit() { return false; }
bool has_fast_dot_products() { return false; }

#endif

}  // namespace

bool allows_avx512_bf16() {
  static const bool allowed = is_switched_on("CNNOPS_AVX512_BF16") && has_avx512_bf16();
  return allowed;
}

bool allows_matrix_unit() {
  static const bool allowed =
      allows_avx512_bf16() && is_switched_on("CNNOPS_AMX") && has_matrix_unit();
  return allowed;
}

bool allows_dot_products() {
  static const bool allowed = allows_avx512_bf16() && has_fast_dot_products();
  return allowed;
}

}  // namespace cnnops
