// Whether Winograd transforms may compute convolutions on the CPU.
#pragma once

namespace cnnops {

/// True unless CNNOPS_WINOGRAD is 0 or torch.backends.mkldnn.conv.fp32_precision is "ieee", by
/// itself or through torch.backends.fp32_precision. Transforms round more often than direct sums,
/// though they are float32 throughout: whoever asks for ieee arithmetic gets the sums as they are
/// written. The environment is read once, torch's setting on every call.
bool allows_winograd();

}  // namespace cnnops
