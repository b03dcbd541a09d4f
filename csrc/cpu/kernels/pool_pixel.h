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

/// Cuts [begin, end) into runs of four registers, of one register, and single elements: calls
/// blocks(channel) / vectors(channel) / singles(channel).
template <class T, class Blocks, class Vectors, class Singles>
inline void for_each_channel_run(int64_t begin, int64_t end, const Blocks& blocks,
                                 const Vectors& vectors, const Singles& singles) {
  constexpr int64_t kCount = kLanes<Compute<T>>;
  int64_t c = begin;
  for (; c + kBlockVectors * kCount <= end; c += kBlockVectors * kCount) blocks(c);
  for (; c + kCount <= end; c += kCount) vectors(c);
  for (; c < end; ++c) singles(c);
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
  constexpr int64_t kCount = kLanes<Compute<T>>;
  constexpr Compute<T> kIdentity = Reduction::template identity<T>();
  const int64_t width = p.axis[2].output;
  for_each_row_task(p, p.axis[0].output, p.axis[1].output, width * work_of(p),
                    [&](const Row& at, int64_t row, int64_t first, int64_t last) {
                      const T* plane = input + at.outer * input_plane(p) * p.channels;
                      for (int64_t w = 0; w < width; ++w) {
                        T* to = output + (row * width + w) * p.channels;
                        const auto finish = finish_for(at.d, at.h, w);
                        for_each_channel_run<T>(
                            first, last,
                            [&](int64_t c) {
                              Vec<Compute<T>> value[kBlockVectors];
                              for (auto& v : value) v = broadcast(kIdentity);
                              for_each_pixel(p, at.d, at.h, w, [&](int64_t pixel) {
                                const T* from = plane + pixel * p.channels + c;
                                for (int i = 0; i < kBlockVectors; ++i) {
                                  value[i] = reduce(value[i], load_compute(from + i * kCount));
                                }
                              });
                              for (int i = 0; i < kBlockVectors; ++i) {
                                store_compute(to + c + i * kCount, finish(value[i]));
                              }
                            },
                            [&](int64_t c) {
                              Vec<Compute<T>> value = broadcast(kIdentity);
                              for_each_pixel(p, at.d, at.h, w, [&](int64_t pixel) {
                                value = reduce(value, load_compute(plane + pixel * p.channels + c));
                              });
                              store_compute(to + c, finish(value));
                            },
                            [&](int64_t c) {
                              Compute<T> value = kIdentity;
                              for_each_pixel(p, at.d, at.h, w, [&](int64_t pixel) {
                                value = reduce(value, load_one(plane + pixel * p.channels + c));
                              });
                              store_one(to + c, finish(value));
                            });
                      }
                    });
}
