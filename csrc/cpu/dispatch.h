// Which instruction set's kernels run: the widest that the CPU has, unless CNNOPS_ISA (baseline,
// avx2 or avx512) names another. Kernels are reached through one table of pointers per instruction
// set, filled in isa/*.cpp.
#pragma once

#include <vector>

#include "cpu/conv_kernels.h"
#include "cpu/pool_kernels.h"

namespace cnnops {

/// Name of the instruction set in use. Raises RuntimeError when CNNOPS_ISA names an unknown one or
/// one that this CPU lacks.
const char* current_isa();

/// Names of the instruction sets that this CPU and this build have, narrowest first.
const std::vector<const char*>& available_isas();

/// Switches every later call in the process to the kernels of `name`; raises as current_isa does.
void set_isa(const char* name);

/// The kernels of the instruction set in use, for one storage type (dtype.h).
template <class T>
const ConvKernels<T>& conv_kernels();
template <class T>
const PoolKernels<T>& pool_kernels();

}  // namespace cnnops
