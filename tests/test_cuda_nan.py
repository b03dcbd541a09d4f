"""NaN and infinity in an operand of the emulated CUDA convolutions reach what depends on them only.

Tiles are larger than matrices, and what lies beyond is multiplied too: by zeros, which hide a wrong
element unless it is not finite.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, nan

import devices
import pytest
import torch
from emulator import library
from torch import Tensor

pytestmark = devices.needs_emulator

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SIZE = [5, 7]


@dataclass(frozen=True)
class Layer:
    """A convolution of 2 images, and a pattern of the kernels that it runs."""

    kernel: str
    channels: int
    out_channels: int
    side: int
    groups: int = 1
    layout: str = "channels_last"
    dtype: torch.dtype = torch.float32
    tf32: bool = False

    @property
    def geometry(self) -> tuple[list[int], list[int], list[int], int, str]:
        """As the operators take it."""
        return [1, 1], [self.side // 2] * 4, [1, 1], self.groups, "zeros"


LAYERS = {
    "vectors": Layer("implicit_gemm", 24, 40, 3, dtype=torch.bfloat16),
    "vectors, 1x1": Layer("implicit_gemm", 24, 40, 1, dtype=torch.bfloat16),
    "vectors, groups": Layer("implicit_gemm", 48, 48, 3, 2, dtype=torch.float16),
    "vectors, tf32": Layer("implicit_gemm", 12, 20, 3, tf32=True),
    "elements": Layer("implicit_gemm", 5, 21, 3, dtype=torch.bfloat16),
    "elements, 1x1": Layer("implicit_gemm", 5, 21, 1, tf32=True),
    "planar": Layer("fma_gemm", 5, 21, 3, layout="contiguous"),
    "planar, 1x1": Layer("fma_gemm", 5, 21, 1, layout="contiguous"),
    "channels": Layer("fma_gemm", 5, 21, 3),
    "channels, groups": Layer("fma_gemm", 18, 20, 3, 2),
    "depthwise planar": Layer("depthwise_(weight_)?planar", 6, 6, 3, 6, "contiguous"),
    "depthwise channels": Layer("depthwise_(weight_)?channels", 6, 6, 3, 6),
    "depthwise vectors": Layer("depthwise_(weight_)?channels", 8, 8, 3, 8),
}


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> Iterator[Layer]:
    """Each layer, on its kernel."""
    layer = LAYERS[request.param]
    with devices.tf32(layer.tf32), library.emulated_cuda(), library.counting() as costs:
        yield layer
        assert any(re.match(f"cuda::{layer.kernel}", cost.kernel) for cost in costs())


def _ones(layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """Input, weight and gradient of the output."""

    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=layer.dtype).contiguous(memory_format=LAYOUTS[layer.layout])

    depth = layer.channels // layer.groups
    w = ones(layer.out_channels, depth, layer.side, layer.side)
    return ones(2, layer.channels, *SIZE), w, ones(2, layer.out_channels, *SIZE)


def _expect(found: Tensor, bad: Tensor) -> None:
    """That NaN is where `bad` is true, which broadcasts, and all else is finite."""
    assert torch.equal(found.isnan(), bad.expand_as(found))
    assert torch.equal(found.isfinite(), ~bad.expand_as(found))


def _one(count: int, *which: int) -> Tensor:
    """(1, count, 1, 1), true for these channels."""
    chosen = torch.zeros(1, count, 1, 1, dtype=torch.bool)
    chosen[:, list(which)] = True
    return chosen


def _around(layer: Layer) -> Tensor:
    """(2, 1, 5, 7), true for the windows of the second image that contain pixel (2, 3)."""
    windows = torch.zeros(2, 1, *SIZE, dtype=torch.bool)
    reach = layer.side // 2
    windows[1, :, 2 - reach : 3 + reach, 3 - reach : 4 + reach] = True
    return windows


def _of_group(count: int, layer: Layer, group: int) -> Tensor:
    """(1, count, 1, 1), true for the channels of a group."""
    size = count // layer.groups
    return _one(count, *range(group * size, group * size + size))


def test_rows_of_the_weight(layer: Layer) -> None:
    x, w, _ = _ones(layer)
    w[3] = nan
    y = torch.ops.cnnops.convolution(x, w, None, *layer.geometry)
    _expect(y, _one(layer.out_channels, 3))


def test_columns_of_the_weight(layer: Layer) -> None:
    _, w, g = _ones(layer)
    channel = w.shape[1] - 1
    w[:, channel] = nan
    grad_input = torch.ops.cnnops.convolution_grad_input(g, w, None, SIZE, *layer.geometry)
    _expect(grad_input, _one(layer.channels, *range(channel, layer.channels, w.shape[1])))


def test_an_element_of_the_input(layer: Layer) -> None:
    x, w, _ = _ones(layer)
    x[1, 0, 2, 3] = nan
    y = torch.ops.cnnops.convolution(x, w, None, *layer.geometry)
    _expect(y, _around(layer) & _of_group(layer.out_channels, layer, 0))


def test_an_element_of_the_gradient(layer: Layer) -> None:
    _, w, g = _ones(layer)
    g[1, -1, 2, 3] = nan
    grad_input = torch.ops.cnnops.convolution_grad_input(g, w, None, SIZE, *layer.geometry)
    _expect(grad_input, _around(layer) & _of_group(layer.channels, layer, layer.groups - 1))


def test_channels_and_the_gradient_for_the_weight(layer: Layer) -> None:
    x, _, g = _ones(layer)
    g[:, 3] = nan
    side = [layer.side] * 2
    w = torch.ops.cnnops.convolution_grad_weight(g, x, side, *layer.geometry)
    _expect(w, _one(layer.out_channels, 3).view(-1, 1, 1, 1))
    x, _, g = _ones(layer)
    x[:, 0] = nan
    w = torch.ops.cnnops.convolution_grad_weight(g, x, side, *layer.geometry)
    bad = torch.zeros_like(w, dtype=torch.bool)
    bad[: layer.out_channels // layer.groups, 0] = True
    _expect(w, bad)


def test_the_last_pixel_and_the_gradient_for_the_weight(layer: Layer) -> None:
    # Zeros, which stand for pixels beyond it, would make NaN of infinity.
    x, _, g = _ones(layer)
    x[-1, :, -1, -1] = inf
    side, middle = [layer.side] * 2, layer.side // 2
    w = torch.ops.cnnops.convolution_grad_weight(g, x, side, *layer.geometry)
    assert (w[..., middle:, middle:] == inf).all()
    w[..., middle:, middle:] = 0
    assert w.isfinite().all()
    x, _, g = _ones(layer)
    g[-1, :, -1, -1] = inf
    w = torch.ops.cnnops.convolution_grad_weight(g, x, side, *layer.geometry)
    assert (w[..., : middle + 1, : middle + 1] == inf).all()
