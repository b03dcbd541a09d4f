"""conv_transpose1d, 2d and 3d over the grid, forward and backward, against torch in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from grid import check, over_grid, ranks

import cnnops.functional
from cnnops.check.cases import Case

pytestmark = pytest.mark.usefixtures("device")


@pytest.mark.emulated_share(2)
@over_grid(*ranks("conv_transpose"))
def test_grid(case: Case, dtype: torch.dtype, device: str) -> None:
    check(case, dtype, device)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_positional_arguments(rank: int) -> None:
    x = torch.randn(2, 4, *(5, 4, 3)[:rank], dtype=torch.float64)
    weight = torch.randn(4, 3, *(3,) * rank, dtype=torch.float64)
    bias = torch.randn(6, dtype=torch.float64)
    # stride, padding, output_padding, groups, dilation: groups comes before dilation here.
    arguments = (x, weight, bias, 2, 1, 1, 2, 2)
    name = f"conv_transpose{rank}d"
    torch.testing.assert_close(
        getattr(cnnops.functional, name)(*arguments), getattr(F, name)(*arguments)
    )


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_is_the_gradient_of_conv(rank: int, stride: int) -> None:
    x = torch.randn(2, 4, *(9, 8, 7)[:rank], dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, *(3,) * rank, dtype=torch.float64)
    out = getattr(cnnops.functional, f"conv{rank}d")(x, weight, stride=stride, padding=1)
    cotangent = torch.randn_like(out)
    (gradient,) = torch.autograd.grad(out, x, cotangent)
    # What stride leaves over at the end of each axis is output_padding's to add.
    missing = tuple(
        size - ((reached - 1) * stride + 1)
        for size, reached in zip(x.shape[2:], out.shape[2:], strict=True)
    )
    transposed = getattr(cnnops.functional, f"conv_transpose{rank}d")(
        cotangent, weight, stride=stride, padding=1, output_padding=missing
    )
    torch.testing.assert_close(transposed, gradient)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_positions_no_kernel_reaches_hold_the_bias(rank: int) -> None:
    x = torch.randn(1, 2, *(4,) * rank)
    weight, bias = torch.randn(2, 3, *(1,) * rank), torch.tensor([1.0, -2.0, 3.0])
    out = getattr(cnnops.functional, f"conv_transpose{rank}d")(x, weight, bias, stride=3)
    corner = out[(0, slice(None), *(1,) * rank)]
    assert torch.equal(corner, bias)


@pytest.mark.parametrize("stride", [2**40, 2**63 - 1])
def test_stride_beyond_any_size(stride: int) -> None:
    """Of a far stride only the first position exists: arithmetic on the others must not wrap."""
    grad, weight = torch.randn(1, 6, 10, 1), torch.randn(6, 3, 2, 2)
    arguments = ([8, 2], [1, 1000], [3, 1, 1, 2], [2, 2], 2, "zeros")
    expected = torch.ops.cnnops.convolution_grad_input(grad, weight, None, *arguments)
    far = ([8, 2], [1, stride], *arguments[2:])
    actual = torch.ops.cnnops.convolution_grad_input(grad, weight, None, *far)
    assert torch.equal(actual, expected)
    assert expected[..., 1].abs().sum() > 0
