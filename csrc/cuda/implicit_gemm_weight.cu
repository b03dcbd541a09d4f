// Launches of implicit_gemm_weight.cuh.
#include "cuda/implicit_gemm_weight.cuh"

#include "cuda/conv_kernels.h"
#include "cuda/describe.h"
#include "cuda/join_chunks.cuh"
#include "cuda/launch_grid.h"
#include "cuda/plan.h"

namespace cnnops::cuda {
namespace {

template <class Tile, Copies kCopies, class Index, class T>
void launch(DeviceCall& device, const cnnops::WeightContraction<T>& contraction) {
  const int64_t pixels = contraction.batch * contraction.pixels();
  const int64_t columns = contraction.depth * contraction.taps();
  const int64_t slabs = ceil_div(pixels, kSlab<T>);
  const int64_t tiles = checked_mul(contraction.groups, mma_tiles<Tile>(contraction.rows, columns));
  const int64_t size = checked_mul(contraction.groups * contraction.rows, columns);
  const int64_t shares = choose_shares(slabs, tiles, Tile::kBlocks, double(size) * sizeof(float),
                                       device.multiprocessors());

  const WeightProblem<T, Index> p = problem_of<Index>(contraction);
  Share share;
  share.slabs = static_cast<int32_t>(ceil_div(slabs, shares));
  const int64_t used = ceil_div(slabs, share.slabs);
  if (used > 1) {
    share.partial = device.workspace<float>(checked_mul(used, size));
    share.vectors = columns % kVector<float> == 0;
  }
  dim3 grid = grid_of(tiles);
  grid.y = static_cast<unsigned>(used);
  SIMT_LAUNCH((implicit_gemm_weight<T, Index, Tile, kCopies>), grid, dim3(Tile::kThreads),
              Tile::kSharedBytes, device.stream(), p, share);
  if (used > 1) {
    SIMT_LAUNCH((join_chunks<T, Index>), grid_over(size), dim3(256), 0, device.stream(), p,
                share.partial, static_cast<int32_t>(used), static_cast<Index>(columns),
                Divisor<Index>(columns), Divisor<Index>(contraction.rows));
  }
}

/// Whether channels of grad and of source can be copied in vectors.
template <class T>
bool operands_in_vectors(const cnnops::WeightContraction<T>& p) {
  const Strides<int64_t> source = source_strides_of<int64_t>(p, p.source_strides);
  const Strides<int64_t> grad = dest_strides_of<int64_t>(p, p.grad_strides);
  return p.depth % kVector<T> == 0 && source.channel == 1 && p.rows % kVector<T> == 0 &&
         grad.channel == 1 &&
         in_vectors<T>(p.source, {source.batch, source.axis[0], source.axis[1], source.axis[2]}) &&
         in_vectors<T>(p.grad, {grad.batch, grad.axis[0], grad.axis[1], grad.axis[2]});
}

}  // namespace

template <class T>
void run_implicit_gemm_weight(DeviceCall& device, const cnnops::WeightContraction<T>& p) {
  const bool vectors = operands_in_vectors(p);
  if (!fits_int32(p)) {
    if (vectors) return launch<MmaWide, Copies::mapped_vectors, int64_t>(device, p);
    return launch<MmaSmallFar, Copies::elements, int64_t>(device, p);
  }
  if (!vectors) return launch<MmaSmall, Copies::elements, int32_t>(device, p);
  if (p.walk[0].mode != PaddingMode::zeros) {
    return launch<MmaWide, Copies::mapped_vectors, int32_t>(device, p);
  }
  switch (choose_mma_weight_size(p.rows, p.depth * p.taps())) {
    case MmaWeightSize::large: return launch<MmaLarge, Copies::vectors, int32_t>(device, p);
    case MmaWeightSize::wide: return launch<MmaWide, Copies::vectors, int32_t>(device, p);
    case MmaWeightSize::small: return launch<MmaSmall, Copies::vectors, int32_t>(device, p);
  }
}

template void run_implicit_gemm_weight(DeviceCall&, const cnnops::WeightContraction<float>&);
template void run_implicit_gemm_weight(DeviceCall&, const cnnops::WeightContraction<bfloat16>&);
template void run_implicit_gemm_weight(DeviceCall&, const cnnops::WeightContraction<float16>&);

}  // namespace cnnops::cuda
