"""Convolution modules: torch.nn's own classes with cnnops' kernels in their forward pass.

Constructor arguments, initialization, parameters, state_dict and repr are inherited. Inputs are
batched (N, C_in, *spatial) or unbatched (C_in, *spatial).
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as torch_functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.overrides import handle_torch_function, has_torch_function_variadic

from cnnops import functional, ops
from cnnops.autocast import to_lower_precision
from cnnops.fallback import or_torch
from cnnops.functional.conv import conv_by
from cnnops.nn import kept_weights
from cnnops.support import check, given

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
]


def padded_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    reversed_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    """Convolution that finds its border through `padding_mode`, where torch pads a copy first.

    input (N, C_in, *M) or (C_in, *M), weight (C_out, C_in / groups, *K), bias (C_out) or None;
    `reversed_padding` is as torch.nn.functional.pad takes it: (begin, end) for each spatial axis,
    the last axis first. Raises as `cnnops.functional.conv2d`.
    """
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(
            padded_convolution,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride,
            reversed_padding,
            dilation,
            groups,
            padding_mode,
        )
    rank = len(stride)
    check(f"conv{rank}d", input, weight, *given(bias))
    input, weight, bias = to_lower_precision(input, weight, bias)  # type: ignore[assignment]
    # The operator's list begins with the first axis.
    sides = [pad for axis in range(rank) for pad in reversed_padding[-2 * axis - 2 :][:2]]
    padding = tuple(sides)
    keeps = kept_weights.may_keep(input, weight, bias)
    convolve = kept_weights.convolution if keeps else ops.convolution
    return convolve(input, weight, bias, stride, padding, dilation, groups, padding_mode)


def _pad_and_convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    reversed_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    """`padded_convolution` by torch alone."""
    function = getattr(torch_functional, f"conv{len(stride)}d")
    padded = torch_functional.pad(input, list(reversed_padding), mode=padding_mode)
    return function(padded, weight, bias, stride, 0, dilation, groups)


_padded_convolution = or_torch(padded_convolution, _pad_and_convolve)


class _Conv(_ConvNd):
    """The forward pass of a convolution of any rank; `_function` is the functional of that rank."""

    _function: ClassVar[Callable[..., Tensor]]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros":
            return self._function(
                input, weight, bias, self.stride, self.padding, self.dilation, self.groups
            )
        return _padded_convolution(
            input,
            weight,
            bias,
            self.stride,
            self._reversed_padding_repeated_twice,
            self.dilation,
            self.groups,
            self.padding_mode,
        )


class _ConvTranspose(_ConvTransposeNd):
    """The forward pass of a transposed convolution of any rank."""

    _function: ClassVar[Callable[..., Tensor]]

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Transposed convolution; `output_size` picks among the sizes that the stride allows."""
        # Any: torch declares lists where its modules hold tuples.
        rank = len(self.kernel_size)
        sizes: Any = (self.stride, self.padding, self.kernel_size, rank, self.dilation)
        output_padding = self._output_padding(input, output_size, *sizes)
        return self._function(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            output_padding,
            self.groups,
            self.dilation,
        )


def _conv_nd(rank: int) -> Callable[..., Tensor]:
    """conv1d, 2d or 3d, by `rank`, with kept weights."""
    return conv_by(rank, kept_weights.conv, kept_weights.convolution, kept_weights.may_keep)


class Conv1d(_Conv, nn.Conv1d):
    """torch.nn.Conv1d on cnnops: (N, C_in, L) to (N, C_out, L_out)."""

    _function = staticmethod(or_torch(_conv_nd(1), torch_functional.conv1d))


class Conv2d(_Conv, nn.Conv2d):
    """torch.nn.Conv2d on cnnops: (N, C_in, H, W) to (N, C_out, H_out, W_out)."""

    _function = staticmethod(or_torch(_conv_nd(2), torch_functional.conv2d))


class Conv3d(_Conv, nn.Conv3d):
    """torch.nn.Conv3d on cnnops: (N, C_in, D, H, W) to (N, C_out, D_out, H_out, W_out)."""

    _function = staticmethod(or_torch(_conv_nd(3), torch_functional.conv3d))


class ConvTranspose1d(_ConvTranspose, nn.ConvTranspose1d):
    """torch.nn.ConvTranspose1d on cnnops: (N, C_in, L) to (N, C_out, L_out)."""

    _function = staticmethod(
        or_torch(functional.conv_transpose1d, torch_functional.conv_transpose1d)
    )


class ConvTranspose2d(_ConvTranspose, nn.ConvTranspose2d):
    """torch.nn.ConvTranspose2d on cnnops: (N, C_in, H, W) to (N, C_out, H_out, W_out)."""

    _function = staticmethod(
        or_torch(functional.conv_transpose2d, torch_functional.conv_transpose2d)
    )


class ConvTranspose3d(_ConvTranspose, nn.ConvTranspose3d):
    """torch.nn.ConvTranspose3d on cnnops: (N, C_in, D, H, W) to (N, C_out, D_out, H_out, W_out)."""

    _function = staticmethod(
        or_torch(functional.conv_transpose3d, torch_functional.conv_transpose3d)
    )


# torch's mixin of the lazy modules declares `weight` and `bias` otherwise than its convolutions.
class LazyConv1d(nn.LazyConv1d, Conv1d):  # type: ignore[misc]
    """Conv1d that learns in_channels from its first input."""

    cls_to_become = Conv1d


class LazyConv2d(nn.LazyConv2d, Conv2d):  # type: ignore[misc]
    """Conv2d that learns in_channels from its first input."""

    cls_to_become = Conv2d


class LazyConv3d(nn.LazyConv3d, Conv3d):  # type: ignore[misc]
    """Conv3d that learns in_channels from its first input."""

    cls_to_become = Conv3d


class LazyConvTranspose1d(nn.LazyConvTranspose1d, ConvTranspose1d):  # type: ignore[misc]
    """ConvTranspose1d that learns in_channels from its first input."""

    cls_to_become = ConvTranspose1d


class LazyConvTranspose2d(nn.LazyConvTranspose2d, ConvTranspose2d):  # type: ignore[misc]
    """ConvTranspose2d that learns in_channels from its first input."""

    cls_to_become = ConvTranspose2d


class LazyConvTranspose3d(nn.LazyConvTranspose3d, ConvTranspose3d):  # type: ignore[misc]
    """ConvTranspose3d that learns in_channels from its first input."""

    cls_to_become = ConvTranspose3d
