"""The exact CUDA convolutions, emulated: every tile, far addresses, no bank conflicts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import devices
import pytest
import torch
import torch.nn.functional as F
from emulator import library
from torch import Tensor

pytestmark = devices.needs_emulator

TYPE_NAMES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.int64: "long int",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}
EXACT = [torch.float32, torch.float64, torch.int64]
PHASES = ("forward", "input", "weight")
#: The large tile is for float32 only, and int64 has one tile.
TILES = {"large": "128, 128", "medium": "64, 64", "narrow": "16, 64"}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Layer:
    """A 2-d convolution.

    Attributes:
        tiles: those of PHASES for float32, which csrc/cuda/plan.h chooses by the sizes, on the
            emulator's 4 multiprocessors.

    """

    tiles: tuple[str, str, str]
    input: tuple[int, int, int, int]
    out_channels: int
    kernel: tuple[int, int]
    stride: int = 1
    padding: int = 0
    groups: int = 1
    mode: str = "zeros"

    @property
    def arguments(self) -> tuple[list[int], list[int], list[int], int, str]:
        """As the operators take them."""
        return [self.stride] * 2, [self.padding] * 4, [1, 1], self.groups, self.mode


LAYERS = {
    "large": Layer(("large", "medium", "medium"), (1, 34, 16, 32), 128, (1, 1)),
    "large, odd": Layer(("large", "narrow", "medium"), (1, 5, 13, 31), 101, (1, 1)),
    "large for the weight": Layer(("medium", "medium", "large"), (1, 96, 7, 6), 100, (1, 1)),
    "medium": Layer(("medium", "narrow", "medium"), (2, 9, 9, 8), 70, (3, 2), stride=2, padding=2),
    "narrow": Layer(("narrow", "narrow", "narrow"), (2, 12, 7, 9), 20, (3, 3), padding=1, groups=4),
    "circular": Layer(
        ("medium", "narrow", "medium"), (1, 3, 6, 5), 7, (3, 3), padding=2, mode="circular"
    ),
    "reflect": Layer(
        ("medium", "narrow", "medium"), (1, 3, 6, 5), 24, (3, 3), padding=2, mode="reflect"
    ),
    "vectors of pixels": Layer(("medium", "narrow", "medium"), (1, 5, 6, 8), 36, (3, 3), padding=1),
    # Vectors of pixels would be aligned, but reach beyond the last one.
    "one row of pixels": Layer(("narrow", "narrow", "narrow"), (1, 9, 1, 7), 1, (1, 3)),
    # More steps of the sum than the few blocks that list them take at once.
    "many taps": Layer(("narrow", "medium", "narrow"), (1, 67, 3, 4), 5, (3, 3), padding=1),
    "weights side by side": Layer(("medium", "narrow", "medium"), (2, 4, 5, 5), 33, (1, 1)),
}


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> Iterator[None]:
    with devices.tf32(False), library.emulated_cuda():
        yield


def _integers(*shape: int, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    """Numbers whose products and sums no rounding touches before the result.

    Sums need more bits than a bfloat16 or float16 has, and of the 64-bit types more than a float32,
    so that it shows where they are rounded on the way.
    """
    most = 2**20 if dtype.itemsize == 8 else 40
    return torch.randint(-most, most + 1, shape).to(dtype).contiguous(memory_format=LAYOUTS[layout])


def _reference(layer: Layer, x: Tensor, w: Tensor) -> Tensor:
    """The convolution in float64 by torch."""
    if layer.mode == "zeros":
        return F.conv2d(x, w, None, layer.stride, layer.padding, 1, layer.groups)
    return F.conv2d(F.pad(x, [layer.padding] * 4, mode=layer.mode), w, None, layer.stride)


def _check_costs(
    costs: list[library.Cost], phase: str, layer: Layer, dtype: torch.dtype, layout: str
) -> None:
    """That the one kernel ran that the plan has for this, without bank conflicts."""
    ran = [cost for cost in costs if "fma_gemm" in cost.kernel]
    (kernel,) = {cost.kernel for cost in ran}
    found = re.fullmatch(
        r"cuda::(\w+)<([\w ]+), int, (?:cuda::)?FmaTile<(\d+, \d+),.*>, (\w+), (\w+)>", kernel
    )
    assert found, kernel
    tile = layer.tiles[PHASES.index(phase)]
    if dtype == torch.int64 or (dtype != torch.float32 and tile == "large"):
        tile = "medium"
    mapped = layer.mode != "zeros" and phase != "input"  # that makes the padded gradient first
    assert found[1] == ("fma_gemm_weight" if phase == "weight" else "fma_gemm")
    assert found[2] == TYPE_NAMES[dtype]
    assert found[3] == TILES[tile]
    assert found[4] == str(layout == "channels_last").lower()
    assert found[5] == str(mapped).lower()
    shared = [cost for cost in ran if cost.kind.startswith("shared")]
    assert shared
    assert [cost for cost in shared if cost.transactions != cost.ideal] == []


def _check_contractions(layer: Layer, dtype: torch.dtype, layout: str) -> None:
    x = _integers(*layer.input, dtype=dtype, layout=layout)
    channels = layer.input[1] // layer.groups
    w = _integers(layer.out_channels, channels, *layer.kernel, dtype=dtype, layout=layout)
    x64, w64 = x.double().requires_grad_(), w.double().requires_grad_()
    y64 = _reference(layer, x64, w64)
    g = _integers(*y64.shape, dtype=dtype, layout=layout)
    input64, weight64 = torch.autograd.grad(y64, (x64, w64), g.double())
    ops, size, kernel = torch.ops.cnnops, list(layer.input[2:]), list(layer.kernel)
    calls = {
        "forward": lambda: ops.convolution(x, w, None, *layer.arguments),
        "input": lambda: ops.convolution_grad_input(g, w, None, size, *layer.arguments),
        "weight": lambda: ops.convolution_grad_weight(g, x, kernel, *layer.arguments),
    }
    expected = dict(zip(PHASES, (y64, input64, weight64), strict=True))
    for phase, call in calls.items():
        with library.counting() as costs:
            found = call()
            _check_costs(costs(), phase, layer, dtype, layout)
        assert torch.equal(found, expected[phase].to(dtype)), phase


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_contractions(name: str, dtype: torch.dtype, layout: str) -> None:
    _check_contractions(LAYERS[name], dtype, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_planar_groups_of_few_channels(dtype: torch.dtype) -> None:
    # Tensor cores would be mostly empty.
    layer = Layer(("narrow", "narrow", "narrow"), (2, 20, 9, 10), 20, (3, 2), groups=4)
    _check_contractions(layer, dtype, "contiguous")


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_offsets_beyond_32_bits(dtype: torch.dtype, mode: str) -> None:
    # Two images 2^31 elements apart; the memory between them is never touched.
    x = torch.empty(2**31 + 64, dtype=dtype).as_strided((2, 2, 5, 4), (2**31, 20, 4, 1))
    x.copy_(torch.randint(-3, 4, x.shape))
    w = _integers(3, 2, 3, 3, dtype=dtype)
    layer = Layer(("medium",) * 3, (2, 2, 5, 4), 3, (3, 3), padding=1, mode=mode)
    x64, w64 = x.double().requires_grad_(), w.double().requires_grad_()
    y64 = _reference(layer, x64, w64)
    g = _integers(*y64.shape, dtype=dtype)
    (weight64,) = torch.autograd.grad(y64, w64, g.double())
    ops = torch.ops.cnnops
    assert torch.equal(ops.convolution(x, w, None, *layer.arguments), y64.to(dtype))
    grad_weight = ops.convolution_grad_weight(g, x, [3, 3], *layer.arguments)
    assert torch.equal(grad_weight, weight64.to(dtype))
    (input64,) = torch.autograd.grad(_reference(layer, x64, w64), x64, x.double()[:, :1] * g)
    far = torch.empty(2**31 + 64, dtype=dtype).as_strided((2, 3, 5, 4), (2**31, 20, 4, 1))
    far.copy_(x[:, :1] * g)
    grad_input = ops.convolution_grad_input(far, w, None, [5, 4], *layer.arguments)
    assert torch.equal(grad_input, input64.to(dtype))


@pytest.mark.parametrize("far", [2**20, 2**28 - 4])
def test_what_is_nowhere_meets_what_is_far_away(far: int) -> None:
    # The sum has fewer steps than stages hold, those left over lie nowhere: at a position so far
    # away that no pixel, and no tap, brings it back into the tensor.
    ops = torch.ops.cnnops
    x = _integers(1, 9, 3, 2, 2, dtype=torch.float32)
    w = _integers(5, 9, 1, 1, 1, dtype=torch.float32)
    y = F.conv3d(x[:, :, :1].double(), w.double())
    geometry = ([far, 1, 1], [far, 0, 0, 0, 0, 0], [1] * 3, 1, "zeros")
    found = ops.convolution(x, w, None, *geometry)
    assert torch.equal(found, torch.cat([torch.zeros_like(y), y], 2).float())
    g = _integers(1, 5, 3, 2, 2, dtype=torch.float32)
    geometry = ([1] * 3, [0, far, 0, 0, 0, 0], [far, 1, 1], 1, "zeros")
    found = ops.convolution_grad_weight(g, x, [2, 1, 1], *geometry)
    expected = torch.einsum("nodhw,ncdhw->oc", g.double(), x.double()).float()
    assert torch.equal(found[:, :, 0, 0, 0], expected)
    assert torch.equal(found[:, :, 1, 0, 0], torch.zeros_like(expected))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_order_of_threads_gives_the_same_bits(layout: str) -> None:
    layer = LAYERS["medium"]
    x = torch.randn(layer.input).contiguous(memory_format=LAYOUTS[layout])
    w = torch.randn(layer.out_channels, layer.input[1], *layer.kernel)

    def results() -> list[Tensor]:
        y = torch.ops.cnnops.convolution(x, w, None, *layer.arguments)
        size = list(layer.input[2:])
        grad_input = torch.ops.cnnops.convolution_grad_input(y, w, None, size, *layer.arguments)
        kernel = list(layer.kernel)
        return [
            y,
            grad_input,
            torch.ops.cnnops.convolution_grad_weight(y, x, kernel, *layer.arguments),
        ]

    with library.settings("schedule=ascending"):
        first = results()
    with library.settings("schedule=random,seed=5"):
        assert all(map(torch.equal, results(), first))
