"""The exact CUDA convolutions, emulated: every tile, far addresses, no bank conflicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import devices
import pytest
import torch
import torch.nn.functional as F
from emulator import build, library
from torch import Tensor

pytestmark = pytest.mark.skipif(
    build.missing() is not None, reason=f"the emulator cannot be built: {build.missing()}"
)

EXACT = [torch.float32, torch.float64, torch.int64]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@dataclass(frozen=True)
class Layer:
    """A 2-d convolution; its sizes choose the tile by csrc/cuda/plan.h on 4 multiprocessors."""

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
    "large": Layer((1, 34, 16, 32), 128, (1, 1)),
    "large for the weight": Layer((1, 96, 7, 6), 100, (1, 1)),
    "medium": Layer((2, 9, 9, 8), 70, (3, 2), stride=2, padding=2),
    "narrow": Layer((2, 12, 7, 9), 20, (3, 3), padding=1, groups=4),
    "circular": Layer((1, 3, 6, 5), 7, (3, 3), padding=2, mode="circular"),
    "reflect": Layer((1, 3, 6, 5), 24, (3, 3), padding=2, mode="reflect"),
    "vectors of pixels": Layer((1, 5, 6, 8), 36, (3, 3), padding=1),
    "weights side by side": Layer((2, 4, 5, 5), 33, (1, 1)),
}


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> Iterator[None]:
    with devices.tf32(False), library.emulated_cuda():
        yield


def _integers(*shape: int, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    """Numbers whose products and sums no rounding touches."""
    return torch.randint(-3, 4, shape).to(dtype).contiguous(memory_format=LAYOUTS[layout])


def _reference(layer: Layer, x: Tensor, w: Tensor) -> Tensor:
    """The convolution in float64 by torch."""
    if layer.mode == "zeros":
        return F.conv2d(x, w, None, layer.stride, layer.padding, 1, layer.groups)
    return F.conv2d(F.pad(x, [layer.padding] * 4, mode=layer.mode), w, None, layer.stride)


def _check_costs(costs: list[library.Cost]) -> None:
    ran = [cost for cost in costs if "fma_gemm" in cost.kernel]
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
    ops, size = torch.ops.cnnops, list(layer.input[2:])
    with library.counting() as costs:
        y = ops.convolution(x, w, None, *layer.arguments)
        grad_input = ops.convolution_grad_input(g, w, None, size, *layer.arguments)
        grad_weight = ops.convolution_grad_weight(g, x, list(layer.kernel), *layer.arguments)
        _check_costs(costs())
    assert torch.equal(y, y64.to(dtype))
    assert torch.equal(grad_input, input64.to(dtype))
    assert torch.equal(grad_weight, weight64.to(dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_contractions(name: str, dtype: torch.dtype, layout: str) -> None:
    _check_contractions(LAYERS[name], dtype, layout)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_planar_groups_of_few_channels(dtype: torch.dtype) -> None:
    # Tensor cores would be mostly empty. All sums have at most 8 bits.
    _check_contractions(Layer((1, 8, 4, 5), 8, (2, 2), groups=4), dtype, "contiguous")


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize("dtype", EXACT, ids=str)
def test_offsets_beyond_32_bits(dtype: torch.dtype, mode: str) -> None:
    # Two images 2^31 elements apart; the memory between them is never touched.
    x = torch.empty(2**31 + 64, dtype=dtype).as_strided((2, 2, 5, 4), (2**31, 20, 4, 1))
    x.copy_(torch.randint(-3, 4, x.shape))
    w = _integers(3, 2, 3, 3, dtype=dtype)
    layer = Layer((2, 2, 5, 4), 3, (3, 3), padding=1, mode=mode)
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
