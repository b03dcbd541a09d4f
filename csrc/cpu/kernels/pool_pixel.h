// Reduces windows of channels_last tensors (N, D, H, W, C) to one value each: maximum or mean, no
// indices.
//
// A vector is a run of channels of one pixel, so every access is contiguous. A block of
// kBlockVectors registers stays in registers while the pixels of the window go by. The unit of
// parallel work is an output row times a block of kChannelTask channels: wide enough to stream,
// narrow enough to share one large pixel among threads.

constexpr int64_t kChannelTask = 512;
constexpr int kBlockVectors = 4;

/// Calls f(offset of the pixel in its plane) for each pixel under output pixel (d, h, w), in the
/// order of memory.
template <class F>
inline void for_each_pixel(const PoolProblem& p, int64_t d, int64_t h, int64_t w, const F& f) {
  const PoolWindows& width = p.axis[2];
  for_each_row(p, d, h, [&](int64_t row) {
    for (int64_t x = width.begin[w]; x < width.end[w]; x += width.dilation) f(row + x);
  });
}

/// Cuts [begin, end) into runs of four registers and of one, the last of which overlaps the one
/// before where it must: calls f.operator()<registers>(channel, lanes), where fewer than all lanes
/// count in a run of less than a register.
template <class T, class F>
inline void for_each_channel_run(int64_t begin, int64_t end, const F& f) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  if (end - begin < kCount) return f.template operator()<1>(begin, end - begin);
  int64_t c = begin;
  for (; c + kBlockVectors * kCount <= end; c += kBlockVectors * kCount) {
    f.template operator()<kBlockVectors>(c, kCount);
  }
  for (; c + kCount <= end; c += kCount) f.template operator()<1>(c, kCount);
  if (c < end) f.template operator()<1>(end - kCount, kCount);
}

/// Calls f(row, its number, first channel, last channel) for every task over the rows of
/// `depth` x `height` a sample, each costing `work` visits a channel.
template <class F>
inline void for_each_row_task(const PoolProblem& p, int64_t depth, int64_t height, int64_t work,
                              const F& f) {
  const int64_t blocks = (p.channels + kChannelTask - 1) / kChannelTask;
  const int64_t tasks = p.batch * depth * height * blocks;
  parallel_for(tasks, grain_of(work * least(p.channels, kChannelTask)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t row = task / blocks;
                   const int64_t first = task % blocks * kChannelTask;
                   f(Row(depth, height, row), row, first, least(p.channels, first + kChannelTask));
                 }
               });
}

/// `finish_for(d, h, w)` gives a function that turns reduced values into results.
template <class T, class Reduction, class FinishFor>
void reduce_pixels(const PoolProblem& p, const T* input, T* output, const Reduction& reduce,
                   const FinishFor& finish_for) {
  constexpr Compute<T> kIdentity = Reduction::template identity<T>();
  const int64_t width = p.axis[2].output;
  for_each_row_task(p, p.axis[0].output, p.axis[1].output, width * work_of(p),
                    [&](const Row& at, int64_t row, int64_t first, int64_t last) {
                      const T* plane = input + at.outer * input_plane(p) * p.channels;
                      for (int64_t w = 0; w < width; ++w) {
                        T* to = output + (row * width + w) * p.channels;
                        const auto finish = finish_for(at.d, at.h, w);
                        for_each_channel_run<T>(
                            first, last, [&]<int kVectors>(int64_t c, int64_t lanes) {
                              Vec<Compute<T>> value[kVectors];
                              for (auto& v : value) v = broadcast(kIdentity);
                              for_each_pixel(p, at.d, at.h, w, [&](int64_t pixel) {
                                Vec<Compute<T>> next[kVectors];
                                load_run<kVectors>(plane + pixel * p.channels + c, lanes, next);
                                for (int i = 0; i < kVectors; ++i) {
                                  value[i] = reduce(value[i], next[i]);
                                }
                              });
                              for (auto& v : value) v = finish(v);
                              store_run<kVectors>(to + c, value, lanes);
                            });
                      }
                    });
}
