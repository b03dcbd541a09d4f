"""Power-average pooling, composed of the other poolings: lp_pool1d, 2d and 3d."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from cnnops.functional.arguments import as_tuple
from cnnops.functional.avg_pool import avg_pool1d, avg_pool2d, avg_pool3d
from cnnops.functional.max_pool import max_pool1d, max_pool2d, max_pool3d
from cnnops.geometry import IntOrInts


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

    input (N, C, D, H, W) or (C, D, H, W). The p-norm of each window with p = `norm_type`, which may
    be
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
        kernel = as_tuple(kernel_size, rank)
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
