// Pooling on CUDA: geometry -> problem -> plan -> launch.
#include "cuda/launch_grid.h"
#include "cuda/pool_direct.cuh"
#include "cuda/pool_fractional.cuh"
#include "cuda/pool_indexed.cuh"
#include "cuda/pool_plan.h"
#include "cuda/pool_tile.cuh"
#include "cuda/pool_window.cuh"
#include "cuda/runtime.h"
#include "pool_op.h"

namespace cnnops {
namespace {

using namespace cuda;

/// Blocks of `size` threads or warps for `count` of them.
dim3 blocks_of(int64_t count, int64_t size) { return grid_of((count - 1) / size + 1); }

template <class T, class Index>
using BackwardMean = Mean<T, Index, true>;
template <class T, class Index>
using ForwardMean = Mean<T, Index, false>;

/// Elements that a thread takes of channels_last tensors: 16 bytes where the addresses allow it.
template <class T>
int64_t vector_width(const PoolGeometry& g, bool channels_last,
                     std::initializer_list<const void*> tensors) {
  constexpr int64_t kWidth = 16 / sizeof(T);
  if (!channels_last || g.channels % kWidth != 0) return 1;
  for (const void* tensor : tensors) {
    if (reinterpret_cast<uintptr_t>(tensor) % 16 != 0) return 1;
  }
  return kWidth;
}

/// The engine of pool_op.h.
class CudaEngine {
 public:
  explicit CudaEngine(const Tensor& like) : call_(like) {}

  /// Positions are as wide as they need to be.
  static void check_window_span(const PoolGeometry&) {}

  Tensor allocate(IntSpan sizes, const Tensor& like, bool channels_last, ScalarType dtype) {
    return call_.allocate(sizes, like, channels_last, dtype);
  }

  template <class T>
  void max_pool(const PoolGeometry& g, bool channels_last, const Tensor& input,
                const Tensor& output, const Tensor* indices) {
    pool<Maximum, T>(g, channels_last, WindowCount::kNone, 0, call_.read<T>(input),
                     call_.write<T>(output), indices ? call_.write<int64_t>(*indices) : nullptr);
  }

  template <class T>
  void max_pool_taps(const PoolGeometry& g, bool channels_last, const Tensor& input,
                     const Tensor& output, const Tensor& taps) {
    pool<MaximumTap, T>(g, channels_last, WindowCount::kNone, 0, call_.read<T>(input),
                        call_.write<T>(output), call_.write<uint8_t>(taps));
  }

  template <class T>
  void max_pool_taps_backward(const PoolGeometry& g, bool channels_last, const Tensor& grad_output,
                              const Tensor& taps, const Tensor& grad_input) {
    pool<TapGradient, T>(g, channels_last, WindowCount::kNone, 0, call_.read<T>(grad_output),
                         call_.write<T>(grad_input), call_.read<uint8_t>(taps));
  }

  template <class T>
  void avg_pool(const PoolGeometry& g, bool channels_last, WindowCount count, int64_t divisor,
                bool backward, const Tensor& from, const Tensor& to) {
    const T* source = call_.read<T>(from);
    T* dest = call_.write<T>(to);
    if (backward) {
      pool<BackwardMean, T>(g, channels_last, count, divisor, source, dest, nullptr);
    } else {
      pool<ForwardMean, T>(g, channels_last, count, divisor, source, dest, nullptr);
    }
  }

  template <class T>
  void fractional_max_pool(const PoolGeometry& g, bool channels_last, const Tensor& input,
                           const Tensor& samples, const Tensor& output, const Tensor& indices) {
    const T* source = call_.read<T>(input);
    const T* draws = call_.read<T>(samples);
    T* dest = call_.write<T>(output);
    int64_t* positions = call_.write<int64_t>(indices);
    with_index(largest_index(g), [&](auto index) {
      using Index = decltype(index);
      FractionalProblem<Index> p{static_cast<Index>(g.batch),
                                 static_cast<Index>(g.channels),
                                 channels_last,
                                 g.rank,
                                 {},
                                 {},
                                 {}};
      for (int i = 0; i < 3; ++i) {
        p.input[i] = static_cast<Index>(g.axis[i].input);
        p.output[i] = static_cast<Index>(g.axis[i].output);
        p.kernel[i] = static_cast<Index>(g.axis[i].kernel);
      }
      SIMT_LAUNCH((pool_fractional<T, Index>),
                  blocks_of(g.batch * g.channels * g.output_plane(), kFractionalThreads),
                  dim3(kFractionalThreads), 0, call_.stream(), p, source, draws, dest, positions);
    });
  }

  template <class T>
  void scatter_add(const PoolGeometry& g, bool channels_last, const Tensor& from,
                   const Tensor& indices, const Tensor& to) {
    scatter_into<T, true>(g, channels_last, from, indices, to);
  }
  template <class T>
  void scatter(const PoolGeometry& g, bool channels_last, const Tensor& from, const Tensor& indices,
               const Tensor& to) {
    scatter_into<T, false>(g, channels_last, from, indices, to);
  }

  template <class T>
  void gather(const PoolGeometry& g, bool channels_last, const Tensor& from, const Tensor& indices,
              const Tensor& to) {
    if (is_empty(to)) return;
    const T* large = call_.read<T>(from);
    const int64_t* at = call_.read<int64_t>(indices);
    T* small = call_.write<T>(to);
    with_index(largest_index(g), [&](auto index) {
      using Index = decltype(index);
      SIMT_LAUNCH((pool_gather<T, Index>),
                  blocks_of(g.batch * g.channels * g.output_plane(), kGatherThreads),
                  dim3(kGatherThreads), 0, call_.stream(), indexed<Index>(g, channels_last), large,
                  at, small);
    });
  }

 private:
  template <class Index>
  static IndexedProblem<Index> indexed(const PoolGeometry& g, bool channels_last) {
    return {static_cast<Index>(channels_last ? g.batch : g.batch * g.channels),
            static_cast<Index>(channels_last ? g.channels : 1),
            static_cast<Index>(g.output_plane()), static_cast<Index>(g.input_plane())};
  }

  /// The reduction Reduction<T, Index> of every window.
  template <template <class, class> class Reduction, class T>
  void pool(const PoolGeometry& geometry, bool channels_last, WindowCount count, int64_t divisor,
            const T* source, T* dest, typename Reduction<T, int32_t>::Place* places) {
    // Of a flat window the position of an element is its tap too.
    const PoolGeometry g = with_global_windows_flat(geometry, &count);
    divisor = common_divisor(g, count, divisor);
    constexpr bool kBackward = Reduction<T, int32_t>::kBackward;
    const int64_t vector = vector_width<T>(g, channels_last, {source, dest, places});
    with_index(largest_index_of<Reduction<T, int32_t>>(g), [&](auto index) {
      using Op = Reduction<T, decltype(index)>;
      if constexpr (!std::is_integral_v<T> && sizeof(index) == 4) {
        if (vector > 1) {
          const PoolProblem<int32_t> p(g, true, count, divisor, kBackward, vector);
          return run<Op, 16 / sizeof(T)>(g, true, p, source, dest, places);
        }
      }
      const PoolProblem<decltype(index)> p(g, channels_last, count, divisor, kBackward, 1);
      run<Op, 1>(g, channels_last, p, source, dest, places);
    });
  }

  template <class Op, int kWidth, class Index>
  void run(const PoolGeometry& g, bool channels_last, const PoolProblem<Index>& p,
           const typename Op::T* source, typename Op::T* dest, typename Op::Place* places) {
    const int64_t dests = int64_t{p.outer} * p.dest[0] * p.dest[1] * p.dest[2] * p.inner;
    if constexpr (!std::is_integral_v<typename Op::T>) {
      // Of its windows an input gets gradients one by one: nothing that a tile could reduce by
      // rows.
      if constexpr (kWidth == 1 && sizeof(Index) == 4 && !Op::kReadsTaps) {
        const PoolTile tile = choose_tile<Op>(g, channels_last);
        if (tile.blocks > 0) {
          SIMT_LAUNCH(pool_tile<Op>, blocks_of(tile.blocks, 1), dim3(kTileThreads),
                      tile_bytes<Op>(tile), call_.stream(), p, tile, source, dest, places);
          return;
        }
      }
      if constexpr (!Op::kBackward) {
        if (wants_window(g, channels_last, dests)) {
          const WindowSplit<Index> split_up = split_windows(g, p);
          SIMT_LAUNCH(
              (pool_window<Op, kWidth>),
              blocks_of(split_up.groups, kWindowThreads / (split_up.lanes * split_up.parts)),
              dim3(kWindowThreads), 0, call_.stream(), p, split_up, source, dest, places);
          return;
        }
      }
    }
    SIMT_LAUNCH((pool_direct<Op, kWidth>), blocks_of(dests, kDirectThreads), dim3(kDirectThreads),
                0, call_.stream(), p, source, dest, places);
  }

  template <class T, bool kAdd>
  void scatter_into(const PoolGeometry& g, bool channels_last, const Tensor& from,
                    const Tensor& indices, const Tensor& to) {
    if (is_empty(to)) return;
    const T* small = call_.read<T>(from);
    const int64_t* at = call_.read<int64_t>(indices);
    T* large = call_.write<T>(to);
    with_index(largest_index(g), [&](auto index) {
      using Index = decltype(index);
      const IndexedProblem<Index> p = indexed<Index>(g, channels_last);
      if (channels_last) {
        scatter_with<T, kAdd, true>(p, small, at, large);
      } else {
        scatter_with<T, kAdd, false>(p, small, at, large);
      }
    });
  }

  template <class T, bool kAdd, bool kChannelsLast, class Index>
  void scatter_with(const IndexedProblem<Index>& p, const T* small, const int64_t* indices,
                    T* large) {
    using Cut = IndexedCut<T, kChannelsLast>;
    const int64_t planes =
        kChannelsLast ? int64_t{p.outer} * ((p.inner - 1) / simt::kWarp + 1) : int64_t{p.outer};
    const int64_t chunks = p.small > 0 ? (int64_t{p.small} - 1) / Cut::kChunk + 1 : 0;
    const int64_t slices = (int64_t{p.large} - 1) / Cut::kSlice + 1;
    IndexBounds* bounds = nullptr;
    if (slices > 1 && chunks > 1) {
      bounds = call_.workspace<IndexBounds>(planes * chunks);
      SIMT_LAUNCH((pool_index_bounds<kChannelsLast, Index>),
                  blocks_of(planes * chunks, kIndexedWarps), dim3(kIndexedThreads), 0,
                  call_.stream(), p, indices, bounds);
    }
    SIMT_LAUNCH((pool_scatter<T, kAdd, kChannelsLast, Index>),
                blocks_of(planes * slices, kIndexedWarps), dim3(kIndexedThreads), 0, call_.stream(),
                p, small, indices, bounds, large);
  }

  DeviceCall call_;
};

}  // namespace

CNNOPS_CUDA_LIBRARY(m) { register_pooling<CudaEngine>(m); }

}  // namespace cnnops
