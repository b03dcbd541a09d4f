// What the kernels of max and average pooling reduce with: a reduction has a State for one output,
// which takes the elements of its window one by one, or the states of parts of the window.
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

/// The maximum of a window and its position in the plane.
template <class T_, class Index_>
struct Maximum {
  using T = T_;
  using Index = Index_;
  using Value = Accumulator<T>;
  static constexpr bool kBackward = false;
  static constexpr bool kHasPositions = true;

  struct State {
    Value value;
    Index at;
  };

  /// `corner`: the position that a window without a maximum, all -infinity, counts as its own.
  static SIMT_DEVICE State start(Index corner) { return {lowest<T>(), corner}; }

  /// Takes a value that lies behind all taken so far.
  static SIMT_DEVICE void add(State& state, Value value, Index at) {
    const bool wins = value > state.value || value != value;
    state.value = wins ? value : state.value;
    state.at = wins ? at : state.at;
  }

  /// Takes the state of any other part of the window, whose positions decide between equals.
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

/// The mean of a window; backward, the sum over the windows that an input lies in of the gradient
/// of their mean.
template <class T_, class Index_, bool kIsBackward>
struct Mean {
  using T = T_;
  using Index = Index_;
  using Value = Accumulator<T>;
  static constexpr bool kBackward = kIsBackward;
  static constexpr bool kHasPositions = false;
  /// May a sum of quotients of one divisor be divided once? Not integers, which truncate.
  static constexpr bool kDivideOnce = !std::is_integral_v<T>;

  struct State {
    Value value;
  };

  static SIMT_DEVICE State start(Index) { return {Value(0)}; }
  static SIMT_DEVICE void add(State& state, Value value, Index) { state.value += value; }
  static SIMT_DEVICE void merge(State& state, const State& other) { state.value += other.value; }
  static SIMT_DEVICE State shuffled(const State& state, int lanes) {
    return {__shfl_xor_sync(simt::kFullMask, state.value, lanes)};
  }

  static SIMT_DEVICE Value weigh(const PoolProblem<Index>& p, Value value, Index z, Index y,
                                 Index x) {
    if constexpr (kBackward) {
      if (p.divisor == 0) return value / static_cast<Value>(p.divisor_of(z, y, x));
      if (!kDivideOnce) return value / static_cast<Value>(p.divisor);
    }
    return value;
  }
  static SIMT_DEVICE Value finish(const PoolProblem<Index>& p, const State& state,
                                  const Index (&at)[3]) {
    if constexpr (kBackward) {
      return kDivideOnce && p.divisor != 0 ? state.value / static_cast<Value>(p.divisor)
                                           : state.value;
    } else {
      return state.value /
             static_cast<Value>(p.divisor != 0 ? p.divisor : p.divisor_of(at[0], at[1], at[2]));
    }
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

/// Writes the result of an output: its values and, where `indices` is not null, their positions.
template <int n, class Op>
SIMT_DEVICE void store_result(const PoolProblem<typename Op::Index>& p,
                              const typename Op::State (&state)[n],
                              const typename Op::Index (&position)[3], typename Op::Index at,
                              typename Op::T* dest, int64_t* indices) {
  using T = typename Op::T;
  typename Elements<T, n>::type result;
#pragma unroll
  for (int k = 0; k < n; ++k) result.at[k] = simt::from_float<T>(Op::finish(p, state[k], position));
  if constexpr (n == 1) {
    simt::store(dest + at, result.at[0]);
  } else {
    simt::store(reinterpret_cast<simt::Vector<T, n>*>(dest) + at, result);
  }
  if constexpr (Op::kHasPositions) {
    if (indices == nullptr) return;
    if constexpr (n == 1) {
      simt::store(indices + at, static_cast<int64_t>(state[0].at));
    } else {
#pragma unroll
      for (int k = 0; k < n; k += 2) {
        using Pair = simt::Vector<int64_t, 2>;
        simt::store(reinterpret_cast<Pair*>(indices) + (at * n + k) / 2,
                    Pair{{state[k].at, state[k + 1].at}});
      }
    }
  }
}

}  // namespace cnnops::cuda
