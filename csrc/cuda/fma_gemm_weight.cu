// Launches of fma_gemm_weight.cuh.
#include "cuda/fma_gemm_weight.cuh"

#include "cuda/conv_kernels.h"
#include "cuda/describe.h"
#include "cuda/join_chunks.cuh"
#include "cuda/launch_grid.h"
#include "cuda/plan.h"

namespace cnnops::cuda {
namespace {

template <class T, class Index, class Tile, bool channels_last, bool mapped>
void launch(DeviceCall& device, const cnnops::WeightContraction<T>& p) {
  using Acc = Accumulator<T>;
  const int64_t columns = p.depth * p.taps(), pixels = p.batch * p.pixels();
  const int64_t row_tiles = ceil_div(p.rows, Tile::kRows);
  const int64_t column_tiles = ceil_div(columns, Tile::kColumns);
  const int64_t blocks = checked_mul(p.groups, checked_mul(row_tiles, column_tiles));
  const int64_t size = checked_mul(p.groups, checked_mul(p.rows, columns));
  const int64_t chunk =
      choose_chunk(pixels, blocks, checked_mul(size, sizeof(Acc)), device.multiprocessors());
  const int64_t chunks = ceil_div(pixels, chunk);
  const dim3 grid = grid_of(checked_mul(chunks, blocks));

  FmaGemmWeight<T, Index> args;
  args.problem = problem_of<Index>(p);
  const int64_t padded = column_tiles * Tile::kColumns;
  auto* taps = device.workspace<Site<Index>>(padded);
  Acc* partial = device.workspace<Acc>(checked_mul(chunks, size));
  args.taps = taps;
  args.partial = partial;
  args.columns = static_cast<Index>(columns);
  args.chunk = static_cast<Index>(chunk);
  args.row_tiles = Divisor<int32_t>(row_tiles);
  args.column_tiles = Divisor<int32_t>(column_tiles);
  args.groups = Divisor<int32_t>(p.groups);
  SIMT_LAUNCH((list_taps<Index>), grid_over(padded), dim3(256), 0, device.stream(), args.problem,
              args.problem.source_strides, args.columns, static_cast<Index>(padded), taps);
  SIMT_LAUNCH((fma_gemm_weight<T, Index, Tile, channels_last, mapped>), grid, dim3(Tile::kThreads),
              0, device.stream(), args);
  SIMT_LAUNCH((join_chunks<T, Index>), grid_over(size), dim3(256), 0, device.stream(), args.problem,
              partial, static_cast<int32_t>(chunks), args.columns, Divisor<Index>(columns),
              Divisor<Index>(p.rows));
}

template <class T, class Tile, bool mapped = false>
void launch(DeviceCall& device, const cnnops::WeightContraction<T>& p, bool channels_last) {
  if (channels_last) return launch<T, int32_t, Tile, true, mapped>(device, p);
  return launch<T, int32_t, Tile, false, mapped>(device, p);
}

}  // namespace

template <class T>
void run_fma_gemm_weight(DeviceCall& device, const cnnops::WeightContraction<T>& p,
                         bool channels_last) {
  // Both are rare, and share one tile. Tensors of so many elements have one kernel, which any
  // strides and any padding suit.
  if (!fits_int32(p)) return launch<T, int64_t, FmaMedium, false, true>(device, p);
  if (p.walk[0].mode != PaddingMode::zeros) {
    return launch<T, FmaMedium, true>(device, p, channels_last);
  }
  switch (choose_fma_weight_size<T>(p.rows, p.depth * p.taps())) {
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
  template void run_fma_gemm_weight(DeviceCall&, const cnnops::WeightContraction<T>&, bool);
CNNOPS_FOR_EACH_CONV_TYPE(CNNOPS_INSTANTIATE)
#undef CNNOPS_INSTANTIATE

}  // namespace cnnops::cuda
