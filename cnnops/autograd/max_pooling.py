"""Max pooling: values and indices, scatter and gather; and taps for the gradient alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cnnops.autograd.derivative import OPS, Derivative, Gradients, differentiable
from cnnops.geometry import spatial


class _ByIndices(Derivative):
    """A max pooling (values, indices): the gradient goes to where `indices` say it came from."""

    @staticmethod
    def keep(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        indices = output[1]
        ctx.input_size = spatial(inputs[0], len(inputs[1]))
        ctx.number_of_inputs = len(inputs)
        ctx.mark_non_differentiable(indices)
        return (indices,)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None = None) -> Gradients:
        grad_input = None
        if grad is not None:
            (indices,) = ctx.saved_tensors
            grad_input = max_pool_backward(grad, indices, ctx.input_size)
        return (grad_input,) + (None,) * (ctx.number_of_inputs - 1)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        return _gather(tangent, indices, len(ctx.input_size)), None


class MaxPoolWithIndices(_ByIndices):
    """(values, indices) as torch.nn.functional.max_pool1d, 2d and 3d with return_indices=True.

    input (N, C, *M) or (C, *M); `indices` are int64 positions in the flattened M.
    """

    op = OPS.max_pool_with_indices.default


class MaxPoolWithTaps(Derivative):
    """(values, taps): which of its taps the maximum of each window is, uint8, for the gradient.

    The arguments are those of `MaxPoolWithIndices`, as far as `cnnops.geometry.taps_suffice`.
    """

    op = OPS.max_pool_with_taps.default

    @staticmethod
    def keep(
        ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, ...]:
        input, *ctx.geometry = inputs
        taps = output[1]
        ctx.input_size = spatial(input, len(inputs[1]))
        ctx.mark_non_differentiable(taps)
        return (taps,)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None = None) -> Gradients:
        grad_input = None
        if grad is not None:
            (taps,) = ctx.saved_tensors
            grad_input = max_pool_taps_backward(grad, taps, ctx.input_size, *ctx.geometry)
        return grad_input, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> tuple[Tensor, None]:
        (taps,) = ctx.saved_tensors
        return _gather_taps(tangent, taps, *ctx.geometry), None


class MaxPoolTapsBackward(Derivative):
    """The adjoint of max pooling, with the taps of `MaxPoolWithTaps`.

    grad_output and taps (N, C, *L) or (C, *L); the result is (N, C, *input_size).
    """

    op = OPS.max_pool_taps_backward.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        _, taps, ctx.input_size, *ctx.geometry = inputs
        return (taps,)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = None
        if grad is not None:
            (taps,) = ctx.saved_tensors
            grad_grad_output = _gather_taps(grad, taps, *ctx.geometry)
        return grad_grad_output, None, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (taps,) = ctx.saved_tensors
        return max_pool_taps_backward(tangent, taps, ctx.input_size, *ctx.geometry)


def _gather_taps(
    input: Tensor,
    taps: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    *_: Any,
) -> Tensor:
    """The elements of `input` that the taps name."""
    rank = len(kernel_size)
    tap = taps.long()
    indices, step = torch.zeros_like(tap), 1
    for axis in range(-1, -rank - 1, -1):
        window = torch.arange(taps.shape[axis], device=taps.device) * stride[axis] - padding[axis]
        position = window.reshape(-1, *[1] * (-axis - 1)) + tap % kernel_size[axis]
        indices = indices + position * step
        tap = tap // kernel_size[axis]
        step = step * input.shape[axis]
    return _gather(input, indices, rank)


class AdaptiveMaxPool(_ByIndices):
    """(values, indices) as torch.nn.functional.adaptive_max_pool1d, 2d and 3d.

    input (N, C, *M) or (C, *M); the results are (N, C, *output_size).
    """

    op = OPS.adaptive_max_pool.default

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None = None) -> Gradients:
        # torch computes such an empty result, but asks for no gradient of it.
        if grad is not None and 0 in grad.shape[1:]:
            raise RuntimeError(
                "Expected grad_output to have non-zero size for non-batch dimensions, but "
                f"grad_output has sizes {list(grad.shape)}"
            )
        return _ByIndices.backward(ctx, grad, _)


class FractionalMaxPool(_ByIndices):
    """(values, indices) as torch.nn.functional.fractional_max_pool2d and 3d.

    input (N, C, *M) or (C, *M), random_samples (N, C, rank); results are (N, C, *output_size).
    """

    op = OPS.fractional_max_pool.default


class MaxPool(Derivative):
    """The values of a max pooling alone.

    `cnnops.ops.max_pool` takes `MaxPoolWithIndices` where a gradient is asked for. This Function
    makes the values-only operator differentiable all the same: it finds the indices again.
    """

    op = OPS.max_pool.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        ctx.geometry = inputs[1:]
        return (inputs[0],)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_input = None
        if grad is not None:
            (input,) = ctx.saved_tensors
            _, indices = max_pool_with_indices(input.detach(), *ctx.geometry)
            size = spatial(input, len(ctx.geometry[0]))
            grad_input = max_pool_backward(grad, indices, size)
        return grad_input, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (input,) = ctx.saved_tensors
        _, indices = max_pool_with_indices(input, *ctx.geometry)
        return _gather(tangent, indices, len(ctx.geometry[0]))


class MaxPoolBackward(Derivative):
    """Scatter-add: result[indices[i]] += grad_output[i] in each plane; the adjoint of max pooling.

    grad_output and indices (N, C, *L) or (C, *L); the result is (N, C, *input_size).
    """

    op = OPS.max_pool_backward.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        _, indices, ctx.input_size = inputs
        return (indices,)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = None
        if grad is not None:
            (indices,) = ctx.saved_tensors
            grad_grad_output = _gather(grad, indices, len(ctx.input_size))
        return grad_grad_output, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (indices,) = ctx.saved_tensors
        return max_pool_backward(tangent, indices, ctx.input_size)


class MaxPoolGather(Derivative):
    """result[i] = input[indices[i]] in each plane; the adjoint of `MaxPoolBackward`.

    input (N, C, *M) and indices (N, C, *L): only batched, for nothing else tells a batch axis from
    a spatial one.
    """

    op = OPS.max_pool_gather.default

    @staticmethod
    def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> tuple[Tensor, ...]:
        input, indices = inputs
        ctx.input_size = tuple(input.shape[2:])
        return (indices,)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_input = None
        if grad is not None:
            (indices,) = ctx.saved_tensors
            grad_input = max_pool_backward(grad, indices, ctx.input_size)
        return grad_input, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (indices,) = ctx.saved_tensors
        return max_pool_gather(tangent, indices)


def _gather(input: Tensor, indices: Tensor, rank: int) -> Tensor:
    """input[indices] in each plane of `rank` spatial axes, with or without the batch axis."""
    if input.dim() == rank + 2:
        return max_pool_gather(input, indices)
    return max_pool_gather(input.unsqueeze(0), indices.unsqueeze(0)).squeeze(0)


class MaxUnpool(Derivative):
    """result[indices[i]] = input[i] in each plane, zero elsewhere, as max_unpool1d, 2d and 3d.

    input and indices (N, C, *L) or (C, *L); the result is (N, C, *output_size).
    """

    op = OPS.max_unpool.default

    keep = MaxPoolBackward.keep
    backward = MaxPoolBackward.backward

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (indices,) = ctx.saved_tensors
        return max_unpool(tangent, indices, ctx.input_size)


# The operators with their derivatives, named as in torch.ops.cnnops. `cnnops.ops` documents them.

max_pool_with_indices = differentiable(MaxPoolWithIndices)
max_pool_with_taps = differentiable(MaxPoolWithTaps)
max_pool_taps_backward = differentiable(MaxPoolTapsBackward)
adaptive_max_pool = differentiable(AdaptiveMaxPool)
fractional_max_pool = differentiable(FractionalMaxPool)
max_pool = differentiable(MaxPool)
max_pool_backward = differentiable(MaxPoolBackward)
max_pool_gather = differentiable(MaxPoolGather)
max_unpool = differentiable(MaxUnpool)
