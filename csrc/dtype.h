// Element types of the kernels. bfloat16 and float16 are storage types: arithmetic happens in the
// accumulator type that `Accumulator` names (float32 for both).
#pragma once

#include <cstdint>

/// Calls X(T) for every storage type with convolution kernels: those whose sums are float, and the
/// others.
#define CNNOPS_FOR_EACH_FLOAT_SUM_TYPE(X) X(float) X(bfloat16) X(float16)
#define CNNOPS_FOR_EACH_OTHER_SUM_TYPE(X) X(double) X(int64_t)
#define CNNOPS_FOR_EACH_CONV_TYPE(X) \
  CNNOPS_FOR_EACH_FLOAT_SUM_TYPE(X)  \
  CNNOPS_FOR_EACH_OTHER_SUM_TYPE(X)

namespace cnnops {

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

/// bfloat16 that takes only what are elements of it already, as maxima are: nothing is rounded.
struct exact_bfloat16 {
  uint16_t bits;
};

template <class T>
struct AccumulatorOf {
  using type = T;
};
template <>
struct AccumulatorOf<bfloat16> {
  using type = float;
};
template <>
struct AccumulatorOf<exact_bfloat16> {
  using type = float;
};
template <>
struct AccumulatorOf<float16> {
  using type = float;
};
/// The type in which sums of T are formed: float for bfloat16 and float16, T for the others.
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

}  // namespace cnnops
