// What a call would run, noted instead of run. The operators of torch.ops.cnnops_plan are those of
// torch.ops.cnnops on meta tensors: they go through the same validation, geometry and plan, and end
// in a note where the others start a kernel.
#pragma once

#include <vector>

#include "cpu/conv_kernels.h"

namespace cnnops {

/// One step of a call.
struct PlanNote {
  const char* algorithm;
  const char* reason;
  Footprint footprint;
  int64_t held = 0;  // bytes of temporary tensors that live until the call ends
};

/// The notes of this thread since they were last taken.
std::vector<PlanNote>& plan_notes();

}  // namespace cnnops
