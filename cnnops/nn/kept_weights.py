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

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter
from torch.utils.weak import WeakIdKeyDictionary

from cnnops import _C, ops

__all__ = ["convolution", "forget"]

Ints = Sequence[int]

#: Smaller weights are rearranged faster than they are looked up.
SMALLEST = 4096

#: Prepared weights that a parameter keeps at most: inputs of different sizes may need different
#: ones. Each takes up to four times the memory of the weight.
MOST_FORMATS = 2

#: Kinds of calls whose format is remembered at most.
MOST_CALLS = 64

_OPS = torch.ops.cnnops_inference
_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_below_autograd = torch._C._AutoDispatchBelowAutograd
_precision = torch._C._get_fp32_precision_getter


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
    prepared = _prepared(input, weight, geometry)
    if prepared is None:
        return ops.convolution(input, weight, bias, *geometry)
    with _below_autograd():
        return _OPS.convolution.default(input, weight, bias, prepared, *geometry)


def may_keep(input: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether the weight is a parameter of some size, and the call nothing but a computation.

    That is: nobody compiles, records, traces or transforms it.
    """
    if _dynamo_is_compiling():
        return False
    return (
        type(weight) is Parameter
        and type(input) is Tensor
        and torch._C._get_tracing_state() is None
        and weight.numel() >= SMALLEST
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
        _kept.pop(weight, None)


class _Kept:
    """What is kept of one state of a parameter."""

    def __init__(self, weight: Tensor) -> None:
        self.state = _state(weight)
        # Alive, it keeps the address of the storage, which tells it from others, from being reused.
        self.storage = StorageWeakRef(weight.untyped_storage())
        self.formats: dict[Any, int] = {}  # of each kind of call; 0: nothing to prepare
        self.prepared: dict[int, Tensor] = {}  # by format


_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()
_lock = threading.Lock()


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


def _prepared(input: Tensor, weight: Tensor, geometry: tuple[Any, ...]) -> Tensor | None:
    """The prepared weight for such a call, or None where there is none (yet).

    The first call with a new state of the parameter only takes note of it: a weight that changes
    before every call is not worth preparing.
    """
    kept = _kept.get(weight)
    if kept is None or kept.state != _state(weight):
        with _lock:
            _kept[weight] = _Kept(weight)
        return None
    call = (
        input.dtype,
        input.shape,
        input.stride(),
        geometry,
        _C.isa(),
        _precision("mkldnn", "conv"),
    )
    format = kept.formats.get(call)
    if format is None:
        with _below_autograd():
            format = _OPS.weight_format.default(input, weight, *geometry)
        if len(kept.formats) >= MOST_CALLS:
            kept.formats = {}
        kept.formats[call] = format
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
