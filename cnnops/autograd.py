"""The derivatives of every operator, as torch.autograd.Functions.

Convolution is one trilinear form T(x, w, g) = <conv(x, w), g>. Fixing two of its arguments leaves
three contractions, and each is the derivative of the other two, so that `Convolution`,
`ConvolutionGradInput` (also the transposed convolution) and `ConvolutionGradWeight` differentiate
each other to any order. Average pooling is linear: its derivative is its adjoint. Max pooling is
`(values, indices)`: its derivative scatters by the indices, whose derivative gathers by them. For
the gradient alone a byte for each window says which of its taps is the maximum.
Forward mode (`jvp`) is the product rule of the same operators.

The arguments of a Function are those of the dispatcher operator of the same name, so the same
class serves the differentiable operators at the end of this file and, registered there,
torch.ops.cnnops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

import cnnops._C  # noqa: F401  (loads the schemas of torch.ops.cnnops)
from cnnops.geometry import spatial
from cnnops.plain import plain_call

__all__ = [
    "AdaptiveAvgPool",
    "AdaptiveAvgPoolBackward",
    "AdaptiveMaxPool",
    "AvgPool",
    "AvgPoolBackward",
    "Convolution",
    "ConvolutionGradInput",
    "ConvolutionGradWeight",
    "FractionalMaxPool",
    "MaxPool",
    "MaxPoolBackward",
    "MaxPoolGather",
    "MaxPoolTapsBackward",
    "MaxPoolWithIndices",
    "MaxPoolWithTaps",
    "MaxUnpool",
    "adaptive_avg_pool",
    "adaptive_avg_pool_backward",
    "adaptive_max_pool",
    "avg_pool",
    "avg_pool_backward",
    "convolution",
    "convolution_grad_input",
    "convolution_grad_weight",
    "fractional_max_pool",
    "max_pool",
    "max_pool_backward",
    "max_pool_gather",
    "max_pool_taps_backward",
    "max_pool_with_indices",
    "max_pool_with_taps",
    "max_unpool",
]

_OPS = torch.ops.cnnops
_below_autograd = torch._C._AutoDispatchBelowAutograd
_dynamo_is_compiling = torch.compiler.is_dynamo_compiling
_transforms_are_active = torch._C._are_functorch_transforms_active
_is_grad_enabled = torch.is_grad_enabled
_any_requires_grad = torch._C._any_requires_grad

Gradients = tuple[Any, ...]


def _run(op: Any, *args: Any) -> Any:
    """`op` inside a forward, where autograd is already taken care of."""
    with _below_autograd():
        return op(*args)


def _fused(function: type[Function]) -> type[Function]:
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


def _differentiable(op: Any, function: type[Function]) -> Callable[..., Any]:
    """The operator `op` with the derivative of `function`, both for the same arguments.

    The derivative is registered on `op` as well. The function returned records it only where a
    gradient may be asked for; otherwise it calls `op` and steps over the dispatcher's autograd
    layer, which is Python. Plain calls (cnnops.plain) never get that far. A compiler sees `op`
    itself.
    """
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


def _save(ctx: Any, *tensors: Tensor) -> None:
    """Keeps `tensors` as ctx.saved_tensors of `backward` and, in forward mode, of `jvp`."""
    ctx.save_for_backward(*tensors)
    if forward_ad._current_level >= 0:
        ctx.save_for_forward(*tensors)


def _sum_to_channels(grad: Tensor, rank: int) -> Tensor:
    """The gradient of a bias (C,): the sum of (N, C, *spatial) or (C, *spatial) but for C."""
    axes = list(range(-rank, 0))
    return grad.sum(axes if grad.dim() == rank + 1 else [0, *axes])


# ---------------------------------------------------------------------------------------------
# Convolution: the three contractions.


class Convolution(Function):
    """conv(input, weight) + bias; the semantics are torch.nn.functional.conv1d, 2d and 3d.

    input (N, C_in, *M) or (C_in, *M), weight (C_out, C_in / groups, *K), bias (C_out) or None.
    """

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        padding_mode: str,
    ) -> Tensor:
        return _run(
            _OPS.convolution.default,
            input,
            weight,
            bias,
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.geometry = inputs[3:]
        _save(ctx, inputs[0], inputs[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_input = grad_weight = grad_bias = None
        if grad is not None:
            input, weight = ctx.saved_tensors
            rank = len(ctx.geometry[0])
            if ctx.needs_input_grad[0]:
                size = spatial(input, rank)
                grad_input = convolution_grad_input(grad, weight, None, size, *ctx.geometry)
            if ctx.needs_input_grad[1]:
                kernel = spatial(weight, rank)
                grad_weight = convolution_grad_weight(grad, input, kernel, *ctx.geometry)
            if ctx.needs_input_grad[2]:
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


class ConvolutionGradInput(Function):
    """The gradient of a convolution for its input, which is also the transposed convolution.

    grad_output (N, C_out, *L) or (C_out, *L), weight (C_out, C_in / groups, *K), bias (C_in) or
    None; the result is (N, C_in, *input_size). The semantics are those of
    torch.nn.functional.conv_transpose1d, 2d and 3d with the size of the result given.
    """

    @staticmethod
    def forward(
        grad_output: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        input_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        padding_mode: str,
    ) -> Tensor:
        return _run(
            _OPS.convolution_grad_input.default,
            grad_output,
            weight,
            bias,
            input_size,
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.input_size, ctx.geometry = inputs[3], inputs[4:]
        _save(ctx, inputs[0], inputs[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = grad_weight = grad_bias = None
        if grad is not None:
            grad_output, weight = ctx.saved_tensors
            rank = len(ctx.geometry[0])
            if ctx.needs_input_grad[0]:
                grad_grad_output = convolution(grad, weight, None, *ctx.geometry)
                grad_grad_output = _cut_to(grad_grad_output, spatial(grad_output, rank))
            if ctx.needs_input_grad[1]:
                kernel = spatial(weight, rank)
                grad_weight = convolution_grad_weight(grad_output, grad, kernel, *ctx.geometry)
            if ctx.needs_input_grad[2]:
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


def _cut_to(tensor: Tensor, size: Sequence[int]) -> Tensor:
    """The leading `size` positions of the spatial axes, in memory of their own where cut.

    A transposed convolution with output_padding >= stride has a result so large that its
    convolution has more positions than grad_output; those were never read.
    """
    if tuple(tensor.shape[-len(size) :]) == tuple(size):
        return tensor
    for axis, length in enumerate(size, -len(size)):
        tensor = tensor.narrow(axis, 0, length)
    return tensor.clone()


class ConvolutionGradWeight(Function):
    """The gradient of a convolution for its weight.

    grad_output (N, C_out, *L), input (N, C_in, *M), both also unbatched; the result is
    (C_out, C_in / groups, *kernel_size).
    """

    @staticmethod
    def forward(
        grad_output: Tensor,
        input: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        padding_mode: str,
    ) -> Tensor:
        return _run(
            _OPS.convolution_grad_weight.default,
            grad_output,
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            padding_mode,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.kernel_size, ctx.geometry = inputs[2], inputs[3:]
        _save(ctx, inputs[0], inputs[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = grad_input = None
        if grad is not None:
            grad_output, input = ctx.saved_tensors
            rank = len(ctx.geometry[0])
            if ctx.needs_input_grad[0]:
                grad_grad_output = convolution(input, grad, None, *ctx.geometry)
                grad_grad_output = _cut_to(grad_grad_output, spatial(grad_output, rank))
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


# ---------------------------------------------------------------------------------------------
# Max pooling: values and indices, scatter and gather.


class _ByIndices(Function):
    """A max pooling (values, indices): the gradient goes to where `indices` say it came from."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        indices = output[1]
        ctx.input_size = spatial(inputs[0], len(inputs[1]))
        ctx.number_of_inputs = len(inputs)
        ctx.mark_non_differentiable(indices)
        _save(ctx, indices)
        ctx.set_materialize_grads(False)

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

    @staticmethod
    def forward(
        input: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
    ) -> tuple[Tensor, Tensor]:
        return _run(
            _OPS.max_pool_with_indices.default,
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
        )


class MaxPoolWithTaps(Function):
    """(values, taps): which of its taps the maximum of each window is, uint8, for the gradient.

    The arguments are those of `MaxPoolWithIndices`, as far as `cnnops.geometry.taps_suffice`.
    """

    @staticmethod
    def forward(
        input: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
    ) -> tuple[Tensor, Tensor]:
        return _run(
            _OPS.max_pool_with_taps.default,
            input,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, *ctx.geometry = inputs
        taps = output[1]
        ctx.input_size = spatial(input, len(inputs[1]))
        ctx.mark_non_differentiable(taps)
        _save(ctx, taps)
        ctx.set_materialize_grads(False)

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


class MaxPoolTapsBackward(Function):
    """The adjoint of max pooling, with the taps of `MaxPoolWithTaps`.

    grad_output and taps (N, C, *L) or (C, *L); the result is (N, C, *input_size).
    """

    @staticmethod
    def forward(
        grad_output: Tensor,
        taps: Tensor,
        input_size: Sequence[int],
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
    ) -> Tensor:
        return _run(
            _OPS.max_pool_taps_backward.default,
            grad_output,
            taps,
            input_size,
            kernel_size,
            stride,
            padding,
            dilation,
            ceil_mode,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, taps, ctx.input_size, *ctx.geometry = inputs
        _save(ctx, taps)
        ctx.set_materialize_grads(False)

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

    @staticmethod
    def forward(input: Tensor, output_size: Sequence[int]) -> tuple[Tensor, Tensor]:
        return _run(_OPS.adaptive_max_pool.default, input, output_size)

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

    @staticmethod
    def forward(
        input: Tensor,
        kernel_size: Sequence[int],
        output_size: Sequence[int],
        random_samples: Tensor,
    ) -> tuple[Tensor, Tensor]:
        return _run(
            _OPS.fractional_max_pool.default, input, kernel_size, output_size, random_samples
        )


class MaxPool(Function):
    """The values of a max pooling alone.

    `cnnops.ops.max_pool` takes `MaxPoolWithIndices` where a gradient is asked for. This Function
    makes the values-only operator differentiable all the same: it finds the indices again.
    """

    @staticmethod
    def forward(
        input: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        ceil_mode: bool,
    ) -> Tensor:
        return _run(_OPS.max_pool.default, input, kernel_size, stride, padding, dilation, ceil_mode)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.geometry = inputs[1:]
        _save(ctx, inputs[0])
        ctx.set_materialize_grads(False)

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


class MaxPoolBackward(Function):
    """Scatter-add: result[indices[i]] += grad_output[i] in each plane; the adjoint of max pooling.

    grad_output and indices (N, C, *L) or (C, *L); the result is (N, C, *input_size).
    """

    @staticmethod
    def forward(grad_output: Tensor, indices: Tensor, input_size: Sequence[int]) -> Tensor:
        return _run(_OPS.max_pool_backward.default, grad_output, indices, input_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, indices, ctx.input_size = inputs
        _save(ctx, indices)
        ctx.set_materialize_grads(False)

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


class MaxPoolGather(Function):
    """result[i] = input[indices[i]] in each plane; the adjoint of `MaxPoolBackward`.

    input (N, C, *M) and indices (N, C, *L): only batched, for nothing else tells a batch axis from
    a spatial one.
    """

    @staticmethod
    def forward(input: Tensor, indices: Tensor) -> Tensor:
        return _run(_OPS.max_pool_gather.default, input, indices)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, indices = inputs
        ctx.input_size = tuple(input.shape[2:])
        _save(ctx, indices)
        ctx.set_materialize_grads(False)

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


class MaxUnpool(Function):
    """result[indices[i]] = input[i] in each plane, zero elsewhere, as max_unpool1d, 2d and 3d.

    input and indices (N, C, *L) or (C, *L); the result is (N, C, *output_size).
    """

    @staticmethod
    def forward(input: Tensor, indices: Tensor, output_size: Sequence[int]) -> Tensor:
        return _run(_OPS.max_unpool.default, input, indices, output_size)

    setup_context = MaxPoolBackward.setup_context
    backward = MaxPoolBackward.backward

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        (indices,) = ctx.saved_tensors
        return max_unpool(tangent, indices, ctx.input_size)


# ---------------------------------------------------------------------------------------------
# Average pooling: linear maps and their adjoints.


class AvgPool(Function):
    """The mean of each window, as torch.nn.functional.avg_pool1d, 2d and 3d.

    input (N, C, *M) or (C, *M).
    """

    @staticmethod
    def forward(
        input: Tensor,
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Tensor:
        return _run(
            _OPS.avg_pool.default,
            input,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.geometry = inputs[1:]
        ctx.input_size = spatial(inputs[0], len(inputs[1]))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_input = None
        if grad is not None:
            grad_input = avg_pool_backward(grad, ctx.input_size, *ctx.geometry)
        return grad_input, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return avg_pool(tangent, *ctx.geometry)


class AvgPoolBackward(Function):
    """The adjoint of `AvgPool`: grad_output (N, C, *L) spread over (N, C, *input_size)."""

    @staticmethod
    def forward(
        grad_output: Tensor,
        input_size: Sequence[int],
        kernel_size: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
        divisor_override: int | None,
    ) -> Tensor:
        return _run(
            _OPS.avg_pool_backward.default,
            grad_output,
            input_size,
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad,
            divisor_override,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.input_size, ctx.geometry = inputs[1], inputs[2:]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = None
        if grad is not None:
            grad_grad_output = avg_pool(grad, *ctx.geometry)
        return grad_grad_output, None, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return avg_pool_backward(tangent, ctx.input_size, *ctx.geometry)


class AdaptiveAvgPool(Function):
    """The means over windows that divide the input evenly, as adaptive_avg_pool1d, 2d and 3d.

    input (N, C, *M) or (C, *M); the result is (N, C, *output_size).
    """

    @staticmethod
    def forward(input: Tensor, output_size: Sequence[int]) -> Tensor:
        return _run(_OPS.adaptive_avg_pool.default, input, output_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, ctx.output_size = inputs
        ctx.input_size = spatial(input, len(ctx.output_size))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_input = None
        if grad is not None:
            grad_input = adaptive_avg_pool_backward(grad, ctx.input_size)
        return grad_input, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return adaptive_avg_pool(tangent, ctx.output_size)


class AdaptiveAvgPoolBackward(Function):
    """The adjoint of `AdaptiveAvgPool`: grad_output (N, C, *L) spread over (N, C, *input_size)."""

    @staticmethod
    def forward(grad_output: Tensor, input_size: Sequence[int]) -> Tensor:
        return _run(_OPS.adaptive_avg_pool_backward.default, grad_output, input_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad_output, ctx.input_size = inputs
        ctx.output_size = spatial(grad_output, len(ctx.input_size))
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Gradients:
        grad_grad_output = None
        if grad is not None:
            grad_grad_output = adaptive_avg_pool(grad, ctx.output_size)
        return grad_grad_output, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        return adaptive_avg_pool_backward(tangent, ctx.input_size)


# ---------------------------------------------------------------------------------------------
# The operators with their derivatives, named as in torch.ops.cnnops. `cnnops.ops` documents them.

convolution = _differentiable(_OPS.convolution.default, Convolution)
convolution_grad_input = _differentiable(_OPS.convolution_grad_input.default, ConvolutionGradInput)
convolution_grad_weight = _differentiable(
    _OPS.convolution_grad_weight.default, ConvolutionGradWeight
)
max_pool_with_indices = _differentiable(_OPS.max_pool_with_indices.default, MaxPoolWithIndices)
max_pool_with_taps = _differentiable(_OPS.max_pool_with_taps.default, MaxPoolWithTaps)
max_pool_taps_backward = _differentiable(_OPS.max_pool_taps_backward.default, MaxPoolTapsBackward)
adaptive_max_pool = _differentiable(_OPS.adaptive_max_pool.default, AdaptiveMaxPool)
fractional_max_pool = _differentiable(_OPS.fractional_max_pool.default, FractionalMaxPool)
max_pool = _differentiable(_OPS.max_pool.default, MaxPool)
max_pool_backward = _differentiable(_OPS.max_pool_backward.default, MaxPoolBackward)
max_pool_gather = _differentiable(_OPS.max_pool_gather.default, MaxPoolGather)
max_unpool = _differentiable(_OPS.max_unpool.default, MaxUnpool)
avg_pool = _differentiable(_OPS.avg_pool.default, AvgPool)
avg_pool_backward = _differentiable(_OPS.avg_pool_backward.default, AvgPoolBackward)
adaptive_avg_pool = _differentiable(_OPS.adaptive_avg_pool.default, AdaptiveAvgPool)
adaptive_avg_pool_backward = _differentiable(
    _OPS.adaptive_avg_pool_backward.default, AdaptiveAvgPoolBackward
)
