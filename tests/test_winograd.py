"""Winograd convolution: when a form is chosen, errors on every instruction set, the switches."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from process import environment
from torch import Tensor

import cnnops.functional
from cnnops import _C
from cnnops.check.reference import lay_out
from cnnops.plan import plan

#: The error that is promised, as a fraction of the largest output (docs/architecture.md).
PROMISED = 2e-5

LAYOUTS = ["contiguous", "channels_last"]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

# Input, output channels, and the tile that the plan chooses.
SMALL = (1, 64, 10, 10), 64, "winograd_2x2_3x3"
LARGE = (2, 32, 25, 30), 48, "winograd_4x4_3x3"


# Input, output channels and kernels for which the plan chooses each of the other forms, and sums
# over groups of their taps: of the depth, of another axis, and of more taps along their own.
KERNELS = [
    ((2, 32, 20, 24), 24, (5, 5), "winograd_2x4_5x5"),
    ((4, 48, 9, 8), 40, (1, 3), "winograd_1x4_1x3"),
    ((1, 32, 21, 30), 37, (1, 3), "winograd_1x6_1x3"),
    ((2, 35, 9, 37), 32, (1, 5), "winograd_1x4_1x5"),
    ((1, 33, 17, 17), 70, (1, 7), "winograd_1x4_1x7"),
    ((4, 48, 8, 9), 40, (3, 1), "winograd_4x1_3x1"),
    ((1, 32, 30, 21), 37, (3, 1), "winograd_6x1_3x1"),
    ((2, 35, 37, 9), 32, (5, 1), "winograd_4x1_5x1"),
    ((1, 33, 17, 17), 70, (7, 1), "winograd_4x1_7x1"),
    ((1, 32, 200), 40, (3,), "winograd_1x6_1x3"),
    ((2, 70, 90), 32, (5,), "winograd_1x4_1x5"),
    ((2, 32, 93), 32, (10,), "winograd_1x4_1x5"),
    ((1, 33, 121), 48, (7,), "winograd_1x4_1x7"),
    ((1, 32, 180), 48, (9,), "winograd_1x4_1x5"),
    ((1, 48, 21, 20), 48, (7, 7), "winograd_1x4_1x7"),
    ((2, 48, 5, 14, 18), 32, (3, 3, 3), "winograd_4x4_3x3"),
    ((2, 48, 30, 4, 5), 33, (3, 1, 1), "winograd_6x1_3x1"),
    ((1, 40, 3, 20, 24), 48, (2, 5, 5), "winograd_2x4_5x5"),
    ((2, 48, 22, 23), 40, (2, 2), "winograd_3x3_2x2"),
    ((4, 48, 33, 33), 40, (2, 2), "winograd_4x4_2x2"),
    ((4, 48, 46, 37), 40, (2, 2), "winograd_5x5_2x2"),
    ((2, 48, 200), 40, (2,), "winograd_1x5_1x2"),
    ((2, 48, 100, 2), 40, (2, 1), "winograd_5x1_2x1"),
]

# Kernels whose phases have several taps: every stride-th tap meets every stride-th position.
STRIDED = [
    ((4, 64, 46, 47), 64, (4, 4), (2, 2)),
    ((2, 64, 46, 47), 70, (5, 5), (2, 2)),
    ((1, 48, 30, 21), 48, (5, 4), (1, 2)),
    ((1, 32, 29, 40), 66, (6, 7), (3, 3)),  # phases of two taps, and of two and three
    ((2, 70, 150), 64, (8,), (4,)),
    ((1, 48, 5, 23, 24), 64, (2, 4, 4), (2, 2, 2)),
]


def same_padding(kernel: tuple[int, ...], dilation: int = 1) -> tuple[int, ...]:
    return tuple(dilation * (size - 1) // 2 for size in kernel)


def algorithm(
    shape: tuple[int, ...],
    rows: int,
    phase: str = "fwd",
    kernel: tuple[int, ...] = (3, 3),
    **options: Any,
) -> str:
    name = f"conv{len(kernel)}d"
    options = {"padding": same_padding(kernel), **options}
    return plan(name, shape, (rows, shape[1], *kernel), phase=phase, **options).algorithm


def skip_layout_of_rank(layout: str, rank: int) -> None:
    if rank == 1 and layout == "channels_last":
        pytest.skip("torch has no channels_last format for 1-d tensors")


def error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, as a fraction of the largest element."""
    assert actual.shape == expected.shape
    return float((actual.double() - expected).abs().max() / expected.abs().max())


def grad_weight(grad: Tensor, x: Tensor, dilation: int = 1) -> Tensor:
    """The gradient of a 3x3 weight, of a convolution that keeps the size."""
    geometry = ((1, 1), (dilation,) * 4, (dilation, dilation), 1, "zeros")
    return torch.ops.cnnops.convolution_grad_weight(grad, x, (3, 3), *geometry)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("phase", ["fwd", "bwd_input"])
@pytest.mark.parametrize(("shape", "rows", "tile"), [SMALL, LARGE])
def test_chosen(shape: tuple[int, ...], rows: int, tile: str, phase: str, layout: str) -> None:
    assert algorithm(shape, rows, phase, memory_format=FORMATS[layout]) == tile


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("phase", ["fwd", "bwd_input", "bwd_weight"])
@pytest.mark.parametrize("dilation", [2, 3, (1, 5), (12, 1)])
def test_chosen_for_dilated_kernels(dilation: Any, phase: str, layout: str) -> None:
    options = {"dilation": dilation, "padding": dilation, "memory_format": FORMATS[layout]}
    assert "winograd" in algorithm((2, 32, 49, 50), 48, phase, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("phase", ["fwd", "bwd_input", "bwd_weight"])
@pytest.mark.parametrize("groups", [1, 8])
def test_chosen_for_few_channels(groups: int, phase: str, layout: str) -> None:
    shape, weight = (2, 12 * groups, 56, 56), (16 * groups, 12, 3, 3)
    options: dict[str, Any] = {"phase": phase, "padding": 1, "groups": groups}
    found = plan("conv2d", shape, weight, memory_format=FORMATS[layout], **options)
    assert "winograd" in found.algorithm


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "rows"), [((4, 64, 14, 14), 64), LARGE[:2]])
def test_chosen_for_the_weight(shape: tuple[int, ...], rows: int, layout: str) -> None:
    options = {"phase": "bwd_weight", "memory_format": FORMATS[layout]}
    assert algorithm(shape, rows, **options).startswith("weight_winograd")


@pytest.mark.parametrize("phase", ["fwd", "bwd_input", "bwd_weight"])
@pytest.mark.parametrize(("shape", "rows", "kernel", "name"), KERNELS)
def test_chosen_for_other_kernels(
    shape: tuple[int, ...], rows: int, kernel: tuple[int, ...], name: str, phase: str
) -> None:
    found = algorithm(shape, rows, phase, kernel)
    if phase == "fwd":
        assert found == name
    else:
        # Other sides of the weight are padded to registers: a neighbouring form may take less.
        assert "winograd" in found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("phase", ["fwd", "bwd_input", "bwd_weight"])
@pytest.mark.parametrize(("shape", "rows", "kernel", "stride"), STRIDED[:2])
def test_chosen_for_strides(
    shape: tuple[int, ...],
    rows: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    phase: str,
    layout: str,
) -> None:
    options = {"stride": stride, "memory_format": FORMATS[layout]}
    assert "winograd" in algorithm(shape, rows, phase, kernel, **options)


@pytest.mark.parametrize("phase", ["fwd", "bwd_weight"])
@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (48, {"stride": 2}),  # one or two taps of a phase save less than transforms cost
        (48, {"stride": 5, "kernel": (7, 7)}),
        (48, {"dilation": 13, "padding": 13}),
        (48, {"dtype": torch.float64}),
        (48, {"kernel": (1, 1)}),
        (48, {"kernel": (9, 9)}),
        (8, {}),
    ],
)
def test_not_chosen(rows: int, options: dict[str, Any], phase: str) -> None:
    assert "winograd" not in algorithm((2, 32, 25, 30), rows, phase, **options)


@pytest.mark.parametrize("phase", ["fwd", "bwd_weight"])
def test_not_chosen_for_large_weights_and_one_small_map(phase: str) -> None:
    assert "winograd" not in algorithm((1, 512, 4, 4), 512, phase)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("batch", "channels", "size"),
    [
        (2, 12, 112),
        (1, 64, 56),
        (1, 128, 28),
        (4, 256, 14),
        (8, 512, 7),
        pytest.param(1, 64, 224, marks=pytest.mark.slow),
    ],
)
def test_promised_accuracy(batch: int, channels: int, size: int, layout: str) -> None:
    x = lay_out(torch.randn(batch, channels, size, size), layout)
    weight = lay_out(torch.randn(channels, channels, 3, 3), layout)
    shape = (batch, channels, size, size)
    assert algorithm(shape, channels, memory_format=FORMATS[layout]).startswith("winograd")
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    expected = F.conv2d(x64, weight64, padding=1)
    expected_grads = torch.autograd.grad(expected, (x64, weight64), x64.detach())
    assert error(cnnops.functional.conv2d(x, weight, padding=1), expected.detach()) < PROMISED
    grad = cnnops.functional.conv_transpose2d(x, weight, padding=1)
    assert error(grad, expected_grads[0]) < PROMISED
    assert error(grad_weight(x, x), expected_grads[1]) < PROMISED


@pytest.mark.parametrize("kernel", [(5, 5), (1, 3), (1, 5), (7, 1), (7, 7), (3,), (7,), (3, 3, 3)])
def test_promised_accuracy_of_other_kernels(kernel: tuple[int, ...]) -> None:
    size = {1: (2000,), 2: (40, 40), 3: (6, 20, 20)}[len(kernel)]
    shape = (1, 256, *size)
    assert "winograd" in algorithm(shape, 64, kernel=kernel)
    padding = tuple(part for side in same_padding(kernel) for part in (side, side))
    check_against_float64(shape, 64, padding, (1,) * len(kernel), "zeros", "contiguous", kernel)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_over_many_tiles_stay_accurate(layout: str) -> None:
    # 1,568 tiles, in blocks of 64; grad of one sign, so that sums grow with their number.
    x = lay_out(torch.randn(8, 16, 56, 56), layout)
    grad = lay_out(torch.rand(8, 16, 56, 56), layout)
    assert "winograd" in algorithm((8, 16, 56, 56), 16, "bwd_weight")
    weight = torch.zeros(16, 16, 3, 3, dtype=torch.float64, requires_grad=True)
    output = F.conv2d(x.double(), weight, padding=1)
    (expected,) = torch.autograd.grad(output, weight, grad.double())
    assert error(grad_weight(grad, x), expected) < PROMISED


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", [*LAYOUTS, "transposed"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (2, 0, 1, 4), (5, 5, 5, 5)])
@pytest.mark.parametrize(
    ("batch", "depth", "rows", "height", "width"),
    [
        (1, 16, 16, 12, 10),
        (3, 21, 37, 9, 9),
        (2, 70, 67, 17, 30),
        (5, 40, 80, 6, 41),
        (1, 24, 140, 10, 11),
        (2, 11, 13, 30, 33),
    ],
)
def test_against_float64(
    batch: int,
    depth: int,
    rows: int,
    height: int,
    width: int,
    padding: tuple[int, ...],
    mode: str,
    layout: str,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    set_isa(isa)
    check_against_float64((batch, depth, height, width), rows, padding, (1, 1), mode, layout)


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", [*LAYOUTS, "transposed"])
@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize(
    ("shape", "rows", "padding", "dilation"),
    [
        ((1, 16, 33, 33), 16, (2, 2, 2, 2), (2, 2)),  # phases of 17 and of 16
        ((2, 20, 30, 67), 37, (3, 1, 5, 6), (3, 5)),  # blocks of tiles that end within a row
        ((1, 35, 61, 30), 18, (0, 4, 0, 12), (1, 12)),
        ((3, 17, 30, 19), 66, (12, 12, 1, 1), (12, 1)),
        ((1, 16, 23, 24), 16, (11, 11, 7, 7), (11, 7)),  # more phases than some rows have tiles
    ],
)
def test_dilated_against_float64(
    shape: tuple[int, int, int, int],
    rows: int,
    padding: tuple[int, ...],
    dilation: tuple[int, int],
    mode: str,
    layout: str,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    set_isa(isa)
    check_against_float64(shape, rows, padding, dilation, mode, layout)


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", [*LAYOUTS, "transposed"])
@pytest.mark.parametrize(("shape", "rows", "kernel", "name"), KERNELS)
@pytest.mark.parametrize("dilation", [1, 3])
def test_other_kernels_against_float64(
    shape: tuple[int, ...],
    rows: int,
    kernel: tuple[int, ...],
    name: str,
    dilation: int,
    layout: str,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    skip_layout_of_rank(layout, len(kernel))
    set_isa(isa)
    # More on one side than on the other.
    padding = [part for side in same_padding(kernel, dilation) for part in (side, side + 1)]
    check_against_float64(
        shape, rows, tuple(padding), (dilation,) * len(kernel), "zeros", layout, kernel
    )


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", [*LAYOUTS, "transposed"])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize(("shape", "rows", "kernel", "stride"), STRIDED)
def test_strides_against_float64(
    shape: tuple[int, ...],
    rows: int,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    mode: str,
    layout: str,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    skip_layout_of_rank(layout, len(kernel))
    set_isa(isa)
    padding = tuple(part for side in same_padding(kernel) for part in (side, side + 1))
    check_against_float64(
        shape, rows, padding, (1,) * len(kernel), mode, layout, kernel, stride=stride
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_weights_are_transformed_for_each_block_of_tiles(
    layout: str, set_threads: Callable[[int], None]
) -> None:
    # 36 x 512 x 512 floats take 36 MiB, 144 tiles more than a block.
    assert algorithm((1, 512, 46, 47), 512, memory_format=FORMATS[layout]) == "winograd_4x4_3x3"
    x = lay_out(torch.randn(1, 512, 46, 47), layout)
    weight = lay_out(torch.randn(512, 512, 3, 3), layout)
    expected = F.conv2d(x.double(), weight.double(), padding=1)
    set_threads(1)
    output = cnnops.functional.conv2d(x, weight, padding=1)
    assert error(output, expected) < PROMISED
    set_threads(2)
    assert torch.equal(cnnops.functional.conv2d(x, weight, padding=1), output)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize(
    ("shape", "rows", "kernel"), [(shape, rows, kernel) for shape, rows, kernel, _ in KERNELS[:8]]
)
def test_other_kernels_with_padding_modes(
    shape: tuple[int, int, int, int], rows: int, kernel: tuple[int, ...], mode: str, layout: str
) -> None:
    padding = tuple(part for side in same_padding(kernel) for part in (side + 1, side + 2))
    check_against_float64(shape, rows, padding, (1, 1), mode, layout, kernel)


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("shape", "rows", "kernel"),
    [
        ((2, 70, 40, 41), 70, (3, 3)),
        ((1, 70, 24, 30), 33, (5, 5)),
        ((2, 70, 17, 48), 70, (1, 7)),
        ((2, 48, 6, 12, 12), 32, (3, 1, 1)),
    ],
)
def test_half_types_are_rounded_once(
    shape: tuple[int, ...],
    rows: int,
    kernel: tuple[int, ...],
    dtype: torch.dtype,
    layout: str,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    # Tiles are transformed and multiplied in float32.
    set_isa(isa)
    padding = same_padding(kernel)
    for phase in ("fwd", "bwd_input", "bwd_weight"):
        chosen = algorithm(shape, rows, phase, kernel, dtype=dtype)
        if "dot_products" in chosen or "matrix_unit" in chosen:
            pytest.skip("instructions of this CPU for bfloat16 take less: tests/test_pairs.py")
        assert "winograd" in chosen
    x = lay_out(torch.randn(shape), layout).to(dtype).requires_grad_()
    weight = lay_out(torch.randn(rows, shape[1], *kernel), layout).to(dtype).requires_grad_()
    bias = torch.randn(rows).to(dtype)
    name = f"conv{len(kernel)}d"
    output = getattr(cnnops.functional, name)(x, weight, bias, padding=padding)
    x64, weight64 = (t.detach().double().requires_grad_() for t in (x, weight))
    expected = getattr(F, name)(x64, weight64, bias.double(), padding=padding)
    grad = torch.randn(output.shape).to(dtype)
    grads = torch.autograd.grad(output, (x, weight), grad)
    expected_grads = torch.autograd.grad(expected, (x64, weight64), grad.double())
    rounding = torch.finfo(dtype).eps / 2
    for actual, exact in zip((output, *grads), (expected, *expected_grads), strict=True):
        off = (actual.detach().double() - exact.detach()).abs() - rounding * exact.detach().abs()
        assert off.max() <= PROMISED * exact.abs().max()


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("layout", [*LAYOUTS, "transposed"])
@pytest.mark.parametrize(
    ("shape", "rows", "groups", "kernel"),
    [
        ((2, 3 * 24, 20, 21), 3 * 32, 3, (3, 3)),
        ((1, 5 * 70, 15, 14), 5 * 24, 5, (3, 3)),  # groups are spread over the threads
        ((4, 6 * 32, 30, 31), 6 * 40, 6, (3, 3)),
        ((1, 4 * 32, 17, 18), 4 * 33, 4, (5, 5)),
        ((2, 2 * 24, 100), 2 * 24, 2, (5,)),
    ],
)
def test_groups_against_float64(
    shape: tuple[int, ...],
    rows: int,
    groups: int,
    kernel: tuple[int, ...],
    layout: str,
    isa: str,
    set_isa: Callable[[str], None],
) -> None:
    skip_layout_of_rank(layout, len(kernel))
    set_isa(isa)
    rank = len(kernel)
    weight = (rows, shape[1] // groups, *kernel)
    for phase in ("fwd", "bwd_input", "bwd_weight"):
        options = {"padding": same_padding(kernel), "groups": groups, "phase": phase}
        assert "winograd" in plan(f"conv{rank}d", shape, weight, **options).algorithm
    padding = tuple(part for side in same_padding(kernel) for part in (side, side))
    check_against_float64(shape, rows, padding, (1,) * rank, "zeros", layout, kernel, groups)


def check_against_float64(
    shape: tuple[int, ...],
    rows: int,
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    mode: str,
    layout: str,
    kernel: tuple[int, ...] = (3, 3),
    groups: int = 1,
    stride: tuple[int, ...] | None = None,
) -> None:
    """Output and gradients of a convolution with a bias against torch's in float64."""
    rank = len(kernel)
    x = lay_out(torch.randn(shape), layout)
    weight = lay_out(torch.randn(rows, shape[1] // groups, *kernel), layout)
    bias = torch.randn(rows)
    stride = stride or (1,) * rank
    arguments = (stride, padding, dilation, groups, mode)
    x64, weight64 = x.double().requires_grad_(), weight.double().requires_grad_()
    pairs = [padding[2 * axis : 2 * axis + 2] for axis in reversed(range(rank))]
    named = {"mode": "constant" if mode == "zeros" else mode}
    padded = F.pad(x64, [part for pair in pairs for part in pair], **named)
    convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    options = {"stride": stride, "dilation": dilation, "groups": groups}
    expected = convolve(padded, weight64, bias.double(), **options)
    grad = lay_out(torch.randn(expected.shape), layout)
    expected_grads = torch.autograd.grad(expected, (x64, weight64), grad.double())
    output = torch.ops.cnnops.convolution(x, weight, bias, *arguments)
    assert error(output, expected.detach()) < PROMISED
    grad_input = torch.ops.cnnops.convolution_grad_input(grad, weight, None, shape[2:], *arguments)
    assert error(grad_input, expected_grads[0]) < PROMISED
    of_weight = torch.ops.cnnops.convolution_grad_weight(grad, x, kernel, *arguments)
    assert error(of_weight, expected_grads[1]) < PROMISED


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("shape", "weight", "options"),
    [
        # Kernels that are 3x3 in a plane, and the 3x3 phases of a strided gradient.
        ((2, 24, 5, 20, 20), (32, 24, 1, 3, 3), {"padding": (0, 1, 1)}),
        ((2, 24, 12, 20, 20), (32, 24, 1, 3, 3), {"padding": (1, 1, 1), "stride": (2, 1, 1)}),
        ((2, 24, 20, 20), (24, 32, 6, 6), {"stride": 2, "padding": 2, "transposed": True}),
    ],
)
def test_planes_and_phases(
    shape: tuple[int, ...], weight: tuple[int, ...], options: dict[str, Any], layout: str
) -> None:
    options = dict(options)
    name = ("conv_transpose" if options.pop("transposed", False) else "conv") + f"{len(shape) - 2}d"
    x, w = lay_out(torch.randn(shape), layout), lay_out(torch.randn(weight), layout)
    if layout == "channels_last" or name == "conv3d":
        last = torch.channels_last if len(shape) == 4 else torch.channels_last_3d
        chosen = last if layout == "channels_last" else torch.contiguous_format
        found = plan(name, shape, weight, memory_format=chosen, **options)
        assert found.algorithm.startswith("winograd")
    x64, w64 = x.double(), w.double().requires_grad_()
    expected = getattr(F, name)(x64, w64, **options)
    w.requires_grad_()
    output = getattr(cnnops.functional, name)(x, w, **options)
    assert error(output.detach(), expected.detach()) < PROMISED
    grad = torch.randn(output.shape)
    (expected_grad,) = torch.autograd.grad(expected, w64, grad.double())
    assert error(torch.autograd.grad(output, w, grad)[0], expected_grad) < PROMISED


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "rows", "tile"), [SMALL, LARGE, ((4, 96, 60, 60), 80, "4x4")])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_same_for_any_number_of_threads(
    shape: tuple[int, ...],
    rows: int,
    tile: str,
    dilation: int,
    layout: str,
    set_threads: Callable[[int], None],
) -> None:
    x, weight = lay_out(torch.randn(shape), layout), torch.randn(rows, shape[1], 3, 3)
    results = []
    for threads in (1, 1, 2, 3):
        set_threads(threads)
        output = cnnops.functional.conv2d(x, weight, padding=dilation, dilation=dilation)
        results.append((output, grad_weight(output, x, dilation)))
    for output, grad in results[1:]:
        assert torch.equal(output, results[0][0])
        assert torch.equal(grad, results[0][1])


def test_padding_never_reads_what_lies_around_the_tensor() -> None:
    for layout in LAYOUTS:
        around = lay_out(torch.full((4, 40, 23, 24), float("nan")), layout)
        inner = around[1:3, 2:36, 3:20, 2:21]
        inner.copy_(torch.randn(inner.shape))
        weight = torch.randn(20, 34, 3, 3, requires_grad=True)
        output = cnnops.functional.conv2d(inner, weight, padding=2)
        assert output.isfinite().all()
        around = lay_out(torch.full((4, 24, 23, 24), float("nan")), layout)
        grad = around[1:3, 2:22, 2:21, 1:22]
        grad.copy_(torch.randn(output.shape))
        assert torch.autograd.grad(output, weight, grad)[0].isfinite().all()


def test_a_nan_reaches_its_windows_and_stays_in_their_tiles() -> None:
    shape, rows, tile = LARGE
    assert tile == "winograd_4x4_3x3"
    x = torch.randn(shape)
    x[1, 7, 9, 14] = float("nan")
    nan = cnnops.functional.conv2d(x, torch.randn(rows, shape[1], 3, 3), padding=1).isnan()
    assert nan[1, :, 8:11, 13:16].all()
    nan[1, :, 8:12, 12:16] = False  # tiles of 4x4, from the first output on
    assert not nan.any()


@pytest.mark.parametrize(
    ("phase", "name"), [("fwd", "winograd_4x4_3x3"), ("bwd_weight", "weight_winograd_4x4_3x3")]
)
def test_workspace_does_not_grow_with_the_image(phase: str, name: str) -> None:
    # More threads than items could not use more.
    small, large = (
        plan("conv2d", (1, 64, size, size), (64, 64, 3, 3), padding=1, phase=phase)
        for size in (112, 448)
    )
    assert small.algorithm == large.algorithm == name
    # Blocks of tiles are even, and so not all of one size.
    assert large.workspace(2) < 1.1 * small.workspace(2)


def test_ieee_precision_turns_it_off(precision: Callable[[Any, str], None]) -> None:
    shape, rows, tile = LARGE
    x, weight = torch.randn(shape), torch.randn(rows, shape[1], 3, 3)
    transformed = cnnops.functional.conv2d(x, weight, padding=1)
    for backend in (torch.backends.mkldnn.conv, torch.backends):
        precision(backend, "ieee")
        assert "winograd" not in algorithm(shape, rows)
        assert "winograd" not in algorithm(shape, rows, "bwd_weight")
        direct = cnnops.functional.conv2d(x, weight, padding=1)
        assert not torch.equal(direct, transformed)
        torch.testing.assert_close(direct, transformed, rtol=1e-4, atol=1e-3)
        precision(backend, "none")
        assert algorithm(shape, rows) == tile


@pytest.mark.parametrize(("value", "allowed"), [("0", False), ("1", True), ("", True)])
def test_environment_variable_turns_it_off(value: str, allowed: bool) -> None:
    code = (
        "from cnnops.plan import plan;"
        "print(plan('conv2d', (2, 32, 25, 30), (48, 32, 3, 3), padding=1).algorithm)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(CNNOPS_WINOGRAD=value),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert result.stdout.strip().startswith("winograd") == allowed
