"""The derivatives of every operator, as torch.autograd.Functions.

Convolution is one trilinear form T(x, w, g) = <conv(x, w), g>. Fixing two of its arguments leaves
three contractions, and each is the derivative of the other two, so that `Convolution`,
`ConvolutionGradInput` (also the transposed convolution) and `ConvolutionGradWeight` differentiate
each other to any order. Average pooling is linear: its derivative is its adjoint. Max pooling is
`(values, indices)`: its derivative scatters by the indices, whose derivative gathers by them. For
the gradient alone a byte for each window says which of its taps is the maximum.
Forward mode (`jvp`) is the product rule of the same operators.

The arguments of a Function are those of the dispatcher operator of the same name, so the same
class serves the differentiable operators at the end of each module and, registered there,
torch.ops.cnnops.
"""

from __future__ import annotations

from cnnops.autograd.avg_pooling import (
    AdaptiveAvgPool,
    AdaptiveAvgPoolBackward,
    AvgPool,
    AvgPoolBackward,
    adaptive_avg_pool,
    adaptive_avg_pool_backward,
    avg_pool,
    avg_pool_backward,
)
from cnnops.autograd.contractions import (
    Convolution,
    ConvolutionGradInput,
    ConvolutionGradWeight,
    convolution,
    convolution_grad_input,
    convolution_grad_weight,
)
from cnnops.autograd.max_pooling import (
    AdaptiveMaxPool,
    FractionalMaxPool,
    MaxPool,
    MaxPoolBackward,
    MaxPoolGather,
    MaxPoolTapsBackward,
    MaxPoolWithIndices,
    MaxPoolWithTaps,
    MaxUnpool,
    adaptive_max_pool,
    fractional_max_pool,
    max_pool,
    max_pool_backward,
    max_pool_gather,
    max_pool_taps_backward,
    max_pool_with_indices,
    max_pool_with_taps,
    max_unpool,
)

__all__ = [
    "AdaptiveAvgPool",
    "AdaptiveAvgPoolBackward",
    "AdaptiveMaxPool",
    "AvgPool",
    "AvgPoolBackward",
    "Convolution",
    "ConvolutionGradInput",
    "ConvolutionGradWeight",
    "FractionalMaxPool",
    "MaxPool",
    "MaxPoolBackward",
    "MaxPoolGather",
    "MaxPoolTapsBackward",
    "MaxPoolWithIndices",
    "MaxPoolWithTaps",
    "MaxUnpool",
    "adaptive_avg_pool",
    "adaptive_avg_pool_backward",
    "adaptive_max_pool",
    "avg_pool",
    "avg_pool_backward",
    "convolution",
    "convolution_grad_input",
    "convolution_grad_weight",
    "fractional_max_pool",
    "max_pool",
    "max_pool_backward",
    "max_pool_gather",
    "max_pool_taps_backward",
    "max_pool_with_indices",
    "max_pool_with_taps",
    "max_unpool",
]
