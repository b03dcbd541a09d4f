"""16-bit elements: every number survives, on every instruction set, at any address."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from process import environment
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, avg_pool2d, max_pool2d

import cnnops.functional as F
from cnnops import _C

DTYPES = [torch.bfloat16, torch.float16]
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def finite_numbers(dtype: torch.dtype) -> Tensor:
    """Every one of them, subnormal ones too."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    return numbers[numbers.isfinite()]


def compare_with_float64(
    x: Tensor, weight: Tensor, rtol: float, atol: float, **options: int
) -> None:
    """Checks the output of a convolution, and both gradients: of a grad that lies as the output
    does, and of a contiguous one."""
    name = f"conv{x.dim() - 2}d"
    x.requires_grad_()
    weight.requires_grad_()
    actual = getattr(F, name)(x, weight, **options)
    wide = [t.detach().double().requires_grad_() for t in (x, weight)]
    expected = getattr(torch.nn.functional, name)(*wide, **options)
    for grad in (torch.randn_like(actual), torch.randn(actual.shape, dtype=actual.dtype)):
        gradients = torch.autograd.grad(actual, (x, weight), grad, retain_graph=True)
        exact = torch.autograd.grad(expected, wide, grad.double(), retain_graph=True)
        for mine, theirs in zip((actual, *gradients), (expected, *exact), strict=True):
            torch.testing.assert_close(mine.double(), theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number(
    dtype: torch.dtype, layout: torch.memory_format, isa: str, set_isa: Callable[[str], None]
) -> None:
    # Subnormal numbers are numbers too, but for the instructions of AVX512_BF16: where these are in
    # use, which an average tells, all kernels of bfloat16 take them for zeros.
    set_isa(isa)
    numbers = finite_numbers(dtype)
    x = numbers[: numbers.numel() // 256 * 256].reshape(1, 16, -1, 16).to(memory_format=layout)
    identity = torch.eye(16).to(dtype).reshape(16, 16, 1, 1)
    if dtype == torch.bfloat16 and isa == "avx512":
        tiny = torch.full((1, 1, 2, 2), 1e-40, dtype=dtype)
        if not F.avg_pool2d(tiny, 2).any():
            x = x.where(x.abs() >= torch.finfo(dtype).tiny, 0)
    assert torch.equal(F.conv2d(x, identity), x)


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 2), (3, 1), (3, 2), (4, 3)])
def test_maxima_are_elements(
    kernel: int,
    stride: int,
    trains: bool,
    dtype: torch.dtype,
    layout: torch.memory_format,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    set_isa(isa)
    numbers = finite_numbers(dtype)
    x = numbers[: numbers.numel() // 680 * 680].reshape(1, 40, -1, 17)
    x = x.to(memory_format=layout).requires_grad_(trains)
    padding = kernel // 2
    actual = F.max_pool2d(x, kernel, stride, padding)
    expected = max_pool2d(x.detach().float(), kernel, stride, padding)
    assert torch.equal(actual.detach().float(), expected)
    assert F.adaptive_max_pool2d(x, 1).equal(adaptive_max_pool2d(x, 1))


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "view"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", [1, 2, 4, 8])
@pytest.mark.parametrize(
    ("image", "kernel", "options"),
    [
        ((9, 21), (3, 3), {"padding": 1}),
        ((40, 7), (5, 3), {"padding": 2, "stride": 2}),
        ((13, 13), (3, 3), {"padding": 2, "dilation": 2}),
        ((4, 6, 9), (3, 2, 3), {"padding": 1}),  # no bands: read where they lie
    ],
)
def test_groups_are_widened_once(
    image: tuple[int, ...],
    kernel: tuple[int, ...],
    options: dict[str, int],
    group: int,
    dtype: torch.dtype,
    layout: str,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    set_isa(isa)
    rank, channels = len(image), 40
    last = torch.channels_last if rank == 2 else torch.channels_last_3d
    x = torch.randn(2, channels, *(size + 2 for size in image)).to(dtype)
    if layout != "contiguous":
        x = x.to(memory_format=last)
    inner = (..., *(slice(1, -1),) * rank)
    x = x[inner] if layout == "view" else x[inner].clone()
    weight = torch.randn(channels, group, *kernel).to(dtype)
    compare_with_float64(x, weight, 8e-3, 1e-3, groups=channels // group, **options)


def test_rounding_of_averages() -> None:
    # Halves of sums lie between two elements as often as not.
    pairs = torch.randint(0x3F80, 0x4180, (1, 48, 50, 64), dtype=torch.int16).view(torch.bfloat16)
    for layout in LAYOUTS:
        x = pairs.to(memory_format=layout)
        exact = avg_pool2d(x.double(), 2)
        assert torch.equal(F.avg_pool2d(x, 2), exact.to(torch.bfloat16))


def test_without_the_instructions_for_bfloat16() -> None:
    # In a process of their own: whether they are used is asked once.
    code = """
import torch
import torch.nn.functional as reference
from test_half import compare_with_float64

import cnnops.functional as F
from cnnops.plan import plan

torch.manual_seed(0)
for layout in (torch.contiguous_format, torch.channels_last):
    for channels, groups, stride in ((32, 1, 1), (48, 48, 2), (24, 3, 1)):
        x = torch.randn(2, channels, 19, 23).bfloat16().to(memory_format=layout)
        weight = torch.randn(channels, channels // groups, 3, 3).bfloat16()
        options = {"padding": 1, "groups": groups, "stride": stride}
        kernel = plan("conv2d", x.shape, weight.shape, dtype=torch.bfloat16,
                      memory_format=layout, **options).algorithm
        assert "unit" not in kernel and "dot" not in kernel, kernel
        compare_with_float64(x, weight, 8e-3, 2e-2, **options)
    x = torch.randn(2, 40, 19, 23).bfloat16().to(memory_format=layout)
    assert torch.equal(F.max_pool2d(x, 3, 2), reference.max_pool2d(x, 3, 2))
    mean = reference.avg_pool2d(x.double(), 3, 1).bfloat16()
    torch.testing.assert_close(F.avg_pool2d(x, 3, 1), mean, rtol=8e-3, atol=0)
tiny = torch.full((1, 40, 4, 4), 1e-40, dtype=torch.bfloat16)
assert torch.equal(F.avg_pool2d(tiny, 2), tiny[..., :2, :2])
"""
    subprocess.run(
        [sys.executable, "-c", code],
        env=environment(CNNOPS_AVX512_BF16="0"),
        cwd=Path(__file__).parent,
        check=True,
        timeout=300,
    )


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
    weight = torch.randn(20, 24, 3, 3).to(dtype)
    unit = torch.finfo(dtype).eps  # one rounding, and float32 sums of values near 1
    compare_with_float64(x, weight, unit, 1e-4, stride=stride, padding=1)
