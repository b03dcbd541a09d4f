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
from emulator import library

pytestmark = devices.needs_emulator

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@dataclass(frozen=True)
class Layer:
    """A convolution of channels_last tensors, and the kernels that it must run.

    Attributes:
        kernels: for "forward", "input" and "weight", the gradients: M x N of the tile and how
            operands are copied, as csrc/cuda/plan.h chooses on the emulator's 4 multiprocessors.
        shared: those of these whose sums several blocks share in every dtype.

    """

    input: tuple[int, int, int, int]
    out_channels: int
    kernel: tuple[int, int]
    kernels: dict[str, str]
    shared: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    mode: str = "zeros"


LAYERS = {
    "large": Layer(
        (1, 72, 17, 31),
        120,
        (1, 1),
        {"forward": "128, 128 vectors", "input": "128, 128 vectors", "weight": "128, 128 vectors"},
        ("weight",),
    ),
    "tall": Layer(
        (1, 40, 17, 31),
        56,
        (3, 1),
        {"forward": "128, 64 vectors", "input": "128, 64 vectors", "weight": "64, 128 vectors"},
        ("weight",),
        {"padding": (1, 0)},
    ),
    "narrow": Layer(
        (2, 48, 7, 9),
        48,
        (3, 3),
        {"forward": "128, 32 vectors", "input": "128, 32 vectors", "weight": "64, 128 vectors"},
        options={"padding": 1, "groups": 2, "dilation": (1, 2)},
    ),
    "small": Layer(
        (1, 64, 9, 7),
        72,
        (1, 1),
        {"forward": "64, 64 vectors", "input": "64, 64 vectors", "weight": "64, 64 vectors"},
        options={"stride": 2},
    ),
    "shared": Layer(
        (1, 64, 4, 5),
        72,
        (3, 3),
        {"forward": "64, 64 vectors", "input": "64, 64 vectors", "weight": "128, 128 vectors"},
        ("forward", "input"),
        {"padding": 1},
    ),
    "strided": Layer(
        (2, 40, 7, 6),
        64,
        (3, 3),
        {"forward": "64, 64 vectors", "input": "64, 64 vectors", "weight": "64, 128 vectors"},
        options={"stride": 2, "padding": 1},
    ),
    "circular": Layer(
        (1, 32, 6, 5),
        40,
        (3, 3),
        {"forward": "128, 64 mapped", "input": "128, 32 vectors", "weight": "64, 128 mapped"},
        options={"padding": 1},
        mode="circular",
    ),
    "reflect": Layer(
        (1, 16, 6, 5),
        24,
        (3, 3),
        {"forward": "128, 64 mapped", "input": "128, 32 vectors", "weight": "64, 128 mapped"},
        options={"padding": 2},
        mode="reflect",
    ),
    "odd": Layer(
        (2, 3, 9, 10),
        21,
        (3, 3),
        {"forward": "64, 64 elements", "input": "64, 64 elements", "weight": "64, 64 elements"},
        options={"padding": 1, "stride": (2, 1)},
    ),
    "odd, circular": Layer(
        (2, 3, 5, 6),
        21,
        (3, 2),
        {"forward": "64, 64 elements", "input": "64, 64 elements", "weight": "64, 64 elements"},
        options={"padding": 2},
        mode="circular",
    ),
    # Fewer blocks than wanted share sums of 97 slabs, since all but the last take as many slabs.
    "shares left over": Layer(
        (1, 3104, 1, 2),
        40,
        (1, 1),
        {"forward": "64, 64 vectors", "input": "128, 128 vectors", "weight": "64, 128 vectors"},
        ("forward",),
    ),
    "groups of 27 columns, shared": Layer(
        (1, 6, 33, 32),
        32,
        (3, 3),
        {"forward": "64, 64 elements", "input": "128, 32 vectors", "weight": "64, 64 elements"},
        ("weight",),
        options={"groups": 2},
    ),
    "shares of pixels left over": Layer(
        (1, 16, 8, 388),
        40,
        (1, 1),
        {"forward": "128, 64 vectors", "input": "128, 32 vectors", "weight": "64, 64 vectors"},
        ("weight",),
    ),
}


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> Iterator[None]:
    with devices.tf32(True), library.emulated_cuda():
        yield


def integers(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers whose products and sums no rounding touches before the result.

    Sums need more bits than a bfloat16 or float16 has, so that it shows where they are rounded on
    the way.
    """
    return torch.randint(-40, 41, shape).to(dtype).contiguous(memory_format=torch.channels_last)


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


def check_kernels(
    costs: list[library.Cost], dtype: torch.dtype, phase: str, expected: str, index: str = "int"
) -> None:
    """That one tensor-core kernel ran, with the expected tile, copies and indices.

    And without bank conflicts.
    """
    ran = [cost for cost in costs if "implicit_gemm" in cost.kernel]
    (kernel,) = {cost.kernel for cost in ran}
    found = re.fullmatch(
        r"cuda::(\w+)<(\w+), ([\w ]+), (?:cuda::)?Tile<(\d+, \d+),.*>, cuda::Copies::([a-z]+)\w*>",
        kernel,
    )
    assert found, kernel
    name = "implicit_gemm_weight" if phase == "weight" else "implicit_gemm"
    type_name = {torch.bfloat16: "bfloat16", torch.float16: "float16", torch.float32: "float"}
    assert found.groups() == (name, type_name[dtype], index, *expected.rsplit(" ", 1))
    shared = [cost for cost in ran if cost.kind.startswith("shared")]
    assert shared
    assert [cost for cost in shared if cost.transactions != cost.ideal] == []


def check_layer(costs: list[library.Cost], dtype: torch.dtype, phase: str, layer: Layer) -> None:
    """The same for what a layer must run; where its blocks share sums, they are joined."""
    check_kernels(costs, dtype, phase, layer.kernels[phase])
    if phase in layer.shared:
        join = "join_chunks" if phase == "weight" else "join_shares"
        assert any(join in cost.kernel for cost in costs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_forward(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    x, w = tensors(layer, dtype)
    b = torch.randint(-2, 3, (layer.out_channels,)).to(dtype)
    with library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, b, *arguments(layer))
        check_layer(costs(), dtype, "forward", layer)
    assert torch.equal(y, reference(layer, x, w, b).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_grad_input(name: str, dtype: torch.dtype) -> None:
    layer = LAYERS[name]
    x, w = tensors(layer, dtype)
    x64 = x.double().requires_grad_()
    y64 = reference(layer, x64, w, None)
    g = integers(*y64.shape, dtype=dtype)
    if layer.mode == "zeros":
        (expected,) = torch.autograd.grad(y64, x64, g.double())
    else:  # the gradient for the padded input is rounded before it is folded
        padded = F.pad(x64, [layer.options["padding"]] * 4, mode=layer.mode)
        y64 = F.conv2d(padded, w.double())
        (of_padded,) = torch.autograd.grad(y64, padded, g.double(), retain_graph=True)
        (expected,) = torch.autograd.grad(padded, x64, of_padded.to(dtype).double())
    with library.counting() as costs:
        found = torch.ops.cnnops.convolution_grad_input(
            g, w, None, list(x.shape[2:]), *arguments(layer)
        )
        check_layer(costs(), dtype, "input", layer)
    assert torch.equal(found, expected.to(dtype))


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
        check_layer(costs(), dtype, "weight", layer)
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("channels", [32, 2112])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_groups_whose_rows_are_no_whole_vectors(dtype: torch.dtype, channels: int) -> None:
    # The last vector of a group reaches into the next one, and is as aligned as all others. Sums of
    # many channels are shared by blocks.
    rows = 24 // dtype.itemsize
    layer = Layer((1, channels, 2, 3), 2 * rows, (1, 1), {}, options={"groups": 2})
    x, w = tensors(layer, dtype)
    with library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, None, *arguments(layer))
        check_kernels(costs(), dtype, "forward", "128, 32 vectors")
        assert any("join_shares" in cost.kernel for cost in costs()) == (channels > 32)
    assert torch.equal(y, reference(layer, x, w, None).to(dtype))


def as_multiplied(x: torch.Tensor) -> torch.Tensor:
    """Operands in float64: those of float32 rounded to the nearest tf32, ties away from zero."""
    if x.dtype != torch.float32:
        return x.double()
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32).double()


@pytest.mark.parametrize("channels", [64, 21])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding(dtype: torch.dtype, channels: int) -> None:
    # Products of rounded operands summed in float32, and one rounding of the result.
    def check(found: torch.Tensor, expected: torch.Tensor, size: torch.Tensor, sum: int) -> None:
        bound = size * sum * 2.0**-24 + expected.abs() * torch.finfo(dtype).eps
        assert ((found.double() - expected).abs() <= bound).all()

    x = torch.randn(1, channels, 6, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    w = torch.randn(48, channels, 3, 3).to(dtype)
    g = torch.randn(1, 48, 6, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    geometry = ([1, 1], [1] * 4, [1, 1], 1, "zeros")
    x64, w64, g64 = map(as_multiplied, (x, w, g))
    y = torch.ops.cnnops.convolution(x, w, None, *geometry)
    y64, size = (F.conv2d(a, b, padding=1) for a, b in ((x64, w64), (x64.abs(), w64.abs())))
    check(y, y64, size, channels * 9)
    found = torch.ops.cnnops.convolution_grad_input(g, w, None, [6, 6], *geometry)
    of_input, of_weight = torch.nn.grad.conv2d_input, torch.nn.grad.conv2d_weight
    expected = of_input(x.shape, w64, g64, padding=1)
    check(found, expected, of_input(x.shape, w64.abs(), g64.abs(), padding=1), 48 * 9)
    found = torch.ops.cnnops.convolution_grad_weight(g, x, [3, 3], *geometry)
    expected = of_weight(x64, w.shape, g64, padding=1)
    check(found, expected, of_weight(x64.abs(), w.shape, g64.abs(), padding=1), 36)


#: How operands of so many channels are copied, and the tiles for outputs and for weights, where
#: indices have 64 bits.
FAR = {64: ("mapped", "128, 64", "64, 128"), 21: ("elements", "64, 64", "64, 64")}


@pytest.mark.parametrize("channels", FAR)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_positions_beyond_32_bits(dtype: torch.dtype, channels: int) -> None:
    # Of rows of windows 2^29 apart only the middle one falls on the tensor.
    copies, tile, weight_tile = FAR[channels]
    far = 2**29
    geometry = ([far, 1], [far, far, 1, 1], [1, 1], 1, "zeros")
    x, w = integers(2, channels, 3, 6, dtype=dtype), integers(72, channels, 3, 3, dtype=dtype)
    b = torch.randint(-2, 3, (72,)).to(dtype)
    w64 = w.double().requires_grad_()
    y64 = F.pad(F.conv2d(x.double(), w64, padding=(0, 1)), (0, 0, 1, 1))
    g = integers(*y64.shape, dtype=dtype)
    (weight64,) = torch.autograd.grad(y64, w64, g.double())
    with library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, b, *geometry)
        check_kernels(costs(), dtype, "forward", f"{tile} {copies}", "long int")
    with library.counting() as costs:
        grad_weight = torch.ops.cnnops.convolution_grad_weight(g, x, [3, 3], *geometry)
        check_kernels(costs(), dtype, "weight", f"{weight_tile} {copies}", "long int")
    assert torch.equal(y, (y64 + b.double().view(-1, 1, 1)).to(dtype))
    assert torch.equal(grad_weight, weight64.to(dtype))


@pytest.mark.parametrize("channels", FAR)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_beyond_32_bits(dtype: torch.dtype, channels: int) -> None:
    # Rows 2^26 elements apart; the memory between them is never touched.
    copies, tile, _ = FAR[channels]
    x = integers(2, channels, 4, 5, dtype=dtype)
    w = torch.empty(2**31 + 9 * channels, dtype=dtype)
    w = w.as_strided((33, channels, 3, 3), (2**26, 9, 3, 1))
    w.copy_(torch.randint(-2, 3, w.shape))
    x64 = x.double().requires_grad_()
    y64 = F.conv2d(x64, w.double(), padding=1)
    g = integers(*y64.shape, dtype=dtype)
    (input64,) = torch.autograd.grad(y64, x64, g.double())
    geometry = ([1, 1], [1] * 4, [1, 1], 1, "zeros")
    with library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, None, *geometry)
        check_kernels(costs(), dtype, "forward", f"{tile} {copies}", "long int")
    with library.counting() as costs:
        grad_input = torch.ops.cnnops.convolution_grad_input(g, w, None, [4, 5], *geometry)
        check_kernels(costs(), dtype, "input", "64, 64 elements", "long int")
    assert torch.equal(y, y64.to(dtype))
    assert torch.equal(grad_input, input64.to(dtype))


def test_planar_tensors_beyond_32_bits() -> None:
    # Two images 2^31 elements apart; the memory between them is never touched.
    x = torch.empty(2**31 + 960, dtype=torch.bfloat16)
    x = x.as_strided((2, 32, 5, 6), (2**31, 30, 6, 1))
    x.copy_(torch.randint(-2, 3, x.shape))
    w = torch.randint(-2, 3, (16, 32, 3, 3)).bfloat16()
    y = torch.ops.cnnops.convolution(x, w, None, [1, 1], [1] * 4, [1, 1], 1, "zeros")
    assert torch.equal(y, F.conv2d(x.double(), w.double(), padding=1).bfloat16())


def test_planar_tensors_of_many_channels() -> None:
    # They go through channels_last copies, and come back.
    x = torch.randint(-2, 3, (2, 32, 5, 6)).bfloat16()
    w = torch.randint(-2, 3, (16, 32, 3, 3)).bfloat16()
    with library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, None, [1, 1], [1] * 4, [1, 1], 1, "zeros")
        check_kernels(costs(), torch.bfloat16, "forward", "128, 32 vectors")
    assert y.is_contiguous()
    assert torch.equal(y, F.conv2d(x.double(), w.double(), padding=1).bfloat16())
