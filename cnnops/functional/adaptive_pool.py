"""Adaptive pooling, whose output size is given: adaptive_max_pool and adaptive_avg_pool."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import SymInt, Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from cnnops import autograd, ops
from cnnops.functional.arguments import supported
from cnnops.geometry import IntOrInts, expand
from cnnops.plain import plain_call

_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_plain_adaptive_max_pool = plain_call("adaptive_max_poolNd", autograd.AdaptiveMaxPool)
_plain_adaptive_avg_pool = plain_call("adaptive_avg_poolNd", autograd.AdaptiveAvgPool)

SizeOrSizes = int | Sequence[int | None]


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
    return _adaptive_max_pool(1, input, output_size)


def adaptive_max_pool2d(
    input: Tensor, output_size: SizeOrSizes, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """2-d adaptive max pooling, as torch.nn.functional.adaptive_max_pool2d.

    input (N, C, H, W) or (C, H, W), float32, float64, bfloat16 or float16; `output_size` is
    an int, or a list in which None keeps the input's size. With `return_indices` returns
    (values, indices).
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
    return _adaptive_max_pool(2, input, output_size)


def adaptive_max_pool3d(
    input: Tensor, output_size: SizeOrSizes, return_indices: bool = False
) -> Tensor | tuple[Tensor, Tensor]:
    """3-d adaptive max pooling, as torch.nn.functional.adaptive_max_pool3d.

    input (N, C, D, H, W) or (C, D, H, W), float32, float64, bfloat16 or float16; `output_size` is
    an int, or a list in which None keeps the input's size. With `return_indices` returns
    (values, indices).
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
    return _adaptive_max_pool(3, input, output_size)


def adaptive_avg_pool1d(input: Tensor, output_size: IntOrInts) -> Tensor:
    """1-d adaptive average pooling, as torch.nn.functional.adaptive_avg_pool1d.

    input (N, C, L) or (C, L), float32, float64, bfloat16 or float16; `output_size` is
    an int or a list of one.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool1d, (input,), input, output_size)
    return _adaptive_avg_pool(1, input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: SizeOrSizes) -> Tensor:
    """2-d adaptive average pooling, as torch.nn.functional.adaptive_avg_pool2d.

    input (N, C, H, W) or (C, H, W), float32, float64, bfloat16 or float16; `output_size` is
    an int, or a list in which None keeps the input's size.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool2d, (input,), input, output_size)
    return _adaptive_avg_pool(2, input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: SizeOrSizes) -> Tensor:
    """3-d adaptive average pooling, as torch.nn.functional.adaptive_avg_pool3d.

    input (N, C, D, H, W) or (C, D, H, W), float32, float64, bfloat16 or float16; `output_size` is
    an int, or a list in which None keeps the input's size.
    """
    if has_torch_function_unary(input):
        return handle_torch_function(adaptive_avg_pool3d, (input,), input, output_size)
    return _adaptive_avg_pool(3, input, output_size)


def _adaptive_max_pool(rank: int, input: Tensor, output_size: SizeOrSizes) -> tuple[Tensor, Tensor]:
    """(values, indices) of the adaptive max pooling of `rank` spatial axes."""
    if not _dynamo_is_compiling():
        output = _plain_adaptive_max_pool(rank, input, output_size)
        if output is not None:
            return output
    input = supported(f"adaptive_max_pool{rank}d", input)
    return ops.adaptive_max_pool(input, _adaptive_size(output_size, input, rank))


def _adaptive_avg_pool(rank: int, input: Tensor, output_size: SizeOrSizes) -> Tensor:
    """The adaptive average pooling of `rank` spatial axes."""
    if not _dynamo_is_compiling():
        output = _plain_adaptive_avg_pool(rank, input, output_size)
        if output is not None:
            return output
    input = supported(f"adaptive_avg_pool{rank}d", input)
    return ops.adaptive_avg_pool(input, _adaptive_size(output_size, input, rank))


def _adaptive_size(output_size: SizeOrSizes, input: Tensor, rank: int) -> tuple[int, ...]:
    """The output size of an adaptive pooling, in which None is the input's size."""
    if rank == 1 and isinstance(output_size, (tuple, list)) and len(output_size) != 1:
        raise RuntimeError(
            f"argument 'output_size' should contain one int (got {len(output_size)})"
        )
    if rank == 1 or isinstance(output_size, (int, SymInt)):
        return expand("output_size", output_size, rank)
    if input.dim() <= len(output_size):
        raise ValueError(f"Input dimension should be at least {len(output_size) + 1}")
    kept = input.shape[-len(output_size) :]
    size = [old if new is None else new for new, old in zip(output_size, kept, strict=False)]
    numbers = expand("output_size", size, len(size))  # their types count before their number
    if len(numbers) != rank:
        raise RuntimeError(f"output_size must be {rank} ints, but got output_size={size}")
    return numbers
