"""What the pooling functions do with their arguments before an operator sees them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from cnnops import autocast, support
from cnnops.geometry import IntOrInts, expand

_any_autocast = torch._C._is_any_autocast_enabled


def supported(name: str, input: Tensor, *others: Tensor) -> Tensor:
    """`input` after the check for kernels and the cast of autocast."""
    support.check(name, input, *others)
    return autocast.to_float32(name, input) if _any_autocast() else input


def window_stride(stride: IntOrInts, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """The stride of a pooling window; an empty list stands for the kernel size."""
    if isinstance(stride, (list, tuple)) and not stride:
        return kernel
    return expand("stride", stride, len(kernel))


def flag(name: str, value: bool) -> bool:
    """`value`, or TypeError where it is not a bool, as torch's parser has it."""
    if not isinstance(value, bool):
        raise TypeError(f"argument '{name}' must be bool, not {type(value).__name__}")
    return value


def as_tuple(value: Any, rank: int) -> tuple[Any, ...]:
    """A tuple of an iterable of any length, or `rank` times a single value."""
    return tuple(value) if isinstance(value, Iterable) else (value,) * rank
