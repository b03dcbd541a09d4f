#include "cpu/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "checks.h"
#include "cpu/pair_units.h"

namespace cnnops {

// One namespace per instruction set, defined by isa/{conv,pool}_<name>.cpp.
#define CNNOPS_DECLARE_KERNELS(isa)     \
  namespace isa {                       \
  template <class T>                    \
  const ConvKernels<T>& conv_kernels(); \
  template <class T>                    \
  const PoolKernels<T>& pool_kernels(); \
  }
CNNOPS_DECLARE_KERNELS(baseline)
#if defined(__x86_64__)
CNNOPS_DECLARE_KERNELS(avx2)
CNNOPS_DECLARE_KERNELS(avx512)
CNNOPS_DECLARE_KERNELS(avx512_bf16)  // bfloat16 alone, beside avx512

// Integers have no AVX-512 kernels: products of 64 bits made them a third as fast as AVX2's.
template <>
const ConvKernels<int64_t>& avx512::conv_kernels() {
  return avx2::conv_kernels<int64_t>();
}
#endif

namespace {

enum Isa { kBaseline, kAvx2, kAvx512 };
constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

bool cpu_has(Isa isa) {
#if defined(__x86_64__)
  if (isa == kAvx2) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  }
  if (isa == kAvx512) {
    return cpu_has(kAvx2) && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  }
#endif
  return isa == kBaseline;
}

Isa parse(const char* name) {
  for (Isa isa : {kBaseline, kAvx2, kAvx512}) {
    if (std::strcmp(name, kNames[isa]) != 0) continue;
    CNNOPS_CHECK(cpu_has(isa), "cnnops: this CPU does not have the instruction set '", name, "'");
    return isa;
  }
  CNNOPS_CHECK(false, "cnnops: unknown instruction set '", name,
               "', expected baseline, avx2 or avx512");
  return kBaseline;
}

Isa initial() {
  const char* name = std::getenv("CNNOPS_ISA");
  if (name != nullptr && *name != '\0') return parse(name);
  return cpu_has(kAvx512) ? kAvx512 : cpu_has(kAvx2) ? kAvx2 : kBaseline;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{initial()};
  return isa;
}

}  // namespace

const char* current_isa() { return kNames[current().load()]; }

const std::vector<const char*>& available_isas() {
  static const std::vector<const char*> names = [] {
    std::vector<const char*> found;
    for (Isa isa : {kBaseline, kAvx2, kAvx512}) {
      if (cpu_has(isa)) found.push_back(kNames[isa]);
    }
    return found;
  }();
  return names;
}

void set_isa(const char* name) { current().store(parse(name)); }

#if defined(__x86_64__)
#define CNNOPS_SELECT(function, T)                                   \
  switch (current().load(std::memory_order_relaxed)) {               \
    case kAvx512:                                                    \
      if constexpr (std::is_same_v<T, bfloat16>) {                   \
        if (allows_avx512_bf16()) return avx512_bf16::function<T>(); \
      }                                                              \
      return avx512::function<T>();                                  \
    case kAvx2: return avx2::function<T>();                          \
    default: return baseline::function<T>();                         \
  }
#else
#define CNNOPS_SELECT(function, T) return baseline::function<T>();
#endif

template <class T>
const ConvKernels<T>& conv_kernels() {
  CNNOPS_SELECT(conv_kernels, T)
}
template <class T>
const PoolKernels<T>& pool_kernels() {
  CNNOPS_SELECT(pool_kernels, T)
}

#define CNNOPS_INSTANTIATE_CONV(T) template const ConvKernels<T>& conv_kernels<T>();
CNNOPS_FOR_EACH_CONV_TYPE(CNNOPS_INSTANTIATE_CONV)
#define CNNOPS_INSTANTIATE_POOL(T) template const PoolKernels<T>& pool_kernels<T>();
CNNOPS_FOR_EACH_POOL_TYPE(CNNOPS_INSTANTIATE_POOL)

}  // namespace cnnops
