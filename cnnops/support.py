"""What the kernels can compute, said before they are called.

Everything else is refused with an `UnsupportedError` that names the reason, so that callers with
an alternative (`cnnops.enable`, `cnnops.nn`) can take it, with one warning for each reason.
"""

from __future__ import annotations

import threading
import warnings

import torch
from torch import Tensor

from cnnops import cuda

__all__ = ["FallbackWarning", "UnsupportedError", "check", "dtypes", "given", "warn_fallback"]


class UnsupportedError(NotImplementedError):
    """cnnops has no kernel for this device, dtype or layout; the message says which and why."""


class FallbackWarning(UserWarning):
    """A call went to torch because cnnops cannot compute it."""


_HALF = frozenset({torch.bfloat16, torch.float16})
_FLOATS = frozenset({torch.float32, torch.float64}) | _HALF
_INTS = frozenset({torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64})

_FAMILIES = {
    "conv": _FLOATS | _INTS,
    "conv_transpose": _FLOATS | {torch.int64},
    "max_pool": _FLOATS | _INTS,
    "avg_pool": _FLOATS | {torch.int64},
    "adaptive_max_pool": _FLOATS,
    "adaptive_avg_pool": _FLOATS,
    "fractional_max_pool": _FLOATS,
    "max_unpool": _FLOATS,
}
_DTYPES = {
    f"{name}{rank}d{variant}": kinds
    for name, kinds in _FAMILIES.items()
    for rank in (1, 2, 3)
    for variant in ("", "_with_indices")
}

_strided = torch.strided

# Meta tensors have no elements: they go to the fake kernels, which compute shapes alone.
_DEVICES = frozenset({"cpu", "cuda", "meta"})


def given(tensor: Tensor | None) -> tuple[Tensor, ...]:
    """The optional argument of `check`: nothing for None, which only an optional tensor may be."""
    return () if tensor is None else (tensor,)


def check(name: str, *tensors: Tensor) -> None:
    """Raises unless kernels exist for these tensors in the function `name` (e.g. ``"conv2d"``).

    The first tensor is the input, whose dtype decides. Raises
    `UnsupportedError` for a device, dtype or layout without kernels, TypeError for what is no
    tensor, and RuntimeError for tensors on different devices.
    """
    try:
        for tensor in tensors:
            if not (tensor.is_cpu and tensor.layout is _strided and not tensor.is_nested):
                break
        else:
            if tensors[0].dtype in _DTYPES[name]:
                return
        _check_elsewhere(name, list(tensors))
    except AttributeError:
        wrong = next(tensor for tensor in tensors if not isinstance(tensor, Tensor))
        raise TypeError(f"{name}(): expected a Tensor, but got {type(wrong).__name__}") from None


def _check_elsewhere(name: str, tensors: list[Tensor]) -> None:
    """`check` for tensors that are not all dense, on the CPU and of a known dtype."""
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1:
        raise RuntimeError(
            f"{name}: Expected all tensors to be on the same device, but found at least two "
            f"devices, {' and '.join(devices)}!"
        )
    for tensor in tensors:
        if tensor.layout is not _strided or tensor.is_nested:
            raise UnsupportedError(f"{name}: cnnops has no kernels for {_layout(tensor)} tensors")
    device, dtype = tensors[0].device, tensors[0].dtype
    if device.type not in _DEVICES:
        raise UnsupportedError(f"{name}: cnnops has no kernels for device '{device.type}'")
    reason = cuda.refusal(device) if device.type == "cuda" else None
    if reason is not None:
        raise UnsupportedError(f"{name}: {reason}")
    if dtype not in _DTYPES[name]:
        raise UnsupportedError(f"{name}: cnnops has no kernels of it for {_short(dtype)}")


def _layout(tensor: Tensor) -> str:
    return "nested" if tensor.is_nested else _short(tensor.layout).lstrip("_")


def _short(name: torch.dtype | torch.layout) -> str:
    """`torch.float32` as "float32"."""
    return str(name).removeprefix("torch.")


_warned: set[str] = set()
_lock = threading.Lock()


def warn_fallback(name: str, reason: str) -> None:
    """Warns with `FallbackWarning` that `name` went to torch; once in a process for each reason."""
    with _lock:
        if reason in _warned:
            return
        _warned.add(reason)
    warnings.warn(f"{name} runs on torch's own kernels: {reason}", FallbackWarning, stacklevel=3)


def dtypes(name: str) -> frozenset[torch.dtype]:
    """The dtypes that the function `name` (e.g. ``"conv2d"``) has kernels for."""
    return _DTYPES[name]
