// What of the CPU's kernels of bfloat16 may use: instructions that round to it, and units that add
// up products of pairs. Asked once each: later calls return the same.
#pragma once

namespace cnnops {

/// True where the CPU has AVX512_BF16, and CNNOPS_AVX512_BF16 is not 0.
bool allows_avx512_bf16();

/// True where the CPU has AMX with products of bfloat16, the operating system grants its registers
/// to this process, CNNOPS_AMX is not 0, and allows_avx512_bf16().
bool allows_matrix_unit();

/// True where allows_avx512_bf16(), and its dot products take no longer than the multiply-adds of
/// float32.
bool allows_dot_products();

}  // namespace cnnops
