"""Pooling modules: torch.nn's own classes with cnnops' kernels in their forward pass.

Constructor arguments, attributes and repr are inherited. Inputs are batched (N, C, *spatial) or
unbatched (C, *spatial).
"""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as torch_functional

from cnnops import functional
from cnnops.fallback import or_torch

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AdaptiveMaxPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "FractionalMaxPool2d",
    "FractionalMaxPool3d",
    "LPPool1d",
    "LPPool2d",
    "LPPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MaxUnpool1d",
    "MaxUnpool2d",
    "MaxUnpool3d",
]


class _Pool(nn.Module):
    """What the pooling families share: `_function`, the functional of the module's rank."""

    _function: ClassVar[Callable[..., Any]]
    # Set by the constructors of torch.nn's classes.
    kernel_size: Any
    stride: Any
    padding: Any
    output_size: Any


class _MaxPool(_Pool):
    dilation: Any
    ceil_mode: bool
    return_indices: bool

    def forward(self, input: Tensor) -> Any:
        """Pooled values, with their indices where `return_indices`."""
        return self._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )


class _MaxUnpool(_Pool):
    def forward(
        self, input: Tensor, indices: Tensor, output_size: list[int] | None = None
    ) -> Tensor:
        """`input` scattered to `indices` in zeros of `output_size`."""
        return self._function(
            input, indices, self.kernel_size, self.stride, self.padding, output_size
        )


class _AvgPool(_Pool):
    ceil_mode: bool
    count_include_pad: bool

    def forward(self, input: Tensor) -> Tensor:
        """Means of the windows."""
        return self._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
        )


class _AvgPoolWithDivisor(_AvgPool):
    divisor_override: int | None

    def forward(self, input: Tensor) -> Tensor:
        """Sums of the windows over their size or `divisor_override`."""
        return self._function(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class _AdaptiveMaxPool(_Pool):
    return_indices: bool

    def forward(self, input: Tensor) -> Any:
        """Pooled values, with their indices where `return_indices`."""
        return self._function(input, self.output_size, self.return_indices)


class _AdaptiveAvgPool(_Pool):
    def forward(self, input: Tensor) -> Tensor:
        """Means of the windows."""
        return self._function(input, self.output_size)


class _LPPool(_Pool):
    norm_type: float
    ceil_mode: bool

    def forward(self, input: Tensor) -> Tensor:
        """Power averages of the windows."""
        return self._function(
            input, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode
        )


class _FractionalMaxPool(_Pool):
    output_ratio: Any
    return_indices: bool
    _random_samples: Tensor | None

    def forward(self, input: Tensor) -> Any:
        """Pooled values, with their indices where `return_indices`."""
        return self._function(
            input,
            self.kernel_size,
            self.output_size,
            self.output_ratio,
            self.return_indices,
            _random_samples=self._random_samples,
        )


class MaxPool1d(_MaxPool, nn.MaxPool1d):
    """torch.nn.MaxPool1d on cnnops: (N, C, L) to (N, C, L_out)."""

    _function = staticmethod(or_torch(functional.max_pool1d, torch_functional.max_pool1d))


class MaxPool2d(_MaxPool, nn.MaxPool2d):
    """torch.nn.MaxPool2d on cnnops: (N, C, H, W) to (N, C, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.max_pool2d, torch_functional.max_pool2d))


class MaxPool3d(_MaxPool, nn.MaxPool3d):
    """torch.nn.MaxPool3d on cnnops: (N, C, D, H, W) to (N, C, D_out, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.max_pool3d, torch_functional.max_pool3d))


class MaxUnpool1d(_MaxUnpool, nn.MaxUnpool1d):
    """torch.nn.MaxUnpool1d on cnnops: (N, C, L) to (N, C, L_out)."""

    _function = staticmethod(or_torch(functional.max_unpool1d, torch_functional.max_unpool1d))


class MaxUnpool2d(_MaxUnpool, nn.MaxUnpool2d):
    """torch.nn.MaxUnpool2d on cnnops: (N, C, H, W) to (N, C, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.max_unpool2d, torch_functional.max_unpool2d))


class MaxUnpool3d(_MaxUnpool, nn.MaxUnpool3d):
    """torch.nn.MaxUnpool3d on cnnops: (N, C, D, H, W) to (N, C, D_out, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.max_unpool3d, torch_functional.max_unpool3d))


class AvgPool1d(_AvgPool, nn.AvgPool1d):
    """torch.nn.AvgPool1d on cnnops: (N, C, L) to (N, C, L_out)."""

    _function = staticmethod(or_torch(functional.avg_pool1d, torch_functional.avg_pool1d))


class AvgPool2d(_AvgPoolWithDivisor, nn.AvgPool2d):
    """torch.nn.AvgPool2d on cnnops: (N, C, H, W) to (N, C, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.avg_pool2d, torch_functional.avg_pool2d))


class AvgPool3d(_AvgPoolWithDivisor, nn.AvgPool3d):
    """torch.nn.AvgPool3d on cnnops: (N, C, D, H, W) to (N, C, D_out, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.avg_pool3d, torch_functional.avg_pool3d))


class AdaptiveMaxPool1d(_AdaptiveMaxPool, nn.AdaptiveMaxPool1d):
    """torch.nn.AdaptiveMaxPool1d on cnnops: (N, C, L) to (N, C, L_out)."""

    _function = staticmethod(
        or_torch(functional.adaptive_max_pool1d, torch_functional.adaptive_max_pool1d)
    )


class AdaptiveMaxPool2d(_AdaptiveMaxPool, nn.AdaptiveMaxPool2d):
    """torch.nn.AdaptiveMaxPool2d on cnnops: (N, C, H, W) to (N, C, H_out, W_out)."""

    _function = staticmethod(
        or_torch(functional.adaptive_max_pool2d, torch_functional.adaptive_max_pool2d)
    )


class AdaptiveMaxPool3d(_AdaptiveMaxPool, nn.AdaptiveMaxPool3d):
    """torch.nn.AdaptiveMaxPool3d on cnnops: (N, C, D, H, W) to (N, C, D_out, H_out, W_out)."""

    _function = staticmethod(
        or_torch(functional.adaptive_max_pool3d, torch_functional.adaptive_max_pool3d)
    )


class AdaptiveAvgPool1d(_AdaptiveAvgPool, nn.AdaptiveAvgPool1d):
    """torch.nn.AdaptiveAvgPool1d on cnnops: (N, C, L) to (N, C, L_out)."""

    _function = staticmethod(
        or_torch(functional.adaptive_avg_pool1d, torch_functional.adaptive_avg_pool1d)
    )


class AdaptiveAvgPool2d(_AdaptiveAvgPool, nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d on cnnops: (N, C, H, W) to (N, C, H_out, W_out)."""

    _function = staticmethod(
        or_torch(functional.adaptive_avg_pool2d, torch_functional.adaptive_avg_pool2d)
    )


class AdaptiveAvgPool3d(_AdaptiveAvgPool, nn.AdaptiveAvgPool3d):
    """torch.nn.AdaptiveAvgPool3d on cnnops: (N, C, D, H, W) to (N, C, D_out, H_out, W_out)."""

    _function = staticmethod(
        or_torch(functional.adaptive_avg_pool3d, torch_functional.adaptive_avg_pool3d)
    )


class LPPool1d(_LPPool, nn.LPPool1d):
    """torch.nn.LPPool1d on cnnops: (N, C, L) to (N, C, L_out)."""

    _function = staticmethod(or_torch(functional.lp_pool1d, torch_functional.lp_pool1d))


class LPPool2d(_LPPool, nn.LPPool2d):
    """torch.nn.LPPool2d on cnnops: (N, C, H, W) to (N, C, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.lp_pool2d, torch_functional.lp_pool2d))


class LPPool3d(_LPPool, nn.LPPool3d):
    """torch.nn.LPPool3d on cnnops: (N, C, D, H, W) to (N, C, D_out, H_out, W_out)."""

    _function = staticmethod(or_torch(functional.lp_pool3d, torch_functional.lp_pool3d))


class FractionalMaxPool2d(_FractionalMaxPool, nn.FractionalMaxPool2d):
    """torch.nn.FractionalMaxPool2d on cnnops: (N, C, H, W) to (N, C, H_out, W_out)."""

    _function = staticmethod(
        or_torch(functional.fractional_max_pool2d, torch_functional.fractional_max_pool2d)
    )


class FractionalMaxPool3d(_FractionalMaxPool, nn.FractionalMaxPool3d):
    """torch.nn.FractionalMaxPool3d on cnnops: (N, C, D, H, W) to (N, C, D_out, H_out, W_out)."""

    _function = staticmethod(
        or_torch(functional.fractional_max_pool3d, torch_functional.fractional_max_pool3d)
    )
