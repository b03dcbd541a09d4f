// Which units of the CPU convolutions of bfloat16 may use, that add up products of pairs. Asked
// once each: later calls return the same.
#pragma once

namespace cnnops {

/// True where the CPU has AMX with products of bfloat16, the operating system grants its registers
/// to this process, and CNNOPS_AMX is not 0.
bool allows_matrix_unit();

/// True where the CPU has AVX512_BF16, its dot products take no longer than the multiply-adds of
/// float32, and CNNOPS_AVX512_BF16 is not 0.
bool allows_dot_products();

}  // namespace cnnops
