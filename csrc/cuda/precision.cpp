#include "cuda/precision.h"

#include "../precision.h"  // not the one beside this file
#include "checks.h"

namespace cnnops {

bool allows_tf32() {
  const std::string precision = conv_precision("cudnn");
  CNNOPS_CHECK(!precision.empty(), "cannot read torch.backends.cudnn.conv.fp32_precision");
  return precision == "tf32";
}

}  // namespace cnnops
