// What kernels for groups of 1, 2, 4 or 8 channels share: a register holds several groups, side by
// side.

/// Calls f with the channels of a group as a constant. A group fits a register, says the plan:
/// larger ones need no code.
template <class A, class F>
inline void with_group(int64_t channels, const F& f) {
  switch (channels) {
    case 1: return f.template operator()<1>();
    case 2: return f.template operator()<2>();
    case 4:
      if constexpr (kLanes<A> >= 4) return f.template operator()<4>();
      break;
    case 8:
      if constexpr (kLanes<A> >= 8) return f.template operator()<8>();
      break;
  }
}

/// Elements of a plane of the source.
inline int64_t source_plane(const ContractionShape& shape) {
  return shape.walk[0].size * shape.walk[1].size * shape.walk[2].size;
}

/// Source channel `kChannel` of every group, in all lanes of its group.
template <class A, int kGroup, int kChannel>
inline Vec<A> spread(Vec<A> x) {
  if constexpr (kGroup == 1) {
    return x;
  } else {
    Vec<typename IndexOf<sizeof(A)>::type> index;
    for (int lane = 0; lane < kLanes<A>; ++lane) index[lane] = lane / kGroup * kGroup + kChannel;
    return __builtin_shuffle(x, index);
  }
}
