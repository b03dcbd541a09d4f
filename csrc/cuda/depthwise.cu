// Launches of the depthwise kernels.
#include "cuda/conv_kernels.h"
#include "cuda/depthwise_plan.h"
#include "cuda/describe.h"
#include "cuda/join_chunks.cuh"
#include "cuda/launch_grid.h"

namespace cnnops::cuda {
namespace {

/// Whether vectors of n channels are aligned at `data` and everywhere that these strides lead to.
template <class T>
bool has_vectors(const T* data, const Strides<int32_t>& strides, int n) {
  bool fits = reinterpret_cast<uintptr_t>(data) % (n * sizeof(T)) == 0 && strides.channel == 1 &&
              strides.batch % n == 0;
  for (int32_t stride : strides.axis) fits = fits && stride % n == 0;
  return fits;
}

/// Channels that a thread takes at once.
template <class T>
int vector_of(const Shape<int32_t>& p, const T* a, const Strides<int32_t>& a_strides, const T* b,
              const Strides<int32_t>& b_strides) {
  constexpr int n = kChannelsVector<T>;
  const bool fits = p.rows == 1 && p.depth == 1 && p.groups % n == 0 &&
                    has_vectors(a, a_strides, n) && has_vectors(b, b_strides, n);
  return fits ? n : 1;
}

void sort_taps(Shape<int32_t>& p) {
  for (Axis<int32_t>& axis : p.axis) axis = ascending(axis);
}

// ---- forward and gradient for the input ----------------------------------------------------------

template <class T, bool kDense>
bool launch_planar(DeviceCall& device, const Problem<T, int32_t>& p) {
  constexpr int kRun = kPlanarRun<T>;
  PlanarTile tile;
  if (!choose_planar_tile<T>(p, kDense, &tile)) return false;
  const int64_t plane_blocks = ceil_div(p.groups, tile.planes);
  const int64_t tiles =
      int64_t{tile.by_tiles_across.divisor} * tile.by_tiles_down.divisor * p.axis[0].count;
  const Strides<int32_t>& to = p.dest_strides;
  bool vectors = to.axis[2] == 1 && p.axis[2].count % kRun == 0 &&
                 reinterpret_cast<uintptr_t>(p.dest) % (kRun * sizeof(T)) == 0;
  for (int32_t stride : {to.batch, to.channel, to.axis[0], to.axis[1]}) {
    vectors = vectors && stride % kRun == 0;
  }
  const dim3 grid = grid_of(checked_mul(checked_mul(p.batch, plane_blocks), tiles));
  SIMT_LAUNCH((depthwise_planar<T, kDense>), grid, dim3(kDepthwiseThreads),
              planar_bytes<T>(tile, p), device.stream(), p, tile, Divisor<int32_t>(plane_blocks),
              weight_pitch_of<T>(p), vectors);
  return true;
}

template <class T, int kVector, bool kSliding>
bool launch_channels(DeviceCall& device, const Problem<T, int32_t>& p) {
  ChannelsTile tile;
  if (!choose_channels_tile<T>(p, kVector, &tile)) return false;
  const int64_t tiles =
      int64_t{tile.by_tiles_across.divisor} * tile.by_tiles_down.divisor * p.axis[0].count;
  const int64_t blocks = checked_mul(p.batch, tile.by_channel_blocks.divisor);
  const int64_t bytes =
      int64_t{tile.tap_rows} * p.axis[2].taps * tile.lanes * kVector * sizeof(Accumulator<T>);
  SIMT_LAUNCH((depthwise_channels<T, kVector, kSliding>), grid_of(checked_mul(blocks, tiles)),
              dim3(kDepthwiseThreads), bytes, device.stream(), p, tile);
  return true;
}

template <class T, int kVector>
bool launch_channels(DeviceCall& device, const Problem<T, int32_t>& p) {
  if (is_dense(p.axis[2])) return launch_channels<T, kVector, true>(device, p);
  return launch_channels<T, kVector, false>(device, p);
}

// ---- gradient for the weight ---------------------------------------------------------------------

/// Sets the rest of `cut` for groups * rows * depth pairs of channels, of which a block takes
/// `group_lanes` groups, and launches run(grid, partial) and the kernel that joins the chunks.
template <class T, class Launch>
void launch_weight(DeviceCall& device, const WeightProblem<T, int32_t>& p, WeightSplit& cut,
                   int64_t unit_blocks, int64_t group_blocks, int64_t items, int64_t least,
                   const Launch& launch) {
  using Value = Accumulator<T>;
  const int64_t columns = int64_t{p.depth} * p.axis[0].taps * p.axis[1].taps * p.axis[2].taps;
  const int64_t size = checked_mul(int64_t{p.groups} * p.rows, columns);
  const int64_t blocks = unit_blocks * p.axis[0].taps * p.depth * p.rows * group_blocks;
  const int64_t chunks = deal_items(cut, items, least, blocks, checked_mul(size, sizeof(Value)),
                                    device.multiprocessors());
  cut.by_slices = Divisor<int32_t>(p.axis[0].taps);
  cut.by_depth = Divisor<int32_t>(p.depth);
  cut.by_rows = Divisor<int32_t>(p.rows);
  cut.by_channel_blocks = Divisor<int32_t>(group_blocks);
  Value* partial = device.workspace<Value>(checked_mul(chunks, size));
  launch(grid_of(checked_mul(blocks, chunks)), partial);
  SIMT_LAUNCH((join_chunks<T, int32_t>), grid_over(size), dim3(256), 0, device.stream(), p, partial,
              static_cast<int32_t>(chunks), static_cast<int32_t>(columns),
              Divisor<int32_t>(columns), Divisor<int32_t>(p.rows));
}

template <class T, bool kDense>
bool launch_weight_planar(DeviceCall& device, const WeightProblem<T, int32_t>& p) {
  const int64_t runs = ceil_div(p.axis[2].taps, kPlanarRun<T>);
  WeightSplit cut;
  cut.by_runs = Divisor<int32_t>(runs);
  const int64_t unit_blocks = deal_units(cut, p.axis[1].taps * runs, 1);
  PlanarTile tile;
  if (!choose_weight_tile<T>(p, kDense, cut.parts, &tile)) return false;
  const int64_t items = ceil_div(p.batch, tile.planes) * p.axis[0].count *
                        tile.by_tiles_across.divisor * tile.by_tiles_down.divisor;
  launch_weight(device, p, cut, unit_blocks, p.groups, items, 1,
                [&](dim3 grid, Accumulator<T>* partial) {
                  SIMT_LAUNCH((depthwise_weight_planar<T, kDense>), grid, dim3(kDepthwiseThreads),
                              weight_planar_bytes<T>(tile), device.stream(), p, tile, cut,
                              grad_pitch_of<T>(tile), partial);
                });
  return true;
}

template <class T, int kVector, bool kSliding>
bool launch_weight_channels(DeviceCall& device, const WeightProblem<T, int32_t>& p) {
  const int64_t most = kVector == 1 ? simt::kWarp : kChannelLanes;
  const int64_t vectors = ceil_div(p.groups, kVector);
  const int64_t lanes = std::min(most, power_of_two_at_least(vectors));
  const int64_t runs = ceil_div(p.axis[2].taps, kChannelsRun);
  WeightSplit cut;
  cut.by_runs = Divisor<int32_t>(runs);
  const int64_t unit_blocks = deal_units(cut, p.axis[1].taps * runs, lanes);
  const int64_t items = int64_t{p.batch} * p.axis[0].count * p.axis[1].count;
  launch_weight(device, p, cut, unit_blocks, ceil_div(vectors, lanes), items, cut.parts,
                [&](dim3 grid, Accumulator<T>* partial) {
                  SIMT_LAUNCH((depthwise_weight_channels<T, kVector, kSliding>), grid,
                              dim3(kDepthwiseThreads), 0, device.stream(), p, cut,
                              static_cast<int>(lanes), partial);
                });
  return true;
}

template <class T, int kVector>
bool launch_weight_channels(DeviceCall& device, const WeightProblem<T, int32_t>& p) {
  if (is_dense(p.axis[2])) return launch_weight_channels<T, kVector, true>(device, p);
  return launch_weight_channels<T, kVector, false>(device, p);
}

}  // namespace

template <class T>
bool run_depthwise(DeviceCall& device, const cnnops::Contraction<T>& contraction,
                   bool channels_last) {
  if (!is_depthwise(contraction) || !fits_int32(contraction)) return false;
  Problem<T, int32_t> p = problem_of<int32_t>(contraction);
  sort_taps(p);
  if (!channels_last) {
    return is_dense(p.axis[2]) ? launch_planar<T, true>(device, p)
                               : launch_planar<T, false>(device, p);
  }
  const int vector = vector_of(p, p.source, p.source_strides, p.dest, p.dest_strides);
  return vector == 1 ? launch_channels<T, 1>(device, p)
                     : launch_channels<T, kChannelsVector<T>>(device, p);
}

template <class T>
bool run_depthwise_weight(DeviceCall& device, const cnnops::WeightContraction<T>& contraction,
                          bool channels_last) {
  if (!is_depthwise(contraction) || !fits_int32(contraction)) return false;
  WeightProblem<T, int32_t> p = problem_of<int32_t>(contraction);
  sort_taps(p);
  if (!channels_last) {
    return is_dense(p.axis[2]) ? launch_weight_planar<T, true>(device, p)
                               : launch_weight_planar<T, false>(device, p);
  }
  const int vector = vector_of(p, p.source, p.source_strides, p.grad, p.grad_strides);
  return vector == 1 ? launch_weight_channels<T, 1>(device, p)
                     : launch_weight_channels<T, kChannelsVector<T>>(device, p);
}

#define CNNOPS_INSTANTIATE(T)                                                    \
  template bool run_depthwise(DeviceCall&, const cnnops::Contraction<T>&, bool); \
  template bool run_depthwise_weight(DeviceCall&, const cnnops::WeightContraction<T>&, bool);
CNNOPS_INSTANTIATE(float)
CNNOPS_INSTANTIATE(double)
CNNOPS_INSTANTIATE(bfloat16)
CNNOPS_INSTANTIATE(float16)
#undef CNNOPS_INSTANTIATE

}  // namespace cnnops::cuda
