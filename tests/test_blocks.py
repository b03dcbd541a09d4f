"""Shapes beyond one block of a kernel: more rows or positions than scratch holds at a time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import cnnops.functional as F
from cnnops import _C

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


#: Rows of values: sizes after the channels, kernel, stride, padding, dilation.
BANDS = {
    "a row in segments": ((9001,), (3,), (1,), (1,), (1,)),
    "a row in segments, every other output": ((6007,), (5,), (2,), (2,), (1,)),
    "far taps": ((4099,), (4,), (2,), (0,), (37,)),
    "more rows than a band has": ((67, 19), (2, 2), (2, 1), (0, 1), (1, 1)),
    "long rows, one after the other": ((9, 150), (3, 3), (2, 2), (1, 1), (1, 1)),
    "windows beyond both ends": ((5, 3), (9, 7), (1, 1), (4, 3), (1, 1)),
    "windows among rows of padding": ((3, 40), (3, 3), (3, 2), (1, 1), (2, 1)),
    "rows of several planes": ((5, 6, 33), (3, 2, 3), (2, 1, 2), (1, 1, 1), (1, 2, 1)),
    # Square windows of two, three and five columns, which roll in registers: pieces of one to four
    # of them and what is left, more rows than a task has, hardly any, padding, several planes.
    "rolling": ((12, 50), (3, 3), (1, 1), (1, 1), (1, 1)),
    "rolling, pieces": ((9, 180), (5, 5), (1, 1), (2, 2), (1, 1)),
    "rolling, two columns": ((7, 33), (2, 2), (1, 1), (1, 1), (1, 1)),
    "rolling, stride": ((13, 75), (3, 3), (2, 2), (1, 1), (1, 1)),
    "rolling, stride, whole registers": ((8, 128), (2, 2), (2, 2), (0, 0), (1, 1)),
    "rolling, stride, left over": ((9, 107), (2, 2), (2, 2), (1, 1), (1, 1)),
    "rolling, more rows than a task has": ((151, 9), (3, 3), (2, 2), (0, 0), (1, 1)),
    "rolling, hardly any rows": ((2, 3), (5, 5), (1, 1), (2, 2), (1, 1)),
    "rolling, inputs of one register": ((9, 15), (3, 3), (2, 2), (1, 1), (1, 1)),
    "rolling, several planes": ((6, 7, 19), (3, 3, 3), (2, 2, 2), (1, 1, 1), (2, 1, 1)),
    # Half a register holds a row: two planes at a time, of which there is an odd number.
    "rolling, two planes": ((7, 7), (3, 3), (1, 1), (1, 1), (1, 1)),
    "rolling, two planes, wide windows": ((9, 8), (5, 5), (1, 1), (2, 2), (1, 1)),
    "rolling, two planes, even windows": ((4, 4), (2, 2), (1, 1), (1, 1), (1, 1)),
    "rolling, two planes, stride": ((13, 13), (3, 3), (2, 2), (0, 0), (1, 1)),
    "rolling, two planes, stride, padding": ((14, 14), (3, 3), (2, 2), (1, 1), (1, 1)),
    "rolling, two planes, stride, whole halves": ((16, 16), (2, 2), (2, 2), (0, 0), (1, 1)),
    "rolling, two planes of doubles, stride": ((9, 7), (3, 3), (2, 2), (1, 1), (1, 1)),
    "rolling, two planes, more rows than a task has": ((140, 6), (3, 3), (1, 1), (1, 1), (1, 1)),
    "rolling, two of several planes": ((5, 6, 7), (3, 3, 3), (2, 1, 1), (1, 1, 1), (2, 1, 1)),
}


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
@pytest.mark.parametrize("name", BANDS)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_bands_of_rows(
    dtype: torch.dtype, ceil_mode: bool, name: str, isa: str, set_isa: Callable[[str], None]
) -> None:
    if isa not in _C.available_isas():
        pytest.skip(f"this CPU has no {isa}")
    set_isa(isa)
    sizes, kernel, stride, padding, dilation = BANDS[name]
    rank = len(sizes)
    image = (torch.rand(3, 3, *sizes) * 200).to(dtype)
    windows = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    maximum = f"max_pool{rank}d"
    found = getattr(F, maximum)(image, dilation=dilation, **windows)
    wide = image.double()
    expected = getattr(torch.nn.functional, maximum)(wide, dilation=dilation, **windows)
    assert torch.equal(found.double(), expected)
    if dtype.is_floating_point and set(dilation) == {1}:
        wide[0, 1, ..., ::7] = image[0, 1, ..., ::7] = torch.nan
        found = getattr(F, maximum)(image, **windows)
        expected = getattr(torch.nn.functional, maximum)(wide, **windows)
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=0, equal_nan=True)
        for count in (False, True):
            mean = f"avg_pool{rank}d"
            found = getattr(F, mean)(image, count_include_pad=count, **windows)
            expected = getattr(torch.nn.functional, mean)(wide, count_include_pad=count, **windows)
            torch.testing.assert_close(found, expected.to(dtype), equal_nan=True)
