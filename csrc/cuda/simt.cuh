// Every CUDA primitive that the kernels use, so that one kernel source serves two targets: nvcc
// compiles it for the GPU, and the host compiler, with CNNOPS_EMULATED, for the emulator in
// tests/emulator, which runs it thread by thread and checks every access.
//
// A kernel therefore
//   - is declared with SIMT_KERNEL and launched with SIMT_LAUNCH; its functions are SIMT_DEVICE;
//   - has shared memory from SIMT_SHARED or SIMT_DYNAMIC_SHARED only;
//   - reads and writes memory through load, store, load_shared, store_shared and cp_async;
//   - meets at collectives (__syncthreads, __syncwarp, shuffles, ldmatrix, mma) with all the
//     threads of its block or warp: none may have left, and none may take another branch.
// threadIdx, blockIdx, blockDim, gridDim, __syncthreads(), __syncwarp(), __popc and __ffs are
// CUDA's own, and with the full mask __shfl_sync, __shfl_xor_sync, __ballot_sync and
// __match_any_sync.
//
// PTX is quoted by its name in the PTX ISA manual; fragment layouts are described there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstring>

#include "dtype.h"

namespace cnnops::simt {

/// n elements that memory instructions move at once: 2 to 16 bytes, aligned to their size.
template <class T, int n>
struct alignas(n * sizeof(T)) Vector {
  static_assert(n * sizeof(T) == 2 || n * sizeof(T) == 4 || n * sizeof(T) == 8 ||
                n * sizeof(T) == 16);
  T at[n];
};

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;

}  // namespace cnnops::simt

#ifdef CNNOPS_EMULATED
#include "emulator/simt_host.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <type_traits>

#include "cuda/launch.h"

#define SIMT_KERNEL static __global__
#define SIMT_LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
/// Before the type of a kernel's argument: it stays in constant memory, also where it is indexed.
#define SIMT_PARAMETER const __grid_constant__
#define SIMT_DEVICE __device__ __forceinline__
/// A function of both the kernels and the code that launches them.
#define SIMT_HOST_DEVICE __host__ __device__ __forceinline__
#define SIMT_SHARED(T, name, n) __shared__ alignas(16) T name[n]
#define SIMT_DYNAMIC_SHARED(T, name)                            \
  extern __shared__ __align__(128) unsigned char simt_shared[]; \
  T* const name = reinterpret_cast<T*>(simt_shared)
/// SIMT_LAUNCH(kernel, grid, block, dynamic_shared_bytes, stream, arguments...); RuntimeError where
/// it cannot be launched. A kernel with commas in its template arguments stands in parentheses.
#define SIMT_LAUNCH(kernel, ...) ::cnnops::simt::launch(#kernel, kernel, __VA_ARGS__)

namespace cnnops::simt {

template <class... P>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared,
            cudaStream_t stream, std::type_identity_t<P>... arguments) {
  allow_shared_memory(name, reinterpret_cast<const void*>(kernel), shared);
  kernel<<<grid, block, shared, stream>>>(arguments...);
  check_launch(name, cudaGetLastError());
}

// ---- memory --------------------------------------------------------------------------------------

template <int bytes>
struct WordOf;
template <>
struct WordOf<2> {
  using type = uint16_t;
};
template <>
struct WordOf<4> {
  using type = uint32_t;
};
template <>
struct WordOf<8> {
  using type = uint2;
};
template <>
struct WordOf<16> {
  using type = uint4;
};

/// Reads T, a scalar or a Vector, with one instruction.
template <class T>
SIMT_DEVICE T load(const T* p) {
  if constexpr (std::is_class_v<T>) {
    // The built-in vector types are what nvcc moves at once.
    const auto word = *reinterpret_cast<const typename WordOf<sizeof(T)>::type*>(p);
    T value;
    memcpy(&value, &word, sizeof(T));
    return value;
  } else {
    return *p;
  }
}

/// Writes T, a scalar or a Vector, with one instruction.
template <class T>
SIMT_DEVICE void store(T* p, std::type_identity_t<T> value) {
  if constexpr (std::is_class_v<T>) {
    typename WordOf<sizeof(T)>::type word;
    memcpy(&word, &value, sizeof(T));
    *reinterpret_cast<typename WordOf<sizeof(T)>::type*>(p) = word;
  } else {
    *p = value;
  }
}

/// The same in shared memory.
template <class T>
SIMT_DEVICE T load_shared(const T* p) {
  return load(p);
}
template <class T>
SIMT_DEVICE void store_shared(T* p, std::type_identity_t<T> value) {
  store(p, value);
}

/// An address as the instructions for shared memory take it.
SIMT_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

/// Starts copying `bytes` (4, 8 or 16) of global memory to shared memory, or zeros where not
/// `inside`; then `global` is not read. cp_commit closes a group of copies.
template <int bytes>
SIMT_DEVICE void cp_async(void* shared, const void* global, bool inside) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  const int source_bytes = inside ? bytes : 0;
  if constexpr (bytes == 16) {
    // .cg keeps what is read once out of L1; it exists for 16 bytes only.
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)),
                 "l"(global), "r"(source_bytes)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;\n" ::"r"(shared_address(shared)),
                 "l"(global), "n"(bytes), "r"(source_bytes)
                 : "memory");
  }
}

SIMT_DEVICE void cp_commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }

/// Waits until at most `groups` of the thread's newest groups are still being copied. Other threads
/// see the copies after the next barrier.
template <int groups>
SIMT_DEVICE void cp_wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(groups) : "memory");
}

// ---- tensor cores --------------------------------------------------------------------------------

/// Loads four 8x8 matrices of 16-bit elements: lane 8 * i + j gives the address of row j of matrix
/// i, 16 bytes; r[i] is two neighbours of matrix i, of row lane / 4, from column lane % 4 * 2.
SIMT_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

/// The same of the transposed matrices: r[i] is of column lane / 4, from row lane % 4 * 2.
SIMT_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

#define SIMT_MMA(instruction)                                                       \
  asm volatile("mma.sync.aligned." instruction                                      \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                     \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))

/// d (16x8, float32) += a (16x16, rows) * b (16x8, columns).
SIMT_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              bfloat16) {
  SIMT_MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
SIMT_DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                              float16) {
  SIMT_MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
/// d (16x8, float32) += a (16x8, rows) * b (8x8, columns), of numbers that to_tf32 made.
SIMT_DEVICE void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  SIMT_MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}

#undef SIMT_MMA

/// The nearest tf32 (10 bits after the point), ties away from zero.
SIMT_DEVICE uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;\n" : "=r"(bits) : "f"(value));
  return bits;
}

// ---- numbers -------------------------------------------------------------------------------------

SIMT_DEVICE float half_to_float(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
SIMT_DEVICE uint16_t float_to_half(float value) { return __half_as_ushort(__float2half_rn(value)); }
SIMT_DEVICE float bfloat_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}
SIMT_DEVICE uint16_t float_to_bfloat(float value) {
  return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
/// Ends the kernel; the next call that looks at the device reports it.
SIMT_DEVICE void trap() { __trap(); }

}  // namespace cnnops::simt

#endif

namespace cnnops::simt {

/// `value` in the type in which it is added up: float for bfloat16 and float16.
template <class T>
SIMT_DEVICE Accumulator<T> to_float(T value) {
  return value;
}
SIMT_DEVICE float to_float(bfloat16 value) { return bfloat_to_float(value.bits); }
SIMT_DEVICE float to_float(float16 value) { return half_to_float(value.bits); }

/// The T nearest to `value`, ties to even.
template <class T>
SIMT_DEVICE T from_float(Accumulator<T> value) {
  return value;
}
template <>
SIMT_DEVICE bfloat16 from_float<bfloat16>(float value) {
  return {float_to_bfloat(value)};
}
template <>
SIMT_DEVICE float16 from_float<float16>(float value) {
  return {float_to_half(value)};
}

}  // namespace cnnops::simt
