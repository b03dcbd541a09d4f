// One kernel for each primitive of csrc/cuda/simt.cuh, as nvcc compiles it: its PTX and its launch
// are what tests/test_cuda_primitives.py reads. Arguments are loaded and results stored so that
// every register of an instruction has a place in memory to be told by.
#include <cstdio>
#include <stdexcept>

#include "cuda/simt.cuh"

using namespace cnnops;
using simt::Vector;

#define PROBE(name) extern "C" __global__ void name

template <class Type>
__device__ void multiply(const uint32_t* a, const uint32_t* b, float* d) {
  uint32_t my_a[4], my_b[2];
  float my_d[4];
  for (int i = 0; i < 4; ++i) my_a[i] = a[i];
  for (int i = 0; i < 2; ++i) my_b[i] = b[i];
  for (int i = 0; i < 4; ++i) my_d[i] = d[i];
  if constexpr (std::is_same_v<Type, float>) {
    simt::mma_m16n8k8_tf32(my_d, my_a, my_b);
  } else {
    simt::mma_m16n8k16(my_d, my_a, my_b, Type{});
  }
  for (int i = 0; i < 4; ++i) d[i] = my_d[i];
}
PROBE(multiply_bfloat16)(const uint32_t* a, const uint32_t* b, float* d) {
  multiply<bfloat16>(a, b, d);
}
PROBE(multiply_float16)(const uint32_t* a, const uint32_t* b, float* d) {
  multiply<float16>(a, b, d);
}
PROBE(multiply_tf32)(const uint32_t* a, const uint32_t* b, float* d) { multiply<float>(a, b, d); }

PROBE(load_matrices)(int row, uint32_t* out) {
  extern __shared__ uint4 shared[];
  uint32_t r[4];
  simt::ldmatrix_x4(r, shared + row);
  for (int i = 0; i < 4; ++i) out[i] = r[i];
}
PROBE(load_transposed)(int row, uint32_t* out) {
  extern __shared__ uint4 shared[];
  uint32_t r[4];
  simt::ldmatrix_x4_trans(r, shared + row);
  for (int i = 0; i < 4; ++i) out[i] = r[i];
}

PROBE(copy_4)(const char* from, int inside) {
  extern __shared__ char bytes[];
  simt::cp_async<4>(bytes, from, inside != 0);
}
PROBE(copy_8)(const char* from, int inside) {
  extern __shared__ char bytes[];
  simt::cp_async<8>(bytes, from, inside != 0);
}
PROBE(copy_16)(const char* from, int inside) {
  extern __shared__ char bytes[];
  simt::cp_async<16>(bytes, from, inside != 0);
}
PROBE(commit_and_wait)() {
  simt::cp_commit();
  simt::cp_wait<2>();
  simt::cp_commit();
  simt::cp_wait<0>();
}

PROBE(move_bfloat16)(const bfloat16* from, bfloat16* to) { simt::store(to, simt::load(from)); }
PROBE(move_double)(const double* from, double* to) { simt::store(to, simt::load(from)); }
PROBE(move_2_bytes)(const Vector<uint8_t, 2>* from, Vector<uint8_t, 2>* to) {
  simt::store(to, simt::load(from));
}
PROBE(move_4_bytes)(const Vector<bfloat16, 2>* from, Vector<bfloat16, 2>* to) {
  simt::store(to, simt::load(from));
}
PROBE(move_8_bytes)(const Vector<float, 2>* from, Vector<float, 2>* to) {
  simt::store(to, simt::load(from));
}
PROBE(move_16_bytes)(const Vector<int64_t, 2>* from, Vector<int64_t, 2>* to) {
  simt::store(to, simt::load(from));
}

PROBE(round_to_tf32)(const float* from, uint32_t* to) { *to = simt::to_tf32(*from); }
PROBE(widen_float16)(const float16* from, float* to) { *to = simt::to_float(*from); }
PROBE(round_to_float16)(const float* from, float16* to) { *to = simt::from_float<float16>(*from); }
PROBE(widen_bfloat16)(const bfloat16* from, float* to) { *to = simt::to_float(*from); }
PROBE(round_to_bfloat16)(const float* from, bfloat16* to) {
  *to = simt::from_float<bfloat16>(*from);
}
PROBE(stop)() { simt::trap(); }

// What is in shared memory is written before such an instruction, and read anew after it.
template <class Primitive>
__device__ void between(float* to, const Primitive& primitive) {
  extern __shared__ float values[];
  simt::store_shared(values, 1.0f);
  primitive(values);
  *to = simt::load_shared(values);
}
PROBE(order_of_copy_4)(float* to) {
  between(to, [&](float* shared) { simt::cp_async<4>(shared, to, true); });
}
PROBE(order_of_copy_16)(float* to) {
  between(to, [&](float* shared) { simt::cp_async<16>(shared, to, true); });
}
PROBE(order_of_commit)(float* to) {
  between(to, [](float*) { simt::cp_commit(); });
}
PROBE(order_of_wait)(float* to) {
  between(to, [](float*) { simt::cp_wait<1>(); });
}
PROBE(order_of_matrices)(float* to) {
  uint32_t r[4];
  between(to, [&](float* shared) { simt::ldmatrix_x4(r, shared); });
}
PROBE(order_of_transposed)(float* to) {
  uint32_t r[4];
  between(to, [&](float* shared) { simt::ldmatrix_x4_trans(r, shared); });
}

#undef PROBE

// ---- launches ------------------------------------------------------------------------------------

SIMT_KERNEL SIMT_LAUNCH_BOUNDS(96, 2) void launched(int, double) {}

/// "SHARED": launches with as many bytes of dynamic shared memory, on the runtime of
/// fake_runtime.cpp, which prints what it is asked for.
int main(int, char** arguments) {
  int shared = 0;
  std::sscanf(arguments[1], "%d", &shared);
  try {
    SIMT_LAUNCH(launched, dim3(7, 5), dim3(96), shared, reinterpret_cast<cudaStream_t>(0x51), 1.0,
                2);
  } catch (const std::runtime_error& error) {
    std::printf("raised: %s\n", error.what());
  }
}
