"""CUDA kernels, emulated, on tensors that do not start at a multiple of 16 bytes or are far apart.

Vectors are for aligned tensors only, and 32-bit offsets for near ones: the plans must see which
are. Every sum here is one of small integers, and so exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import devices
import pytest
import torch
import torch.nn.functional as F
from emulator import library
from torch import Tensor

pytestmark = devices.needs_emulator

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(scope="module", autouse=True)
def _emulated() -> Iterator[None]:
    with devices.tf32(True), library.emulated_cuda():
        yield


def _shifted(tensor: Tensor) -> Tensor:
    """The same tensor, one element behind a multiple of 64 bytes."""
    memory = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)[1:]
    assert memory.data_ptr() % 16
    return memory.as_strided(tensor.shape, tensor.stride()).copy_(tensor)


def _integers(*shape: int, dtype: torch.dtype, layout: str = "contiguous") -> Tensor:
    return torch.randint(-2, 3, shape).to(dtype).contiguous(memory_format=LAYOUTS[layout])


@pytest.mark.parametrize("operand", ["input", "weight", "grad"])
@pytest.mark.parametrize("groups", [1, 2, 16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_convolution_of_an_unaligned_tensor(
    dtype: torch.dtype, layout: str, groups: int, operand: str
) -> None:
    x = _integers(2, 16, 4, 8, dtype=dtype, layout=layout)
    w = _integers(16, 16 // groups, 3, 3, dtype=dtype, layout=layout)
    x64, w64 = x.double().requires_grad_(), w.double().requires_grad_()
    y64 = F.conv2d(x64, w64, padding=1, groups=groups)
    g = _integers(*y64.shape, dtype=dtype, layout=layout)
    input64, weight64 = torch.autograd.grad(y64, (x64, w64), g.double())
    tensors = {"input": x, "weight": w, "grad": g}
    tensors[operand] = _shifted(tensors[operand])
    x, w, g = tensors.values()
    ops, geometry = torch.ops.cnnops, ([1, 1], [1] * 4, [1, 1], groups, "zeros")
    assert torch.equal(ops.convolution(x, w, None, *geometry), y64.to(dtype))
    grad_input = ops.convolution_grad_input(g, w, None, [4, 8], *geometry)
    assert torch.equal(grad_input, input64.to(dtype))
    grad_weight = ops.convolution_grad_weight(g, x, [3, 3], *geometry)
    assert torch.equal(grad_weight, weight64.to(dtype))


def _gap_along(tensor: Tensor, axis: int) -> Tensor:
    """The same with channels side by side, and one element more between the slices of one axis."""
    order = [0, 2, 3, 4, 1]
    strides, distance = [0] * 5, 1
    for place in reversed(order):
        strides[place] = distance + (place == axis)
        distance = strides[place] * tensor.shape[place]
    memory = torch.full((distance,), 77, dtype=tensor.dtype)
    return memory.as_strided(tensor.shape, strides).copy_(tensor)


@pytest.mark.parametrize("groups, out_channels", [(1, 40), (2, 2)])
@pytest.mark.parametrize("axis", [0, 2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_with_vectors_of_channels_that_are_not_aligned(
    dtype: torch.dtype, axis: int, groups: int, out_channels: int
) -> None:
    # Each stride alone makes it so; where a group has one row, that of groups.
    x = _integers(1, 16 * groups, 2, 3, 4, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    w = _gap_along(_integers(out_channels, 16, 2, 2, 2, dtype=dtype), axis)
    y64 = F.conv3d(x.double(), w.double(), groups=groups)
    geometry = ([1] * 3, [0] * 6, [1] * 3, groups, "zeros")
    with library.counting() as costs:
        y = torch.ops.cnnops.convolution(x, w, None, *geometry)
        assert any("Copies::vectors" in cost.kernel for cost in costs())
    assert torch.equal(y, y64.to(dtype))


@pytest.mark.parametrize("axis", [0, 2, 3, 4])
@pytest.mark.parametrize("operand", ["input", "grad"])
def test_tensors_that_are_channels_last_but_for_a_gap(operand: str, axis: int) -> None:
    # The kernels for vectors of channels get a copy without it.
    x = _integers(3, 8, 3, 4, 5, dtype=torch.float32)
    w = _integers(8, 1, 2, 2, 2, dtype=torch.float32)
    x64, w64 = x.double().requires_grad_(), w.double().requires_grad_()
    y64 = F.conv3d(x64, w64, groups=8)
    g = _integers(*y64.shape, dtype=torch.float32)
    input64, weight64 = torch.autograd.grad(y64, (x64, w64), g.double())
    x, g = (it.contiguous(memory_format=torch.channels_last_3d) for it in (x, g))
    if operand == "input":
        x = _gap_along(x, axis)
    else:
        g = _gap_along(g, axis)
    ops, geometry = torch.ops.cnnops, ([1] * 3, [0] * 6, [1] * 3, 8, "zeros")
    with devices.tf32(False):
        assert torch.equal(ops.convolution(x, w, None, *geometry), y64.float())
        grad_input = ops.convolution_grad_input(g, w, None, [3, 4, 5], *geometry)
        grad_weight = ops.convolution_grad_weight(g, x, [2, 2, 2], *geometry)
    assert torch.equal(grad_input, input64.float())
    assert torch.equal(grad_weight, weight64.float())


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda x: torch.ops.cnnops.max_pool(x, [3, 3], [2, 2], [1, 1], [1, 1], False),
    "indices": lambda x: torch.ops.cnnops.max_pool_with_indices(
        x, [3, 3], [2, 2], [1, 1], [1, 1], False
    )[1],
    "taps": lambda x: torch.ops.cnnops.max_pool_with_taps(x, [3, 3], [2, 2], [1, 1], [1, 1], False)[
        1
    ],
    "mean": lambda x: torch.ops.cnnops.avg_pool(x, [4, 4], [4, 4], [0, 0], False, True, None),
    "mean backward": lambda x: torch.ops.cnnops.avg_pool_backward(
        x, [32, 32], [4, 4], [4, 4], [0, 0], False, True, None
    ),
    "adaptive": lambda x: torch.ops.cnnops.adaptive_avg_pool(x, [1, 1]),
}


@pytest.mark.parametrize("name", POOLINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_pooling_of_an_unaligned_tensor(dtype: torch.dtype, layout: str, name: str) -> None:
    x = _integers(2, 16, 8, 8, dtype=dtype, layout=layout)
    pool = POOLINGS[name]
    assert torch.equal(pool(_shifted(x)), pool(x))


@pytest.mark.parametrize("groups", [1, 6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_images_beyond_32_bits(dtype: torch.dtype, groups: int) -> None:
    # Two images 2^31 elements apart; the memory between them is never touched.
    def far(tensor: Tensor) -> Tensor:
        image = tensor[0].numel()
        memory = torch.empty(2**31 + image, dtype=dtype)
        return memory.as_strided(tensor.shape, (2**31, *tensor.stride()[1:])).copy_(tensor)

    x = _integers(2, 6, 5, 4, dtype=dtype)
    w = _integers(6, 6 // groups, 3, 3, dtype=dtype)
    x64, w64 = x.double().requires_grad_(), w.double().requires_grad_()
    y64 = F.conv2d(x64, w64, padding=1, groups=groups)
    g = _integers(*y64.shape, dtype=dtype)
    input64, weight64 = torch.autograd.grad(y64, (x64, w64), g.double())
    x, g = far(x), far(g)
    ops, geometry = torch.ops.cnnops, ([1, 1], [1] * 4, [1, 1], groups, "zeros")
    with devices.tf32(False):
        assert torch.equal(ops.convolution(x, w, None, *geometry), y64.to(dtype))
        grad_input = ops.convolution_grad_input(g, w, None, [5, 4], *geometry)
        grad_weight = ops.convolution_grad_weight(g, x, [3, 3], *geometry)
    assert torch.equal(grad_input, input64.to(dtype))
    assert torch.equal(grad_weight, weight64.to(dtype))
