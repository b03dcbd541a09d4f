"""torch's functions below torch.nn.functional that serve convolutions of every kind at once."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cnnops import functional, ops, support
from cnnops.geometry import per_side, spatial
from cnnops.support import UnsupportedError

__all__ = ["convolution", "convolution_backward"]


def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Tensor:
    """torch.convolution: `conv1d` ... `conv_transpose3d` by the rank of `weight`."""
    rank = _rank(input, weight)
    if transposed:
        function = getattr(functional, f"conv_transpose{rank}d")
        return function(input, weight, bias, stride, padding, output_padding, groups, dilation)
    function = getattr(functional, f"conv{rank}d")
    return function(input, weight, bias, stride, padding, dilation, groups)


def convolution_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """torch.ops.aten.convolution_backward: the gradients of `convolution` that `output_mask` asks.

    input (N, C_in, *M), weight as `convolution` takes it and grad_output of the shape of its
    result; the gradients for input, weight and bias have the shapes of those.
    """
    rank = _rank(input, weight)
    name = f"conv_transpose{rank}d" if transposed else f"conv{rank}d"
    support.check(name, input, weight, grad_output)
    geometry = (stride, per_side(padding), dilation, groups)
    kernel = spatial(weight, rank)
    grad_input = grad_weight = grad_bias = None
    if output_mask[0] and transposed:
        grad_input = ops.convolution(grad_output, weight, None, *geometry)
    elif output_mask[0]:
        size = spatial(input, rank)
        grad_input = ops.convolution_grad_input(grad_output, weight, None, size, *geometry)
    if output_mask[1]:
        # A transposed convolution is the input gradient of a convolution of its result.
        small, large = (input, grad_output) if transposed else (grad_output, input)
        grad_weight = ops.convolution_grad_weight(small, large, kernel, *geometry)
    if output_mask[2]:
        grad_bias = grad_output.sum([0, *range(2, 2 + rank)])
    return grad_input, grad_weight, grad_bias


def _rank(input: Tensor, weight: Tensor) -> int:
    """The number of spatial axes; UnsupportedError for other than batches of one to three."""
    rank = weight.dim() - 2
    if rank not in (1, 2, 3) or input.dim() != weight.dim():
        raise UnsupportedError("convolution: cnnops takes batches of one to three spatial axes")
    return rank
