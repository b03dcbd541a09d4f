// The one setting of torch that the choice of kernels depends on.
#pragma once

namespace cnnops {

/// Whether torch lets float32 convolutions of CUDA tensors run in tf32: is
/// torch.backends.cudnn.conv.fp32_precision "tf32", by itself or by one of the settings that it
/// follows (torch.backends.cudnn.allow_tf32, torch.backends.fp32_precision)?
///
/// RuntimeError where torch cannot say, as after a mix of old and new settings.
bool allows_tf32();

}  // namespace cnnops
