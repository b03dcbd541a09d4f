// What the kernels of max and average pooling reduce with: a reduction has a State for one output,
// which takes the elements of its window one by one, or the states of parts of the window.
//
// Some know places beside values: maxima write to memory where they are, as Place, and their
// gradient reads it from there.
//
// The maximum is torch's: NaN wins over everything, of equal elements the first in memory stays,
// and of NaNs the last.
#pragma once

#include <cmath>

#include "cuda/pool_problem.h"

namespace cnnops::cuda {

/// The smallest value of T, -infinity for floats: the maximum of nothing.
template <class T>
SIMT_DEVICE Accumulator<T> lowest() {
  if constexpr (std::is_integral_v<T>) {
    return T(-1) > T(0) ? T(0) : static_cast<T>(T(1) << (8 * sizeof(T) - 2)) * T(-2);
  } else {
    return -static_cast<Accumulator<T>>(INFINITY);
  }
}

/// The maximum of a window and its place: the position in the plane.
template <class T_, class Index_>
struct Maximum {
  using T = T_;
  using Index = Index_;
  using Value = Accumulator<T>;
  using Place = int64_t;
  static constexpr bool kBackward = false;
  static constexpr bool kHasPlaces = true;
  static constexpr bool kFindsTaps = false;
  static constexpr bool kReadsTaps = false;

  struct State {
    Value value;
    Index at;
  };

  /// The place of the element at (z, y, x). Places rise along a window, in the order of memory.
  static SIMT_DEVICE Index place(const PoolProblem<Index>& p, Index z, Index y, Index x) {
    return p.position(z, y, x);
  }
  /// As it is written to memory, of window (at[0], at[1], at[2]).
  static SIMT_DEVICE Place written(const PoolProblem<Index>&, Index place, const Index (&)[3]) {
    return place;
  }

  /// `corner`: the place that a window without a maximum, all -infinity, counts as its own.
  static SIMT_DEVICE State start(Index corner) { return {lowest<T>(), corner}; }

  /// Takes a value that lies behind all taken so far.
  static SIMT_DEVICE void add(State& state, Value value, Index at) {
    const bool wins = value > state.value || value != value;
    state.value = wins ? value : state.value;
    state.at = wins ? at : state.at;
  }

  /// Takes the state of any other part of the window, whose places decide between equals.
  static SIMT_DEVICE void merge(State& state, const State& other) {
    const bool nan = other.value != other.value;
    const bool wins = other.value > state.value ||
                      (other.value == state.value && other.at < state.at) ||
                      (nan && (state.value == state.value || other.at > state.at));
    if (wins) state = other;
  }

  static SIMT_DEVICE State shuffled(const State& state, int lanes) {
    return {__shfl_xor_sync(simt::kFullMask, state.value, lanes),
            __shfl_xor_sync(simt::kFullMask, state.at, lanes)};
  }

  /// A value of the source at (z, y, x) as it enters the reduction.
  static SIMT_DEVICE Value weigh(const PoolProblem<Index>&, Value value, Index, Index, Index) {
    return value;
  }
  static SIMT_DEVICE Value finish(const PoolProblem<Index>&, const State& state,
                                  const Index (&)[3]) {
    return state.value;
  }
};

/// The maximum of a window and its place: the number of its tap, a byte, of small windows without
/// dilation (check_taps of pool_op.h). Places count as if rows and planes of the source were as
/// long as those of a window, so that along a window they rise as taps do; the tap is how far a
/// place is from that of tap 0.
template <class T_, class Index_>
struct MaximumTap : Maximum<T_, Index_> {
  using Index = Index_;
  using Place = uint8_t;
  static constexpr bool kFindsTaps = true;

  static SIMT_DEVICE Index place(const PoolProblem<Index>& p, Index z, Index y, Index x) {
    return (z * p.axis[1].kernel + y) * p.axis[2].kernel + x;
  }
  static SIMT_DEVICE Place written(const PoolProblem<Index>& p, Index place_of,
                                   const Index (&at)[3]) {
    const Index of_tap_0 =
        place(p, p.axis[0].start(at[0]), p.axis[1].start(at[1]), p.axis[2].start(at[2]));
    return static_cast<Place>(place_of - of_tap_0);
  }
};

/// What the reductions that add up share; they know no places.
template <class T_, class Index_, bool kIsBackward>
struct Sum {
  using T = T_;
  using Index = Index_;
  using Value = Accumulator<T>;
  using Place = void;
  static constexpr bool kBackward = kIsBackward;
  static constexpr bool kHasPlaces = false;
  static constexpr bool kFindsTaps = false;
  static constexpr bool kReadsTaps = false;

  struct State {
    Value value;
  };

  static SIMT_DEVICE Index place(const PoolProblem<Index>&, Index, Index, Index) { return 0; }
  static SIMT_DEVICE State start(Index) { return {Value(0)}; }
  static SIMT_DEVICE void add(State& state, Value value, Index) { state.value += value; }
  static SIMT_DEVICE void merge(State& state, const State& other) { state.value += other.value; }
  static SIMT_DEVICE State shuffled(const State& state, int lanes) {
    return {__shfl_xor_sync(simt::kFullMask, state.value, lanes)};
  }
};

/// The mean of a window; backward, the sum over the windows that an input lies in of the gradient
/// of their mean.
template <class T_, class Index_, bool kIsBackward>
struct Mean : Sum<T_, Index_, kIsBackward> {
  using Index = Index_;
  using typename Sum<T_, Index_, kIsBackward>::Value;
  using typename Sum<T_, Index_, kIsBackward>::State;
  /// May a sum of quotients of one divisor be divided once? Not integers, which truncate.
  static constexpr bool kDivideOnce = !std::is_integral_v<T_>;

  static SIMT_DEVICE Value weigh(const PoolProblem<Index>& p, Value value, Index z, Index y,
                                 Index x) {
    if constexpr (kIsBackward) {
      if (p.divisor == 0) return value / static_cast<Value>(p.divisor_of(z, y, x));
      if (!kDivideOnce) return value / static_cast<Value>(p.divisor);
    }
    return value;
  }
  static SIMT_DEVICE Value finish(const PoolProblem<Index>& p, const State& state,
                                  const Index (&at)[3]) {
    if constexpr (kIsBackward) {
      return kDivideOnce && p.divisor != 0 ? state.value / static_cast<Value>(p.divisor)
                                           : state.value;
    } else {
      return state.value /
             static_cast<Value>(p.divisor != 0 ? p.divisor : p.divisor_of(at[0], at[1], at[2]));
    }
  }
};

/// The gradient of maxima by their taps: an input's is the sum of the gradients of those windows it
/// lies in whose tap it is. A tap that is in no window, or in the padding, is that of no input.
template <class T_, class Index_>
struct TapGradient : Sum<T_, Index_, true> {
  using Index = Index_;
  using Place = const uint8_t;
  using typename Sum<T_, Index_, true>::Value;
  using typename Sum<T_, Index_, true>::State;
  static constexpr bool kReadsTaps = true;

  /// By which tap window (z, y, x) reads the input at `at`.
  static SIMT_DEVICE Index tap(const PoolProblem<Index>& p, const Index (&at)[3], Index z, Index y,
                               Index x) {
    const Index row = (at[0] - p.axis[0].start(z)) * p.axis[1].kernel + at[1] - p.axis[1].start(y);
    return row * p.axis[2].kernel + at[2] - p.axis[2].start(x);
  }
  static SIMT_DEVICE Value finish(const PoolProblem<Index>&, const State& state,
                                  const Index (&)[3]) {
    return state.value;
  }
};

/// n elements that lie side by side; a single one needs no alignment beyond its own.
template <class T, int n>
struct Elements {
  using type = simt::Vector<T, n>;
};
template <class T>
struct Elements<T, 1> {
  struct type {
    T at[1];
  };
};

/// Reads n elements from number `at` of elements of that width.
template <int n, class T, class Index>
SIMT_DEVICE typename Elements<T, n>::type load_elements(const T* from, Index at) {
  if constexpr (n == 1) {
    return {{simt::load(from + at)}};
  } else {
    return simt::load(reinterpret_cast<const simt::Vector<T, n>*>(from) + at);
  }
}

/// Writes n elements to number `at` of elements of that width.
template <int n, class T, class Index>
SIMT_DEVICE void store_elements(T* to, Index at, const typename Elements<T, n>::type& elements) {
  if constexpr (n == 1) {
    simt::store(to + at, elements.at[0]);
  } else {
    simt::store(reinterpret_cast<simt::Vector<T, n>*>(to) + at, elements);
  }
}

/// Writes the result of an output: its values and, where `places` is not null, their places.
template <int n, class Op>
SIMT_DEVICE void store_result(const PoolProblem<typename Op::Index>& p,
                              const typename Op::State (&state)[n],
                              const typename Op::Index (&position)[3], typename Op::Index at,
                              typename Op::T* dest, typename Op::Place* places) {
  using T = typename Op::T;
  typename Elements<T, n>::type result;
#pragma unroll
  for (int k = 0; k < n; ++k) result.at[k] = simt::from_float<T>(Op::finish(p, state[k], position));
  store_elements<n>(dest, at, result);
  if constexpr (Op::kHasPlaces) {
    if (places == nullptr) return;
    using Place = typename Op::Place;
    constexpr int kMost = 16 / sizeof(Place);
    constexpr int kStored = n < kMost ? n : kMost;
#pragma unroll
    for (int k = 0; k < n; k += kStored) {
      typename Elements<Place, kStored>::type some;
#pragma unroll
      for (int i = 0; i < kStored; ++i) some.at[i] = Op::written(p, state[k + i].at, position);
      store_elements<kStored>(places, (at * n + k) / kStored, some);
    }
  }
}

}  // namespace cnnops::cuda
