"""torch.autocast for the functions of cnnops.functional: the casts that torch's own would get.

Convolutions run in the autocast dtype. On the CPU torch lists some poolings to run in float32 (not
max_pool3d where it returns indices), on CUDA it lists none. float64 and integer tensors are never
cast.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["to_float32", "to_lower_precision"]

_FLOAT32_ON_CPU = frozenset(
    {
        "max_pool3d",
        "avg_pool3d",
        "adaptive_max_pool3d",
        "adaptive_avg_pool3d",
        "fractional_max_pool2d",
        "fractional_max_pool3d",
        "max_unpool1d",
        "max_unpool2d",
        "max_unpool3d",
    }
)


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if tensor is None or not tensor.is_floating_point() or tensor.dtype is torch.float64:
        return tensor
    return tensor.to(dtype)


def to_lower_precision(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """The arguments of a convolution under autocast for the device of the first of them."""
    device = tensors[0].device.type  # type: ignore[union-attr]
    if not torch.amp.is_autocast_available(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple([_cast(tensor, dtype) for tensor in tensors])


def to_float32(name: str, input: Tensor) -> Tensor:
    """The input of the pooling `name` (e.g. ``"avg_pool3d"``) under autocast for its device."""
    if name in _FLOAT32_ON_CPU and input.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        return _cast(input, torch.float32)  # type: ignore[return-value]
    return input
