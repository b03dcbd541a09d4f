"""The depthwise CUDA convolutions, emulated: every kernel, on the shapes that it is for.

The CPU's own operators in float64, which other tests hold against torch, are the reference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import devices
import pytest
import torch
from emulator import library

pytestmark = devices.needs_emulator

LAYOUTS = {
    "contiguous": {2: torch.contiguous_format, 3: torch.contiguous_format},
    "channels_last": {2: torch.channels_last, 3: torch.channels_last_3d},
}


@dataclass(frozen=True)
class Layer:
    """A depthwise convolution.

    Attributes:
        direct: whether forward runs a depthwise kernel too; those with tiles of one row do not.

    """

    input: tuple[int, ...]
    kernel: tuple[int, ...]
    padding: tuple[int, ...]
    stride: int = 1
    dilation: tuple[int, ...] = ()
    multiplier: int = 1
    mode: str = "zeros"
    direct: bool = True

    @property
    def arguments(self) -> tuple[list[int], list[int], list[int], int, str]:
        """As the operators take them."""
        padding = [amount for amount in self.padding for _ in range(2)]
        dilation = list(self.dilation) or [1] * len(self.kernel)
        return [self.stride] * len(self.kernel), padding, dilation, self.input[1], self.mode


def _integers(shape: tuple[int, ...] | torch.Size, layout: str) -> torch.Tensor:
    """Numbers whose products and sums no rounding touches before the result.

    Sums need more bits than a bfloat16 or float16 has, so that it shows where they are rounded on
    the way.
    """
    memory_format = LAYOUTS[layout][len(shape) - 2]
    return torch.randint(-40, 41, shape).float().contiguous(memory_format=memory_format)


def _check(
    emulated: Any, layer: Layer, layout: str, kernel: str, dtype: torch.dtype = torch.float32
) -> None:
    """That the contractions are right, and that `kernel` runs forward, its twin for the weight."""
    cpu, geometry = torch.ops.cnnops, layer.arguments
    x = _integers(layer.input, layout)
    w = _integers((layer.input[1] * layer.multiplier, 1, *layer.kernel), layout)
    b = _integers((1, w.shape[0], 1, 1), "contiguous").view(-1)
    y64 = cpu.convolution(x.double(), w.double(), b.double(), *geometry)
    g = _integers(y64.shape, layout)
    size, taps = list(layer.input[2:]), list(layer.kernel)
    calls: dict[str, Callable[[Any, torch.dtype], torch.Tensor]] = {
        "forward": lambda ops, to: ops.convolution(x.to(to), w.to(to), b.to(to), *geometry),
        "input": lambda ops, to: ops.convolution_grad_input(
            g.to(to), w.to(to), None, size, *geometry
        ),
        "weight": lambda ops, to: ops.convolution_grad_weight(g.to(to), x.to(to), taps, *geometry),
    }
    for phase, call in calls.items():
        with library.counting() as costs:
            found = call(emulated, dtype)
            ran = {cost.kernel for cost in costs()}
        twin = kernel.replace("depthwise", "depthwise_weight") if phase == "weight" else kernel
        if phase == "weight" or (phase == "forward" and layer.direct):
            assert any(twin in name for name in ran), ran
        expected = call(cpu, torch.float64)
        if phase == "input" and layer.mode != "zeros":
            # The gradient for the padded input is folded in another order.
            torch.testing.assert_close(found.double(), expected)
        else:
            assert torch.equal(found, expected.to(dtype)), phase


# Each kernel with a layer that it is for. With 16 planes there are blocks enough, so that one takes
# several tiles of the batch one after another.
KERNELS = {
    "depthwise_planar<{}, true>": Layer((3, 16, 12, 20), (5, 5), (2, 2)),
    "depthwise_planar<{}, false>": Layer((2, 3, 20, 37), (3, 3), (1, 1), 2, multiplier=2),
    "depthwise_channels<{}, 4, true>": Layer((2, 40, 9, 11), (5, 5), (2, 2)),
    "depthwise_channels<{}, 4, false>": Layer((2, 40, 9, 11), (3, 3), (1, 1), 2),
    "depthwise_channels<{}, 1, true>": Layer((2, 5, 9, 11), (3, 3), (1, 1), multiplier=2),
    "depthwise_channels<{}, 1, false>": Layer((2, 5, 9, 11), (3, 3), (1, 1), 2, multiplier=2),
}


TYPES = {"float": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel(emulated: Any, name: str, type: str) -> None:
    layout = "contiguous" if "planar" in name else "channels_last"
    _check(emulated, KERNELS[name], layout, name.format(type), TYPES[type])


LAYERS = {
    # Weights of 9 rows of 31 taps do not fit the shared memory of channels_last blocks at once.
    "rows of weights in turns": Layer((1, 40, 9, 20), (9, 31), (4, 15)),
    # And those of 27 rows of 31 taps no shared memory at all.
    "more weights than shared memory": Layer((1, 17, 27, 31), (27, 31), (0, 0), direct=False),
    "a row of weights too wide for it": Layer((1, 17, 1, 801), (1, 801), (0, 0), direct=False),
    "one row": Layer((2, 5, 1, 13), (1, 5), (0, 2)),
    "one column": Layer((2, 5, 13, 1), (5, 1), (2, 0)),
    # More units of taps than a block has threads. Images must be so large that all taps meet them.
    "many taps": Layer((1, 2, 26, 26), (51, 51), (25, 25)),
    # The last block has units of a row of taps that there is not, far behind the image.
    "many taps, apart": Layer((1, 2, 105, 10), (53, 17), (0, 8), 1, (2, 1), direct=False),
    "taps far apart": Layer((1, 3, 132, 9), (17, 3), (0, 1), 1, (8, 1), direct=False),
    # What the last thread of a row of taps would read beyond them lies behind the patch.
    "two taps far apart": Layer((1, 2, 5, 411), (1, 2), (0, 0), 1, (1, 400)),
    "planes that blocks do not share evenly": Layer((2, 7, 12, 20), (3, 3), (1, 1)),
    "wide": Layer((1, 3, 3, 129), (3, 3), (1, 1)),
    "as wide as a tile": Layer((1, 3, 5, 64), (3, 3), (1, 1)),
    "wide, in vectors": Layer((1, 3, 3, 132), (3, 3), (1, 1)),
    # The last tile has a whole vector of outputs that lies behind the row, in the next one.
    "a vector less than two tiles": Layer((1, 3, 3, 68), (3, 3), (1, 1)),
    "a column more than a tile": Layer((1, 3, 5, 65), (3, 3), (1, 1)),
    "strided, tiles below each other": Layer((1, 2, 121, 131), (3, 3), (1, 1), 2),
    # The gradient for the input has whole vectors of outputs that lie two apart.
    "strided, whole vectors": Layer((1, 3, 6, 16), (3, 3), (1, 1), 2),
    # The padding of outputs that there are not: the second one is 2^30 away.
    "reflect, one output of a long stride": Layer(
        (1, 5, 3, 3), (2, 2), (1, 1), 2**30, (2, 2), mode="reflect"
    ),
    "stride and dilation": Layer((2, 3, 11, 13), (3, 2), (2, 1), 3, (2, 3), 2),
    "volume": Layer((2, 5, 4, 5, 6), (3, 2, 3), (1, 1, 1), multiplier=2),
    "volume, strided": Layer((2, 4, 5, 6, 7), (2, 3, 3), (1, 0, 1), 2, (2, 1, 1)),
    "volume, circular": Layer((1, 4, 4, 5, 6), (3, 3, 3), (1, 1, 1), mode="circular"),
    "circular": Layer((2, 4, 6, 9), (3, 4), (1, 3), mode="circular"),
    # What lies beyond the last column that an output reads is more than a width away.
    "circular, all around": Layer((1, 4, 3, 3), (3, 3), (3, 3), mode="circular"),
    "circular, all around, strided": Layer((1, 5, 3, 3), (2, 1), (3, 3), 2, mode="circular"),
    "reflect": Layer((2, 4, 6, 9), (3, 5), (1, 2), 2, mode="reflect"),
    "replicate": Layer((2, 5, 6, 9), (3, 3), (2, 2), 1, (2, 2), mode="replicate"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers(emulated: Any, name: str, layout: str) -> None:
    kernel = "depthwise_planar" if layout == "contiguous" else "depthwise_channels"
    _check(emulated, LAYERS[name], layout, kernel)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_of_several_channels_in_and_one_out(emulated: Any, layout: str) -> None:
    # The other side of a multiplier: here forward sums over the channels of a group.
    cpu, geometry = torch.ops.cnnops, ([1, 2], [1, 1, 0, 1], [2, 1], 3, "zeros")
    x, w = _integers((2, 6, 9, 11), layout), _integers((3, 2, 3, 2), layout)
    y64 = cpu.convolution(x.double(), w.double(), None, *geometry)
    g = _integers(y64.shape, layout)
    with library.counting() as costs:
        found = emulated.convolution(x, w, None, *geometry)
        grad_input = emulated.convolution_grad_input(g, w, None, [9, 11], *geometry)
        grad_weight = emulated.convolution_grad_weight(g, x, [3, 2], *geometry)
        kernels = {cost.kernel for cost in costs()}
    assert not any("gemm" in kernel for kernel in kernels), kernels
    assert torch.equal(found.double(), y64)
    expected = cpu.convolution_grad_input(g.double(), w.double(), None, [9, 11], *geometry)
    assert torch.equal(grad_input.double(), expected)
    expected = cpu.convolution_grad_weight(g.double(), x.double(), [3, 2], *geometry)
    assert torch.equal(grad_weight.double(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_taps_too_far_apart_for_a_tile(emulated: Any, layout: str) -> None:
    # 32 bits do not count the elements between them. All read padding.
    x, g = _integers((1, 2, 3, 3), layout), _integers((1, 2, 3, 3), layout)
    geometry = ([1, 1], [25000] * 4, [50000] * 2, 2, "zeros")
    found = emulated.convolution_grad_weight(g, x, [2, 2], *geometry)
    assert torch.equal(found, torch.zeros(2, 1, 2, 2))


def test_vectors_of_results_end_with_the_row(emulated: Any) -> None:
    # They would be aligned, since there is no other row, but reach beyond the last column.
    _check(emulated, Layer((1, 1, 1, 7), (1, 3), (0, 1)), "contiguous", "depthwise_planar")


def test_results_are_the_same_in_every_run(emulated: Any) -> None:
    x, g = torch.randn(3, 4, 9, 10), torch.randn(3, 4, 9, 10)
    results = []
    for schedule in ("ascending", "random"):
        with library.settings(f"schedule={schedule}"):
            geometry = ([1, 1], [1] * 4, [1, 1], 4, "zeros")
            results.append(emulated.convolution_grad_weight(g, x, [3, 3], *geometry))
    assert torch.equal(*results)
