"""The pooling functions of torch.nn.functional: max, average, adaptive, lp, fractional, unpooling.

The functions of one kind differ in their rank only; the work is in one private function for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import SymInt, Tensor
from torch.overrides import (
    handle_torch_function,
    has_torch_function_unary,
    has_torch_function_variadic,
)

from cnnops import autocast, ops, support
from cnnops.geometry import IntOrInts, expand, integer

SizeOrSizes = int | Sequence[int | None]
RatioOrRatios = float | Sequence[float]

_any_autocast = torch._C._is_any_autocast_enabled


# ---------------------------------------------------------------------------------------------
# Max pooling.


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
    name = "max_pool1d"
    return ops.max_pool(
        *_max_pool_arguments(name, 1, input, kernel_size, stride, padding, dilation, ceil_mode)
    )


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
    name = "max_pool1d"
    return ops.max_pool_with_indices(
        *_max_pool_arguments(name, 1, input, kernel_size, stride, padding, dilation, ceil_mode)
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
    name = "max_pool2d"
    return ops.max_pool(
        *_max_pool_arguments(name, 2, input, kernel_size, stride, padding, dilation, ceil_mode)
    )


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
    name = "max_pool2d"
    return ops.max_pool_with_indices(
        *_max_pool_arguments(name, 2, input, kernel_size, stride, padding, dilation, ceil_mode)
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
    name = "max_pool3d"
    return ops.max_pool(
        *_max_pool_arguments(name, 3, input, kernel_size, stride, padding, dilation, ceil_mode)
    )


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
    name = "max_pool3d"
    return ops.max_pool_with_indices(
        *_max_pool_arguments(name, 3, input, kernel_size, stride, padding, dilation, ceil_mode)
    )


def _max_pool_arguments(
    name: str,
    rank: int,
    input: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    dilation: IntOrInts,
    ceil_mode: bool,
) -> tuple[Any, ...]:
    """The arguments of ops.max_pool: checked, cast and expanded."""
    input = _supported(name, input)
    kernel = expand("kernel_size", kernel_size, rank)
    return (
        input,
        kernel,
        _stride(stride, kernel),
        expand("padding", padding, rank),
        expand("dilation", dilation, rank),
        _flag("ceil_mode", ceil_mode),
    )


def _supported(name: str, input: Tensor, *others: Tensor) -> Tensor:
    """`input` after the check for kernels and the cast of autocast."""
    support.check(name, input, *others)
    return autocast.to_float32(name, input) if _any_autocast() else input


def _stride(stride: IntOrInts | None, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The stride of a pooling window: None and an empty list stand for the kernel size."""
    if stride is None or (isinstance(stride, (list, tuple)) and not stride):
        return kernel
    return expand("stride", stride, len(kernel))


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"argument '{name}' must be bool, not {type(value).__name__}")
    return value


# ---------------------------------------------------------------------------------------------
# Average pooling.


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

    Lists have one or two entries; `divisor_override` replaces the divisor; otherwise as `avg_pool1d`.
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

    Lists have one or three entries; `divisor_override` replaces the divisor; otherwise as `avg_pool1d`.
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
    input = _supported(function.__name__, input)
    kernel = expand("kernel_size", kernel_size, rank)
    divisor = divisor_override[0] if divisor_override else None
    return ops.avg_pool(
        input,
        kernel,
        _stride(stride, kernel),
        expand("padding", padding, rank),
        _flag("ceil_mode", ceil_mode),
        _flag("count_include_pad", count_include_pad),
        None if divisor is None else integer("divisor_override", divisor),
    )


# ---------------------------------------------------------------------------------------------
# Adaptive pooling: the output size is given.


def adaptive_max_pool1d(
    input: Tensor, output_size: IntOrInts, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """1-d adaptive max pooling, as torch.nn.functional.adaptive_max_pool1d.

    input (N, C, L) or (C, L), float32, float64, bfloat16 or float16; `output_size` is
    an int or a list of one. With `return_indices` returns (values, indices).
    """
    if return_indices:
        return adaptive_max_pool1d_with_indices(input, output_size, return_indices)
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_max_pool1d, (input,), input, output_size)
    return adaptive_max_pool1d_with_indices(input, output_size)[0]


def adaptive_max_pool1d_with_indices(
    input: Tensor, output_size: IntOrInts, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """(values, indices) of `adaptive_max_pool1d`."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool1d_with_indices, (input,), input, output_size, return_indices
        )
    input = _supported("adaptive_max_pool1d", input)
    return ops.adaptive_max_pool(input, _adaptive_size(output_size, input, 1))


def adaptive_max_pool2d(
    input: Tensor, output_size: SizeOrSizes, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """2-d adaptive max pooling, as torch.nn.functional.adaptive_max_pool2d.

    input (N, C, H, W) or (C, H, W), float32, float64, bfloat16 or float16; `output_size` is
    an int, or a list in which None keeps the input's size. With `return_indices` returns (values, indices).
    """
    if return_indices:
        return adaptive_max_pool2d_with_indices(input, output_size, return_indices)
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_max_pool2d, (input,), input, output_size)
    return adaptive_max_pool2d_with_indices(input, output_size)[0]


def adaptive_max_pool2d_with_indices(
    input: Tensor, output_size: SizeOrSizes, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """(values, indices) of `adaptive_max_pool2d`."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool2d_with_indices, (input,), input, output_size, return_indices
        )
    input = _supported("adaptive_max_pool2d", input)
    return ops.adaptive_max_pool(input, _adaptive_size(output_size, input, 2))


def adaptive_max_pool3d(
    input: Tensor, output_size: SizeOrSizes, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """3-d adaptive max pooling, as torch.nn.functional.adaptive_max_pool3d.

    input (N, C, D, H, W) or (C, D, H, W), float32, float64, bfloat16 or float16; `output_size` is
    an int, or a list in which None keeps the input's size. With `return_indices` returns (values, indices).
    """
    if return_indices:
        return adaptive_max_pool3d_with_indices(input, output_size, return_indices)
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_max_pool3d, (input,), input, output_size)
    return adaptive_max_pool3d_with_indices(input, output_size)[0]


def adaptive_max_pool3d_with_indices(
    input: Tensor, output_size: SizeOrSizes, return_indices: bool = False
) -> tuple[Tensor, Tensor]:
    """(values, indices) of `adaptive_max_pool3d`."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            adaptive_max_pool3d_with_indices, (input,), input, output_size, return_indices
        )
    input = _supported("adaptive_max_pool3d", input)
    return ops.adaptive_max_pool(input, _adaptive_size(output_size, input, 3))


def adaptive_avg_pool1d(input: Tensor, output_size: IntOrInts) -> Tensor:
    """1-d adaptive average pooling, as torch.nn.functional.adaptive_avg_pool1d.

    input (N, C, L) or (C, L), float32, float64, bfloat16 or float16; `output_size` is
    an int or a list of one.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool1d, (input,), input, output_size)
    input = _supported("adaptive_avg_pool1d", input)
    return ops.adaptive_avg_pool(input, _adaptive_size(output_size, input, 1))


def adaptive_avg_pool2d(input: Tensor, output_size: SizeOrSizes) -> Tensor:
    """2-d adaptive average pooling, as torch.nn.functional.adaptive_avg_pool2d.

    input (N, C, H, W) or (C, H, W), float32, float64, bfloat16 or float16; `output_size` is
    an int, or a list in which None keeps the input's size.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool2d, (input,), input, output_size)
    input = _supported("adaptive_avg_pool2d", input)
    return ops.adaptive_avg_pool(input, _adaptive_size(output_size, input, 2))


def adaptive_avg_pool3d(input: Tensor, output_size: SizeOrSizes) -> Tensor:
    """3-d adaptive average pooling, as torch.nn.functional.adaptive_avg_pool3d.

    input (N, C, D, H, W) or (C, D, H, W), float32, float64, bfloat16 or float16; `output_size` is
    an int, or a list in which None keeps the input's size.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool3d, (input,), input, output_size)
    input = _supported("adaptive_avg_pool3d", input)
    return ops.adaptive_avg_pool(input, _adaptive_size(output_size, input, 3))


def _adaptive_size(output_size: SizeOrSizes, input: Tensor, rank: int) -> tuple[int, ...]:
    """The output size of an adaptive pooling, in which None is the input's size."""
    if rank == 1 or isinstance(output_size, (int, SymInt)):
        return expand("output_size", output_size, rank)
    if input.dim() <= len(output_size):
        raise ValueError(f"Input dimension should be at least {len(output_size) + 1}")
    kept = input.shape[-len(output_size) :]
    size = [old if new is None else new for new, old in zip(output_size, kept, strict=False)]
    return expand("output_size", size, rank, short=False)


# ---------------------------------------------------------------------------------------------
# Power-average pooling: composed of the others.


def lp_pool1d(
    input: Tensor,
    norm_type: int | float,
    kernel_size: int,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """1-d power-average pooling, as torch.nn.functional.lp_pool1d.

    input (N, C, L) or (C, L). The p-norm of each window with p = `norm_type`, which may be
    infinite; ValueError where it is 0.
    """
    return _lp_pool(lp_pool1d, 1, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool2d(
    input: Tensor,
    norm_type: int | float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """2-d power-average pooling, as torch.nn.functional.lp_pool2d.

    input (N, C, H, W) or (C, H, W). The p-norm of each window with p = `norm_type`, which may be
    infinite; ValueError where it is 0.
    """
    return _lp_pool(lp_pool2d, 2, input, norm_type, kernel_size, stride, ceil_mode)


def lp_pool3d(
    input: Tensor,
    norm_type: int | float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """3-d power-average pooling, as torch.nn.functional.lp_pool3d.

    input (N, C, D, H, W) or (C, D, H, W). The p-norm of each window with p = `norm_type`, which may be
    infinite; ValueError where it is 0.
    """
    return _lp_pool(lp_pool3d, 3, input, norm_type, kernel_size, stride, ceil_mode)


_MAX_POOLS: dict[int, Callable[..., Any]] = {1: max_pool1d, 2: max_pool2d, 3: max_pool3d}
_AVG_POOLS: dict[int, Callable[..., Tensor]] = {1: avg_pool1d, 2: avg_pool2d, 3: avg_pool3d}


def _lp_pool(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    norm_type: int | float,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    ceil_mode: bool,
) -> Tensor:
    """The power-average pooling `function`, composed step for step as torch composes it."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            function, (input,), input, norm_type, kernel_size, stride, ceil_mode
        )
    window: Any = kernel_size
    if rank > 1:
        kernel = _as_tuple(kernel_size, rank)
        if len(kernel) != rank:
            raise ValueError(f"expected kernel_size of {rank} values, but got {len(kernel)}")
        window = math.prod(kernel)
    max_pool, avg_pool = _MAX_POOLS[rank], _AVG_POOLS[rank]
    if isinstance(norm_type, (int, float)):
        if norm_type == 0:
            raise ValueError(f"norm_type must be a non-zero value, but got {norm_type}")
        if norm_type == math.inf:
            return max_pool(input.abs(), kernel_size, stride, 0, 1, ceil_mode)
        if norm_type == -math.inf:
            return -max_pool(-input.abs(), kernel_size, stride, 0, 1, ceil_mode)
    mean = avg_pool(input.pow(norm_type), kernel_size, stride, 0, ceil_mode)
    # sign(m) relu(|m|) is m with the gradient 0 at 0, where that of the root is infinite.
    return (torch.sign(mean) * torch.relu(torch.abs(mean))).mul(window).pow(1.0 / norm_type)


def _as_tuple(value: Any, rank: int) -> tuple[Any, ...]:
    """A tuple of an iterable of any length, or `rank` times a single value."""
    return tuple(value) if isinstance(value, Iterable) else (value,) * rank


# ---------------------------------------------------------------------------------------------
# Fractional max pooling: windows at pseudo-random positions.


def fractional_max_pool2d(
    input: Tensor,
    kernel_size: IntOrInts,
    output_size: IntOrInts | None = None,
    output_ratio: RatioOrRatios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """2-d fractional max pooling, as torch.nn.functional.fractional_max_pool2d.

    input (N, C, H, W) or (C, H, W), float32, float64, bfloat16 or float16. Either `output_size` or
    `output_ratio` gives the size of the result, or ValueError. `_random_samples` (N, C, 2) in
    [0, 1) places the windows; it is drawn as torch draws it where None.
    """
    if return_indices:
        return fractional_max_pool2d_with_indices(
            input, kernel_size, output_size, output_ratio, return_indices, _random_samples
        )
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool2d,
            (input, _random_samples),
            input,
            kernel_size,
            output_size=output_size,
            output_ratio=output_ratio,
            return_indices=return_indices,
            _random_samples=_random_samples,
        )
    return fractional_max_pool2d_with_indices(
        input, kernel_size, output_size, output_ratio, return_indices, _random_samples
    )[0]


def fractional_max_pool2d_with_indices(
    input: Tensor,
    kernel_size: IntOrInts,
    output_size: IntOrInts | None = None,
    output_ratio: RatioOrRatios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(values, indices) of `fractional_max_pool2d`."""
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool2d_with_indices,
            (input, _random_samples),
            input,
            kernel_size,
            output_size=output_size,
            output_ratio=output_ratio,
            return_indices=return_indices,
            _random_samples=_random_samples,
        )
    return _fractional_max_pool(2, input, kernel_size, output_size, output_ratio, _random_samples)


def fractional_max_pool3d(
    input: Tensor,
    kernel_size: IntOrInts,
    output_size: IntOrInts | None = None,
    output_ratio: RatioOrRatios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """3-d fractional max pooling, as torch.nn.functional.fractional_max_pool3d.

    input (N, C, D, H, W) or (C, D, H, W), float32, float64, bfloat16 or float16. Either `output_size` or
    `output_ratio` gives the size of the result, or ValueError. `_random_samples` (N, C, 3) in
    [0, 1) places the windows; it is drawn as torch draws it where None.
    """
    if return_indices:
        return fractional_max_pool3d_with_indices(
            input, kernel_size, output_size, output_ratio, return_indices, _random_samples
        )
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool3d,
            (input, _random_samples),
            input,
            kernel_size,
            output_size=output_size,
            output_ratio=output_ratio,
            return_indices=return_indices,
            _random_samples=_random_samples,
        )
    return fractional_max_pool3d_with_indices(
        input, kernel_size, output_size, output_ratio, return_indices, _random_samples
    )[0]


def fractional_max_pool3d_with_indices(
    input: Tensor,
    kernel_size: IntOrInts,
    output_size: IntOrInts | None = None,
    output_ratio: RatioOrRatios | None = None,
    return_indices: bool = False,
    _random_samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(values, indices) of `fractional_max_pool3d`."""
    if has_torch_function_variadic(input, _random_samples):
        return handle_torch_function(
            fractional_max_pool3d_with_indices,
            (input, _random_samples),
            input,
            kernel_size,
            output_size=output_size,
            output_ratio=output_ratio,
            return_indices=return_indices,
            _random_samples=_random_samples,
        )
    return _fractional_max_pool(3, input, kernel_size, output_size, output_ratio, _random_samples)


def _fractional_max_pool(
    rank: int,
    input: Tensor,
    kernel_size: IntOrInts,
    output_size: IntOrInts | None,
    output_ratio: RatioOrRatios | None,
    random_samples: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(values, indices) of the fractional max pooling of `rank` spatial axes."""
    name = f"fractional_max_pool{rank}d"
    support.check(name, input, random_samples)
    if output_size is None:
        output_size = _ratio_of(input, output_ratio, rank)
    if random_samples is None:
        batch = 1 if input.dim() == rank + 1 else input.size(0)
        random_samples = torch.rand(
            batch, input.size(-rank - 1), rank, dtype=input.dtype, device=input.device
        )
    if _any_autocast():
        input = autocast.to_float32(name, input)
        random_samples = autocast.to_float32(name, random_samples)
    return ops.fractional_max_pool(
        input,
        expand("kernel_size", kernel_size, rank, short=False),
        expand("output_size", output_size, rank, short=False),
        random_samples,
    )


def _ratio_of(input: Tensor, output_ratio: RatioOrRatios | None, rank: int) -> list[int]:
    """The output size that is `output_ratio` of the input's, rounded down."""
    name = f"fractional_max_pool{rank}d"
    if output_ratio is None:
        raise ValueError(f"{name} requires specifying either an output_size or an output_ratio")
    ratios = _as_tuple(output_ratio, rank)
    if len(ratios) != rank:
        raise ValueError(f"{name} requires output_ratio to be a number or {rank} numbers")
    return [int(input.size(axis - rank) * ratios[axis]) for axis in range(rank)]


# ---------------------------------------------------------------------------------------------
# Max unpooling: values back to where the indices say they came from.


def max_unpool1d(
    input: Tensor,
    indices: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """1-d partial inverse of `max_pool1d`, as torch.nn.functional.max_unpool1d.

    input and int64 indices (N, C, L) or (C, L); zero where no index points. `output_size`
    chooses among the sizes that the pooling maps to the input's; ValueError where it is none.
    """
    return _max_unpool(max_unpool1d, 1, input, indices, kernel_size, stride, padding, output_size)


def max_unpool2d(
    input: Tensor,
    indices: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """2-d partial inverse of `max_pool2d`, as torch.nn.functional.max_unpool2d.

    input and int64 indices (N, C, H, W) or (C, H, W); zero where no index points. `output_size`
    chooses among the sizes that the pooling maps to the input's; ValueError where it is none.
    """
    return _max_unpool(max_unpool2d, 2, input, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    input: Tensor,
    indices: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: IntOrInts = 0,
    output_size: Sequence[int] | None = None,
) -> Tensor:
    """3-d partial inverse of `max_pool3d`, as torch.nn.functional.max_unpool3d.

    input and int64 indices (N, C, D, H, W) or (C, D, H, W); zero where no index points. `output_size`
    chooses among the sizes that the pooling maps to the input's; ValueError where it is none.
    """
    return _max_unpool(max_unpool3d, 3, input, indices, kernel_size, stride, padding, output_size)


def _max_unpool(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    indices: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None,
    padding: IntOrInts,
    output_size: Sequence[int] | None,
) -> Tensor:
    """The unpooling `function` of `rank` spatial axes."""
    if has_torch_function_unary(input):
        return handle_torch_function(
            function, (input,), input, indices, kernel_size, stride, padding, output_size
        )
    kernel = _as_tuple(kernel_size, rank)
    steps = kernel if stride is None else _as_tuple(stride, rank)
    size = _unpool_size(input, kernel, steps, _as_tuple(padding, rank), output_size)
    input = _supported(function.__name__, input, indices)
    if rank == 3 and any(step <= 0 for step in steps):
        raise RuntimeError(f"strides should be greater than zero, but got stride: {list(steps)}")
    return ops.max_unpool(input, indices, expand("output_size", size, rank, short=False))


def _unpool_size(
    input: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    output_size: Sequence[int] | None,
) -> Sequence[int]:
    """The spatial size of an unpooling: the smallest, or `output_size` where it is possible."""
    rank = len(kernel)
    smallest = [
        (input.size(axis - rank) - 1) * stride[axis] + kernel[axis] - 2 * padding[axis]
        for axis in range(rank)
    ]
    size: Sequence[int] = smallest
    if output_size is not None:
        size = output_size[2:] if len(output_size) == rank + 2 else output_size
        if len(size) != rank:
            raise ValueError(
                f"output_size should be a sequence containing {rank} or {rank + 2} elements, "
                f"but it has a length of '{len(size)}'"
            )
        for axis in range(rank):
            low, high = smallest[axis] - stride[axis], smallest[axis] + stride[axis]
            if not low < size[axis] < high:
                raise ValueError(
                    f'invalid output_size "{size}" (dim {axis} must be between {low} and {high})'
                )
    for axis in range(rank):
        if size[axis] < 0:
            raise ValueError(
                "max_unpooling: output_size must contain non-negative spatial dimensions, "
                f"but got output_size[{axis}]={size[axis]}"
            )
    return size
