"""Average pooling: avg_pool1d, 2d and 3d."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from cnnops import autograd, ops
from cnnops.functional.arguments import flag, supported, window_stride
from cnnops.geometry import IntOrInts, expand, integer
from cnnops.plain import plain_call

_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_plain_avg_pool = plain_call("avg_poolNd", autograd.AvgPool)


def avg_pool1d(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """1-d average pooling of (N, C, L) or (C, L), as torch.nn.functional.avg_pool1d.

    Lists have one or  entries; `divisor_override` replaces the divisor; otherwise as `avg_pool1d`.
    """
    return _avg_pool(
        avg_pool1d,
        1,
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
    )


def avg_pool2d(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """2-d average pooling of (N, C, H, W) or (C, H, W), as torch.nn.functional.avg_pool2d.

    Lists have one or two entries; `divisor_override` replaces the divisor; otherwise as
    `avg_pool1d`.
    """
    return _avg_pool(
        avg_pool2d,
        2,
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def avg_pool3d(
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """3-d average pooling of (N, C, D, H, W) or (C, D, H, W), as torch.nn.functional.avg_pool3d.

    Lists have one or three entries; `divisor_override` replaces the divisor; otherwise as
    `avg_pool1d`.
    """
    return _avg_pool(
        avg_pool3d,
        3,
        input,
        kernel_size,
        stride,
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def _avg_pool(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    ceil_mode: bool,
    count_include_pad: bool,
    *divisor_override: int | None,
) -> Tensor:
    """The average pooling `function`; only those of 2 and 3 axes have a `divisor_override`."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            function,
            (input,),
            input,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            *divisor_override,
        )
    steps = kernel_size if stride is None else stride
    divisor = divisor_override[0] if divisor_override else None
    if not _dynamo_is_compiling():
        output = _plain_avg_pool(
            rank, input, kernel_size, steps, padding, ceil_mode, count_include_pad, divisor
        )
        if output is not None:
            return output
    input = supported(function.__name__, input)
    kernel = expand("kernel_size", kernel_size, rank)
    return ops.avg_pool(
        input,
        kernel,
        window_stride(steps, kernel),
        expand("padding", padding, rank),
        flag("ceil_mode", ceil_mode),
        flag("count_include_pad", count_include_pad),
        None if divisor is None else integer("divisor_override", divisor),
    )
