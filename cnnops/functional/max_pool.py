"""Max pooling: max_pool1d, 2d and 3d, with and without indices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from cnnops import autograd, ops
from cnnops.functional.arguments import flag, supported, window_stride
from cnnops.geometry import IntOrInts, expand
from cnnops.plain import plain_call

_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_plain_max_pool = plain_call("max_poolNd", autograd.MaxPool)
_plain_max_pool_with_indices = plain_call("max_pool_with_indicesNd", autograd.MaxPoolWithIndices)
_plain_max_pool_of_indices = plain_call(
    "max_pool_with_indicesNd", autograd.MaxPoolWithIndices, values_only=True
)
_plain_max_pool_of_taps = plain_call(
    "max_pool_with_tapsNd", autograd.MaxPoolWithTaps, values_only=True
)


def max_pool1d(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """1-d max pooling, as torch.nn.functional.max_pool1d.

    Args:
        input: (N, C, L) or (C, L); float32, float64, bfloat16, float16 or an integer type.
        kernel_size, dilation: an int or a list of one.
        stride: the same; None or an empty list stands for kernel_size.
        padding: positions of minus infinity on both sides; at most half the kernel.
        ceil_mode: whether the last window may hang over the end.
        return_indices: whether to return (values, indices) as `max_unpool1d` takes them.

    Returns:
        (N, C, L_out) or (C, L_out); NaN counts as the largest value.

    Raises:
        RuntimeError, TypeError: bad arguments, as torch raises them.
        UnsupportedError: a device, dtype or layout without kernels.
    """
    if return_indices:
        return max_pool1d_with_indices(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
        )
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool1d, (input,), input, kernel_size, stride, padding, dilation, ceil_mode
        )
    return _max_pool("max_pool1d", 1, input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool1d_with_indices(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """(values, indices) of `max_pool1d`; indices are int64 positions in the flattened signal."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool1d_with_indices,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
            return_indices,
        )
    return _max_pool_with_indices(
        "max_pool1d_with_indices", 1, input, kernel_size, stride, padding, dilation, ceil_mode
    )


def max_pool2d(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """2-d max pooling of (N, C, H, W) or (C, H, W), as torch.nn.functional.max_pool2d.

    Lists have one or two entries; otherwise as `max_pool1d`. The result has the input's layout.
    """
    if return_indices:
        return max_pool2d_with_indices(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
        )
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool2d, (input,), input, kernel_size, stride, padding, dilation, ceil_mode
        )
    return _max_pool("max_pool2d", 2, input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d_with_indices(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """(values, indices) of `max_pool2d`; indices are int64 positions in the flattened plane."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool2d_with_indices,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
            return_indices,
        )
    return _max_pool_with_indices(
        "max_pool2d_with_indices", 2, input, kernel_size, stride, padding, dilation, ceil_mode
    )


def max_pool3d(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """3-d max pooling of (N, C, D, H, W) or (C, D, H, W), as torch.nn.functional.max_pool3d.

    Lists have one or three entries; otherwise as `max_pool1d`. The result has the input's layout.
    """
    if return_indices:
        return max_pool3d_with_indices(
            input, kernel_size, stride, padding, dilation, ceil_mode, return_indices
        )
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool3d, (input,), input, kernel_size, stride, padding, dilation, ceil_mode
        )
    return _max_pool("max_pool3d", 3, input, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool3d_with_indices(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> tuple[Tensor, Tensor]:
    """(values, indices) of `max_pool3d`; indices are int64 positions in the flattened plane."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            max_pool3d_with_indices,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
            return_indices,
        )
    return _max_pool_with_indices(
        "max_pool3d_with_indices", 3, input, kernel_size, stride, padding, dilation, ceil_mode
    )


def _max_pool(
    name: str,
    rank: int,
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    dilation: IntOrInts,
    ceil_mode: bool,
) -> Tensor:
    """The values of the max pooling `name` of `rank` spatial axes."""
    steps = kernel_size if stride is None else stride
    if not _dynamo_is_compiling():
        arguments = (rank, input, kernel_size, steps, padding, dilation, ceil_mode)
        if ops.gradient_needs_places(input):
            pool = (
                _plain_max_pool_of_taps
                if ops.max_pool_takes_taps(input, rank, kernel_size, steps, dilation)
                else _plain_max_pool_of_indices
            )
            outputs = pool(*arguments)
            output = None if outputs is None else outputs[0]
        else:
            output = _plain_max_pool(*arguments)
        if output is not None:
            return output
    return ops.max_pool(
        *_max_pool_arguments(name, rank, input, kernel_size, steps, padding, dilation, ceil_mode)
    )


def _max_pool_with_indices(
    name: str,
    rank: int,
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    dilation: IntOrInts,
    ceil_mode: bool,
) -> tuple[Tensor, Tensor]:
    """Values and indices of the max pooling `name` of `rank` spatial axes."""
    steps = kernel_size if stride is None else stride
    if not _dynamo_is_compiling():
        output = _plain_max_pool_with_indices(
            rank, input, kernel_size, steps, padding, dilation, ceil_mode
        )
        if output is not None:
            return output
    return ops.max_pool_with_indices(
        *_max_pool_arguments(name, rank, input, kernel_size, steps, padding, dilation, ceil_mode)
    )


def _max_pool_arguments(
    name: str,
    rank: int,
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts,
    padding: IntOrInts,
    dilation: IntOrInts,
    ceil_mode: bool,
) -> tuple[Any, ...]:
    """The arguments of ops.max_pool: checked, cast and expanded."""
    input = supported(name, input)
    kernel = expand("kernel_size", kernel_size, rank)
    return (
        input,
        kernel,
        window_stride(stride, kernel),
        expand("padding", padding, rank),
        expand("dilation", dilation, rank),
        flag("ceil_mode", ceil_mode),
    )
