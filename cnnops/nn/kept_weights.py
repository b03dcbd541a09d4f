"""Weights that modules keep prepared between calls, when no gradient is needed.

Some kernels rearrange the weight before they use it: they pack it, or transform it for Winograd.
While a parameter stays the same from call to call, that is done once. What is kept belongs to the
parameter, so modules that share one share it, and dies with it; nothing is stored on modules or
parameters, so copies, pickles and state_dicts know nothing of it.

A parameter counts as changed when torch counted an in-place change of it (its version), or when its
storage, place in it, shape or strides are others. Changes that torch does not count go unnoticed:
those through `parameter.data` or through a NumPy array that shares its memory. After such a change
call `forget`.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter

from cnnops import ops
from cnnops.geometry import IntOrInts
from cnnops.plain import plain_call

__all__ = ["convolution", "forget"]

Ints = Sequence[int]

#: Smaller weights are rearranged faster than they are looked up.
SMALLEST = 4096

#: Prepared weights that a parameter keeps at most: inputs of different sizes may need different
#: ones. Each takes up to four times the memory of the weight.
MOST_FORMATS = 2

_OPS = torch.ops.cnnops_inference
_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_get_tracing_state = torch._C._get_tracing_state
_below_autograd = torch._C._AutoDispatchBelowAutograd
_plain_conv = plain_call("convNd_kept", None)
_plain_convolution = plain_call("convolution_kept", None)


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    padding_mode: str = "zeros",
) -> Tensor:
    """`cnnops.ops.convolution`, with what is kept of `weight`, where `may_keep` says so."""
    geometry = (stride, padding, dilation, groups, padding_mode)
    kept = _kept_of(weight)
    if kept is None:
        # A weight that changes before every call is not worth preparing: this one only takes note.
        with _lock:
            _kept[id(weight)] = _Kept(weight)
        return ops.convolution(input, weight, bias, *geometry)
    output = _plain_convolution(input, weight, bias, kept.all_prepared(), *geometry)
    if output is not None:
        return output
    prepared = _prepared(kept, input, weight, geometry)
    if prepared is None:
        return ops.convolution(input, weight, bias, *geometry)
    with _below_autograd():
        return _OPS.convolution.default(input, weight, bias, prepared, *geometry)


def conv(
    rank: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: IntOrInts,
    padding: IntOrInts | str,
    dilation: IntOrInts,
    groups: int,
) -> Tensor | None:
    """conv1d, 2d or 3d of torch.nn.functional, by `rank`, on the short way (cnnops.plain).

    None where that is no way for the call, and where `convolution` would do more for it: note the
    state of the weight, or prepare it.
    """
    if _dynamo_is_compiling() or id(weight) not in _kept:
        return None
    kept = _kept_of(weight)
    if kept is None:
        return None
    prepared = kept.all_prepared()
    return _plain_conv(rank, input, weight, bias, stride, padding, dilation, groups, prepared)


def may_keep(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the weight is a parameter of some size, and the call nothing but a computation.

    That is: nobody compiles, records, traces or transforms it.
    """
    if _dynamo_is_compiling():
        return False
    return (
        type(weight) is Parameter
        and type(input) is Tensor
        and weight.numel() >= SMALLEST
        and _get_tracing_state() is None
        and input.is_cpu
        and weight.is_cpu
        and not weight.is_inference()  # those have no version
        and not (torch.is_grad_enabled() and torch._C._any_requires_grad(input, weight, bias))
        and not torch._C._is_any_autocast_enabled()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and forward_ad._current_level < 0
    )


def forget(weight: Parameter) -> None:
    """Drops what is kept of `weight`; the next calls begin anew."""
    with _lock:
        _kept.pop(id(weight), None)


class _Kept:
    """What is kept of one state of a parameter."""

    def __init__(self, weight: Tensor) -> None:
        self.state = _state(weight)
        # Alive, it keeps the address of the storage, which tells it from others, from being reused.
        self.storage = StorageWeakRef(weight.untyped_storage())
        # Its callback drops this object before the id of the parameter can be another's.
        self.weight = weakref.ref(weight, functools.partial(_drop, id(weight)))
        self.prepared: dict[int, Tensor] = {}  # by format

    def all_prepared(self) -> tuple[Tensor, ...]:
        """What operators choose from."""
        return tuple(self.prepared.values())


_kept: dict[int, _Kept] = {}  # by the id of the parameter
_lock = threading.Lock()


def _drop(key: int, _: Any) -> None:
    _kept.pop(key, None)


def _state(weight: Tensor) -> tuple[Any, ...]:
    """Equal for equal elements in the same places."""
    return (
        weight._version,
        weight.data_ptr(),
        weight.untyped_storage()._cdata,
        weight.dtype,
        weight.shape,
        weight.stride(),
    )


def _kept_of(weight: Tensor) -> _Kept | None:
    """What is kept of the parameter as it is now, if anything."""
    kept = _kept.get(id(weight))
    return kept if kept is not None and kept.state == _state(weight) else None


def _prepared(
    kept: _Kept, input: Tensor, weight: Tensor, geometry: tuple[Any, ...]
) -> Tensor | None:
    """The prepared weight for such a call, or None where there is nothing to prepare."""
    with _below_autograd():
        format = _OPS.weight_format.default(input, weight, *geometry)
    if format == 0:
        return None
    prepared = kept.prepared.get(format)
    if prepared is None:
        with _lock:
            prepared = kept.prepared.get(format)
            if prepared is None:
                with _below_autograd():
                    prepared = _OPS.prepare_weight.default(input, weight, *geometry)
                newest = list(kept.prepared.items())[1 - MOST_FORMATS :]
                kept.prepared = {**dict(newest), format: prepared}
    return prepared
