// Opens the compilation of the kernel bodies for one instruction set. A file in this folder defines
// CNNOPS_TARGET_AVX2 or CNNOPS_TARGET_AVX512 (or neither: baseline), includes this, and then the
// kernels inside the namespace of its instruction set. Convolutions are two files each, by what the
// kernels add up in, so that two processors compile them in half the time. bfloat16 has files of
// its own for CPUs with AVX512_BF16, which define CNNOPS_TARGET_AVX512_BF16 as well.
//
// The target pragma comes after every system header and stays on to the end of the file: template
// bodies are compiled with the target in force where they are instantiated. Kernels use no std::
// templates, since an instantiation of one made here with AVX instructions could be the copy that
// the linker keeps for the baseline code as well.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "cpu/parallel.h"
#include "cpu/scratch.h"
#include "dtype.h"

#if defined(CNNOPS_TARGET_AVX512_BF16)
#define CNNOPS_VECTOR_BYTES 64
#define CNNOPS_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi,bmi2"
#elif defined(CNNOPS_TARGET_AVX512)
#define CNNOPS_VECTOR_BYTES 64
#define CNNOPS_TARGET "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi,bmi2"
#elif defined(CNNOPS_TARGET_AVX2)
#define CNNOPS_VECTOR_BYTES 32
#define CNNOPS_TARGET "avx2,fma,f16c,bmi,bmi2"
#else
#define CNNOPS_VECTOR_BYTES 16
#endif

#if defined(CNNOPS_TARGET)
#define CNNOPS_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define CNNOPS_PUSH(target) \
  CNNOPS_PRAGMA(clang attribute push(__attribute__((target(target))), apply_to = function))
CNNOPS_PUSH(CNNOPS_TARGET)
#else
#define CNNOPS_PUSH(text) CNNOPS_PRAGMA(GCC target(text))
CNNOPS_PUSH(CNNOPS_TARGET)
#endif
#endif
