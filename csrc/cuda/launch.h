// What every launch of a kernel checks, without torch: errors that name the kernel, and the
// permission that shared memory beyond 48 KiB needs.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace cnnops {

/// Raises RuntimeError that names `kernel` unless `error`, the result of launching it, is success.
void check_launch(const char* kernel, cudaError_t error);

/// Lets `function`, the kernel of that name, use `bytes` of dynamic shared memory; RuntimeError
/// where the device has less. Up to 48 KiB every kernel may use without asking.
void allow_shared_memory(const char* kernel, const void* function, size_t bytes);

}  // namespace cnnops
