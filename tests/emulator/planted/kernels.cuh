// Small kernels of the kinds that cnnops has, each with bugs to plant: the emulator must find every
// one of them, and nothing in the kernels as they are without.
#pragma once

#include "cuda/simt.cuh"

namespace planted {

using namespace cnnops;

enum class Bug {
  kNone,
  kNoBarrierAfterWait,
  kNoBarrierBeforeReuse,
  kNoBarrierInReduction,
  kNoWarpBarrier,
  kWrongWait,
  kNoWait,
  kDivergentBarrier,
  kDifferentBarriers,
  kDifferentCollectives,
  kEarlyReturn,
  kPartialMask,
  kOverrunChecked,
  kOverrunPlain,
  kBadFragmentRow,
  kBadFragmentColumn,
  kMisalignedLoad,
  kMisalignedCopy,
  kMisalignedMatrix,
  kReadOutOfBounds,
  kWriteOutOfBounds,
  kCopyOutOfBounds,
  kWriteReadOnly,
  kBlocksRace,
  kReadsUninitialised,
  kMissesOutputs,
  kTrap,
  kBankConflicts,
  kCount
};

// C (M x N) = A (M x K) * B (N x K)^T of bfloat16, K a multiple of 16. A block of two warps makes
// 32 x 8 of C, with two stages of 16 of K in flight. A row of a stage is 16 bytes wider than its
// 32, so that the 8 rows of a matrix lie in different banks.
constexpr int kStep = 16, kRow = kStep + 8, kTileM = 32, kTileN = 8;

template <Bug bug>
SIMT_KERNEL SIMT_LAUNCH_BOUNDS(64, 1) void gemm(const bfloat16* A, const bfloat16* B, float* C,
                                                int M, int N, int K) {
  constexpr int kRowNow = bug == Bug::kBankConflicts ? kStep : kRow;
  SIMT_SHARED(bfloat16, tile_a, 2 * kTileM * kRow);
  SIMT_SHARED(bfloat16, tile_b, 2 * kTileM * kRow);
  const int t = threadIdx.x, warp = t / 32, lane = t % 32;
  const int m0 = blockIdx.x * kTileM, n0 = blockIdx.y * kTileN;
  float d[4] = {0, 0, 0, 0};
  const auto copy_stage = [&](int stage, int k0) {
    const int row = t / 2, column = t % 2 * 8;
    const bool inside = m0 + row < M || bug == Bug::kCopyOutOfBounds;
    bfloat16* a = &tile_a[stage * kTileM * kRow + row * kRowNow + column];
    simt::cp_async<16>(bug == Bug::kMisalignedCopy ? a + 1 : a,
                       &A[static_cast<int64_t>(m0 + row) * K + k0 + column], inside);
    if (row < kTileN) {
      simt::cp_async<16>(&tile_b[stage * kTileM * kRow + row * kRowNow + column],
                         &B[static_cast<int64_t>(n0 + row) * K + k0 + column], n0 + row < N);
    }
    simt::cp_commit();
  };
  copy_stage(0, 0);
  for (int k0 = 0, stage = 0; k0 < K; k0 += kStep, stage ^= 1) {
    if (k0 + kStep < K) {
      copy_stage(stage ^ 1, k0 + kStep);
      if constexpr (bug == Bug::kWrongWait) {
        simt::cp_wait<2>();
      } else if constexpr (bug != Bug::kNoWait) {
        simt::cp_wait<1>();
      }
    } else if constexpr (bug != Bug::kNoWait) {
      simt::cp_wait<0>();
    }
    if constexpr (bug != Bug::kNoBarrierAfterWait) __syncthreads();
    uint32_t a[4], b[4];
    const int row = bug == Bug::kBadFragmentRow ? (lane + 1) % 16 : lane % 16;
    const int column = bug == Bug::kBadFragmentColumn ? lane % 2 * 8 : lane / 16 * 8;
    const bfloat16* from = &tile_a[stage * kTileM * kRow + (warp * 16 + row) * kRowNow + column];
    simt::ldmatrix_x4(a, bug == Bug::kMisalignedMatrix ? from + 2 : from);
    // Matrices 2 and 3 are not used: any row will do.
    simt::ldmatrix_x4(b, &tile_b[stage * kTileM * kRow + lane % 8 * kRowNow + lane / 8 % 2 * 8]);
    simt::mma_m16n8k16(d, a, {b[0], b[1]}, bfloat16{});
    if constexpr (bug != Bug::kNoBarrierBeforeReuse) __syncthreads();
  }
  for (int i = 0; i < 4; ++i) {
    const int m = m0 + warp * 16 + lane / 4 + 8 * (i / 2), n = n0 + lane % 4 * 2 + i % 2;
    if (m < M && n < N && !(bug == Bug::kMissesOutputs && i == 3)) {
      simt::store(&C[static_cast<int64_t>(m) * N + n], d[i]);
    }
  }
}

// out[block] = the sum of its share of x: in registers, over each warp by shuffles, over the block
// in shared memory.
template <Bug bug>
SIMT_KERNEL void block_sum(const float* x, float* out, int n) {
  SIMT_SHARED(float, sums, 32);
  const int t = threadIdx.x, warp = t / 32;
  if constexpr (bug == Bug::kEarlyReturn) {
    if (t == 40) return;
  }
  float sum = 0;
  const int last = bug == Bug::kReadOutOfBounds ? n + 1 : n;
  for (int i = blockIdx.x * blockDim.x + t; i < last; i += gridDim.x * blockDim.x) {
    sum += simt::load(&x[i]);
  }
  if constexpr (bug == Bug::kMisalignedLoad) {
    sum += simt::load(reinterpret_cast<const simt::Vector<float, 4>*>(&x[t + 1])).at[0];
  }
  constexpr unsigned mask = bug == Bug::kPartialMask ? 0xffffu : simt::kFullMask;
  for (int distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(mask, sum, distance);
  }
  if constexpr (bug == Bug::kDifferentCollectives) {
    if (t % 32 < 16) {
      sum += __shfl_xor_sync(mask, sum, 0) * 0;
    } else {
      __syncwarp();
    }
  }
  if (t % 32 == 0) {
    simt::store_shared(&sums[bug == Bug::kOverrunChecked ? warp + 31 : warp], sum);
    if constexpr (bug == Bug::kOverrunPlain) sums[warp + 31] = sum;
  }
  if constexpr (bug == Bug::kDivergentBarrier) {
    if (warp < 2) __syncthreads();
  } else if constexpr (bug == Bug::kDifferentBarriers) {
    if (warp < 2) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if constexpr (bug != Bug::kNoBarrierInReduction) {
    __syncthreads();
  }
  if constexpr (bug == Bug::kTrap) simt::trap();
  if (t == 0) {
    float all = 0;
    const int warps = bug == Bug::kReadsUninitialised ? 32 : static_cast<int>(blockDim.x) / 32;
    for (int w = 0; w < warps; ++w) all += simt::load_shared(&sums[w]);
    const int at = bug == Bug::kBlocksRace ? 0 : static_cast<int>(blockIdx.x);
    simt::store(&out[bug == Bug::kWriteOutOfBounds ? at + 1 : at], all);
    if constexpr (bug == Bug::kWriteReadOnly) simt::store(const_cast<float*>(x), all);
  }
}

// out = x with each 32 elements reversed: what a lane writes to shared memory another one reads,
// and only the warp must wait.
template <Bug bug>
SIMT_KERNEL void reverse(const float* x, float* out) {
  SIMT_DYNAMIC_SHARED(float, values);
  const int t = threadIdx.x, at = blockIdx.x * blockDim.x + t;
  simt::store_shared(&values[t], simt::load(&x[at]));
  if constexpr (bug != Bug::kNoWarpBarrier) __syncwarp();
  simt::store(&out[at], simt::load_shared(&values[t / 32 * 32 + 31 - t % 32]));
}

}  // namespace planted
