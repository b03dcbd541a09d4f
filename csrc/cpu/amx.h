// Whether convolutions of bfloat16 may use the matrix unit (AMX).
#pragma once

namespace cnnops {

/// True where the CPU has AMX with products of bfloat16, the operating system grants its registers
/// to this process, and CNNOPS_AMX is not 0. Asked once: later calls return the same.
bool allows_amx();

}  // namespace cnnops
