"""Route torch's convolution and pooling functions to cnnops within a block or a function."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as torch_functional
from torch.overrides import TorchFunctionMode

from cnnops import aten, functional, ops
from cnnops.fallback import or_torch
from cnnops.functional.arguments import supported

__all__ = ["enable"]

Function = TypeVar("Function", bound=Callable[..., Any])


class enable(TorchFunctionMode):  # noqa: N801  (used as `with enable():`, like torch.no_grad)
    """Context manager and decorator that runs torch's convolutions and poolings on cnnops.

    Within it the calling thread's calls of the conv* and *pool* functions of torch.nn.functional,
    of `torch.convolution`, of the functions of torch.nn.grad and of those of torch and torch._C._nn
    behind them, made by any code, reach `cnnops.functional`. Where that has no kernel torch runs as
    before, with one FallbackWarning per reason; exceptions are those of `cnnops.functional`. It
    nests, one instance can be entered any number of times and from any number of threads, and
    torch.compile traces through it.

    Not routed: calls with an ``out=`` tensor, calls with tensors of a class that overrides
    ``__torch_function__`` (such as torch.fx proxies), what torch's functions call inside
    (the pooling in `local_response_norm`), and TorchScript code. Backward passes call no torch
    function and need no routing, with one exception: what torch.utils.checkpoint runs a second
    time must enter by itself, so decorate the checkpointed function.

    Example:
        >>> with cnnops.enable():
        ...     output = model(images)
        >>> @cnnops.enable()
        ... def train_step(batch): ...
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # torch takes this mode off the stack meanwhile, so that nothing called here returns here.
        kwargs = kwargs or {}
        route = _ROUTES.get(func)
        if route is None or "out" in kwargs or any(map(_overrides_torch, types)):
            return func(*args, **kwargs)
        return route(*args, **kwargs)

    def __call__(self, function: Function) -> Function:
        """`function` with every call of it inside this context.

        Raises:
            TypeError: `function` is a generator or a coroutine function, whose body runs after
                the call has returned; use `with` in its body instead.
        """
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError("enable() cannot decorate a generator function; use it in the body")
        if inspect.iscoroutinefunction(function):
            raise TypeError("enable() cannot decorate a coroutine function; use it in the body")

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]


_DEFAULT = Tensor.__torch_function__.__func__  # type: ignore[attr-defined]
_DISABLED = torch._C._disabled_torch_function_impl


def _overrides_torch(cls: type) -> bool:
    """Whether tensors of class `cls` take over the torch functions that are called with them."""
    handler = cls.__torch_function__  # type: ignore[attr-defined]
    return handler is not _DISABLED and getattr(handler, "__func__", None) is not _DEFAULT


def _fractional_max_pool(pool: Callable[..., Any]) -> Callable[..., Any]:
    """torch._C._nn.fractional_max_pool2d and 3d."""

    def fractional_max_pool(
        input: Tensor, kernel_size: Any, output_size: Any, random_samples: Tensor
    ) -> Any:
        return pool(input, kernel_size, output_size, _random_samples=random_samples)

    return fractional_max_pool


def _max_unpool(name: str) -> Callable[..., Any]:
    """torch._C._nn.max_unpool2d and 3d, whose results do not depend on stride and padding."""

    def max_unpool(
        input: Tensor, indices: Tensor, output_size: Any, stride: Any = None, padding: Any = None
    ) -> Tensor:
        return ops.max_unpool(supported(name, input, indices), indices, output_size)

    return max_unpool


# Functions of torch and torch._C._nn that differ from their namesakes in torch.nn.functional.
_BACKENDS: dict[str, Callable[..., Any]] = {
    "adaptive_max_pool1d": functional.adaptive_max_pool1d_with_indices,
    "adaptive_max_pool2d": functional.adaptive_max_pool2d_with_indices,
    "adaptive_max_pool3d": functional.adaptive_max_pool3d_with_indices,
    "fractional_max_pool2d": _fractional_max_pool(functional.fractional_max_pool2d_with_indices),
    "fractional_max_pool3d": _fractional_max_pool(functional.fractional_max_pool3d_with_indices),
    "max_unpool2d": _max_unpool("max_unpool2d"),
    "max_unpool3d": _max_unpool("max_unpool3d"),
    "convolution": aten.convolution,
}
# What torch.nn.grad calls.
_ATEN: dict[str, Callable[..., Any]] = {
    "convolution": aten.convolution,
    "convolution_backward": aten.convolution_backward,
}


def _routes() -> dict[Callable[..., Any], Callable[..., Any]]:
    """What runs for each function of torch; the keys are what __torch_function__ receives."""
    routes: dict[Callable[..., Any], Callable[..., Any]] = {}
    functions = {name: getattr(functional, name) for name in functional.__all__}
    for module, table in (
        (torch_functional, functions),
        (torch, functions | _BACKENDS),
        (torch._C._nn, functions | _BACKENDS),
        (torch.ops.aten, _ATEN),
    ):
        for name, function in table.items():
            torch_function = getattr(module, name, None)
            if torch_function is not None:
                routes[torch_function] = or_torch(function, torch_function)
    return routes


_ROUTES = _routes()
