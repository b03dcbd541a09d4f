// The precision that torch.backends asks of float32 convolutions.
#pragma once

#include <string>

namespace cnnops {

/// torch.backends.<backend>.conv.fp32_precision ("ieee", "tf32", "bf16" or "none"), set there or by
/// one of the settings that it follows (torch.backends.fp32_precision). Empty where torch cannot
/// say, as after a mix of old and new settings.
std::string conv_precision(const char* backend);

}  // namespace cnnops
