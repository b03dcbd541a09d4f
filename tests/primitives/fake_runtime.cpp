// A CUDA runtime that launches nothing: it prints what a program asks of it. The environment
// variables FAIL_ATTRIBUTE and FAIL_LAUNCH name the error that the call returns.
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>

namespace {

dim3 grid_of_call, block_of_call;
size_t shared_of_call;
cudaStream_t stream_of_call;
cudaError_t last = cudaSuccess;

cudaError_t failure(const char* variable) {
  const char* value = std::getenv(variable);
  last = value != nullptr ? static_cast<cudaError_t>(std::atoi(value)) : cudaSuccess;
  return last;
}

cudaError_t launched(const dim3& grid, const dim3& block, size_t shared, cudaStream_t stream) {
  std::printf("launch: grid %u %u %u, block %u %u %u, shared %zu, stream %#zx\n", grid.x, grid.y,
              grid.z, block.x, block.y, block.z, shared, reinterpret_cast<size_t>(stream));
  return failure("FAIL_LAUNCH");
}

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void*) {
  static void* handle;
  return &handle;
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 0; }
void __cudaRegisterFunction(void**, const char*, char*, const char*, int, uint3*, uint3*, dim3*,
                            dim3*, int*) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  grid_of_call = grid, block_of_call = block, shared_of_call = shared, stream_of_call = stream;
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = grid_of_call, *block = block_of_call, *shared = shared_of_call;
  *static_cast<cudaStream_t*>(stream) = stream_of_call;
  return cudaSuccess;
}
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void*) {
  *kernel = nullptr;
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t, dim3 grid, dim3 block, void**, size_t shared,
                               cudaStream_t stream) {
  return launched(grid, block, shared, stream);
}
cudaError_t cudaLaunchKernel(const void*, dim3 grid, dim3 block, void**, size_t shared,
                             cudaStream_t stream) {
  return launched(grid, block, shared, stream);
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute attribute, int value) {
  std::printf("attribute %d: %d\n", static_cast<int>(attribute), value);
  return failure("FAIL_ATTRIBUTE");
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = cudaSuccess;
  std::printf("asked for the last error\n");
  return error;
}
const char* cudaGetErrorString(cudaError_t) { return "the text of the error"; }
const char* cudaGetErrorName(cudaError_t) { return "itsName"; }

}  // extern "C"
