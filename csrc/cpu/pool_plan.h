// Which loop runs which pooling by windows: all rules in one place. They look at the shape and the
// layout only. A choice comes with its reason, which `cnnops.plan` prints.
#pragma once

#include <vector>

#include "cpu/pool_cut.h"
#include "cpu/pool_kernels.h"
#include "pool_geometry.h"

namespace cnnops {

inline const char* name_of(PoolAlgorithm algorithm) {
  switch (algorithm) {
    case PoolAlgorithm::whole_rows: return "pool_whole_rows";
    case PoolAlgorithm::rows_by_phases: return "pool_rows_by_phases";
    case PoolAlgorithm::rolling_rows: return "pool_rolling_rows";
    case PoolAlgorithm::rows_by_windows: return "pool_rows_by_windows";
    case PoolAlgorithm::pixels: return "pool_pixels";
    case PoolAlgorithm::shuffled_rows: return "pool_shuffled_rows";
    case PoolAlgorithm::blocks: return "pool_blocks";
    case PoolAlgorithm::tap_by_tap: return "pool_tap_by_tap";
  }
  return "";
}

/// What a pooling runs, and why.
struct PoolChoice {
  PoolAlgorithm algorithm;
  const char* reason;
};

constexpr PoolChoice kByPixels{PoolAlgorithm::pixels, "channels lie side by side"};
constexpr PoolChoice kByBlocks{PoolAlgorithm::blocks, "planes enough for registers across them"};
constexpr PoolChoice kByShuffles{PoolAlgorithm::shuffled_rows,
                                 "few planes: windows are picked out of two registers of a row"};
constexpr PoolChoice kByPhases{PoolAlgorithm::rows_by_phases,
                               "stride 1 or 2: taps of neighbours are shifted vectors"};

/// Is the plane one row under one window? Global pooling of any rank is handed over like that.
inline bool is_one_window(const PoolProblem& p) {
  const PoolWindows& width = p.axis[2];
  for (const PoolWindows& axis : {p.axis[0], p.axis[1]}) {
    if (axis.input != 1 || axis.output != 1) return false;
  }
  return width.output == 1 && width.dilation == 1 && width.begin[0] == 0 &&
         width.end[0] == width.input;
}

/// Do blocks fit the cache, and are there planes enough to fill most registers of `lanes`?
inline bool can_block(const PoolProblem& p, int64_t lanes) {
  const int64_t planes = p.batch * p.channels, rest = planes % lanes;
  const int64_t last = rest == 0 ? lanes : rest;
  return p.cut.to > 0 && (planes > 4 * lanes || 2 * last > lanes);
}

/// Do chunks of rows fill a quarter of a register or more?
inline bool can_shuffle(const PoolProblem& p, const PoolRegisters& registers) {
  return registers.shuffle && p.chunks.chunks > 0 &&
         (p.chunks.chunks == 1 || 4 * p.chunks.count >= registers.lanes);
}

/// Are rows of values, without their places, long enough for registers of `lanes` along them? With
/// stride 2 a register of outputs takes two of columns for each tap.
inline bool rows_fill(const PoolWindows& width, int64_t lanes) {
  if (width.stride == 1) return true;
  return width.kernel <= 2 ? 2 * width.output >= lanes : 2 * width.output >= 3 * lanes;
}

/// Are windows square, of a few columns, on a grid of stride 1 or 2? Rows that hardly fill a
/// register are rolled two planes at a time.
inline bool can_roll(const PoolProblem& p, const PoolRegisters& registers) {
  const PoolWindows &height = p.axis[1], &width = p.axis[2];
  if (height.kernel != width.kernel || height.stride != width.stride) return false;
  if (height.dilation != 1 || width.dilation != 1 || !registers.roll) return false;
  if (width.stride == 2) return width.kernel == 2 || width.kernel == 3;
  return width.stride == 1 && (width.kernel == 2 || width.kernel == 3 || width.kernel == 5);
}

/// Rows of inputs up to which windows that do not overlap are rolled: nothing is carried from one
/// row of windows to the next, and pieces of longer rows lie too far apart.
constexpr int64_t kMostRolledInputs = 128;

/// Are those of a gradient by taps, too, an input in windows of one depth at most, and do rows of
/// inputs fill half a register?
inline bool can_roll_taps(const PoolProblem& p, const PoolRegisters& registers) {
  const PoolWindows& width = p.axis[2];
  if (!can_roll(p, registers) || p.axis[0].kernel > p.axis[0].stride) return false;
  if (width.stride == 1) return width.kernel == 3 && 2 * width.input > registers.lanes;
  return width.kernel > width.stride || width.input <= kMostRolledInputs;
}

/// `places`: does the pooling say where maxima are?
inline PoolChoice choose_pool(const PoolProblem& p, bool places, const PoolRegisters& registers) {
  const PoolWindows& width = p.axis[2];
  if (p.channels_last) return kByPixels;
  if (is_one_window(p)) return {PoolAlgorithm::whole_rows, "one window holds the plane"};
  if (!places && !p.inverse && can_roll(p, registers)) {
    return {PoolAlgorithm::rolling_rows, "square windows: all rows that meet a row in registers"};
  }
  const bool grid = width.stride == 1 || width.stride == 2;
  const bool near = (width.kernel - 1) * width.dilation < kPoolRowReach * width.stride;
  if (grid && near && !places && !p.inverse && rows_fill(width, registers.lanes)) return kByPhases;
  if (can_block(p, registers.lanes)) return kByBlocks;
  // The windows that an input lies in at these strides begin where shifted vectors do.
  if (can_shuffle(p, registers) && !(p.inverse && grid)) return kByShuffles;
  if (!grid) {
    const char* reason = width.stride == 0 ? "windows lie on no grid" : "windows hardly overlap";
    return {PoolAlgorithm::rows_by_windows, reason};
  }
  if (!near) return {PoolAlgorithm::rows_by_windows, "windows too wide for shifted vectors"};
  return kByPhases;
}

/// The two passes of a max pooling with taps.
enum class TapPass { forward, backward };

/// The same for max pooling with taps, whose windows are small and of stride 1 or 2.
inline PoolChoice choose_tap_pool(const PoolProblem& p, TapPass pass,
                                  const PoolRegisters& registers) {
  if (pass == TapPass::backward) {
    if (p.channels_last) {
      if (p.channels >= registers.lanes) return kByPixels;
      return {PoolAlgorithm::tap_by_tap, "no registers of channels to gather taps in"};
    }
    if (!can_roll_taps(p, registers)) return kByPhases;
    return {PoolAlgorithm::rolling_rows, "square windows: all rows under a row in registers"};
  }
  if (p.channels_last) return kByPixels;
  if (can_block(p, registers.lanes)) return kByBlocks;
  return can_shuffle(p, registers) ? kByShuffles : kByPhases;
}

inline IndexedProblem indexed_problem(const PoolGeometry& g, bool channels_last) {
  return {g.batch, g.channels, g.output_plane(), g.input_plane(), channels_last};
}

/// A problem for the kernels, with its plan and the lists of windows it points to.
class PlannedPool {
 public:
  /// Of averages, or where `inverse` of their gradients.
  PlannedPool(const PoolGeometry& g, bool channels_last, WindowCount count, int64_t divisor,
              bool inverse, const PoolRegisters& registers);
  /// Of maxima, with or without their places.
  PlannedPool(const PoolGeometry& g, bool channels_last, bool places,
              const PoolRegisters& registers);
  /// Of max pooling with taps, which count from the start of a window that is not flattened.
  PlannedPool(const PoolGeometry& g, bool channels_last, TapPass pass,
              const PoolRegisters& registers);
  PlannedPool(const PlannedPool&) = delete;
  PlannedPool& operator=(const PlannedPool&) = delete;

  const PoolProblem& problem() const { return problem_; }
  const char* reason() const { return reason_; }
  /// Bytes of the lists.
  int64_t bytes() const { return static_cast<int64_t>(lists_.size() * sizeof(int64_t)); }

 private:
  void take(const PoolChoice& choice);
  void list_windows(const PoolGeometry& g, WindowCount count, bool inverse, int64_t lanes);

  std::vector<int64_t> lists_;
  PoolProblem problem_;
  const char* reason_ = "";
};

}  // namespace cnnops
