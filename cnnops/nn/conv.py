"""Convolution modules: torch.nn's own classes with cnnops' kernels in their forward pass.

Constructor arguments, initialization, parameters, state_dict and repr are inherited. Inputs are
batched (N, C_in, *spatial) or unbatched (C_in, *spatial).
"""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as torch_functional
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from cnnops import functional, ops
from cnnops.autocast import to_lower_precision
from cnnops.fallback import or_torch
from cnnops.support import check

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


class _Conv(_ConvNd):
    """The forward pass of a convolution of any rank; `_function` is the functional of that rank."""

    _function: ClassVar[Callable[..., Tensor]]

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.padding_mode == "zeros":
            return self._function(
                input, weight, bias, self.stride, self.padding, self.dilation, self.groups
            )
        name = self._function.__name__
        convolution = or_torch(self._padded_convolution, super()._conv_forward, name)
        return convolution(input, weight, bias)

    def _padded_convolution(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Convolution that reads its border through the padding mode, where torch copies first."""
        check(self._function.__name__, input, weight, bias)
        input, weight, bias = to_lower_precision(input, weight, bias)  # type: ignore[assignment]
        # F.pad's list begins with the last axis; the operator's begins with the first.
        pairs = self._reversed_padding_repeated_twice
        padding = [
            side for axis in range(len(pairs) - 2, -1, -2) for side in pairs[axis : axis + 2]
        ]
        return ops.convolution(
            input, weight, bias, self.stride, padding, self.dilation, self.groups, self.padding_mode
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


class Conv1d(_Conv, nn.Conv1d):
    """torch.nn.Conv1d on cnnops: (N, C_in, L) to (N, C_out, L_out)."""

    _function = staticmethod(or_torch(functional.conv1d, torch_functional.conv1d))


class Conv2d(_Conv, nn.Conv2d):
    """torch.nn.Conv2d on cnnops: (N, C_in, H, W) to (N, C_out, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.conv2d, torch_functional.conv2d))


class Conv3d(_Conv, nn.Conv3d):
    """torch.nn.Conv3d on cnnops: (N, C_in, D, H, W) to (N, C_out, D_out, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.conv3d, torch_functional.conv3d))


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
