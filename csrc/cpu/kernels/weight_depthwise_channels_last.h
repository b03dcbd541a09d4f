// Depthwise weight gradient, vectors along channels.
//
// An item is one register of channels and a fixed share of the images. The taps of a kernel row, up
// to kTapsAtOnce of them, keep their sums in registers while the item walks over all rows that they
// see; pixels whose taps all read inside the source run without checks. Sums are closed for every
// image, so that long reductions lose no more than short ones; shares are added in order.

/// sums[t] += grad * source over destination pixels of one row for kTaps taps, `count` channels.
template <class T, int kTaps, bool kPartial>
inline void correlate_pixels(const Walk& walk, int64_t first_tap, const T* grad, int64_t grad_pixel,
                             const T* line, int64_t source_pixel, int64_t count,
                             Accumulator<T>* sums) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const auto read = [count](const T* from) {
    return kPartial ? load_partial(from, count) : load_wide(from);
  };
  Vec<A> sum[kTaps];
  int64_t offset[kTaps];
  int64_t begin = 0, end = walk.count;
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) {
    sum[t] = load(sums + t * lanes);
    offset[t] = walk.taps[first_tap + t].offset;
    const int64_t from = walk.inside_begin(offset[t]), until = walk.inside_end(offset[t]);
    begin = from > begin ? from : begin;
    end = until < end ? until : end;
  }
  if (end < begin) end = begin;
  const auto border = [&](int64_t from, int64_t until) {
    for (int64_t w = from; w < until; ++w) {
      const Vec<A> g = read(grad + w * grad_pixel);
#pragma GCC unroll 8
      for (int t = 0; t < kTaps; ++t) {
        const int64_t x = walk.resolve(w * walk.step + offset[t]);
        if (x >= 0) sum[t] += g * read(line + x * source_pixel);
      }
    }
  };
  border(0, begin);
  const T* from[kTaps];
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) from[t] = line + (begin * walk.step + offset[t]) * source_pixel;
  for (int64_t w = begin, at = 0; w < end; ++w, at += walk.step * source_pixel) {
    const Vec<A> g = read(grad + w * grad_pixel);
#pragma GCC unroll 8
    for (int t = 0; t < kTaps; ++t) sum[t] += g * read(from[t] + at);
  }
  border(end, walk.count);
#pragma GCC unroll 8
  for (int t = 0; t < kTaps; ++t) store(sums + t * lanes, sum[t]);
}

template <class T, bool kPartial>
inline void correlate_row_taps(const Walk& walk, const T* grad, int64_t grad_pixel, const T* line,
                               int64_t source_pixel, int64_t count, Accumulator<T>* sums) {
  constexpr int lanes = kLanes<Accumulator<T>>;
  int64_t tap = 0;
  for (; tap + kTapsAtOnce <= walk.tap_count; tap += kTapsAtOnce) {
    correlate_pixels<T, kTapsAtOnce, kPartial>(walk, tap, grad, grad_pixel, line, source_pixel,
                                               count, sums + tap * lanes);
  }
  for (; tap + 3 <= walk.tap_count; tap += 3) {
    correlate_pixels<T, 3, kPartial>(walk, tap, grad, grad_pixel, line, source_pixel, count,
                                     sums + tap * lanes);
  }
  for (; tap < walk.tap_count; ++tap) {
    correlate_pixels<T, 1, kPartial>(walk, tap, grad, grad_pixel, line, source_pixel, count,
                                     sums + tap * lanes);
  }
}

template <class T>
void weight_depthwise_channels_last(const WeightContraction<T>& p) {
  using A = Accumulator<T>;
  constexpr int lanes = kLanes<A>;
  const Walk* walk = p.walk;
  const int64_t taps = p.taps(), taps_w = walk[2].tap_count, channels = p.groups;
  const int64_t pieces = ceil_div(channels, lanes);
  const int64_t set = pieces * taps * lanes;
  const int64_t splits = choose_splits(pieces, p.batch, sizeof(A) * set);
  const int64_t images = ceil_div(p.batch, splits);
  const Strides &from = p.source_strides, &grad = p.grad_strides;

  Scratch workspace(sizeof(A) * splits * set);
  const int64_t item_work = images * p.pixels() * taps * lanes;
  parallel_for(
      pieces * splits, ceil_div(kSmallestWork, item_work), [&](int64_t begin, int64_t end) {
        Scratch buffer(sizeof(A) * taps * lanes);
        A* image_sums = buffer.as<A>();
        for (int64_t item = begin; item < end; ++item) {
          const int64_t piece = item % pieces, split = item / pieces, c = piece * lanes;
          const int64_t count = channels - c < lanes ? channels - c : lanes;
          A* sums = workspace.as<A>() + split * set + piece * taps * lanes;
          fill(sums, taps * lanes, A(0));
          for (int64_t image = split * images; image < p.batch && image < (split + 1) * images;
               ++image) {
            fill(image_sums, taps * lanes, A(0));
            for (int64_t td = 0; td < walk[0].tap_count; ++td) {
              for (int64_t th = 0; th < walk[1].tap_count; ++th) {
                A* of_row = image_sums + (td * walk[1].tap_count + th) * taps_w * lanes;
                for (int64_t row = 0; row < walk[0].count * walk[1].count; ++row) {
                  const int64_t h = row % walk[1].count, d = row / walk[1].count;
                  const int64_t z = walk[0].resolve(d * walk[0].step + walk[0].taps[td].offset);
                  const int64_t y = walk[1].resolve(h * walk[1].step + walk[1].taps[th].offset);
                  if (z < 0 || y < 0) continue;
                  const T* g =
                      p.grad + image * grad.batch + d * grad.axis[0] + h * grad.axis[1] + c;
                  const T* line =
                      p.source + image * from.batch + z * from.axis[0] + y * from.axis[1] + c;
                  if (count == lanes) {
                    correlate_row_taps<T, false>(walk[2], g, grad.axis[2], line, from.axis[2],
                                                 count, of_row);
                  } else {
                    correlate_row_taps<T, true>(walk[2], g, grad.axis[2], line, from.axis[2], count,
                                                of_row);
                  }
                }
              }
            }
            for (int64_t i = 0; i < taps * lanes; i += lanes)
              store(sums + i, load(sums + i) + load(image_sums + i));
          }
        }
      });

  Scratch table(sizeof(int64_t) * taps);
  int64_t* offsets = table.as<int64_t>();
  tap_offsets(p, p.dest_strides, offsets);
  for (int64_t c = 0; c < channels; ++c) {
    for (int64_t t = 0; t < taps; ++t) {
      A sum = 0;
      for (int64_t s = 0; s < splits; ++s) {
        sum += workspace.as<A>()[s * set + (c / lanes * taps + t) * lanes + c % lanes];
      }
      p.dest[c * p.dest_strides.group + offsets[t]] = narrow<T>(sum);
    }
  }
}
