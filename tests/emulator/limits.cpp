// What happens at sizes that no test can have in memory: the arithmetic of indices on its own, for
// Python to hold against numbers without bounds, and kernels that only such sizes run, on small
// ones.
#include <algorithm>
#include <array>
#include <stdexcept>
#include <string>

#include "cuda/describe.h"
#include "cuda/launch_grid.h"
#include "cuda/pool_direct.cuh"
#include "cuda/pool_plan.h"

namespace cnnops {
namespace {

/// Numbers one after another.
struct Reader {
  const int64_t* next;
  int64_t operator()() { return *next++; }
};

/// A walk with its taps, which lie at even distances in the source and at 0, 1, ... in the weight.
Walk read_walk(Reader& read, Tap (&taps)[8]) {
  Walk walk;
  walk.count = read();
  walk.step = read();
  walk.size = read();
  walk.tap_count = read();
  const int64_t offset = read(), offset_step = read();
  for (int64_t t = 0; t < walk.tap_count; ++t) taps[t] = {offset + t * offset_step, t};
  walk.taps = taps;
  return walk;
}

Strides read_strides(Reader& read) {
  Strides strides;
  strides.batch = read();
  strides.channel = read();
  for (int64_t& stride : strides.axis) stride = read();
  return strides;
}

WeightStrides read_weight_strides(Reader& read) {
  WeightStrides strides;
  strides.group = read();
  strides.row = read();
  strides.depth = read();
  for (int64_t& stride : strides.axis) stride = read();
  return strides;
}

PoolGeometry read_pool_geometry(Reader& read) {
  PoolGeometry g;
  g.rank = 3;
  g.batch = read();
  g.channels = read();
  for (PoolAxis& axis : g.axis) {
    axis.input = read();
    axis.output = read();
    axis.kernel = read();
    axis.stride = read();
    axis.padding = read();
    axis.dilation = read();
  }
  return g;
}

/// Calls f(Index()) with the type of indices of a pooling whose largest one is largest(), and
/// returns its bits; 64 where it is refused, for more elements than 64 bits count.
template <class Largest, class F>
int with_bits(const Largest& largest, const F& f) {
  try {
    int bits = 0;
    cuda::with_index(largest(), [&](auto index) {
      bits = 8 * sizeof(index);
      f(index);
    });
    return bits;
  } catch (const std::runtime_error&) {
    return 64;
  }
}

/// Whether what a kernel computes of the windows of `axis` is the same with 32 and 64 bits.
bool windows_agree(const PoolAxis& axis, WindowCount count_as) {
  const cuda::WindowAxis<int32_t> narrow(axis, count_as);
  const cuda::WindowAxis<int64_t> wide(axis, count_as);
  const auto agree = [](const cuda::Range<int32_t>& a, const cuda::Range<int64_t>& b) {
    // Where it ends matters as far as there are positions before.
    return a.count() == b.count() && (b.count() == 0 || (a.begin == b.begin && a.step == b.step));
  };
  const auto samples = [](int64_t n) {
    return std::array<int64_t, 6>{0,     std::min<int64_t>(1, n - 1), n / 3,
                                  n / 2, std::max<int64_t>(n - 2, 0), n - 1};
  };
  bool same = true;
  for (int64_t o : samples(axis.output)) {
    const auto at = static_cast<int32_t>(o);
    same = same && agree(narrow.inputs(at), wide.inputs(o));
    if (count_as != WindowCount::kNone) same = same && narrow.count(at) == wide.count(o);
  }
  if (axis.stride != 0 && axis.dilation != 1) return same;
  for (int64_t x : samples(axis.input)) {
    same = same && agree(narrow.windows(static_cast<int32_t>(x)), wide.windows(x));
  }
  return same;
}

}  // namespace
}  // namespace cnnops

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

/// quotients[i] = numbers[i] / divisor.
EMULATOR_EXPORT void emulator_divide(int64_t divisor, const int32_t* numbers, int32_t* quotients,
                                     int64_t count) {
  const cnnops::cuda::Divisor<int32_t> by(divisor);
  for (int64_t i = 0; i < count; ++i) quotients[i] = by.quotient(numbers[i]);
}

/// The blocks along x of a grid of so many, or -1 where it is refused.
EMULATOR_EXPORT int64_t emulator_grid_of(int64_t blocks) {
  try {
    const dim3 grid = cnnops::cuda::grid_of(blocks);
    return grid.y == 1 && grid.z == 1 ? grid.x : 0;
  } catch (const std::runtime_error&) {
    return -1;
  }
}

/// Whether a contraction takes indices of 32 bits. `numbers`: batch, groups, rows, depth; of each
/// axis count, step, size, taps, first offset, distance of offsets; strides of source, dest (of a
/// WeightContraction grad) and weight (its dest).
EMULATOR_EXPORT bool emulator_fits_int32(const int64_t* numbers, bool of_weight) {
  using namespace cnnops;
  Reader read{numbers};
  ContractionShape shape;
  shape.batch = read();
  shape.groups = read();
  shape.rows = read();
  shape.depth = read();
  Tap taps[kAxes][8];
  for (int i = 0; i < kAxes; ++i) shape.walk[i] = read_walk(read, taps[i]);
  const Strides source = read_strides(read), other = read_strides(read);
  const WeightStrides weight = read_weight_strides(read);
  if (of_weight) {
    WeightContraction<float> p;
    static_cast<ContractionShape&>(p) = shape;
    p.source_strides = source, p.grad_strides = other, p.dest_strides = weight;
    return cuda::fits_int32(p);
  }
  Contraction<float> p;
  static_cast<ContractionShape&>(p) = shape;
  p.source_strides = source, p.dest_strides = other, p.weight_strides = weight;
  return cuda::fits_int32(p);
}

/// Of a pooling 2 where it takes indices of 64 bits, or is refused; else 1 where what kernels
/// compute of windows is right with 32, and 0 where it is not. `numbers`: batch, channels; of each
/// axis input, output, kernel, stride, padding and dilation; how means count (WindowCount).
EMULATOR_EXPORT int emulator_pool_index(const int64_t* numbers) {
  using namespace cnnops;
  Reader read{numbers};
  const PoolGeometry g = read_pool_geometry(read);
  const auto count_as = static_cast<WindowCount>(read());
  if (with_bits([&] { return cuda::largest_index(g); }, [](auto) {}) == 64) return 2;
  for (const PoolAxis& axis : g.axis) {
    if (!windows_agree(axis, count_as)) return 0;
  }
  const cuda::PoolProblem<int32_t> narrow(g, false, count_as, 0, false, 1);
  const cuda::PoolProblem<int64_t> wide(g, false, count_as, 0, false, 1);
  const int64_t threads = int64_t{1} << 10;  // of the last block
  const int64_t planes = g.batch * g.channels;
  const int64_t most =
      std::max({wide.dests(), planes * g.input_plane(), planes * g.rank}) + threads;
  const bool counts =
      count_as == WindowCount::kNone || narrow.divisor_of(0, 0, 0) == wide.divisor_of(0, 0, 0);
  return counts && most <= INT32_MAX ? 1 : 0;
}

/// The same of a max pooling with taps: what is computed of the last window.
EMULATOR_EXPORT int emulator_tap_index(const int64_t* numbers) {
  using namespace cnnops;
  using Narrow = cuda::MaximumTap<float, int32_t>;
  using Wide = cuda::MaximumTap<float, int64_t>;
  Reader read{numbers};
  const PoolGeometry g = read_pool_geometry(read);
  if (with_bits([&] { return cuda::largest_index_of<Narrow>(g); }, [](auto) {}) == 64) return 2;
  const cuda::PoolProblem<int32_t> narrow(g, false, WindowCount::kNone, 0, false, 1);
  const cuda::PoolProblem<int64_t> wide(g, false, WindowCount::kNone, 0, false, 1);
  int64_t window[3], last[3];
  int32_t narrow_window[3], narrow_last[3];
  for (int i = 0; i < 3; ++i) {
    window[i] = g.axis[i].output - 1;
    last[i] = wide.axis[i].inputs(window[i]).end - 1;
    narrow_window[i] = static_cast<int32_t>(window[i]);
    narrow_last[i] = static_cast<int32_t>(last[i]);
  }
  const int32_t place = Narrow::place(narrow, narrow_last[0], narrow_last[1], narrow_last[2]);
  const bool same =
      place == Wide::place(wide, last[0], last[1], last[2]) &&
      Narrow::written(narrow, place, narrow_window) == Wide::written(wide, int64_t{place}, window);
  return same ? 1 : 0;
}

/// Maxima with their taps and, by these, the gradient, by the kernels for 64-bit indices; nullptr,
/// or what went wrong. `numbers`: batch, channels; of each axis input, output, kernel, stride,
/// padding and dilation; whether tensors are channels_last, whether threads share windows.
EMULATOR_EXPORT const char* emulator_wide_taps(const int64_t* numbers, const float* input,
                                               float* output, uint8_t* taps, const float* grad,
                                               float* grad_input) {
  using namespace cnnops;
  using Maxima = cuda::MaximumTap<float, int64_t>;
  using Gradient = cuda::TapGradient<float, int64_t>;
  Reader read{numbers};
  const PoolGeometry g = read_pool_geometry(read);
  const bool channels_last = read() != 0, shared = read() != 0;
  const cuda::PoolProblem<int64_t> p(g, channels_last, WindowCount::kNone, 0, false, 1);
  const cuda::PoolProblem<int64_t> back(g, channels_last, WindowCount::kNone, 0, true, 1);
  const auto split_up = cuda::split_windows(g, p);
  const auto blocks_of = [](int64_t count, int64_t size) {
    return cuda::grid_of((count - 1) / size + 1);
  };
  static std::string wrong;
  try {
    simt::expose_memory(input, p.outer * p.source_plane() * p.inner * 4, false);
    simt::expose_memory(output, p.dests() * 4, true);
    simt::expose_memory(taps, p.dests(), true);
    simt::expose_memory(grad, p.dests() * 4, false);
    simt::expose_memory(grad_input, back.dests() * 4, true);
    if (shared) {
      SIMT_LAUNCH(
          (cuda::pool_window<Maxima, 1>),
          blocks_of(split_up.groups, cuda::kWindowThreads / (split_up.lanes * split_up.parts)),
          dim3(cuda::kWindowThreads), 0, nullptr, p, split_up, input, output, taps);
    } else {
      SIMT_LAUNCH((cuda::pool_direct<Maxima, 1>), blocks_of(p.dests(), cuda::kDirectThreads),
                  dim3(cuda::kDirectThreads), 0, nullptr, p, input, output, taps);
    }
    SIMT_LAUNCH((cuda::pool_direct<Gradient, 1>), blocks_of(back.dests(), cuda::kDirectThreads),
                dim3(cuda::kDirectThreads), 0, nullptr, back, grad, grad_input, taps);
    simt::forget_memory();
    return nullptr;
  } catch (const std::exception& error) {
    simt::forget_memory();
    wrong = error.what();
    return wrong.c_str();
  }
}
