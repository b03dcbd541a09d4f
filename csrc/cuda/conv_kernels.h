// The convolution kernels as the operators call them; each file of csrc/cuda/ that defines one
// instantiates it for the types it serves.
#pragma once

#include "contraction.h"
#include "cuda/runtime.h"

namespace cnnops::cuda {

/// A contraction with ordinary multiply-adds, exact in the type of the sums. Any strides;
/// `channels_last`: those of the source are channels_last. Workspace: the weight in the type of
/// the sums, its rows rounded up to 4 and the sum to 8 steps, and 32 bytes a step.
template <class T>
void run_fma_gemm(DeviceCall& device, const Contraction<T>& p, bool channels_last);

/// The same for the gradient for the weight. Workspace: partial sums of at most kMaxPartialSums
/// bytes or one weight in the type of the sums, whichever is more, and 32 bytes a column.
template <class T>
void run_fma_gemm_weight(DeviceCall& device, const WeightContraction<T>& p, bool channels_last);

/// A contraction of groups with one channel on one side and few on the other. False, with nothing
/// launched, where it is none, or where its kernel or strides are too large for shared memory.
template <class T>
bool run_depthwise(DeviceCall& device, const Contraction<T>& p, bool channels_last);

/// The same for the gradient for the weight. Workspace: partial sums of at most kMaxPartialSums
/// bytes or one weight in the type of the sums, whichever is more.
template <class T>
bool run_depthwise_weight(DeviceCall& device, const WeightContraction<T>& p, bool channels_last);

/// A contraction of bfloat16, float16 or float (which is rounded to tf32) on tensor cores. Any
/// strides, but made for channels_last ones. Workspace: the weight, and partial sums of at most
/// kMaxPartialSums bytes.
template <class T>
void run_implicit_gemm(DeviceCall& device, const Contraction<T>& p);

/// The same for the gradient for the weight. Workspace: partial sums of at most kMaxPartialSums
/// bytes.
template <class T>
void run_implicit_gemm_weight(DeviceCall& device, const WeightContraction<T>& p);

}  // namespace cnnops::cuda
