// Numbers of blocks.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>

#include "checks.h"

namespace cnnops::cuda {

/// The grid of `blocks` blocks along x, the axis that allows most of them.
inline dim3 grid_of(int64_t blocks) {
  CNNOPS_CHECK(blocks <= INT32_MAX, "the result is too large for the CUDA kernels: it takes ",
               blocks, " blocks of threads, and a grid has at most ", INT32_MAX);
  return dim3(static_cast<unsigned>(blocks));
}

/// The most blocks that stride over elements: more than a GPU holds at once. The emulator has few,
/// so that these loops go round in small problems too.
#ifdef CNNOPS_EMULATED
constexpr int64_t kMostStridingBlocks = 2;
#else
constexpr int64_t kMostStridingBlocks = 1 << 15;
#endif

/// The grid of blocks of 256 threads that stride over `count` elements.
inline dim3 grid_over(int64_t count) {
  const int64_t blocks = std::clamp<int64_t>((count + 255) / 256, 1, kMostStridingBlocks);
  return dim3(static_cast<unsigned>(blocks));
}

}  // namespace cnnops::cuda
