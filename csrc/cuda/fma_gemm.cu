// Launches of fma_gemm.cuh.
#include "cuda/fma_gemm.cuh"

#include "cuda/conv_kernels.h"
#include "cuda/describe.h"
#include "cuda/launch_grid.h"
#include "cuda/pack_weight.cuh"
#include "cuda/plan.h"

namespace cnnops::cuda {
namespace {

/// Whether all of these strides, and the address, keep vectors of n elements aligned.
template <class T, class Index>
bool aligned(const Problem<T, Index>& p, int n, std::initializer_list<Index> strides) {
  bool fits = reinterpret_cast<uintptr_t>(p.dest) % (n * sizeof(T)) == 0;
  for (Index stride : strides) fits = fits && stride % n == 0;
  return fits;
}

template <class T, class Index>
StoreVector choose_store_vector(const Problem<T, Index>& p, int n) {
  const Strides<Index>& to = p.dest_strides;
  if (to.axis[2] == 1 && p.axis[2].count % n == 0 &&
      aligned(p, n, {to.batch, to.channel, to.axis[0], to.axis[1]})) {
    return StoreVector::along_pixels;
  }
  if (to.channel == 1 && p.rows % n == 0 &&
      aligned(p, n, {to.batch, to.axis[0], to.axis[1], to.axis[2]})) {
    return StoreVector::along_rows;
  }
  return StoreVector::none;
}

/// The packed weight of `p`, in workspace.
template <class T, class Index>
const Accumulator<T>* pack(DeviceCall& device, const cnnops::Contraction<T>& p,
                           const Problem<T, Index>& problem, int64_t depth, int64_t packed_rows) {
  WeightPacking<T, Index> args;
  args.problem = problem;
  // Of two that lie side by side, as those of a 1x1 kernel, rows need no turning.
  const WeightStrides<Index>& strides = problem.weight_strides;
  args.order = strides.row == 1     ? WeightOrder::rows
               : strides.depth == 1 ? WeightOrder::channels
                                    : WeightOrder::taps;
  args.by_taps = Divisor<Index>(p.taps());
  args.depth = static_cast<Index>(depth);
  args.packed_rows = static_cast<Index>(packed_rows);
  const int64_t row_squares = ceil_div(packed_rows, kPackSide);
  const int64_t sum_squares = ceil_div(depth, kPackSide);
  args.row_squares = Divisor<int32_t>(row_squares);
  args.sum_squares = Divisor<int32_t>(sum_squares);
  args.packed =
      device.workspace<Accumulator<T>>(checked_mul(p.groups, checked_mul(depth, packed_rows)));
  SIMT_LAUNCH((pack_weight<T, Index>),
              grid_of(checked_mul(p.groups, checked_mul(row_squares, sum_squares))),
              dim3(kPackBlock), 0, device.stream(), args);
  return args.packed;
}

template <class T, class Index, class Tile, bool channels_last, bool mapped>
void launch(DeviceCall& device, const cnnops::Contraction<T>& p) {
  using Acc = Accumulator<T>;
  constexpr int kVector = FmaShare<Acc, Tile>::kVector;
  const int64_t sum = p.depth * p.taps(), pixels = p.batch * p.pixels();
  const int64_t depth = round_up(sum, Tile::kDepth), packed_rows = round_up(p.rows, kVector);
  const int64_t row_tiles = ceil_div(p.rows, Tile::kRows);
  const int64_t column_tiles = ceil_div(pixels, Tile::kColumns);
  const dim3 grid = grid_of(checked_mul(p.groups, checked_mul(row_tiles, column_tiles)));

  FmaGemm<T, Index> args;
  args.problem = problem_of<Index>(p);
  auto* taps = device.workspace<Site<Index>>(depth);
  args.weight = pack(device, p, args.problem, depth, packed_rows);
  args.taps = taps;
  args.depth = static_cast<Index>(depth);
  args.packed_rows = static_cast<Index>(packed_rows);
  args.row_tiles = Divisor<int32_t>(row_tiles);
  args.column_tiles = Divisor<int32_t>(column_tiles);
  args.vector = choose_store_vector(args.problem, kVector);
  SIMT_LAUNCH((list_taps<Index>), grid_over(depth), dim3(256), 0, device.stream(), args.problem,
              args.problem.source_strides, static_cast<Index>(sum), args.depth, taps);
  SIMT_LAUNCH((fma_gemm<T, Index, Tile, channels_last, mapped>), grid, dim3(Tile::kThreads), 0,
              device.stream(), args);
}

template <class T, class Tile, bool mapped = false>
void launch(DeviceCall& device, const cnnops::Contraction<T>& p, bool channels_last) {
  if (channels_last) return launch<T, int32_t, Tile, true, mapped>(device, p);
  return launch<T, int32_t, Tile, false, mapped>(device, p);
}

}  // namespace

template <class T>
void run_fma_gemm(DeviceCall& device, const cnnops::Contraction<T>& p, bool channels_last) {
  // Both are rare, and share one tile. Tensors of so many elements have one kernel, which any
  // strides and any padding suit.
  if (!fits_int32(p)) return launch<T, int64_t, FmaMedium, false, true>(device, p);
  if (p.walk[0].mode != PaddingMode::zeros) {
    return launch<T, FmaMedium, true>(device, p, channels_last);
  }
  switch (choose_fma_size<T>(p.groups, p.rows, p.batch * p.pixels(), device.multiprocessors())) {
    case FmaSize::large:
      if constexpr (kHasFmaLarge<T>) return launch<T, FmaLarge>(device, p, channels_last);
      break;
    case FmaSize::narrow:
      if constexpr (kHasFmaNarrow<T>) return launch<T, FmaNarrow>(device, p, channels_last);
      break;
    case FmaSize::medium: break;
  }
  launch<T, FmaMedium>(device, p, channels_last);
}

#define CNNOPS_INSTANTIATE(T) \
  template void run_fma_gemm(DeviceCall&, const cnnops::Contraction<T>&, bool);
CNNOPS_FOR_EACH_CONV_TYPE(CNNOPS_INSTANTIATE)
#undef CNNOPS_INSTANTIATE

}  // namespace cnnops::cuda
