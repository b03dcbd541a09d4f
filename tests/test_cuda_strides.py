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
from emulator import build, library
from torch import Tensor

pytestmark = pytest.mark.skipif(
    build.missing() is not None, reason=f"the emulator cannot be built: {build.missing()}"
)

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
    "vectors": Layer("implicit_gemm", 32, 48, 2, torch.bfloat16),
    "vectors, tf32": Layer("implicit_gemm", 16, 40, 2, tf32=True),
    "vectors, circular": Layer("implicit_gemm", 24, 40, 1, torch.float16, mode="circular"),
    "elements": Layer("implicit_gemm", 10, 42, 2, torch.bfloat16),
    "elements, tf32": Layer("implicit_gemm", 11, 21, 1, tf32=True),
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


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> None:
    assert "convolution" in library.names()  # which loads it


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_volumes(name: str, layout: str) -> None:
    layer = LAYERS[name]
    arguments = (*GEOMETRY, layer.groups, layer.mode)
    emulated, cpu = torch.ops.cnnops_emulated, torch.ops.cnnops

    def integers(*shape: int) -> Tensor:
        return LAYOUTS[layout](torch.randint(-2, 3, shape).to(layer.dtype))

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
