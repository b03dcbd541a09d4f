// A call on a GPU (csrc/cuda/runtime.cpp) of a tensor that says it is on device 3, with a torch and
// a CUDA runtime that print what they are asked for.
#define USE_CUDA
#include <cstdio>

#include "cuda/runtime.h"

extern "C" {

AOTITorchError aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) {
  *index = 3;
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_create_device_guard(int32_t index, DeviceGuardHandle* guard) {
  std::printf("guard device %d\n", index);
  *guard = reinterpret_cast<DeviceGuardHandle>(guard);
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) {
  std::printf("leave the device\n");
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t index, void** stream) {
  std::printf("stream of device %d\n", index);
  *stream = reinterpret_cast<void*>(0x77);
  return AOTI_TORCH_SUCCESS;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  std::printf("attribute %d of device %d\n", static_cast<int>(attribute), device);
  *value = 132;
  return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t) { return ""; }

}  // extern "C"

int main() {
  const int64_t size[] = {5}, stride[] = {1};
  AtenTensorHandle handle = nullptr;
  aoti_torch_empty_strided(1, size, stride, aoti_torch_dtype_float32(),
                           aoti_torch_device_type_cpu(), 0, &handle);
  const cnnops::Tensor input(handle);
  cnnops::DeviceCall call(input);
  std::printf("launches on %#zx\n", reinterpret_cast<size_t>(call.stream()));
  std::printf("%d multiprocessors\n", call.multiprocessors());
  auto* first = call.workspace<float>(1000);
  auto* second = call.workspace<double>(1000);
  for (int i = 0; i < 1000; ++i) first[i] = 1.0f, second[i] = 2.0;
  bool kept = true;
  for (int i = 0; i < 1000; ++i) kept = kept && first[i] == 1.0f && second[i] == 2.0;
  const bool aligned =
      (reinterpret_cast<size_t>(first) | reinterpret_cast<size_t>(second)) % 64 == 0;
  std::printf("workspace %s\n", kept && aligned ? "kept" : "lost");
}
