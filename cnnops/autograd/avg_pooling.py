"""Average pooling: linear maps and their adjoints."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cnnops.autograd.derivative import OPS, Derivative, Gradients, differentiable
from cnnops.geometry import spatial


class AvgPool(Derivative):
    """The mean of each window, as torch.nn.functional.avg_pool1d, 2d and 3d.

    input (N, C, *M) or (C, *M).
    """

    op = OPS.avg_pool.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        ctx.geometry = inputs[1:]
        ctx.input_size = spatial(inputs[0], len(inputs[1]))
        return ()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_input = None
        if grad is not None:
            grad_input = avg_pool_backward(grad, ctx.input_size, *ctx.geometry)
        return grad_input, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return avg_pool(tangent, *ctx.geometry)


class AvgPoolBackward(Derivative):
    """The adjoint of `AvgPool`: grad_output (N, C, *L) spread over (N, C, *input_size)."""

    op = OPS.avg_pool_backward.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        ctx.input_size, ctx.geometry = inputs[1], inputs[2:]
        return ()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = None
        if grad is not None:
            grad_grad_output = avg_pool(grad, *ctx.geometry)
        return grad_grad_output, None, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return avg_pool_backward(tangent, ctx.input_size, *ctx.geometry)


class AdaptiveAvgPool(Derivative):
    """The means over windows that divide the input evenly, as adaptive_avg_pool1d, 2d and 3d.

    input (N, C, *M) or (C, *M); the result is (N, C, *output_size).
    """

    op = OPS.adaptive_avg_pool.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        input, ctx.output_size = inputs
        ctx.input_size = spatial(input, len(ctx.output_size))
        return ()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_input = None
        if grad is not None:
            grad_input = adaptive_avg_pool_backward(grad, ctx.input_size)
        return grad_input, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return adaptive_avg_pool(tangent, ctx.output_size)


class AdaptiveAvgPoolBackward(Derivative):
    """The adjoint of `AdaptiveAvgPool`: grad_output (N, C, *L) spread over (N, C, *input_size)."""

    op = OPS.adaptive_avg_pool_backward.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        grad_output, ctx.input_size = inputs
        ctx.output_size = spatial(grad_output, len(ctx.input_size))
        return ()

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = None
        if grad is not None:
            grad_grad_output = adaptive_avg_pool(grad, ctx.output_size)
        return grad_grad_output, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return adaptive_avg_pool_backward(tangent, ctx.input_size)


# The operators with their derivatives, named as in torch.ops.cnnops. `cnnops.ops` documents them.

avg_pool = differentiable(AvgPool)
avg_pool_backward = differentiable(AvgPoolBackward)
adaptive_avg_pool = differentiable(AdaptiveAvgPool)
adaptive_avg_pool_backward = differentiable(AdaptiveAvgPoolBackward)
