"""The three contractions of a convolution, each the derivative of the other two."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cnnops.autograd.derivative import OPS, Derivative, Gradients, differentiable
from cnnops.geometry import spatial
from cnnops.plain import plain_call

_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_plain_gradients = plain_call("convolution_gradients", None)
_plain_transpose_gradients = plain_call("convolution_transpose_gradients", None)


def _sum_to_channels(grad: Tensor, rank: int) -> Tensor:
    """The gradient of a bias (C,): the sum of (N, C, *spatial) or (C, *spatial) but for C."""
    axes = list(range(-rank, 0))
    return grad.sum(axes if grad.dim() == rank + 1 else [0, *axes])


class Convolution(Derivative):
    """conv(input, weight) + bias; the semantics are torch.nn.functional.conv1d, 2d and 3d.

    input (N, C_in, *M) or (C_in, *M), weight (C_out, C_in / groups, *K), bias (C_out) or None.
    """

    op = OPS.convolution.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        ctx.geometry = inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_input = grad_weight = grad_bias = None
        if grad is not None:
            input, weight = ctx.saved_tensors
            needed = ctx.needs_input_grad[:3]
            if not _dynamo_is_compiling():
                gradients = _plain_gradients(grad, input, weight, *needed, *ctx.geometry)
                if gradients is not None:
                    return *gradients, None, None, None, None, None
            rank = len(ctx.geometry[0])
            if needed[0]:
                size = spatial(input, rank)
                grad_input = convolution_grad_input(grad, weight, None, size, *ctx.geometry)
            if needed[1]:
                kernel = spatial(weight, rank)
                grad_weight = convolution_grad_weight(grad, input, kernel, *ctx.geometry)
            if needed[2]:
                grad_bias = _sum_to_channels(grad, rank)
        return grad_input, grad_weight, grad_bias, None, None, None, None, None

    @staticmethod
    def jvp(
        ctx: Any,
        input_tangent: Tensor | None,
        weight_tangent: Tensor | None,
        bias_tangent: Tensor | None,
        *_: None,
    ) -> Tensor:
        input, weight = ctx.saved_tensors
        if input_tangent is None:
            input_tangent = torch.zeros_like(input)
        tangent = convolution(input_tangent, weight, bias_tangent, *ctx.geometry)
        if weight_tangent is not None:
            tangent = tangent + convolution(input, weight_tangent, None, *ctx.geometry)
        return tangent


class ConvolutionGradInput(Derivative):
    """The gradient of a convolution for its input, which is also the transposed convolution.

    grad_output (N, C_out, *L) or (C_out, *L), weight (C_out, C_in / groups, *K), bias (C_in) or
    None; the result is (N, C_in, *input_size). The semantics are those of
    torch.nn.functional.conv_transpose1d, 2d and 3d with the size of the result given.
    """

    op = OPS.convolution_grad_input.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        ctx.input_size, ctx.geometry = inputs[3], inputs[4:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = grad_weight = grad_bias = None
        if grad is not None:
            grad_output, weight = ctx.saved_tensors
            rank = len(ctx.geometry[0])
            needed = ctx.needs_input_grad[:3]
            if not _dynamo_is_compiling():
                gradients = _plain_transpose_gradients(
                    grad, grad_output, weight, *needed, *ctx.geometry
                )
                if gradients is not None:
                    first, *others = gradients
                    first = _cut_to(first, grad_output, rank)
                    return first, *others, None, None, None, None, None, None
            if needed[0]:
                grad_grad_output = convolution(grad, weight, None, *ctx.geometry)
                grad_grad_output = _cut_to(grad_grad_output, grad_output, rank)
            if needed[1]:
                kernel = spatial(weight, rank)
                grad_weight = convolution_grad_weight(grad_output, grad, kernel, *ctx.geometry)
            if needed[2]:
                grad_bias = _sum_to_channels(grad, rank)
        return grad_grad_output, grad_weight, grad_bias, None, None, None, None, None, None

    @staticmethod
    def jvp(
        ctx: Any,
        grad_tangent: Tensor | None,
        weight_tangent: Tensor | None,
        bias_tangent: Tensor | None,
        *_: None,
    ) -> Tensor:
        grad, weight = ctx.saved_tensors
        if grad_tangent is None:
            grad_tangent = torch.zeros_like(grad)
        rest = (ctx.input_size, *ctx.geometry)
        tangent = convolution_grad_input(grad_tangent, weight, bias_tangent, *rest)
        if weight_tangent is not None:
            tangent = tangent + convolution_grad_input(grad, weight_tangent, None, *rest)
        return tangent


def _cut_to(tensor: Tensor | None, like: Tensor, rank: int) -> Tensor | None:
    """As many leading positions of the `rank` spatial axes as `like` has.

    In memory of their own where cut. A transposed convolution with output_padding >= stride has a
    result so large that its convolution has more positions than grad_output; those were never read.
    """
    size = spatial(like, rank)
    if tensor is None or spatial(tensor, rank) == size:
        return tensor
    for axis, length in enumerate(size, -rank):
        tensor = tensor.narrow(axis, 0, length)
    return tensor.clone()


class ConvolutionGradWeight(Derivative):
    """The gradient of a convolution for its weight.

    grad_output (N, C_out, *L), input (N, C_in, *M), both also unbatched; the result is
    (C_out, C_in / groups, *kernel_size).
    """

    op = OPS.convolution_grad_weight.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        ctx.kernel_size, ctx.geometry = inputs[2], inputs[3:]
        return inputs[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = grad_input = None
        if grad is not None:
            grad_output, input = ctx.saved_tensors
            rank = len(ctx.geometry[0])
            if ctx.needs_input_grad[0]:
                grad_grad_output = convolution(input, grad, None, *ctx.geometry)
                grad_grad_output = _cut_to(grad_grad_output, grad_output, rank)
            if ctx.needs_input_grad[1]:
                size = spatial(input, rank)
                grad_input = convolution_grad_input(grad_output, grad, None, size, *ctx.geometry)
        return grad_grad_output, grad_input, None, None, None, None, None, None

    @staticmethod
    def jvp(
        ctx: Any, grad_tangent: Tensor | None, input_tangent: Tensor | None, *_: None
    ) -> Tensor:
        grad, input = ctx.saved_tensors
        if grad_tangent is None:
            grad_tangent = torch.zeros_like(grad)
        rest = (ctx.kernel_size, *ctx.geometry)
        tangent = convolution_grad_weight(grad_tangent, input, *rest)
        if input_tangent is not None:
            tangent = tangent + convolution_grad_weight(grad, input_tangent, *rest)
        return tangent


# The operators with their derivatives, named as in torch.ops.cnnops. `cnnops.ops` documents them.

convolution = differentiable(Convolution)
convolution_grad_input = differentiable(ConvolutionGradInput)
convolution_grad_weight = differentiable(ConvolutionGradWeight)
