// Moving elements between small planes and the positions in large planes that indices name:
// scatter_add (the gradient of max pooling), scatter (max_unpool), and their adjoint, gather.
//
// Scattering is made deterministic by ownership instead of atomics. A warp owns a slice of
// positions, whose sums it keeps in shared memory; it looks at the indices of the plane in the
// order of the small tensor and takes those that fall into its slice. So every position adds up in
// that order, which is also what the CPU does, whatever the indices are. Where a plane has many
// slices, a first kernel finds the least and the greatest index of each chunk of the small plane,
// and a warp passes over chunks that do not touch its slice. The indices of max pooling rise and
// fall by a window only, so that a chunk touches few slices and the work stays proportional to the
// plane.
//
//   (N, C, D, H, W): the 32 lanes look at 32 elements of a plane. Of lanes with equal indices one
//                    adds at a time, in the order of the lanes.
//   channels_last:   each lane has a channel of its own, and lanes never meet.
//
// Indices come from the caller. One that is outside its plane makes the plane it belongs to NaN,
// all of it: the host cannot look at indices without waiting for the GPU, so it cannot raise, and
// nothing is ever read or written out of bounds. gather gives NaN for such an index.
#pragma once

#include "cuda/pool_reduce.cuh"

namespace cnnops::cuda {

constexpr int kIndexedThreads = 128;
constexpr int kIndexedWarps = kIndexedThreads / simt::kWarp;

/// How a plane is cut. Planar: a chunk is kChunk elements. channels_last: kChunk pixels of 32
/// channels, a slice the positions of 32 channels.
template <class T, bool kChannelsLast>
struct IndexedCut {
  static constexpr int kLanes = kChannelsLast ? simt::kWarp : 1;
  static constexpr int kChunk = kChannelsLast ? 32 : 256;
  /// Sums of a warp: 8 KiB, so that several blocks fit a multiprocessor.
  static constexpr int kSums = 8192 / sizeof(Accumulator<T>);
  static constexpr int kSlice = kSums / kLanes;
};

/// Indices of one chunk; an empty pair where the chunk has none.
struct alignas(16) IndexBounds {
  int64_t least;
  int64_t greatest;
};

template <class Index>
SIMT_DEVICE bool is_inside(int64_t index, const IndexedProblem<Index>& p) {
  return static_cast<uint64_t>(index) < static_cast<uint64_t>(p.large);
}

/// Bounds of every chunk, a warp for each: bounds[plane][chunk], where the planes of channels_last
/// are (outer, block of 32 channels). A chunk with an index outside touches everything.
template <bool kChannelsLast, class Index>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(kIndexedThreads, 8)
    pool_index_bounds(SIMT_PARAMETER IndexedProblem<Index> p, const int64_t* indices,
                      IndexBounds* bounds) {
  constexpr int kChunk = IndexedCut<float, kChannelsLast>::kChunk;
  const int lane = threadIdx.x % simt::kWarp;
  const Index warp = static_cast<Index>(blockIdx.x) * kIndexedWarps + threadIdx.x / simt::kWarp;
  const Index chunks = (p.small - 1) / kChunk + 1;
  const Index blocks = kChannelsLast ? (p.inner - 1) / simt::kWarp + 1 : 1;
  const Index plane = warp / chunks;
  if (plane >= p.outer * blocks) return;  // whole warps only
  const Index first = (warp - plane * chunks) * kChunk;
  const Index channel = plane % blocks * simt::kWarp + lane;

  IndexBounds own{p.large, -1};
  for (int i = kChannelsLast ? 0 : lane; i < kChunk; i += kChannelsLast ? 1 : simt::kWarp) {
    if (first + i >= p.small || (kChannelsLast && channel >= p.inner)) break;
    const Index at = kChannelsLast ? (plane / blocks * p.small + first + i) * p.inner + channel
                                   : plane * p.small + first + i;
    const int64_t index = simt::load(indices + at);
    const bool inside = is_inside(index, p);
    own.least = !inside ? 0 : index < own.least ? index : own.least;
    own.greatest = !inside ? p.large - 1 : index > own.greatest ? index : own.greatest;
  }
#pragma unroll
  for (int apart = simt::kWarp / 2; apart > 0; apart /= 2) {
    const int64_t least = __shfl_xor_sync(simt::kFullMask, own.least, apart);
    const int64_t greatest = __shfl_xor_sync(simt::kFullMask, own.greatest, apart);
    own.least = least < own.least ? least : own.least;
    own.greatest = greatest > own.greatest ? greatest : own.greatest;
  }
  if (lane == 0) simt::store(bounds + warp, own);
}

/// Where `index` lies in the slice from `begin` on; of any index before it a large number.
SIMT_DEVICE uint64_t position_in_slice(int64_t index, int64_t begin) {
  return static_cast<uint64_t>(index) - static_cast<uint64_t>(begin);
}

/// Combines what is at `sum` with the next element in order.
template <bool kAdd, class Value>
SIMT_DEVICE void take(Value* sum, Value value) {
  simt::store_shared(sum, kAdd ? simt::load_shared(sum) + value : value);
}

/// large = 0; large[indices[i]] += small[i], or where not `kAdd`, = small[i], the last one staying.
/// `bounds` may be null, for planes of one slice.
template <class T, bool kAdd, bool kChannelsLast, class Index>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(kIndexedThreads, 4)
    pool_scatter(SIMT_PARAMETER IndexedProblem<Index> p, const T* small, const int64_t* indices,
                 const IndexBounds* bounds, T* large) {
  using Value = Accumulator<T>;
  using Cut = IndexedCut<T, kChannelsLast>;
  SIMT_SHARED(Value, all_sums, kIndexedWarps * Cut::kSums);
  const int lane = threadIdx.x % simt::kWarp;
  Value* const sums = all_sums + threadIdx.x / simt::kWarp * Cut::kSums;
  const Index warp = static_cast<Index>(blockIdx.x) * kIndexedWarps + threadIdx.x / simt::kWarp;
  const Index chunks = p.small > 0 ? (p.small - 1) / Cut::kChunk + 1 : 0;
  const Index slices = (p.large - 1) / Cut::kSlice + 1;
  const Index blocks = kChannelsLast ? (p.inner - 1) / simt::kWarp + 1 : 1;
  const Index plane = warp / slices;
  if (plane >= p.outer * blocks) return;  // whole warps only
  const Index begin = (warp - plane * slices) * Cut::kSlice;
  const Index left = p.large - begin;
  const int size = static_cast<int>(left < Cut::kSlice ? left : Cut::kSlice);
  // Element i of the plane is at i * step + offset of either tensor.
  const Index channel = plane % blocks * simt::kWarp + lane;
  const bool has_channel = !kChannelsLast || channel < p.inner;
  const Index step = kChannelsLast ? p.inner : 1;
  const Index small_offset =
      kChannelsLast ? plane / blocks * p.small * p.inner + channel : plane * p.small;
  const Index large_offset =
      kChannelsLast ? plane / blocks * p.large * p.inner + channel : plane * p.large;

  for (int i = lane; i < size * Cut::kLanes; i += simt::kWarp) {
    simt::store_shared(sums + i, Value(0));
  }
  __syncwarp();
  bool outside = false;
  for (Index base = 0; base < chunks; base += simt::kWarp) {
    // The chunks that touch the slice, one bit each.
    bool touches = base + lane < chunks;
    if (touches && bounds != nullptr) {
      const auto bound = simt::load(bounds + plane * chunks + base + lane);
      touches = bound.least < begin + size && bound.greatest >= begin;
    }
    for (unsigned bits = __ballot_sync(simt::kFullMask, touches); bits != 0; bits &= bits - 1) {
      const Index first = (base + __ffs(static_cast<int>(bits)) - 1) * Cut::kChunk;
      if constexpr (kChannelsLast) {
        const Index end = first + Cut::kChunk < p.small ? first + Cut::kChunk : p.small;
        for (Index i = first; i < end && has_channel; ++i) {
          const Index at = i * step + small_offset;
          const int64_t index = simt::load(indices + at);
          outside = outside || !is_inside(index, p);
          const uint64_t position = position_in_slice(index, begin);
          if (position >= static_cast<uint64_t>(size)) continue;
          take<kAdd>(sums + position * simt::kWarp + lane, simt::to_float(simt::load(small + at)));
        }
      } else {
        for (int i = lane; i < Cut::kChunk; i += simt::kWarp) {
          const Index at = first + i;
          const int64_t index = at < p.small ? simt::load(indices + at + small_offset) : begin - 1;
          outside = outside || (at < p.small && !is_inside(index, p));
          const uint64_t position = position_in_slice(index, begin);
          const bool mine = position < static_cast<uint64_t>(size);
          if (__ballot_sync(simt::kFullMask, mine) == 0) continue;
          const Value value = mine ? simt::to_float(simt::load(small + at + small_offset)) : 0;
          const unsigned equals =
              __match_any_sync(simt::kFullMask, mine ? static_cast<int>(position) : -1);
          int turn = __popc(equals & ((1u << lane) - 1));
          do {
            if (mine && turn == 0) take<kAdd>(sums + position, value);
            __syncwarp();
            --turn;
          } while (__ballot_sync(simt::kFullMask, mine && turn >= 0) != 0);
        }
      }
    }
  }
  if constexpr (!kChannelsLast) outside = __ballot_sync(simt::kFullMask, outside) != 0;
  // What other lanes took lies before the last __syncwarp.
  for (int i = lane; i < size * Cut::kLanes && has_channel; i += simt::kWarp) {
    const Value sum = outside ? static_cast<Value>(NAN) : simt::load_shared(sums + i);
    const Index at = (begin + i / Cut::kLanes) * step + large_offset;
    simt::store(large + at, simt::from_float<T>(sum));
  }
}

/// Six blocks of them are all threads of the multiprocessors that hold the fewest.
constexpr int kGatherThreads = 256;

/// small[i] = large[indices[i]], one thread for each element.
template <class T, class Index>
SIMT_KERNEL void SIMT_LAUNCH_BOUNDS(kGatherThreads, 6)
    pool_gather(SIMT_PARAMETER IndexedProblem<Index> p, const T* large, const int64_t* indices,
                T* small) {
  const Index flat = static_cast<Index>(blockIdx.x) * kGatherThreads + threadIdx.x;
  if (flat >= p.outer * p.small * p.inner) return;
  const Index row = flat / p.inner;
  const Index outer = row / p.small;
  const int64_t index = simt::load(indices + flat);
  if (!is_inside(index, p)) {
    simt::store(small + flat, simt::from_float<T>(static_cast<Accumulator<T>>(NAN)));
    return;
  }
  const Index at = (outer * p.large + static_cast<Index>(index)) * p.inner + flat % p.inner;
  simt::store(small + flat, simt::load(large + at));
}

}  // namespace cnnops::cuda
