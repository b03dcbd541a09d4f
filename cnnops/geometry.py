"""Sizes and argument expansion of convolutions and poolings, for plain and symbolic integers.

Everything that turns a user's arguments into the lists which the operators take, and every shape
formula, stands here once. Nothing here reads a tensor's elements.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import SymInt, Tensor

__all__ = [
    "channels_last",
    "convolution_size",
    "expand",
    "grad_input_size",
    "integer",
    "per_side",
    "pool_size",
    "same_padding",
    "spatial",
    "taps_suffice",
]

IntOrInts = int | Sequence[int]

_MIN, _MAX = -(2**63), 2**63 - 1  # of int64
_COUNT = {1: "one int", 2: "two ints", 3: "three ints"}


def integer(name: str, value: Any) -> int:
    """`value` as an integer where torch takes it for one, otherwise TypeError.

    Accepted: int, SymInt, 0-d integer tensors and objects with ``__index__`` such as NumPy's
    integers; not bool and not float. ValueError when it does not fit int64.
    """
    if type(value) is int and _MIN <= value <= _MAX:
        return value
    if isinstance(value, SymInt):
        return value  # type: ignore[return-value]
    try:
        if isinstance(value, bool) or (isinstance(value, Tensor) and value.dim() > 0):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"argument '{name}' must be int, not {type(value).__name__}") from None
    if not _MIN <= number <= _MAX:
        raise ValueError(f"Overflow when unpacking long long: argument '{name}' is {number}")
    return number


def expand(name: str, value: Any, rank: int, *, short: bool = True) -> tuple[int, ...]:
    """The `rank` integers that an argument `value` stands for: itself, or one int for every axis.

    Lists of one entry expand too unless `short` is false. TypeError for what is no integer or
    list of integers, RuntimeError for a list of another length, as in torch's own functions.
    """
    kind = type(value)
    if kind is int and _MIN <= value <= _MAX:
        return (value,) * rank
    if kind is tuple or kind is list or isinstance(value, (tuple, list)):
        numbers = tuple([_entry(name, entry) for entry in value])
        if len(numbers) == rank:
            return numbers
        if len(numbers) == 1 and short:
            return numbers * rank
        raise RuntimeError(
            f"{name} must either be a single int or a list of {_COUNT[rank]}, "
            f"but got {name}={list(numbers)}"
        )
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.reshape(())  # torch takes it for an int here, though not in other places
    return (integer(name, value),) * rank


def _entry(name: str, value: Any) -> int:
    if type(value) is int and _MIN <= value <= _MAX:
        return value
    try:
        return integer(name, value)
    except ValueError as error:  # torch says TypeError where the integer is in a list
        raise TypeError(str(error)) from None


def per_side(padding: Sequence[int]) -> tuple[int, ...]:
    """Symmetric padding as the convolutions take it: ``(p0, p1)`` becomes ``(p0, p0, p1, p1)``."""
    return tuple([pad for pad in padding for _ in range(2)])


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[int, ...]:
    """Padding per side that keeps the size at stride 1; an odd one out goes to the end."""
    padding: list[int] = []
    for size, step in zip(kernel, dilation, strict=True):
        total = step * (size - 1)
        padding += (total // 2, total - total // 2)
    return tuple(padding)


def taps_suffice(kernel: IntOrInts, stride: IntOrInts, dilation: IntOrInts) -> bool:
    """Whether the gradient of a max pooling is made from taps, a byte for each window.

    Windows are small then, and an input lies in few of them. An int stands for itself on all axes.
    """
    if isinstance(kernel, int) and isinstance(stride, int) and isinstance(dilation, int):
        return _is_small(kernel, stride, dilation)
    lists = []
    for given in (kernel, stride, dilation):
        if not isinstance(given, int | tuple | list):
            return False
        lists.append((given,) if isinstance(given, int) else given)
    rank = max(map(len, lists))
    if any(len(each) not in (1, rank) for each in lists):
        return False
    return all(map(_is_small, *(each if len(each) == rank else each * rank for each in lists)))


def _is_small(kernel: int, stride: int, dilation: int) -> bool:
    return stride <= 2 and kernel <= 3 * stride and dilation == 1


def spatial(tensor: Tensor, rank: int) -> tuple[int, ...]:
    """The last `rank` sizes of `tensor`."""
    return tuple(tensor.shape)[-rank:]  # a slice of torch.Size takes as long again


def convolution_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Spatial size of a convolution: floor((M + begin + end - D(K - 1) - 1) / S) + 1 per axis."""
    return tuple(
        [
            (m + begin + end - d * (k - 1) - 1) // s + 1
            for m, k, s, begin, end, d in zip(
                size, kernel, stride, padding[0::2], padding[1::2], dilation, strict=True
            )
        ]
    )


def grad_input_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
) -> tuple[int, ...]:
    """Spatial size of a transposed convolution: (M - 1) S - begin - end + D(K - 1) + extra + 1."""
    return tuple(
        [
            (m - 1) * s - begin - end + d * (k - 1) + extra + 1
            for m, k, s, begin, end, extra, d in zip(
                size,
                kernel,
                stride,
                padding[0::2],
                padding[1::2],
                output_padding,
                dilation,
                strict=True,
            )
        ]
    )


def pool_size(
    size: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> tuple[int, ...]:
    """Spatial size of a pooling.

    With `ceil_mode` the last window may hang over the end, but must start inside the input or its
    begin padding.
    """
    result: list[Any] = []
    for m, k, s, pad, d in zip(size, kernel, stride, padding, dilation, strict=True):
        reach = m + 2 * pad - d * (k - 1) - 1
        if ceil_mode:
            result.append(torch.sym_min((reach + s - 1) // s, (m + pad - 1) // s) + 1)
        else:
            result.append(reach // s + 1)
    return tuple(result)


def channels_last(tensor: Tensor, rank: int) -> bool:
    """True for a batched tensor of 2 or 3 spatial axes whose strides say channels_last."""
    if rank == 1 or tensor.dim() != rank + 2:
        return False
    return torch._prims_common.suggest_memory_format(tensor) is not torch.contiguous_format
