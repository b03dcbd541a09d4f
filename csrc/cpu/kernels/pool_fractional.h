// fractional_max_pool: maxima of windows at pseudo-random places, which differ from plane to plane.
//
// Each plane's window starts follow from its random samples by torch's formula, evaluated as torch
// does in the storage type. The places are irregular and the windows small, so the windows are
// visited one by one; planes are the unit of parallel work, and strides let one code read both
// layouts.

/// Start of window o of `output` along an axis.
template <class T>
inline int64_t fractional_start(Compute<T> sample, int64_t o, int64_t input, int64_t output,
                                int64_t kernel) {
  if (o == output - 1) return input - kernel;
  const auto rounded = [](Compute<T> value) { return widen(narrow<T>(value)); };
  // Samples come from the caller: whatever they are, the window stays inside the input.
  const auto whole = [](Compute<T> value) {
    return value > -2147483648.0 && value < 2147483648.0 ? int64_t(value) : int64_t(-2147483648ll);
  };
  const Compute<T> step =
      rounded(rounded(Compute<T>(input - kernel)) / rounded(Compute<T>(output - 1)));
  const Compute<T> at = rounded(rounded(rounded(Compute<T>(o)) + sample) * step);
  const int64_t start = whole(at) - whole(rounded(sample * step));
  return most(0, least(start, input - kernel));
}

template <class T>
void fractional_max_pool(const FractionalProblem& p, const T* input, const T* samples, T* output,
                         int64_t* indices) {
  const int64_t input_size = p.input[0] * p.input[1] * p.input[2];
  const int64_t output_size = p.output[0] * p.output[1] * p.output[2];
  const int64_t window = p.kernel[0] * p.kernel[1] * p.kernel[2];
  const int64_t step = p.channels_last ? p.channels : 1;
  parallel_for(
      p.batch * p.channels, grain_of(output_size * window), [&](int64_t begin, int64_t end) {
        for (int64_t plane = begin; plane < end; ++plane) {
          const int64_t n = plane / p.channels, c = plane % p.channels;
          const T* from =
              input + (p.channels_last ? n * p.channels * input_size + c : plane * input_size);
          const int64_t out =
              p.channels_last ? n * p.channels * output_size + c : plane * output_size;
          // Samples of 1-d and 3-d pools follow the axes; those of 2-d pools are (width, height).
          Compute<T> sample[3] = {0, 0, 0};
          for (int i = 0; i < p.rank; ++i) {
            const int axis = p.rank == 2 ? 2 - i : 3 - p.rank + i;
            sample[axis] = load_one(samples + plane * p.rank + i);
          }
          const auto start = [&](int axis, int64_t o) {
            return fractional_start<T>(sample[axis], o, p.input[axis], p.output[axis],
                                       p.kernel[axis]);
          };
          for (int64_t i = 0; i < output_size; ++i) {
            const int64_t z = start(0, i / (p.output[1] * p.output[2]));
            const int64_t y = start(1, i / p.output[2] % p.output[1]);
            const int64_t x = start(2, i % p.output[2]);
            Compute<T> best = lowest<T>();
            int64_t index = (z * p.input[1] + y) * p.input[2] + x;
            for (int64_t kz = z; kz < z + p.kernel[0]; ++kz) {
              for (int64_t ky = y; ky < y + p.kernel[1]; ++ky) {
                for (int64_t kx = x; kx < x + p.kernel[2]; ++kx) {
                  const int64_t at = (kz * p.input[1] + ky) * p.input[2] + kx;
                  max_run(from + at * step, 1, at, &best, &index);
                }
              }
            }
            store_one(reinterpret_cast<Elements<T>*>(output) + out + i * step, best);
            indices[out + i * step] = index;
          }
        }
      });
}
