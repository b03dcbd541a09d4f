"""The tensor-core convolutions, emulated: every tile of the plan, exact sums, no bank conflicts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import devices
import pytest
import torch
import torch.nn.functional as F
from emulator import build, library

pytestmark = pytest.mark.skipif(
    build.missing() is not None, reason=f"the emulator cannot be built: {build.missing()}"
)

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@dataclass(frozen=True)
class Layer:
    """A convolution of channels_last tensors, and the kernels that it must run.

    Attributes:
        kernels: for forward and grad_input, and for grad_weight: M x N of the tile and how operands
            are copied, as csrc/cuda/plan.h chooses on the emulator's 4 multiprocessors.

    """

    input: tuple[int, int, int, int]
    out_channels: int
    kernel: tuple[int, int]
    kernels: dict[str, str]
    options: dict[str, Any] = field(default_factory=dict)
    mode: str = "zeros"


LAYERS = {
    "large": Layer(
        (1, 128, 16, 32),
        128,
        (1, 1),
        {"forward": "128, 128 vectors", "input": "128, 128 vectors", "weight": "128, 128 vectors"},
    ),
    "tall": Layer(
        (1, 40, 16, 32),
        64,
        (3, 1),
        {"forward": "128, 64 vectors", "input": "128, 64 vectors", "weight": "64, 128 vectors"},
        {"padding": (1, 0)},
    ),
    "narrow": Layer(
        (2, 48, 7, 9),
        48,
        (3, 3),
        {"forward": "128, 32 vectors", "input": "128, 32 vectors", "weight": "64, 128 vectors"},
        {"padding": 1, "groups": 2, "dilation": (1, 2)},
    ),
    "small": Layer(
        (1, 64, 9, 7),
        72,
        (1, 1),
        {"forward": "64, 64 vectors", "input": "64, 64 vectors", "weight": "64, 64 vectors"},
        {"stride": 2},
    ),
    "shared": Layer(
        (1, 64, 4, 5),
        72,
        (3, 3),
        {"forward": "64, 64 vectors", "input": "64, 64 vectors", "weight": "128, 128 vectors"},
        {"padding": 1},
    ),
    "strided": Layer(
        (2, 40, 7, 6),
        64,
        (3, 3),
        {"forward": "64, 64 vectors", "input": "64, 64 vectors", "weight": "64, 128 vectors"},
        {"stride": 2, "padding": 1},
    ),
    "circular": Layer(
        (1, 32, 6, 5),
        40,
        (3, 3),
        {"forward": "128, 64 mapped", "weight": "64, 128 mapped"},
        {"padding": 1},
        "circular",
    ),
    "reflect": Layer(
        (1, 16, 6, 5),
        24,
        (3, 3),
        {"forward": "128, 64 mapped", "weight": "64, 128 mapped"},
        {"padding": 2},
        "reflect",
    ),
    "odd": Layer(
        (2, 3, 9, 10),
        21,
        (3, 3),
        {"forward": "64, 64 elements", "input": "64, 64 elements", "weight": "64, 64 elements"},
        {"padding": 1, "stride": (2, 1)},
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> Iterator[None]:
    with devices.tf32(True), library.emulated_cuda():
        yield


def integers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers whose products and sums no rounding touches before the result."""
    return torch.randint(-2, 3, shape).to(dtype).contiguous(memory_format=torch.channels_last)


def arguments(layer: Layer) -> tuple[Any, ...]:
    """stride, padding, dilation, groups and padding mode, as the operators take them."""

    def pair(name: str, default: int) -> list[int]:
        value = layer.options.get(name, default)
        return list(value) if isinstance(value, tuple) else [value, value]

    padding = [p for p in pair("padding", 0) for _ in range(2)]
    groups = layer.options.get("groups", 1)
    return pair("stride", 1), padding, pair("dilation", 1), groups, layer.mode


def reference(
    layer: Layer, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None
) -> torch.Tensor:
    """The convolution in float64 by torch."""
    options = dict(layer.options)
    x = x.double()
    if layer.mode != "zeros":
        padding = options.pop("padding")
        x = F.pad(x, [padding] * 4, mode=layer.mode)
    return F.conv2d(x, w.double(), None if b is None else b.double(), **options)


def tensors(layer: Layer, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Input and weight."""
    channels = layer.input[1] // layer.options.get("groups", 1)
    x = integers(*layer.input, dtype=dtype)
    return x, integers(layer.out_channels, channels, *layer.kernel, dtype=dtype)


def check_kernels(costs: list[library.Cost], expected: str | None) -> None:
    """That tensor-core kernels ran, without bank conflicts, and with the expected tile and copies.

    The last where the emulator can tell: it sees the template arguments of exported kernels only.
    """
    ran = [cost for cost in costs if "implicit_gemm" in cost.kernel]
    shared = [cost for cost in ran if cost.kind.startswith("shared")]
    assert shared
    assert [cost for cost in shared if cost.transactions != cost.ideal] == []
    named = [re.search(r"Tile<(\d+, \d+),.*Copies\)(\d)", cost.kernel) for cost in ran]
    copies = ["vectors", "mapped", "elements"]
    seen = {f"{found[1]} {copies[int(found[2])]}" for found in named if found}
    assert expected is None or seen <= {expected}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_forward(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    x, w = tensors(layer, dtype)
    b = torch.randint(-2, 3, (layer.out_channels,)).to(dtype)
    with library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, b, *arguments(layer))
        check_kernels(costs(), layer.kernels["forward"])
    assert torch.equal(y, reference(layer, x, w, b).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_grad_input(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    x, w = tensors(layer, dtype)
    x64 = x.double().requires_grad_()
    y64 = reference(layer, x64, w, None)
    g = integers(*y64.shape, dtype=dtype)
    (expected,) = torch.autograd.grad(y64, x64, g.double())
    with library.counting() as costs:
        found = torch.ops.cnnops.convolution_grad_input(
            g, w, None, list(x.shape[2:]), *arguments(layer)
        )
        check_kernels(costs(), layer.kernels.get("input"))
    if layer.mode == "zeros":
        assert torch.equal(found, expected.to(dtype))
    else:  # the gradient for the padded input is rounded before it is folded
        torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_grad_weight(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    x, w = tensors(layer, dtype)
    w64 = w.double().requires_grad_()
    y64 = reference(layer, x, w64, None)
    g = integers(*y64.shape, dtype=dtype)
    (expected,) = torch.autograd.grad(y64, w64, g.double())
    with library.counting() as costs:
        found = torch.ops.cnnops.convolution_grad_weight(
            g, x, list(layer.kernel), *arguments(layer)
        )
        check_kernels(costs(), layer.kernels["weight"])
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding(dtype: torch.dtype) -> None:
    # Products of rounded operands summed in float32, and one rounding of the result.
    x = torch.randn(1, 64, 6, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(48, 64, 3, 3).to(dtype)
    y = torch.ops.cnnops.convolution(x, w, None, [1, 1], [1] * 4, [1, 1], 1, "zeros")
    expected = F.conv2d(x.double(), w.double(), padding=1)
    size = F.conv2d(x.double().abs(), w.double().abs(), padding=1)
    operands = 2.0**-10 if dtype == torch.float32 else 0.0  # half a unit of tf32 each, twice
    unit = torch.finfo(dtype).eps
    bound = size * (operands + 64 * 9 * 2.0**-24) + expected.abs() * unit
    assert ((y.double() - expected).abs() <= bound).all()


def test_planar_tensors_of_many_channels() -> None:
    # They go through channels_last copies, and come back.
    x = torch.randint(-2, 3, (2, 32, 5, 6)).bfloat16()
    w = torch.randint(-2, 3, (16, 32, 3, 3)).bfloat16()
    with library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, None, [1, 1], [1] * 4, [1, 1], 1, "zeros")
        check_kernels(costs(), "128, 32 vectors")
    assert y.is_contiguous()
    assert torch.equal(y, F.conv2d(x.double(), w.double(), padding=1).bfloat16())
