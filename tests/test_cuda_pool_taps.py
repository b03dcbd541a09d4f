"""Max pooling with taps on CUDA kernels, emulated: values, taps, and the gradient by these.

The CPU's own operators, which other tests hold against torch, are the reference, bit by bit:
windows add up in the same order.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import devices
import pytest
import torch
from emulator import library
from torch import Tensor

pytestmark = devices.needs_emulator

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}


@dataclass(frozen=True)
class Pooling:
    """Windows of volumes, alike on no two axes where they can be.

    Attributes:
        planar: the kernel that finds their maxima in contiguous tensors.
        last: the same of channels_last ones.
        size: of the input.
        kernel: of the windows, as `stride` and `padding`.
        ceil: whether a last window may reach beyond the padding.

    """

    planar: str
    last: str
    size: tuple[int, ...]
    kernel: tuple[int, int, int]
    stride: tuple[int, int, int]
    padding: tuple[int, int, int]
    ceil: bool = False

    @property
    def windows(self) -> tuple[list[int], list[int], list[int], list[int], bool]:
        """The arguments of the operators."""
        return [*self.kernel], [*self.stride], [*self.padding], [1, 1, 1], self.ceil


VOLUME = (2, 8, 6, 9, 12)
POOLINGS = {
    "many taps": Pooling("tile", "window", VOLUME, (2, 3, 6), (1, 2, 2), (1, 1, 3)),
    "many taps, ceil": Pooling("tile", "window", VOLUME, (4, 3, 5), (2, 1, 2), (1, 1, 2), True),
    "flat rows": Pooling("window", "window", VOLUME, (6, 2, 3), (2, 2, 2), (3, 0, 1), True),
    "most taps": Pooling("tile", "window", (1, 4, 7, 9, 8), (6, 6, 6), (2, 2, 2), (0, 3, 1)),
    "few taps": Pooling("direct", "direct", VOLUME, (2, 1, 2), (2, 1, 2), (0, 0, 1)),
    "few taps, ceil": Pooling("direct", "direct", VOLUME, (3, 2, 1), (2, 2, 1), (1, 1, 0), True),
    "gaps": Pooling("direct", "direct", VOLUME, (1, 2, 1), (2, 2, 2), (0, 1, 0)),
    "odd channels": Pooling("tile", "window", (1, 7, 5, 6, 7), (3, 5, 4), (1, 2, 2), (1, 2, 1)),
    "odd channels, few taps": Pooling(
        "tile", "direct", (3, 5, 1, 9, 12), (1, 3, 3), (1, 2, 1), (0, 1, 1)
    ),
    "one window": Pooling("window", "window", (2, 8, 2, 3, 6), (2, 3, 6), (1, 1, 2), (0, 0, 0)),
    "one window, few taps": Pooling(
        "direct", "direct", (2, 8, 2, 3, 3), (2, 3, 3), (1, 1, 2), (0, 0, 0)
    ),
    "several tiles": Pooling("tile", "direct", (1, 3, 1, 41, 140), (1, 4, 3), (1, 2, 1), (0, 2, 1)),
    "small planes": Pooling("tile", "direct", (2, 40, 1, 7, 7), (1, 3, 3), (1, 1, 1), (0, 1, 1)),
}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def _filled(size: tuple[int, ...], values: str, dtype: torch.dtype) -> Tensor:
    """Random numbers, many of them equal, some or all of them NaN or -infinity."""
    x = torch.randint(-2, 3, size).to(dtype)
    if values == "nan":
        x[torch.rand(size) < 0.1] = torch.nan
    elif values == "infinite":
        x[torch.rand(size) < 0.9] = -torch.inf
        x[:, :2] = -torch.inf
    return x


def _expected_kernel(pooling: Pooling, layout: str) -> str:
    return "pool_" + (pooling.planar if layout == "contiguous" else pooling.last)


def _same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    assert found.stride() == expected.stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("values", ["ties", "nan", "infinite"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", POOLINGS)
def test_maxima_and_their_taps(
    emulated: Any, name: str, layout: str, values: str, dtype: torch.dtype
) -> None:
    pooling = POOLINGS[name]
    x = _filled(pooling.size, values, dtype).contiguous(memory_format=LAYOUTS[layout])
    with library.counting() as costs:
        found = emulated.max_pool_with_taps(x, *pooling.windows)
        (kernel,) = {cost.kernel for cost in costs()}
    assert _expected_kernel(pooling, layout) in kernel
    for ours, expected in zip(
        found, torch.ops.cnnops.max_pool_with_taps(x, *pooling.windows), strict=True
    ):
        _same(ours, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", POOLINGS)
def test_gradients_go_where_taps_say(
    emulated: Any, name: str, layout: str, dtype: torch.dtype
) -> None:
    pooling = POOLINGS[name]
    x = _filled(pooling.size, "ties", dtype).contiguous(memory_format=LAYOUTS[layout])
    y, taps = torch.ops.cnnops.max_pool_with_taps(x, *pooling.windows)
    grad = torch.randn_like(y)
    grad[torch.rand(grad.shape) < 0.02] = torch.nan  # a gradient that is not chosen leaves no trace
    call = (grad, taps, [*pooling.size[2:]], *pooling.windows)
    _same(emulated.max_pool_taps_backward(*call), torch.ops.cnnops.max_pool_taps_backward(*call))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", POOLINGS)
def test_a_tap_that_names_no_input_moves_nothing(emulated: Any, name: str, layout: str) -> None:
    # Bytes beyond the window, and taps in the padding or behind the end: of no input, also none of
    # another window, plane or image.
    pooling = POOLINGS[name]
    x = _filled(pooling.size, "ties", torch.float32).contiguous(memory_format=LAYOUTS[layout])
    y, taps = torch.ops.cnnops.max_pool_with_taps(x, *pooling.windows)
    inside = torch.ones(y.shape, dtype=torch.bool)
    wrong = torch.randint_like(taps, 256)
    rest = wrong.long()
    for axis in (-1, -2, -3):
        size, kernel = pooling.size[axis], pooling.kernel[axis]
        start = torch.arange(y.shape[axis]) * pooling.stride[axis] - pooling.padding[axis]
        at = start.view(-1, *[1] * (-axis - 1)) + rest % kernel
        inside &= (at >= 0) & (at < size)
        rest = rest // kernel
    inside &= rest == 0
    grad = torch.randn_like(y)
    back = ([*pooling.size[2:]], *pooling.windows)
    found = emulated.max_pool_taps_backward(grad, wrong, *back)
    moved = torch.empty_like(taps).copy_(torch.where(inside, wrong, taps))
    expected = torch.ops.cnnops.max_pool_taps_backward(grad * inside, moved, *back)
    _same(found, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_vectors_of_channels_are_taken_where_they_are_aligned(
    emulated: Any, dtype: torch.dtype
) -> None:
    width = 16 // dtype.itemsize
    for channels, expected in ((2 * width, width), (width + 1, 1)):
        x = torch.randn(1, channels, 5, 6).to(dtype).contiguous(memory_format=torch.channels_last)
        windows = ([2, 2], [2, 2], [0, 0], [1, 1], False)
        with library.counting() as costs:
            y, taps = emulated.max_pool_with_taps(x, *windows)
            emulated.max_pool_taps_backward(y, taps, [5, 6], *windows)
            ran = {cost.kernel for cost in costs()}
        assert len(ran) == 2
        assert all(f">, {expected}>" in kernel for kernel in ran), ran


@pytest.mark.parametrize("operand", ["grad", "taps"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_tensors_that_are_not_aligned(emulated: Any, dtype: torch.dtype, operand: str) -> None:
    # The input of the forward pass is among the tensors of test_cuda_addresses.py.
    x = torch.randn(2, 16, 5, 6).to(dtype).contiguous(memory_format=torch.channels_last)
    windows = ([3, 3], [2, 2], [1, 1], [1, 1], False)
    y, taps = torch.ops.cnnops.max_pool_with_taps(x, *windows)
    tensors = {"grad": torch.randn_like(y), "taps": taps}
    moved = tensors[operand]
    memory = torch.empty(moved.numel() + 1, dtype=moved.dtype)[1:]
    tensors[operand] = memory.as_strided(moved.shape, moved.stride()).copy_(moved)
    call = (*tensors.values(), [5, 6], *windows)
    _same(emulated.max_pool_taps_backward(*call), torch.ops.cnnops.max_pool_taps_backward(*call))


# ---- 64 bits -------------------------------------------------------------------------------------


def _numbers(values: list[int]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


@pytest.mark.parametrize("shared", [False, True], ids=["direct", "window"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", POOLINGS)
def test_kernels_for_more_elements_than_32_bits_count(name: str, layout: str, shared: bool) -> None:
    # The operators run them for tensors of at least 2^31 / 36 elements.
    pooling, memory_format = POOLINGS[name], LAYOUTS[layout]
    x = _filled(pooling.size, "nan", torch.float32).contiguous(memory_format=memory_format)
    y, taps = torch.ops.cnnops.max_pool_with_taps(x, *pooling.windows)
    grad = torch.randn_like(y)
    back = (grad, taps, [*pooling.size[2:]], *pooling.windows)
    expected = (y, taps, torch.ops.cnnops.max_pool_taps_backward(*back))
    found = [torch.empty_like(it) for it in expected]
    numbers = [*pooling.size[:2]]
    for axis in range(3):
        numbers += [pooling.size[2 + axis], y.shape[2 + axis], pooling.kernel[axis]]
        numbers += [pooling.stride[axis], pooling.padding[axis], 1]
    run = library.library().emulator_wide_taps
    run.restype = ctypes.c_char_p
    tensors = (x, found[0], found[1], grad, found[2])
    pointers = [ctypes.c_void_p(it.data_ptr()) for it in tensors]
    wrong = run(_numbers([*numbers, layout == "channels_last", shared]), *pointers)
    assert wrong is None, wrong
    for ours, wanted in zip(found, expected, strict=True):
        _same(ours, wanted)
