// The phases of an InputGradient, for kernels that compute all of them at once.
//
// The destinations j * stride + phase of an axis see the taps of that phase, and for them tap k
// reads source j + offset(k). Kernels take j as the destination, of which there is one for each
// stride, and every phase as a list of taps.

/// The taps of an axis, phase by phase: those of phase i are [first[i], first[i + 1]).
struct PhaseTaps {
  Tap* taps;
  int64_t* first;

  int64_t count(int64_t phase) const { return first[phase + 1] - first[phase]; }
  const Tap* of(int64_t phase) const { return taps + first[phase]; }
};

inline int64_t phase_taps_bytes(const ConvAxis& axis) {
  return sizeof(Tap) * axis.kernel + sizeof(int64_t) * (axis.stride + 1);
}

/// Lists them into phase_taps_bytes(axis), offsets ascending within a phase.
inline PhaseTaps list_phase_taps(const ConvAxis& axis, char* to) {
  PhaseTaps all{reinterpret_cast<Tap*>(to),
                reinterpret_cast<int64_t*>(to + sizeof(Tap) * axis.kernel)};
  int64_t found = 0;
  for (int64_t phase = 0; phase < axis.stride; ++phase) {
    all.first[phase] = found;
    for (int64_t k = axis.kernel - 1; k >= 0; --k) {
      const int64_t from = phase + axis.pad_begin - k * axis.dilation;
      if (from % axis.stride == 0) all.taps[found++] = {from / axis.stride, k};
    }
  }
  all.first[axis.stride] = found;
  return all;
}

/// Strides that the destinations of an axis take, the last of which may be cut off.
inline int64_t strides_of_input(const ConvAxis& axis) { return ceil_div(axis.input, axis.stride); }

/// Destinations of a phase.
inline int64_t phase_size(const ConvAxis& axis, int64_t phase) {
  return phase < axis.input ? (axis.input - 1 - phase) / axis.stride + 1 : 0;
}

/// A phase as a contraction of its own; `number` counts phases of the width first.
template <class T>
Contraction<T> phase_of(const InputGradient<T>& p, const PhaseTaps (&taps)[kAxes], int64_t number) {
  Contraction<T> of_phase;
  static_cast<Channels&>(of_phase) = p;
  static_cast<ConvOperands<T>&>(of_phase) = p;
  for (int i = kAxes - 1; i >= 0; --i) {
    const ConvAxis& axis = p.axis[i];
    const int64_t phase = number % axis.stride;
    number /= axis.stride;
    of_phase.walk[i] = {
        phase_size(axis, phase), 1, axis.output, PaddingMode::zeros, taps[i].of(phase),
        taps[i].count(phase)};
    of_phase.dest += phase * p.dest_strides.axis[i];
    // The distance to a second position, if there is one.
    if (of_phase.walk[i].count > 1) of_phase.dest_strides.axis[i] *= axis.stride;
  }
  return of_phase;
}
