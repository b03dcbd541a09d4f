"""16-bit elements: every number survives, on every instruction set, at any address."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import conv2d

import cnnops.functional as F
from cnnops import _C
from cnnops.plan import plan

DTYPES = [torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number(
    dtype: torch.dtype, layout: torch.memory_format, isa: str, set_isa: Callable[[str], None]
) -> None:
    # Subnormal numbers are numbers too: an instruction that takes them for zero would show.
    set_isa(isa)
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    numbers = numbers[numbers.isfinite()]
    x = numbers[: numbers.numel() // 256 * 256].reshape(1, 16, -1, 16).to(memory_format=layout)
    identity = torch.eye(16).to(dtype).reshape(16, 16, 1, 1)
    kernel = plan("conv2d", x.shape, identity.shape, dtype=dtype, memory_format=layout).algorithm
    if kernel in ("matrix_unit", "dot_products"):  # those that are documented to do so
        x = x.where(x.abs() >= torch.finfo(dtype).tiny, 0)
    assert torch.equal(F.conv2d(x, identity), x)


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_small_maps_at_odd_addresses(
    dtype: torch.dtype,
    layout: torch.memory_format,
    offset: int,
    stride: int,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    set_isa(isa)
    memory = torch.randn(3 * 24 * 49 + 1).to(dtype)
    if layout is torch.channels_last:
        x = memory[offset:][: 3 * 24 * 49].view(3, 7, 7, 24).permute(0, 3, 1, 2)
    else:
        x = memory[offset:][: 3 * 24 * 49].view(3, 24, 7, 7)
    w = torch.randn(20, 24, 3, 3).to(dtype).requires_grad_()
    x.requires_grad_()
    actual = F.conv2d(x, w, None, stride, 1)
    wide = [t.detach().double().requires_grad_() for t in (x, w)]
    expected = conv2d(*wide, None, stride, 1)
    grad = torch.randn(expected.shape).to(dtype)
    actual.backward(grad)
    expected.backward(grad.double())
    unit = torch.finfo(dtype).eps  # one rounding, and float32 sums of values near 1
    for mine, theirs in [(actual, expected), (x.grad, wide[0].grad), (w.grad, wide[1].grad)]:
        torch.testing.assert_close(mine.double(), theirs, rtol=unit, atol=1e-4)
