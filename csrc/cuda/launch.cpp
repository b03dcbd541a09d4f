#include "cuda/launch.h"

#include "checks.h"

namespace cnnops {

void check_launch(const char* kernel, cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // so that the next launch does not report this error again
  const char* advice =
      error == cudaErrorNoKernelImageForDevice
          ? "; this build of cnnops has no code for this GPU: `cnnops info` lists what it has, and "
            "building with TORCH_CUDA_ARCH_LIST set adds others"
          : "";
  CNNOPS_CHECK(false, "CUDA kernel ", kernel, " failed at its launch: ", cudaGetErrorString(error),
               " (", cudaGetErrorName(error), ')', advice);
}

void allow_shared_memory(const char* kernel, const void* function, size_t bytes) {
  constexpr size_t kWithoutAsking = 48 << 10;
  if (bytes <= kWithoutAsking) return;
  check_launch(kernel, cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(bytes)));
}

}  // namespace cnnops
