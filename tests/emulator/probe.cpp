// ldmatrix and mma on registers that Python gives, so that tests can hold their layouts against
// another statement of them.
#include <cstdint>

#include "cuda/simt.cuh"

namespace cnnops {
namespace {

constexpr int kWarp = 32;

void multiply_warp(const char* type, const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = static_cast<int>(threadIdx.x);
  uint32_t my_a[4], my_b[2];
  float my_d[4];
  for (int i = 0; i < 4; ++i) my_a[i] = simt::load(&a[4 * lane + i]);
  for (int i = 0; i < 2; ++i) my_b[i] = simt::load(&b[2 * lane + i]);
  for (int i = 0; i < 4; ++i) my_d[i] = simt::load(&d[4 * lane + i]);
  switch (type[0]) {
    case 'b': simt::mma_m16n8k16(my_d, my_a, my_b, bfloat16{}); break;
    case 'f': simt::mma_m16n8k16(my_d, my_a, my_b, float16{}); break;
    default: simt::mma_m16n8k8_tf32(my_d, my_a, my_b);
  }
  for (int i = 0; i < 4; ++i) simt::store(&d[4 * lane + i], my_d[i]);
}

void load_warp(bool transposed, const simt::Vector<uint32_t, 4>* rows, uint32_t* out) {
  const int lane = static_cast<int>(threadIdx.x);
  using Row = simt::Vector<uint32_t, 4>;
  SIMT_SHARED(Row, shared, kWarp);
  simt::store_shared(&shared[lane], simt::load(&rows[lane]));
  __syncthreads();
  uint32_t r[4];
  if (transposed) {
    simt::ldmatrix_x4_trans(r, &shared[lane]);
  } else {
    simt::ldmatrix_x4(r, &shared[lane]);
  }
  for (int i = 0; i < 4; ++i) simt::store(&out[4 * lane + i], r[i]);
}

}  // namespace
}  // namespace cnnops

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

/// d[lane][4] += a[lane][4] * b[lane][2] by mma; `type` is "bf16", "f16" or "tf32".
EMULATOR_EXPORT void emulator_multiply(const char* type, const uint32_t* a, const uint32_t* b,
                                       float* d) {
  using namespace cnnops;
  simt::expose_memory(a, kWarp * 16, false);
  simt::expose_memory(b, kWarp * 8, false);
  simt::expose_memory(d, kWarp * 16, true);
  SIMT_LAUNCH(multiply_warp, dim3(1), dim3(kWarp), 0, nullptr, type, a, b, d);
  simt::forget_memory();
}

/// out[lane][4] = what ldmatrix.x4 gives each lane of rows[lane], 16 bytes.
EMULATOR_EXPORT void emulator_load_matrices(bool transposed, const void* rows, uint32_t* out) {
  using namespace cnnops;
  simt::expose_memory(rows, kWarp * 16, false);
  simt::expose_memory(out, kWarp * 16, true);
  SIMT_LAUNCH(load_warp, dim3(1), dim3(kWarp), 0, nullptr, transposed,
              static_cast<const simt::Vector<uint32_t, 4>*>(rows), out);
  simt::forget_memory();
}
