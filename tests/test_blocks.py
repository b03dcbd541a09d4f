"""Shapes beyond one block of a kernel: more rows or positions than scratch holds at a time."""

from __future__ import annotations

import pytest
import torch

import cnnops.functional as F

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


@pytest.mark.parametrize("layout", list(LAYOUTS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_gradient_of_many_channels(dtype: torch.dtype, layout: str) -> None:
    """2100 channels are two blocks of those whose gradient is rearranged at a time."""
    lies = {"memory_format": LAYOUTS[layout]}
    image = torch.randn(2, 17, 5, 6).to(dtype).contiguous(**lies)
    weight = torch.randn(2100, 17, 2, 1).to(dtype).contiguous(**lies).requires_grad_()
    output = F.conv2d(image, weight)
    gradient = torch.randn(output.shape).to(dtype).contiguous(**lies)
    (found,) = torch.autograd.grad(output, weight, gradient)
    expected = torch.nn.grad.conv2d_weight(image.double(), weight.shape, gradient.double())
    # 40 products, each rounded by less than the unit of float32 and all once by that of dtype.
    bound = 64 * torch.finfo(torch.float32).eps * 40 + torch.finfo(dtype).eps * expected.abs()
    assert ((found.double() - expected).abs() <= bound).all()


@pytest.mark.parametrize(
    ("layout", "sizes"),
    [("nchw", (1, 2, 700, 650)), ("nchw", (1, 22, 90, 171)), ("nhwc", (1, 70, 90, 71))],
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradient_of_max_pooling_of_large_planes(
    dtype: torch.dtype, stride: int, layout: str, sizes: tuple[int, ...]
) -> None:
    """Overlapping windows: sums of a narrow type form in float32, some positions at a time."""
    image = torch.randn(sizes).to(dtype).contiguous(memory_format=LAYOUTS[layout]).requires_grad_()
    output = F.max_pool2d(image, 3, stride, 1)
    gradient = torch.randn(output.shape).to(dtype)
    (found,) = torch.autograd.grad(output, image, gradient)
    wide = image.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(
        torch.nn.functional.max_pool2d(wide, 3, stride, 1), wide, gradient.double()
    )
    eps = torch.finfo(dtype).eps
    assert ((found.double() - expected).abs() <= eps * expected.abs() + 1e-5).all()
    assert found.is_contiguous(memory_format=LAYOUTS[layout])
