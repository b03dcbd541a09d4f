"""The short way to the operators, past torch's dispatcher, for calls that need nothing of it.

Most of the time of a small convolution goes into the dispatcher: its arguments are boxed and copied
on the way to a C++ operator. A call is plain, and can do without, when its tensors are dense CPU
tensors of class Tensor or Parameter, its integers ints, and none of `_GUARDS` says that something
watches or changes what operators do. The rule for tensors is in csrc/cpu/plain_call.cpp. Whatever
is not plain, and whatever raises, takes the way through the dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import Function, forward_ad

from cnnops import _C

if TYPE_CHECKING:
    from cnnops.autograd.derivative import Derivative

__all__ = ["plain_call"]


def _in_forward_mode() -> bool:
    """Whether tensors may carry tangents."""
    return forward_ad._current_level >= 0


# Each is called with no argument; a true answer makes no call plain.
_GUARDS = (
    torch._C._is_any_autocast_enabled,
    torch._C._are_functorch_transforms_active,
    torch._C._len_torch_dispatch_stack,
    torch._C._len_torch_function_stack,
    torch._C._get_tracing_state,
    torch._C._autograd._profiler_enabled,
    _in_forward_mode,
)


def allow_plain_calls() -> None:
    """Makes calls plain by the rule above, as importing this module does."""
    _C.set_plain((torch.Tensor, torch.nn.Parameter), _GUARDS)


allow_plain_calls()


def plain_call(
    name: str, function: type[Derivative] | None, *, values_only: bool = False
) -> Callable[..., Any]:
    """The short way to the operator `name` with the derivative of `function`.

    Args:
        name: an operator of torch.ops.cnnops; or "convNd", "conv_transposeNd", "max_poolNd" and so
            on, which take the number of spatial axes and then the arguments of conv1d, 2d and 3d
            of torch.nn.functional, with the defaults filled in.
        function: its `keep` takes the operator's arguments; None where there is no derivative, and
            a call that wants one is not plain.
        values_only: of the results (values, indices) autograd sees the values alone, which is
            cheaper; where a derivative is recorded, only (values,) is returned.

    Returns:
        A function of the same arguments, all by position, that returns None where the call is not
        plain. It must not be called while Dynamo compiles.
    """
    return _C.plain_call(name, None if function is None else _recorder(function, values_only))


def _recorder(function: type[Derivative], values_only: bool) -> Callable[..., Any]:
    """What gives an output its derivative: recorder(*tensors, (output, arguments)) -> output.

    The output is computed by then. It comes inside a tuple, since autograd would take a tensor
    argument that is returned for a view of an input.
    """
    keep = function.keep

    def forward(ctx: Any, *args: Any) -> Any:
        output, arguments = args[-1]
        # What save_for_backward and set_materialize_grads do, without two calls.
        ctx.to_save = keep(ctx, arguments, output)
        ctx.materialize_grads = False
        return output[:1] if values_only else output

    # Its gradients are for all arguments of the operator, of which there are as many as there are
    # here, or more: autograd takes None for those.
    members = {"forward": staticmethod(forward), "backward": staticmethod(function.backward)}
    recorder: type[Function] = type(function.__name__, (Function,), members)
    return recorder.apply
