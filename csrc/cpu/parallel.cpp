#include "cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace cnnops {

void parallel_run(int64_t count, int64_t grain, void (*body)(void*, int64_t, int64_t),
                  void* context) {
  torch::stable::parallel_for(0, count, grain,
                              [=](int64_t begin, int64_t end) { body(context, begin, end); });
}

}  // namespace cnnops
