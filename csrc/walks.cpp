#include "walks.h"

namespace cnnops {

OwnedWalk forward_walk(const ConvAxis& axis, PaddingMode mode, bool drop) {
  OwnedWalk owned;
  owned.walk = {axis.output, axis.stride, axis.input, mode, nullptr, 0};
  const auto offset = [&](int64_t k) { return k * axis.dilation - axis.pad_begin; };
  const auto wasted = [&](int64_t k) {
    return drop && mode == PaddingMode::zeros &&
           owned.walk.inside_begin(offset(k)) >= owned.walk.inside_end(offset(k));
  };
  int64_t first = 0, end = axis.kernel;
  while (first < end && wasted(first)) ++first;
  while (end > first && wasted(end - 1)) --end;
  owned.taps.reserve(end - first);
  for (int64_t k = first; k < end; ++k) owned.taps.push_back({offset(k), k});
  return owned;
}

std::map<int64_t, OwnedWalk> grad_input_phases(const ConvAxis& axis) {
  std::map<int64_t, OwnedWalk> phases;
  for (int64_t k = 0; k < axis.kernel; ++k) {
    const int64_t reach = k * axis.dilation - axis.pad_begin;
    int64_t phase = reach % axis.stride;
    if (phase < 0) phase += axis.stride;
    if (phase >= axis.input) continue;
    const Tap tap{(phase - reach) / axis.stride, k};
    const int64_t count = (axis.input - 1 - phase) / axis.stride + 1;
    const Walk walk{count, 1, axis.output, PaddingMode::zeros, nullptr, 0};
    if (walk.inside_begin(tap.offset) >= walk.inside_end(tap.offset)) continue;
    phases.try_emplace(phase, OwnedWalk{walk, {}}).first->second.taps.push_back(tap);
  }
  return phases;
}

bool covers_input(const std::map<int64_t, OwnedWalk>& phases, const ConvAxis& axis) {
  const int64_t wanted = axis.stride < axis.input ? axis.stride : axis.input;
  return static_cast<int64_t>(phases.size()) == wanted;
}

void set_walk(Walk& to, const OwnedWalk& owned) {
  to = owned.walk;
  to.taps = owned.taps.data();
  to.tap_count = static_cast<int64_t>(owned.taps.size());
}

void set_channels(Channels& to, const ConvGeometry& geometry, bool transposed) {
  to.batch = geometry.batch;
  to.groups = geometry.groups;
  to.rows = transposed ? geometry.in_channels_per_group() : geometry.out_channels_per_group();
  to.depth = transposed ? geometry.out_channels_per_group() : geometry.in_channels_per_group();
}

}  // namespace cnnops
