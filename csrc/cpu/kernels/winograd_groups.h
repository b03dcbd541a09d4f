// Groups of a contraction as contractions of their own, for kernels that know none.

/// So many groups are spread over the threads; each of fewer is.
constexpr int64_t kMinSpreadGroups = 4;

/// Whether each group is left to one thread.
template <class Problem>
inline bool groups_are_spread(const Problem& p) {
  return p.groups >= kMinSpreadGroups;
}

/// Group `g`.
template <class T>
Contraction<T> group_of(const Contraction<T>& p, int64_t g) {
  Contraction<T> group = p;
  group.groups = 1;
  group.source += g * p.depth * p.source_strides.channel;
  group.weight += g * p.weight_strides.group;
  group.dest += g * p.rows * p.dest_strides.channel;
  if (p.bias != nullptr) group.bias += g * p.rows;
  return group;
}
template <class T>
WeightContraction<T> group_of(const WeightContraction<T>& p, int64_t g) {
  WeightContraction<T> group = p;
  group.groups = 1;
  group.source += g * p.depth * p.source_strides.channel;
  group.grad += g * p.rows * p.grad_strides.channel;
  group.dest += g * p.dest_strides.group;
  return group;
}

/// Calls run(group, its index) for each group of `p`.
template <class Problem, class Run>
inline void for_each_group(const Problem& p, const Run& run) {
  const int64_t together = groups_are_spread(p) ? 1 : p.groups;
  parallel_for(p.groups, together, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) run(group_of(p, g), g);
  });
}

/// What all groups take, of which one takes `of_one`.
template <class Problem>
inline Footprint footprint_of_groups(const Problem& p, Footprint of_one) {
  if (!groups_are_spread(p)) return of_one;
  of_one.per_thread += of_one.shared;
  of_one.shared = 0;
  return of_one;
}
