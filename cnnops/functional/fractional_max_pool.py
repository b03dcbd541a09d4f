"""Fractional max pooling, whose windows lie at pseudo-random positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_variadic

from cnnops import autocast, ops, support
from cnnops.functional.arguments import as_tuple
from cnnops.geometry import IntOrInts, expand

_any_autocast = torch._C._is_any_autocast_enabled


RatioOrRatios = float | Sequence[float]


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

    input (N, C, D, H, W) or (C, D, H, W), float32, float64, bfloat16 or float16. Either
    `output_size` or
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
    support.check(name, input, *support.given(random_samples))
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
    ratios = as_tuple(output_ratio, rank)
    if len(ratios) != rank:
        raise ValueError(f"{name} requires output_ratio to be a number or {rank} numbers")
    return [int(input.size(axis - rank) * ratios[axis]) for axis in range(rank)]
