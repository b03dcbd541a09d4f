// Launches of implicit_gemm.cuh.
#include "cuda/implicit_gemm.cuh"

#include "cuda/conv_kernels.h"
#include "cuda/describe.h"
#include "cuda/join_shares.cuh"
#include "cuda/launch_grid.h"
#include "cuda/pack_k_major.cuh"
#include "cuda/plan.h"

namespace cnnops::cuda {
namespace {

/// Makes `p` read a weight with channels side by side, in workspace unless it is like that.
template <class T, class Index>
void pack_for_vectors(DeviceCall& device, Problem<T, Index>& p, const ContractionShape& shape) {
  const WeightStrides<Index>& strides = p.weight_strides;
  if (strides.depth == 1 && in_vectors<T>(p.weight, {strides.group, strides.row, strides.axis[0],
                                                     strides.axis[1], strides.axis[2]})) {
    return;
  }
  const int64_t size = checked_mul(shape.groups * shape.rows, shape.depth * shape.taps());
  const Packing<T, Index> packing = packing_of(p, device.workspace<T>(size));
  const int64_t squares =
      checked_mul(shape.groups, int64_t{packing.line_squares} * packing.depth_squares);
  SIMT_LAUNCH((pack_k_major<T, Index>), grid_of(squares), dim3(kPackThreads), 0, device.stream(),
              packing);
}

template <class Tile, Copies kCopies, class Index, class T>
void launch(DeviceCall& device, const cnnops::Contraction<T>& contraction) {
  Problem<T, Index> p = problem_of<Index>(contraction);
  if (kCopies != Copies::elements) pack_for_vectors(device, p, contraction);
  const int64_t pixels = contraction.batch * contraction.pixels();
  const int64_t channels = contraction.groups * contraction.rows;
  const int64_t slabs = ceil_div(contraction.depth * contraction.taps(), kSlab<T>);
  const int64_t tiles = checked_mul(contraction.groups, mma_tiles<Tile>(pixels, contraction.rows));
  const double bytes = double(pixels) * double(channels) * sizeof(float);
  const int64_t shares =
      choose_shares(slabs, tiles, Tile::kBlocks, bytes, device.multiprocessors());

  Share share;
  share.slabs = static_cast<int32_t>(ceil_div(slabs, shares));
  const int64_t used = ceil_div(slabs, share.slabs);
  if (used > 1) {
    share.partial = device.workspace<float>(checked_mul(used, pixels * channels));
    share.vectors = contraction.rows % kVector<float> == 0;
  } else {
    const Strides<Index>& strides = p.dest_strides;
    share.vectors =
        (channels == 1 || strides.channel == 1) && p.rows % kVector<T> == 0 &&
        in_vectors<T>(p.dest, {strides.batch, strides.axis[0], strides.axis[1], strides.axis[2]});
  }
  dim3 grid = grid_of(tiles);
  grid.y = static_cast<unsigned>(used);
  SIMT_LAUNCH((implicit_gemm<T, Index, Tile, kCopies>), grid, dim3(Tile::kThreads),
              Tile::kSharedBytes, device.stream(), p, share);
  if (used > 1) {
    Joining<T, Index> joining;
    joining.problem = p;
    joining.partial = share.partial;
    joining.shares = static_cast<int32_t>(used);
    joining.by_channels = Divisor<Index>(channels);
    SIMT_LAUNCH((join_shares<T, Index>), grid_of(ceil_div(pixels * channels, kJoinThreads)),
                dim3(kJoinThreads), 0, device.stream(), joining);
  }
}

/// Whether source channels can be copied in vectors.
template <class T>
bool source_in_vectors(const cnnops::Contraction<T>& p) {
  const Strides<int64_t> strides = source_strides_of<int64_t>(p, p.source_strides);
  return p.depth % kVector<T> == 0 && strides.channel == 1 &&
         in_vectors<T>(p.source,
                       {strides.batch, strides.axis[0], strides.axis[1], strides.axis[2]});
}

}  // namespace

template <class T>
void run_implicit_gemm(DeviceCall& device, const cnnops::Contraction<T>& p) {
  const bool vectors = source_in_vectors(p);
  if (!fits_int32(p)) {
    if (vectors) return launch<MmaTall, Copies::mapped_vectors, int64_t>(device, p);
    return launch<MmaSmallFar, Copies::elements, int64_t>(device, p);
  }
  if (!vectors) return launch<MmaSmall, Copies::elements, int32_t>(device, p);
  if (p.walk[0].mode != PaddingMode::zeros) {
    return launch<MmaTall, Copies::mapped_vectors, int32_t>(device, p);
  }
  switch (choose_mma_size(p.batch * p.pixels(), p.rows, p.groups, device.multiprocessors())) {
    case MmaSize::large: return launch<MmaLarge, Copies::vectors, int32_t>(device, p);
    case MmaSize::tall: return launch<MmaTall, Copies::vectors, int32_t>(device, p);
    case MmaSize::narrow: return launch<MmaNarrow, Copies::vectors, int32_t>(device, p);
    case MmaSize::small: return launch<MmaSmall, Copies::vectors, int32_t>(device, p);
  }
}

template void run_implicit_gemm(DeviceCall&, const cnnops::Contraction<float>&);
template void run_implicit_gemm(DeviceCall&, const cnnops::Contraction<bfloat16>&);
template void run_implicit_gemm(DeviceCall&, const cnnops::Contraction<float16>&);

}  // namespace cnnops::cuda
