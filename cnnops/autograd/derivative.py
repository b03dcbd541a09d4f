"""What the derivative of every operator is made of, and how it is recorded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

import cnnops._C  # noqa: F401  (loads the schemas of torch.ops.cnnops)
from cnnops.plain import plain_call

__all__ = ["OPS", "Derivative", "Gradients", "differentiable"]

OPS = torch.ops.cnnops
_below_autograd = torch._C._AutoDispatchBelowAutograd
_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_transforms_are_active = torch._C._are_functorch_transforms_active
_is_grad_enabled = torch.is_grad_enabled
_any_requires_grad = torch._C._any_requires_grad

Gradients = tuple[Any, ...]


class Derivative(Function):
    """A Function of the arguments of `op`, and what `keep` says that its derivative needs of them.

    That is saved where it can be used. A gradient that is None stays None.
    """

    op: ClassVar[Any]

    @classmethod
    def forward(cls, *args: Any) -> Any:
        # Autograd is already taken care of.
        with _below_autograd():
            return cls.op(*args)

    @staticmethod
    @abstractmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Any) -> tuple[Tensor, ...]:
        """Sets on `ctx` what `backward` and `jvp` need beside tensors; those it returns."""

    @classmethod
    def setup_context(cls, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        tensors = cls.keep(ctx, inputs, output)
        ctx.save_for_backward(*tensors)
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(*tensors)
        ctx.set_materialize_grads(False)


def _fused(function: type[Derivative]) -> type[Function]:
    """The same derivative with setup_context inside forward, as Functions were written at first.

    A Function with a setup_context of its own has its arguments bound to the signature of forward
    on every call, by way of `inspect`: most of the time of a small convolution. The transforms of
    torch.func need that form; everything else is as well served by this one.
    """

    def forward(ctx: Any, *args: Any) -> Any:
        output = function.forward(*args)
        function.setup_context(ctx, args, output)
        return output

    members = {"forward": forward, "backward": function.backward, "jvp": function.jvp}
    static = {name: staticmethod(member) for name, member in members.items()}
    return type(function.__name__, (Function,), static)


def differentiable(function: type[Derivative]) -> Callable[..., Any]:
    """The operator of `function` with its derivative.

    The derivative is registered on the operator as well. The function returned records it only
    where a gradient may be asked for; otherwise it calls the operator and steps over the
    dispatcher's autograd layer, which is Python. Plain calls (cnnops.plain) never get that far. A
    compiler sees the operator itself.
    """
    op = function.op
    torch.library.register_autograd(op, function.backward, setup_context=function.setup_context)

    apply = _fused(function).apply
    call_plainly = plain_call(op._schema.name.removeprefix("cnnops::"), function)

    def operator(*args: Any) -> Any:
        if _dynamo_is_compiling():
            return op(*args)
        output = call_plainly(*args)
        if output is not None:
            return output
        if _transforms_are_active():
            return function.apply(*args)
        if _records_gradient(*args):
            return apply(*args)
        with _below_autograd():
            return op(*args)

    return operator


def _records_gradient(*args: Any) -> bool:
    # Dual tensors ask for no gradient, but must not lose their tangents.
    if forward_ad._current_level >= 0:
        return True
    # The tensors come first; of the other arguments only the looking would cost.
    return _is_grad_enabled() and _any_requires_grad(*args[:3])
