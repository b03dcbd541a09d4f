"""The CUDA convolutions, emulated, where no two axes, strides or sizes are alike.

A kernel that takes the stride, size or tap of another axis, or an offset of another sign, is right
where these are equal, as in most layers. Every sum here is one of small integers, and so exact.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import devices
import pytest
import torch
from emulator import library
from torch import Tensor

pytestmark = [devices.needs_emulator, pytest.mark.usefixtures("emulated")]

SIZE = (3, 4, 7)
KERNEL = (2, 3, 4)
GEOMETRY = ([1, 2, 3], [0, 1, 2, 1, 4, 3], [2, 1, 2])


@dataclass(frozen=True)
class Layer:
    """A convolution of volumes, and a pattern of the kernels that it runs."""

    kernel: str
    channels: int
    out_channels: int
    groups: int
    dtype: torch.dtype = torch.float32
    tf32: bool = False
    mode: str = "zeros"


LAYERS = {
    # More channels, pixels and lines of the weight than copies to other layouts move at once.
    "vectors": Layer("implicit_gemm", 80, 48, 2, torch.bfloat16),
    "vectors, tf32": Layer("implicit_gemm", 16, 40, 2, tf32=True),
    "vectors, circular": Layer("implicit_gemm", 24, 40, 1, torch.float16, mode="circular"),
    "elements": Layer("implicit_gemm", 10, 42, 2, torch.bfloat16),
    "elements, tf32": Layer("implicit_gemm", 11, 21, 1, tf32=True),
    # Groups do not begin at whole vectors although pixels do, of the input or of the output.
    "groups of elements in": Layer("implicit_gemm", 24, 32, 2, torch.bfloat16),
    "groups of elements out": Layer("implicit_gemm", 32, 40, 2, torch.bfloat16),
    "exact": Layer("fma_gemm", 6, 10, 2),
    "exact, circular": Layer("fma_gemm", 5, 21, 1, mode="circular"),
    "depthwise": Layer("depthwise", 6, 12, 6),
    "depthwise vectors": Layer("depthwise", 8, 8, 8),
}


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last_3d)


def _apart(tensor: Tensor) -> Tensor:
    """In memory with the axes in an order of no layout, and gaps between all elements."""
    order = [3, 0, 4, 1, 2]
    memory = torch.full([2 * tensor.shape[axis] + 1 for axis in order], 77, dtype=tensor.dtype)
    view = memory[tuple(slice(1, None, 2) for _ in order)]
    return view.permute([order.index(axis) for axis in range(5)]).copy_(tensor)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": _contiguous,
    "channels_last": _channels_last,
    "apart": _apart,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_volumes(name: str, layout: str) -> None:
    layer = LAYERS[name]
    arguments = (*GEOMETRY, layer.groups, layer.mode)
    emulated, cpu = torch.ops.cnnops_emulated, torch.ops.cnnops

    # Sums need more bits than 16-bit types have: it shows where they are rounded on the way.
    most = 2 if layer.mode != "zeros" else 40

    def integers(*shape: int) -> Tensor:
        return LAYOUTS[layout](torch.randint(-most, most + 1, shape).to(layer.dtype))

    x = integers(2, layer.channels, *SIZE)
    w = integers(layer.out_channels, layer.channels // layer.groups, *KERNEL)
    b = torch.randint(-2, 3, (layer.out_channels,)).to(layer.dtype)
    y64 = cpu.convolution(x.double(), w.double(), b.double(), *arguments)
    g = integers(*y64.shape)
    calls: dict[str, Callable[[Any, torch.dtype], Tensor]] = {
        "forward": lambda ops, to: ops.convolution(x.to(to), w.to(to), b.to(to), *arguments),
        "input": lambda ops, to: ops.convolution_grad_input(
            g.to(to), w.to(to), None, list(SIZE), *arguments
        ),
        "weight": lambda ops, to: ops.convolution_grad_weight(
            g.to(to), x.to(to), list(KERNEL), *arguments
        ),
    }
    for phase, call in calls.items():
        with devices.tf32(layer.tf32), library.counting() as costs:
            found = call(emulated, layer.dtype)
            ran = {cost.kernel for cost in costs()}
        assert any(re.match(f"cuda::{layer.kernel}", kernel) for kernel in ran), ran
        expected = call(cpu, torch.float64)
        if phase == "input" and layer.mode != "zeros":
            # The gradient for the padded input is rounded before it is folded.
            torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.5)
        else:
            assert torch.equal(found, expected.to(layer.dtype)), phase


@dataclass(frozen=True)
class Grouped:
    """A convolution of groups whose gradient for the weight is a sum of several blocks' shares."""

    kernel: str
    channels: int
    out_channels: int
    groups: int
    dtype: torch.dtype
    size: tuple[int, int]
    layout: torch.memory_format = torch.channels_last


GROUPED = {
    "vectors": Grouped("implicit_gemm_weight", 32, 48, 2, torch.bfloat16, (14, 25)),
    "elements": Grouped("implicit_gemm_weight", 20, 42, 2, torch.bfloat16, (14, 25)),
    "exact": Grouped("fma_gemm_weight", 6, 10, 2, torch.float64, (9, 13)),
    "depthwise": Grouped("depthwise_weight_channels", 40, 80, 40, torch.float32, (17, 30)),
    "depthwise, 16 bits": Grouped(
        "depthwise_weight_channels", 40, 80, 40, torch.bfloat16, (37, 30)
    ),
    "depthwise, odd": Grouped("depthwise_weight_channels", 35, 70, 35, torch.float32, (17, 30)),
    "depthwise planar": Grouped(
        "depthwise_weight_planar", 3, 6, 3, torch.float32, (37, 70), torch.contiguous_format
    ),
}


@pytest.mark.parametrize("name", GROUPED)
def test_shares_of_groups(name: str) -> None:
    layer = GROUPED[name]
    geometry = ([1, 1], [0, 1, 1, 1], [1, 1], layer.groups, "zeros")
    x = torch.randint(-40, 41, (2, layer.channels, *layer.size)).to(layer.dtype)
    g = torch.randint(-40, 41, (2, layer.out_channels, *layer.size)).to(layer.dtype)
    x, g = (it.contiguous(memory_format=layer.layout) for it in (x, g))
    with library.counting() as costs:
        found = torch.ops.cnnops_emulated.convolution_grad_weight(g, x, [2, 3], *geometry)
        ran = " ".join({cost.kernel for cost in costs()})
    assert layer.kernel in ran
    assert "join_chunks" in ran
    expected = torch.ops.cnnops.convolution_grad_weight(g.double(), x.double(), [2, 3], *geometry)
    assert torch.equal(found, expected.to(layer.dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_shares_of_channels_of_groups(dtype: torch.dtype) -> None:
    # Each group takes two tiles.
    geometry = ([1, 1], [1, 2, 1, 0], [1, 1], 2, "zeros")
    x = torch.randint(-40, 41, (2, 160, 3, 5)).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randint(-40, 41, (160, 80, 4, 2)).to(dtype)
    with devices.tf32(True), library.counting() as costs:
        found = torch.ops.cnnops_emulated.convolution(x, w, None, *geometry)
        assert any("join_shares" in cost.kernel for cost in costs())
    expected = torch.ops.cnnops.convolution(x.double(), w.double(), None, *geometry)
    assert torch.equal(found, expected.to(dtype))


#: Padding of depth, height and width for each mode, as far as it may go on some sides.
FOLDS = {
    "reflect": [2, 1, 0, 3, 6, 1],
    "replicate": [1, 4, 5, 0, 2, 3],
    "circular": [3, 1, 2, 4, 0, 7],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("mode", FOLDS)
def test_gradients_of_padding(mode: str, layout: str, dtype: torch.dtype) -> None:
    # The gradient for the padded input, rounded, is added up where the padding read, and the bias.
    padding, size = FOLDS[mode], [3, 4, 7]
    padded = [n + p + q for n, p, q in zip(size, padding[0::2], padding[1::2], strict=True)]
    w = torch.randint(-4, 5, (5, 4, 2, 1, 3)).to(dtype)
    b = torch.randint(-4, 5, (4,)).to(dtype)
    count = [n - k + 1 for n, k in zip(padded, w.shape[2:], strict=True)]
    g = LAYOUTS[layout](torch.randint(-4, 5, (2, 5, *count)).to(dtype))
    emulated, cpu = torch.ops.cnnops_emulated, torch.ops.cnnops
    ones = ([1] * 3, [0] * 6, [1] * 3, 1, "zeros")
    of_padded = cpu.convolution_grad_input(g.double(), w.double(), None, padded, *ones)
    x = torch.zeros(2, 4, *size, dtype=torch.float64, requires_grad=True)
    ends = [padding[i] for i in (4, 5, 2, 3, 0, 1)]
    whole = torch.nn.functional.pad(x, ends, mode=mode)
    (expected,) = torch.autograd.grad(whole, x, of_padded.to(dtype).double())
    expected += b.double().view(-1, 1, 1, 1)
    geometry = ([1] * 3, padding, [1] * 3, 1, mode)
    with devices.tf32(False):
        found = emulated.convolution_grad_input(g, w, b, size, *geometry)
    assert torch.equal(found, expected.to(dtype))


def test_gradient_of_replicated_single_elements() -> None:
    # An element that is the first and the last of an axis gets what both ends read.
    w, g = torch.ones(1, 1, 1, 2), torch.arange(12.0).view(1, 1, 4, 3)
    geometry = ([1, 1], [1, 2, 2, 1], [1, 1], 1, "replicate")
    found = torch.ops.cnnops_emulated.convolution_grad_input(g, w, None, [1, 1], *geometry)
    assert found.item() == 2 * g.sum()


@pytest.mark.parametrize("channels", [132, 136, 67])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 1)])
def test_depthwise_layers_of_several_blocks_of_channels(
    channels: int, kernel: tuple[int, int]
) -> None:
    geometry = ([1, 1], [1, 1, 1, 0], [1, 1], channels, "zeros")
    x = torch.randint(-2, 3, (2, channels, 3, 6)).float()
    x = x.contiguous(memory_format=torch.channels_last)
    w = torch.randint(-2, 3, (2 * channels, 1, *kernel)).float()
    emulated, cpu = torch.ops.cnnops_emulated, torch.ops.cnnops
    y64 = cpu.convolution(x.double(), w.double(), None, *geometry)
    g = torch.randint_like(y64, -2, 3).contiguous(memory_format=torch.channels_last)
    assert torch.equal(emulated.convolution(x, w, None, *geometry).double(), y64)
    back = (None, [3, 6], *geometry)
    found = emulated.convolution_grad_input(g.float(), w, *back)
    assert torch.equal(found.double(), cpu.convolution_grad_input(g, w.double(), *back))
    back = (list(kernel), *geometry)
    found = emulated.convolution_grad_weight(g.float(), x, *back)
    assert torch.equal(found.double(), cpu.convolution_grad_weight(g, x.double(), *back))


@pytest.mark.parametrize("tf32", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_sizes_of_whole_tiles(dtype: torch.dtype, tf32: bool) -> None:
    # Each size of each product is two tiles or more, and no element beyond them.
    channels = 256 if tf32 else 128
    geometry = ([1, 1], [0, 0, 0, 1], [1, 1], 2, "zeros")
    x = torch.randint(-40, 41, (2, channels, 8, 16)).to(dtype)
    g = torch.randint(-40, 41, (2, channels, 8, 16)).to(dtype)
    x, g = (it.contiguous(memory_format=torch.channels_last) for it in (x, g))
    w = torch.randint(-40, 41, (channels, channels // 2, 1, 2)).to(dtype)
    emulated, cpu = torch.ops.cnnops_emulated, torch.ops.cnnops
    with devices.tf32(tf32):
        y = emulated.convolution(x, w, None, *geometry)
        grad_input = emulated.convolution_grad_input(g, w, None, [8, 16], *geometry)
        grad_weight = emulated.convolution_grad_weight(g, x, [1, 2], *geometry)
    x, g, w = x.double(), g.double(), w.double()
    assert torch.equal(y, cpu.convolution(x, w, None, *geometry).to(dtype))
    expected = cpu.convolution_grad_input(g, w, None, [8, 16], *geometry)
    assert torch.equal(grad_input, expected.to(dtype))
    expected = cpu.convolution_grad_weight(g, x, [1, 2], *geometry)
    assert torch.equal(grad_weight, expected.to(dtype))
