"""conv1d, 2d, 3d and conv_transpose1d, 2d, 3d as in torch.nn.functional."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from cnnops import autocast, autograd, ops, support
from cnnops.geometry import (
    IntOrInts,
    expand,
    grad_input_size,
    integer,
    per_side,
    same_padding,
    spatial,
)
from cnnops.plain import plain_call

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
]

_any_autocast = torch._C._is_any_autocast_enabled
_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_plain_conv = plain_call("convNd", autograd.Convolution)
_plain_conv_transpose = plain_call("conv_transposeNd", autograd.ConvolutionGradInput)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts | str = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> Tensor:
    """1-d convolution, as torch.nn.functional.conv1d.

    Args:
        input: (N, C_in, L) or (C_in, L); float32, float64, bfloat16, float16 or any integer dtype.
        weight: (C_out, C_in / groups, K), of the same dtype.
        bias: (C_out) or None.
        stride, dilation: an int or a list of one.
        padding: an int, a list of one, "valid" (none) or "same" (the size stays; stride 1 only;
            an odd position goes to the end and nothing is copied).
        groups: number of blocked connections from input to output channels.

    Returns:
        (N, C_out, L_out) or (C_out, L_out).

    Raises:
        RuntimeError, TypeError: bad arguments, as torch raises them.
        UnsupportedError: a device, dtype or layout without kernels.
    """
    return _conv(conv1d, 1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts | str = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> Tensor:
    """2-d convolution, as torch.nn.functional.conv2d.

    input (N, C_in, H, W) or (C_in, H, W), weight (C_out, C_in / groups, K_h, K_w); otherwise as
    `conv1d`. The result is channels_last where input or weight is.
    """
    return _conv(conv2d, 2, input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts | str = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> Tensor:
    """3-d convolution, as torch.nn.functional.conv3d.

    input (N, C_in, D, H, W) or (C_in, D, H, W), weight (C_out, C_in / groups, K_d, K_h, K_w);
    otherwise as `conv1d`. The result is channels_last_3d where input or weight is.
    """
    return _conv(conv3d, 3, input, weight, bias, stride, padding, dilation, groups)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
) -> Tensor:
    """1-d transposed convolution, as torch.nn.functional.conv_transpose1d.

    Args:
        input: (N, C_in, L) or (C_in, L); float32, float64, bfloat16, float16 or int64.
        weight: (C_in, C_out / groups, K), of the same dtype.
        bias: (C_out) or None.
        stride, padding, dilation: those of the convolution whose input gradient this is.
        output_padding: positions added at the end of the result; less than stride or dilation.
        groups: number of blocked connections from input to output channels.

    Returns:
        (N, C_out, L_out) or (C_out, L_out) with
        L_out = (L - 1) stride - 2 padding + dilation (K - 1) + output_padding + 1.

    Raises:
        RuntimeError, TypeError: bad arguments, as torch raises them.
        UnsupportedError: a device, dtype or layout without kernels.
    """
    return _conv_transpose(
        conv_transpose1d,
        1,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
) -> Tensor:
    """2-d transposed convolution, as torch.nn.functional.conv_transpose2d.

    input (N, C_in, H, W) or (C_in, H, W), weight (C_in, C_out / groups, K_h, K_w); otherwise as
    `conv_transpose1d`.
    """
    return _conv_transpose(
        conv_transpose2d,
        2,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
    )


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: IntOrInts = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
) -> Tensor:
    """3-d transposed convolution, as torch.nn.functional.conv_transpose3d.

    input (N, C_in, D, H, W) or (C_in, D, H, W), weight (C_in, C_out / groups, K_d, K_h, K_w);
    otherwise as `conv_transpose1d`.
    """
    return _conv_transpose(
        conv_transpose3d,
        3,
        input,
        weight,
        bias,
        stride,
        padding,
        output_padding,
        groups,
        dilation,
    )


def _conv(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrInts,
    padding: IntOrInts | str,
    dilation: IntOrInts,
    groups: int,
    convolve: Callable[..., Tensor] = ops.convolution,
) -> Tensor:
    """The convolution `function` of `rank` spatial axes, computed by `convolve`."""
    if convolve is ops.convolution and not _dynamo_is_compiling():
        output = _plain_conv(rank, input, weight, bias, stride, padding, dilation, groups)
        if output is not None:
            return output
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            function,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            dilation,
            groups,
        )
    support.check(function.__name__, input, weight, *support.given(bias))
    if weight.numel() == 0:
        _check_channels(function.__name__, rank, input, weight)
    if _any_autocast():
        input, weight, bias = autocast.to_lower_precision(input, weight, bias)  # type: ignore
    stride = expand("stride", stride, rank)
    dilation = expand("dilation", dilation, rank)
    if type(padding) is int:
        sides = expand("padding", padding, 2 * rank)
    elif isinstance(padding, str):
        sides = _named_padding(padding, input, weight, rank, stride, dilation)
    else:
        sides = per_side(expand("padding", padding, rank))
    groups = integer("groups", groups)
    return convolve(input, weight, bias, stride, sides, dilation, groups)


def conv_by(
    rank: int,
    plain_conv: Callable[..., Tensor | None],
    convolve: Callable[..., Tensor],
    applies: Callable[[Tensor, Tensor, Tensor | None], bool],
) -> Callable[..., Tensor]:
    """conv1d, conv2d or conv3d, by `rank`, on `convolve` in place of `ops.convolution`.

    That is where `applies`, asked with input, weight and bias, says so. What `plain_conv` returns
    for the rank and the arguments comes first, unless it is None.
    """
    function = (conv1d, conv2d, conv3d)[rank - 1]

    @functools.wraps(function)
    def call(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: IntOrInts = 1,
        padding: IntOrInts | str = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
    ) -> Tensor:
        arguments = (input, weight, bias, stride, padding, dilation, groups)
        output = plain_conv(rank, *arguments)
        if output is not None:
            return output
        if applies(input, weight, bias):
            return _conv(function, rank, *arguments, convolve)
        return _conv(function, rank, *arguments)

    return call


def _check_channels(name: str, rank: int, input: Tensor, weight: Tensor) -> None:
    """UnsupportedError for no input channels, where torch's result has no output channels."""
    well_formed = weight.dim() == rank + 2 and input.dim() in (rank + 1, rank + 2)
    if well_formed and weight.shape[1] == input.shape[-rank - 1] == 0:
        raise support.UnsupportedError(f"{name}: cnnops has no kernels for zero input channels")


def _named_padding(
    name: str,
    input: Tensor,
    weight: Tensor,
    rank: int,
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Padding per side of "valid" and "same"; RuntimeError for other names and strided "same"."""
    if name == "valid":
        return (0,) * (2 * rank)
    if name != "same":
        raise RuntimeError(f"Invalid padding string: '{name}'")
    if any(step != 1 for step in stride):
        raise RuntimeError(
            f"padding='same' is not supported for strided convolutions, but got stride={stride}"
        )
    if weight.dim() != rank + 2:
        raise RuntimeError(
            f"Expected {weight.dim()}-dimensional input for {weight.dim()}-dimensional weight "
            f"{list(weight.shape)}, but got {input.dim()}-dimensional input of size "
            f"{list(input.shape)} instead"
        )
    return same_padding(spatial(weight, rank), dilation)


def _conv_transpose(
    function: Callable[..., Tensor],
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrInts,
    padding: IntOrInts,
    output_padding: IntOrInts,
    groups: int,
    dilation: IntOrInts,
) -> Tensor:
    """The transposed convolution `function` of `rank` spatial axes."""
    if not _dynamo_is_compiling():
        output = _plain_conv_transpose(
            rank, input, weight, bias, stride, padding, output_padding, groups, dilation
        )
        if output is not None:
            return output
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            function,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            padding,
            output_padding,
            groups,
            dilation,
        )
    support.check(function.__name__, input, weight, *support.given(bias))
    if _any_autocast():
        input, weight, bias = autocast.to_lower_precision(input, weight, bias)  # type: ignore
    stride = expand("stride", stride, rank)
    sides = per_side(expand("padding", padding, rank))
    output_padding = expand("output_padding", output_padding, rank)
    dilation = expand("dilation", dilation, rank)
    groups = integer("groups", groups)
    if weight.dim() != rank + 2 or input.dim() not in (rank + 1, rank + 2):
        raise RuntimeError(
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input and {rank + 2}D "
            f"weight to {function.__name__}, but got input of size: {list(input.shape)} and "
            f"weight of size: {list(weight.shape)}"
        )
    _check_output_padding(output_padding, stride, dilation)
    size = grad_input_size(
        spatial(input, rank), spatial(weight, rank), stride, sides, output_padding, dilation
    )
    return ops.convolution_grad_input(input, weight, bias, size, stride, sides, dilation, groups)


def _check_output_padding(
    output_padding: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> None:
    for extra, step, spread in zip(output_padding, stride, dilation, strict=True):
        if extra < 0:
            raise RuntimeError(
                f"negative output_padding is not supported, but got {output_padding}"
            )
        if extra >= step and extra >= spread:
            raise RuntimeError(
                "output padding must be smaller than either stride or dilation, but got "
                f"output_padding={output_padding}, stride={stride} and dilation={dilation}"
            )
