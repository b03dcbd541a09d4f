"""Fake kernels: what each operator would return, as an empty tensor.

Sizes, dtype and strides are those of the real kernels, for plain and symbolic sizes; torch.compile,
export, FakeTensorMode and meta tensors rest on them. Arguments are checked where they run, by the
validator in C++; here only what would give a tensor that cannot be.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import cnnops._C  # noqa: F401  (loads the schemas of torch.ops.cnnops)
from cnnops.geometry import channels_last, convolution_size, pool_size, spatial

_FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}

Ints = Sequence[int]


def _empty(
    like: Tensor, size: Ints, format_rank: int = 0, dtype: torch.dtype | None = None
) -> Tensor:
    """A tensor of `size`, channels_last of `format_rank` spatial axes or contiguous for 0."""
    return torch.empty(
        size,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=_FORMATS.get(format_rank, torch.contiguous_format),
    )


def _check_same_device(tensor: Tensor, *others: Tensor | None) -> None:
    """RuntimeError for a meta tensor among real ones, which the dispatcher sends here too."""
    devices = [tensor.device, *(other.device for other in others if other is not None)]
    torch._check(
        all(device == tensor.device for device in devices),
        lambda: (
            "Expected all tensors to be on the same device, but found at least two devices: "
            f"{devices}"
        ),
    )


def _with_planes(input: Tensor, rank: int, size: Ints, dtype: torch.dtype | None = None) -> Tensor:
    """A result with the batch, channels and layout of `input` and planes of `size`."""
    torch._check(
        input.dim() in (rank + 1, rank + 2),
        lambda: f"Expected {rank + 1}D or {rank + 2}D tensor, but got size {list(input.shape)}",
    )
    for length in size:
        torch._check(length >= 0, lambda: f"Output size {list(size)} is too small")
    shape = (*input.shape[:-rank], *size)
    return _empty(input, shape, rank if channels_last(input, rank) else 0, dtype)


def _convolution(
    input: Tensor, weight: Tensor, channels: int, size: Ints, bias: Tensor | None
) -> Tensor:
    """The result of a convolution or its input gradient: (N, channels, *size)."""
    rank = weight.dim() - 2
    torch._check(
        input.dim() in (rank + 1, rank + 2),
        lambda: (
            f"Expected {rank + 1}D (unbatched) or {rank + 2}D (batched) input to "
            f"conv{rank}d, but got input of size: {list(input.shape)}"
        ),
    )
    _check_same_device(input, weight, bias)
    for other in (weight, bias):
        torch._check(
            other is None or other.dtype == input.dtype,
            lambda: f"Input type ({input.dtype}) and weight or bias type should be the same",
        )
    for length in size:
        torch._check(length >= 0, lambda: f"Output size {list(size)} is too small")
    if input.dim() == rank + 1:
        return _convolution(input.unsqueeze(0), weight, channels, size, bias).squeeze(0)
    last = channels_last(input, rank) or channels_last(weight, rank)
    return _empty(input, (input.shape[0], channels, *size), rank if last else 0)


@torch.library.register_fake("cnnops::convolution")
def _(input, weight, bias, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    rank = len(stride)
    size = convolution_size(spatial(input, rank), spatial(weight, rank), stride, padding, dilation)
    return _convolution(input, weight, weight.shape[0], size, bias)


@torch.library.register_fake("cnnops::convolution_grad_input")
def _(grad_output, weight, bias, input_size, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    return _convolution(grad_output, weight, weight.shape[1] * groups, input_size, bias)


@torch.library.register_fake("cnnops::convolution_grad_weight")
def _(grad_output, input, kernel_size, stride, padding, dilation, groups, padding_mode):  # type: ignore[no-untyped-def]
    _check_same_device(grad_output, input)
    rank = len(kernel_size)
    shape = (grad_output.shape[-rank - 1], input.shape[-rank - 1] // groups, *kernel_size)
    if input.dim() == rank + 1:
        grad_output, input = grad_output.unsqueeze(0), input.unsqueeze(0)
    last = channels_last(grad_output, rank) or channels_last(input, rank)
    return _empty(input, shape, rank if last else 0)


def _max_pooled(input: Tensor, size: Ints, dtype: torch.dtype | None = None) -> Tensor:
    """`_with_planes`; 3-d max pooling keeps the layout of an input without a batch axis too."""
    rank = len(size)
    if rank == 3 and input.dim() == 4 and not input.is_contiguous():
        batch = input.unsqueeze(0)
        if batch.is_contiguous(memory_format=torch.channels_last_3d):
            shape = (1, input.shape[0], *size)
            return _empty(input, shape, rank, dtype).squeeze(0)
    return _with_planes(input, rank, size, dtype)


@torch.library.register_fake("cnnops::max_pool")
def _(input, kernel_size, stride, padding, dilation, ceil_mode):  # type: ignore[no-untyped-def]
    rank = len(kernel_size)
    size = pool_size(spatial(input, rank), kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pooled(input, size)


@torch.library.register_fake("cnnops::max_pool_with_indices")
def _(input, kernel_size, stride, padding, dilation, ceil_mode):  # type: ignore[no-untyped-def]
    rank = len(kernel_size)
    size = pool_size(spatial(input, rank), kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pooled(input, size), _max_pooled(input, size, torch.int64)


@torch.library.register_fake("cnnops::max_pool_with_taps")
def _(input, kernel_size, stride, padding, dilation, ceil_mode):  # type: ignore[no-untyped-def]
    rank = len(kernel_size)
    size = pool_size(spatial(input, rank), kernel_size, stride, padding, dilation, ceil_mode)
    return _max_pooled(input, size), _max_pooled(input, size, torch.uint8)


@torch.library.register_fake("cnnops::max_pool_taps_backward")
def _(grad_output, taps, input_size, kernel_size, stride, padding, dilation, ceil_mode):  # type: ignore[no-untyped-def]
    _check_same_device(grad_output, taps)
    # The taps lie as the input of the pooling did; a gradient can come in any layout.
    return _with_planes(taps, len(input_size), input_size, grad_output.dtype)


@torch.library.register_fake("cnnops::adaptive_max_pool")
def _(input, output_size):  # type: ignore[no-untyped-def]
    rank = len(output_size)
    return _with_planes(input, rank, output_size), _with_planes(
        input, rank, output_size, torch.int64
    )


@torch.library.register_fake("cnnops::fractional_max_pool")
def _(input, kernel_size, output_size, random_samples):  # type: ignore[no-untyped-def]
    _check_same_device(input, random_samples)
    rank = len(output_size)
    return _with_planes(input, rank, output_size), _with_planes(
        input, rank, output_size, torch.int64
    )


@torch.library.register_fake("cnnops::max_pool_gather")
def _(input, indices):  # type: ignore[no-untyped-def]
    _check_same_device(input, indices)
    return _with_planes(indices, indices.dim() - 2, indices.shape[2:], input.dtype)


@torch.library.register_fake("cnnops::max_pool_backward")
def _(grad_output, indices, input_size):  # type: ignore[no-untyped-def]
    _check_same_device(grad_output, indices)
    # The indices lie as the input of the pooling did; a gradient can come in any layout.
    return _with_planes(indices, len(input_size), input_size, grad_output.dtype)


@torch.library.register_fake("cnnops::max_unpool")
def _(input, indices, output_size):  # type: ignore[no-untyped-def]
    _check_same_device(input, indices)
    return _with_planes(input, len(output_size), output_size)


@torch.library.register_fake("cnnops::avg_pool")
def _(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override):  # type: ignore[no-untyped-def]
    rank = len(kernel_size)
    ones = (1,) * rank
    size = pool_size(spatial(input, rank), kernel_size, stride, padding, ones, ceil_mode)
    return _with_planes(input, rank, size)


@torch.library.register_fake("cnnops::avg_pool_backward")
def _(  # type: ignore[no-untyped-def]
    grad_output,
    input_size,
    kernel_size,
    stride,
    padding,
    ceil_mode,
    count_include_pad,
    divisor_override,
):
    return _with_planes(grad_output, len(input_size), input_size)


@torch.library.register_fake("cnnops::adaptive_avg_pool")
def _(input, output_size):  # type: ignore[no-untyped-def]
    return _with_planes(input, len(output_size), output_size)


@torch.library.register_fake("cnnops::adaptive_avg_pool_backward")
def _(grad_output, input_size):  # type: ignore[no-untyped-def]
    return _with_planes(grad_output, len(input_size), input_size)
