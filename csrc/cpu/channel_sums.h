// The sums of a gradient over all axes but the channels: the gradient for a bias.
#pragma once

#include "tensor.h"

namespace cnnops {

/// The sums (C) of `grad`, (N, C, *L) or (C, *L) with `rank` spatial axes; as grad.sum(axes).
Tensor sum_to_channels(const Tensor& grad, int rank);

}  // namespace cnnops
