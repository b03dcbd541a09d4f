"""Swap the convolution and pooling modules of a model for cnnops' and back, in place.

Only the class of a module changes. Parameters, buffers, hooks, training flags and the identity of
every module stay, so optimizers, parametrizations and wrappers keep working on the same objects.
"""

import copyreg
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from cnnops import nn as cnnops_nn

Model = TypeVar("Model", bound=nn.Module)

_OURS: dict[type, type] = {
    getattr(torch.nn, name): getattr(cnnops_nn, name) for name in cnnops_nn.__all__
}
_TORCHS: dict[type, type] = {ours: torchs for torchs, ours in _OURS.items()}


def convert(model: Model) -> Model:
    """Makes every convolution and pooling module of `model` run on cnnops, in place.

    Swapped are all instances of the torch.nn classes that `cnnops.nn` offers, of their
    parametrized forms, and of subclasses that inherit the forward pass. Left alone are modules
    with a forward pass of their own, in their class or set on the instance, and models that
    TorchScript compiled. A converted model can be converted again without effect. Tools that look
    for torch's own classes or operators (TorchScript, ONNX export, quantization) want the model
    reverted.

    Args:
        model: any module, itself a convolution or pooling module or containing some.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
    """
    return _swap(model, _converted)


def revert(model: Model) -> Model:
    """Makes every cnnops module of `model` torch's again, in place: the inverse of `convert`.

    Modules constructed from `cnnops.nn` become torch.nn's as well.

    Args:
        model: any module.

    Returns:
        `model`.

    Raises:
        TypeError: `model` is not a torch.nn.Module.
    """
    return _swap(model, _reverted)


def _swap(model: Model, counterpart: Callable[[type], type | None]) -> Model:
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected a torch.nn.Module, but got {type(model).__name__}")
    for module in model.modules():
        cls = counterpart(type(module))
        # A forward pass that was set on the instance is bound to the class it was taken from.
        if cls is not None and not {"forward", "_conv_forward"} & vars(module).keys():
            module.__class__ = cls
    return model


def _converted(cls: type) -> type | None:
    """The class that a module of class `cls` gets by `convert`, None to leave it alone."""
    if cls in _OURS:
        return _OURS[cls]
    torchs = next((base for base in cls.__mro__ if base in _TORCHS or base in _OURS), None)
    if torchs not in _OURS:
        return None
    if _is_parametrized(cls):
        base = _converted(cls.__bases__[0])
        return base and _with_base(cls, base)
    inherited = all(
        getattr(cls, name, None) is getattr(torchs, name, None)
        for name in ("forward", "_conv_forward")
    )
    return _with_kernels(cls, _OURS[torchs]) if inherited else None


def _reverted(cls: type) -> type | None:
    """The class that a module of class `cls` gets by `revert`, None to leave it alone."""
    if cls in _TORCHS:
        return _TORCHS[cls]
    if "_cnnops_original" in vars(cls):
        return vars(cls)["_cnnops_original"]
    if _is_parametrized(cls):
        base = _reverted(cls.__bases__[0])
        return base and _with_base(cls, base)
    return None


def _is_parametrized(cls: type) -> bool:
    """Whether `cls` is the class that torch.nn.utils.parametrize made for one module."""
    return cls.__name__ == f"Parametrized{cls.__bases__[0].__name__}"


def _with_base(cls: type, base: type) -> type:
    """`cls` derived from `base`; removing a parametrization makes the module a `base` again.

    A new class and not a new `cls.__bases__`, because deep copies of a module share its class.
    """
    own = {
        name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")
    }
    return type(cls.__name__, (base,), own)


@functools.cache
def _with_kernels(cls: Any, ours: type) -> type:
    """A subclass of `cls` in whose method resolution order `ours` comes before torch's class."""

    def reduce_ex(self: Any, protocol: int) -> Any:
        # Pickle looks classes up by name and would find `cls`.
        function, arguments, *rest = cls.__reduce_ex__(self, max(protocol, 2))
        if function is copyreg.__newobj__:  # type: ignore[attr-defined]
            function, arguments = _new, (cls, *arguments[1:])
        return function, arguments, *rest

    names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
    own = {"_cnnops_original": cls, "__reduce_ex__": reduce_ex}
    return type(cls.__name__, (cls, ours), names | own)


def _new(cls: type, *arguments: Any) -> Any:
    """An empty module of the class that `convert` gives to modules of class `cls`."""
    converted = _converted(cls)
    assert converted is not None
    return converted.__new__(converted, *arguments)
