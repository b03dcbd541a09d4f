"""The operators of torch.ops.cnnops as typed, differentiable functions, and their registrations.

The functions take complete arguments (`cnnops.geometry` expands and completes what users write)
and tensors of one, two or three spatial axes, batched (N, C, *M) or unbatched (C, *M); the length
of the kernel or output size says how many axes are spatial. Bad arguments raise RuntimeError from
the one validator in C++.

Importing this module registers the fake kernel (`cnnops.fake`) and the derivative
(`cnnops.autograd`) of each operator.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnops import (
    autograd,
    fake,  # noqa: F401  (registers the fake kernels)
)
from cnnops.geometry import IntOrInts, taps_suffice

__all__ = [
    "adaptive_avg_pool",
    "adaptive_avg_pool_backward",
    "adaptive_max_pool",
    "avg_pool",
    "avg_pool_backward",
    "convolution",
    "convolution_grad_input",
    "convolution_grad_weight",
    "fractional_max_pool",
    "gradient_needs_places",
    "max_pool",
    "max_pool_backward",
    "max_pool_gather",
    "max_pool_takes_taps",
    "max_pool_with_indices",
    "max_unpool",
]

Ints = Sequence[int]


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    padding_mode: str = "zeros",
) -> Tensor:
    """Convolution of input (N, C_in, *M) with weight (C_out, C_in / groups, *K) and bias (C_out).

    `padding` is (begin, end) for each spatial axis, outermost first; `padding_mode` is "zeros",
    "reflect", "replicate" or "circular", as in torch.nn.Conv2d.
    """
    return autograd.convolution(
        input,
        weight,
        bias,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
    )


def convolution_grad_input(
    grad_output: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    padding_mode: str = "zeros",
) -> Tensor:
    """Gradient of `convolution` for its input, which is the transposed convolution.

    grad_output (N, C_out, *L), weight (C_out, C_in / groups, *K), bias (C_in) or None; the result
    is (N, C_in, *input_size).
    """
    return autograd.convolution_grad_input(
        grad_output,
        weight,
        bias,
        input_size,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
    )


def convolution_grad_weight(
    grad_output: Tensor,
    input: Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    padding_mode: str = "zeros",
) -> Tensor:
    """Gradient of `convolution` for its weight: (C_out, C_in / groups, *kernel_size).

    grad_output (N, C_out, *L), input (N, C_in, *M).
    """
    return autograd.convolution_grad_weight(
        grad_output,
        input,
        kernel_size,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
    )


def gradient_needs_places(input: Tensor) -> bool:
    """Whether to note where the maxima are with the values of a max pooling: for its gradient.

    Found on the way they cost far less than found again.
    """
    return torch.is_grad_enabled() and getattr(input, "requires_grad", False)


def max_pool_takes_taps(
    input: Tensor, rank: int, kernel_size: IntOrInts, stride: IntOrInts, dilation: IntOrInts
) -> bool:
    """Whether the gradient of a max pooling is made from taps, and not from indices.

    Where windows overlap in depth as well an input lies in so many of them that it takes a CPU
    longer to look at each than to follow indices, unless neighbours are channels.
    """
    if not taps_suffice(kernel_size, stride, dilation):
        return False
    if rank < 3 or _first(kernel_size) <= _first(stride) or input.is_cuda:
        return True
    return input.dim() == 5 and input.is_contiguous(memory_format=torch.channels_last_3d)


def _first(sizes: IntOrInts) -> int:
    return sizes if isinstance(sizes, int) else sizes[0]


def max_pool(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
) -> Tensor:
    """The values of a max pooling of input (N, C, *M), as torch.nn.functional.max_pool2d."""
    if gradient_needs_places(input):
        pool = (
            autograd.max_pool_with_taps
            if max_pool_takes_taps(input, len(kernel_size), kernel_size, stride, dilation)
            else autograd.max_pool_with_indices
        )
        return pool(input, kernel_size, stride, padding, dilation, ceil_mode)[0]
    return autograd.max_pool(input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool_with_indices(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """(values, indices) of a max pooling; indices are int64 positions in the flattened plane."""
    return autograd.max_pool_with_indices(input, kernel_size, stride, padding, dilation, ceil_mode)


def adaptive_max_pool(input: Tensor, output_size: Ints) -> tuple[Tensor, Tensor]:
    """(values, indices) of an adaptive max pooling of input (N, C, *M) to (N, C, *output_size)."""
    return autograd.adaptive_max_pool(input, output_size)


def fractional_max_pool(
    input: Tensor, kernel_size: Ints, output_size: Ints, random_samples: Tensor
) -> tuple[Tensor, Tensor]:
    """(values, indices) of a fractional max pooling; random_samples (N, C, rank) in [0, 1)."""
    return autograd.fractional_max_pool(input, kernel_size, output_size, random_samples)


def max_pool_backward(grad_output: Tensor, indices: Tensor, input_size: Ints) -> Tensor:
    """result[indices[i]] += grad_output[i] in each plane: (N, C, *L) to (N, C, *input_size)."""
    return autograd.max_pool_backward(grad_output, indices, input_size)


def max_pool_gather(input: Tensor, indices: Tensor) -> Tensor:
    """result[i] = input[indices[i]] in each plane: (N, C, *M) by (N, C, *L) to (N, C, *L)."""
    return autograd.max_pool_gather(input, indices)


def max_unpool(input: Tensor, indices: Tensor, output_size: Ints) -> Tensor:
    """result[indices[i]] = input[i] in each plane, zero elsewhere: to (N, C, *output_size)."""
    return autograd.max_unpool(input, indices, output_size)


def avg_pool(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """The mean of each window of input (N, C, *M), as torch.nn.functional.avg_pool2d."""
    return autograd.avg_pool(
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def avg_pool_backward(
    grad_output: Tensor,
    input_size: Ints,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """The adjoint of `avg_pool`: grad_output (N, C, *L) spread over (N, C, *input_size)."""
    return autograd.avg_pool_backward(
        grad_output,
        input_size,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def adaptive_avg_pool(input: Tensor, output_size: Ints) -> Tensor:
    """The means over windows that divide input (N, C, *M) evenly into (N, C, *output_size)."""
    return autograd.adaptive_avg_pool(input, output_size)


def adaptive_avg_pool_backward(grad_output: Tensor, input_size: Ints) -> Tensor:
    """The adjoint of `adaptive_avg_pool`: (N, C, *L) spread over (N, C, *input_size)."""
    return autograd.adaptive_avg_pool_backward(grad_output, input_size)
