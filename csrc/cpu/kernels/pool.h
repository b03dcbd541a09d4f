// The table of pool kernels of one instruction set. Included by isa/pool_*.cpp.

namespace {  // helpers of the same name may exist for other kernels of this instruction set

// clang-format off
#include "cpu/kernels/pool_vector.h"      // types, reductions, how work is cut
#include "cpu/kernels/pool_phases.h"      // strided rows as contiguous vectors
#include "cpu/kernels/pool_bands.h"       // windows of stride 1 or 2 along W, rows at a time
#if defined(CNNOPS_TARGET_AVX512)
#include "cpu/kernels/shifted_row.h"
#include "cpu/kernels/twin_row.h"
#include "cpu/kernels/pool_rolling.h"     // the same of square windows, in registers
#endif
#include "cpu/kernels/pool_row.h"         // windows reduced along W
#include "cpu/kernels/pool_pixel.h"       // windows reduced along C
#include "cpu/kernels/pool_shuffles.h"    // windows along W, shuffled out of registers
#include "cpu/kernels/pool_blocks.h"      // windows reduced across planes
#include "cpu/kernels/pool_max.h"
#include "cpu/kernels/pool_avg.h"
#include "cpu/kernels/pool_tap_rows.h"    // gradients by taps, along W
#if defined(CNNOPS_TARGET_AVX512)
#include "cpu/kernels/pool_rolling_taps.h"  // the same of square windows, in registers
#endif
#include "cpu/kernels/pool_taps.h"
#include "cpu/kernels/pool_fractional.h"
#include "cpu/kernels/pool_scatter.h"
// clang-format on

template <class T>
int64_t pool_scratch(const PoolProblem& p, bool places) {
  return p.algorithm == PoolAlgorithm::blocks ? BlockMemory<T>::bytes(p.cut, places) : 0;
}

template <class T>
int64_t pool_tables(const PoolProblem& p, bool places, bool divides) {
  const bool shuffled = p.algorithm == PoolAlgorithm::shuffled_rows;
  const bool rolls = p.algorithm == PoolAlgorithm::rolling_rows;
  const bool bands = p.algorithm == PoolAlgorithm::rows_by_phases && !places && !p.inverse;
  return (shuffled ? RowShuffles<T>::bytes(p.chunks) : 0) + (bands ? band_list_bytes(p) : 0) +
         (rolls ? rolling_list_bytes(p) : 0) + (divides ? Divisors<T>::bytes(p) : 0);
}

/// Maxima are elements.
template <class T>
void max_pool_of_elements(const PoolProblem& p, const T* input, T* output, int64_t* indices) {
  using E = Elements<T>;
  max_pool(p, reinterpret_cast<const E*>(input), reinterpret_cast<E*>(output), indices);
}
template <class T>
void max_pool_taps_of_elements(const PoolProblem& p, const T* input, T* output, uint8_t* taps) {
  using E = Elements<T>;
  max_pool_taps(p, reinterpret_cast<const E*>(input), reinterpret_cast<E*>(output), taps);
}

/// The operators of a type are torch's: maxima of every type, averages of floats and int64, the
/// others of floats.
template <class T>
constexpr PoolKernels<T> pool_table() {
  PoolKernels<T> table{};
  // Shorter registers have no such shuffle: it would go through memory, lane by lane.
  table.registers = {kLanes<Compute<T>>, CNNOPS_VECTOR_BYTES >= 32, kRolls<T>};
  table.scratch = pool_scratch<T>;
  table.tables = pool_tables<T>;
  table.max_pool = max_pool_of_elements<T>;
  if constexpr (kFloats<T> || __is_same(T, int64_t)) {
    table.avg_pool = avg_pool<T>;
    table.avg_pool_backward = avg_pool_backward<T>;
  }
  if constexpr (kFloats<T>) {
    table.max_pool_taps = max_pool_taps_of_elements<T>;
    table.max_pool_taps_backward = max_pool_taps_backward<T>;
    table.max_pool_taps_scratch = max_pool_taps_scratch<T>;
    table.fractional_max_pool = fractional_max_pool<T>;
    table.scatter_add = scatter_add<T>;
    table.scatter_add_scratch = scatter_add_scratch<T>;
    table.scatter = scatter<T>;
    table.gather = gather<T>;
  }
  return table;
}

}  // namespace

template <class T>
const PoolKernels<T>& pool_kernels() {
  static constexpr PoolKernels<T> table = pool_table<T>();
  return table;
}

#define CNNOPS_INSTANTIATE_KERNELS(T) template const PoolKernels<T>& pool_kernels<T>();
CNNOPS_INSTANTIATED_TYPES(CNNOPS_INSTANTIATE_KERNELS)
