"""`cnnops.plan`: that it tells what runs, in one line, and how much memory that takes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

import cnnops
from cnnops import _C
from cnnops.benchmarks import NAMED, Layer
from cnnops.plan import plan_call

LAYOUTS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def algorithms(*args: Any, **kwargs: Any) -> list[str]:
    return [step.algorithm for step in cnnops.plan(*args, **kwargs).steps]


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        ("transposed_planar", {}),
        ("gemm_channels_last", {"memory_format": torch.channels_last}),
        ("transposed_planar", {"phase": "bwd_input"}),
        ("weight_gemm_planar", {"phase": "bwd_weight"}),
        (
            "weight_gemm_channels_last",
            {"phase": "bwd_weight", "memory_format": torch.channels_last},
        ),
    ],
)
@pytest.mark.usefixtures("without_winograd")
def test_dense_convolutions(expected: str, arguments: dict[str, Any]) -> None:
    assert algorithms("conv2d", (2, 64, 30, 30), (96, 64, 5, 5), **arguments) == [expected]


@pytest.mark.usefixtures("without_winograd")
def test_other_planar_convolutions() -> None:
    # Too few channels to transpose rows; rows that are shorter beside their padding, or far apart.
    assert algorithms("conv2d", (2, 20, 30, 80), (20, 20, 5, 5)) == ["shifted_planar"]
    assert algorithms("conv2d", (2, 20, 30, 30), (20, 20, 5, 5)) == ["gemm_planar"]
    assert algorithms("conv2d", (2, 64, 30, 30), (96, 64, 1, 1), stride=2) == ["gemm_planar"]


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("phase", ["fwd", "bwd_input", "bwd_weight"])
def test_depthwise_convolutions(phase: str, layout: str) -> None:
    (found,) = algorithms(
        *("conv2d", (2, 64, 40, 40), (64, 1, 3, 3)),
        phase=phase,
        memory_format=LAYOUTS[layout],
        groups=64,
    )
    kernel = "grouped_channels_last"
    if layout == "nchw":
        in_place = phase != "bwd_weight" and _C.isa() == "avx512"
        kernel = "depthwise_planar" if in_place else "direct_planar"
    assert found == ("weight_" if phase == "bwd_weight" else "") + kernel


def test_phases_of_a_stride_are_steps() -> None:
    plan = cnnops.plan("conv_transpose2d", (1, 12, 9, 9), (12, 16, 4, 4), stride=2, padding=1)
    assert len(plan.steps) == 4
    assert str(plan).startswith("convolution_grad_input: 4 x broadcast_pixels (")


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_phases_with_enough_channels_are_one_step(layout: str) -> None:
    (step,) = cnnops.plan(
        *("conv_transpose2d", (1, 128, 9, 9), (128, 16, 4, 4)),
        stride=2,
        padding=1,
        memory_format=LAYOUTS[layout],
    ).steps
    kernel = "fold_taps_planar" if layout == "nchw" else "fold_taps_channels_last"
    assert step.algorithm == kernel
    assert step.operator == "convolution_grad_input"


def test_the_phase_of_a_single_tap() -> None:
    """With many channels it is run alone, beside zeros; of planes where their rows are narrow."""

    def steps(channels: int, size: int, memory_format: torch.memory_format) -> list[str]:
        return algorithms(
            *("conv2d", (1, channels, size, size), (64, channels, 1, 1)),
            stride=2,
            phase="bwd_input",
            memory_format=memory_format,
        )

    assert steps(300, 18, torch.channels_last) == ["fill", "gemm_channels_last"]
    assert steps(100, 18, torch.channels_last) == ["fold_taps_channels_last"]
    assert steps(600, 7, torch.contiguous_format) == ["fill", "gemm_planar"]
    assert steps(600, 50, torch.contiguous_format) == ["fold_taps_planar"]
    assert steps(300, 7, torch.contiguous_format) == ["fold_taps_planar"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_phases_with_several_taps_go_by_winograd(layout: str) -> None:
    """Each phase has fewer products of its own; of few pixels they do not pay for the weight.

    Of planes, where each reads all of the weight, there must be much fewer.
    """
    options: dict[str, Any] = {"stride": 2, "padding": 1, "memory_format": LAYOUTS[layout]}
    found = algorithms("conv_transpose2d", (1, 64, 28, 28), (64, 64, 5, 5), **options)
    assert len(found) == 4
    assert all(name.startswith("winograd_") for name in found)
    found = algorithms("conv_transpose2d", (1, 64, 28, 28), (64, 64, 3, 3), **options)
    assert sum(name.startswith("winograd_") for name in found) == (0 if layout == "nchw" else 3)
    double = {"dtype": torch.float64, **options}
    for shape, kwargs in (
        ((64, 3, 3, 3), options),
        ((512, 512, 3, 3), options),
        ((64, 64, 3, 3), double),
    ):
        found = algorithms("conv_transpose2d", (1, shape[0], 7, 7), shape, **kwargs)
        assert not any(name.startswith("winograd_") for name in found)


@pytest.mark.parametrize(
    ("expected", "kernel", "size", "layout"),
    [
        ("phased_rows", (3, 3), 80, "nchw"),
        ("phased_planar", (3, 2), 80, "nchw"),
        ("phased_blocks", (3, 2), 20, "nchw"),
        ("phased_channels_last", (3, 3), 80, "nhwc"),
    ],
)
def test_phases_of_depthwise_convolutions_are_one_step(
    expected: str, kernel: tuple[int, int], size: int, layout: str
) -> None:
    if expected == "phased_rows" and _C.isa() != "avx512":
        expected = "phased_planar"
    (found,) = algorithms(
        *("conv2d", (2, 64, size, size), (64, 1, *kernel)),
        phase="bwd_input",
        memory_format=LAYOUTS[layout],
        stride=2,
        padding=1,
        groups=64,
    )
    assert found == expected


@pytest.mark.parametrize(
    "options",
    [{"stride": 1 << 40}, {"padding": 600, "dilation": 600}, {"stride": 100, "padding": 1}],
)
def test_far_strides_and_dilations_are_phases(options: dict[str, int]) -> None:
    steps = cnnops.plan("conv2d", (1, 3, 30, 30), (32, 3, 3, 3), phase="bwd_input", **options).steps
    assert not {"fold_taps_planar", "fold_taps_channels_last"} & {it.algorithm for it in steps}


@pytest.mark.parametrize(
    ("expected", "op", "options"),
    [
        ("pool_rows_by_phases", "max_pool2d", {"kernel_size": 4, "stride": 1}),
        ("pool_blocks", "max_pool2d", {"kernel_size": 5, "stride": 2}),
        ("pool_blocks", "max_pool2d", {"kernel_size": 3}),
        ("pool_blocks", "adaptive_avg_pool2d", {"output_size": 5}),
        ("pool_whole_rows", "adaptive_avg_pool2d", {"output_size": 1}),
        ("pool_fractional", "fractional_max_pool2d", {"kernel_size": 2, "output_size": 5}),
    ],
)
def test_poolings(expected: str, op: str, options: dict[str, int]) -> None:
    shape = (2, 32, 13, 13)
    assert algorithms(op, shape, **options) == [expected]
    if not op.startswith("fractional"):
        assert algorithms(op, shape, memory_format=torch.channels_last, **options) == [
            "pool_pixels"
        ]


def test_gradients_of_poolings() -> None:
    shape = (2, 32, 13, 13)
    train = cnnops.plan("max_pool2d", shape, kernel_size=2, phase="train")
    assert [step.operator for step in train.steps] == [
        "max_pool_with_taps",
        "max_pool_taps_backward",
    ]
    train = cnnops.plan("max_pool2d", shape, kernel_size=3, phase="train")
    assert [step.operator for step in train.steps] == ["max_pool_with_indices", "max_pool_backward"]
    assert algorithms("avg_pool2d", shape, kernel_size=2, phase="bwd_input") == ["pool_blocks"]


def test_gradients_of_windows_that_overlap_in_depth() -> None:
    """An input lies in 27 windows, or in 8: of planes indices are followed."""
    shape, by_taps = (1, 32, 4, 9, 9), ["max_pool_with_taps", "max_pool_taps_backward"]

    def operators(**options: Any) -> list[str]:
        return [step.operator for step in cnnops.plan("max_pool3d", shape, **options).steps]

    for stride in (1, 2):
        windows: dict[str, Any] = {"kernel_size": 3, "stride": stride, "phase": "train"}
        assert operators(**windows) == ["max_pool_with_indices", "max_pool_backward"]
        assert operators(**windows, memory_format=torch.channels_last_3d) == by_taps
    assert operators(kernel_size=2, phase="train") == by_taps
    assert operators(kernel_size=(1, 3, 3), stride=(1, 2, 2), phase="train") == by_taps


@pytest.mark.parametrize("phase", ["fwd", "bwd_input"])
def test_poolings_of_few_planes(phase: str) -> None:
    """Registers across planes would be mostly empty."""
    shuffles = _C.isa() != "baseline"
    for stride, otherwise in ((2, "pool_rows_by_phases"), (3, "pool_rows_by_windows")):
        # Gradients at stride 2 are shifted vectors, which shuffles only add to.
        shuffled = shuffles and (phase, stride) != ("bwd_input", 2)
        expected = "pool_shuffled_rows" if shuffled else otherwise
        step: dict[str, Any] = {"kernel_size": (2, 3), "stride": stride, "phase": phase}
        assert algorithms("avg_pool2d", (1, 1, 20, 20), **step) == [expected]
    # Nor do windows that are wider than two registers fit into them.
    wide: dict[str, Any] = {"kernel_size": 90, "stride": 80, "phase": phase}
    if phase == "fwd":
        assert algorithms("avg_pool1d", (1, 1, 800), **wide) == ["pool_rows_by_windows"]


@pytest.mark.skipif(_C.isa() != "avx512", reason="registers are shifted by one instruction there")
@pytest.mark.parametrize(("kernel", "stride"), [(2, 1), (3, 1), (5, 1), (2, 2), (3, 2)])
def test_rows_of_square_windows_roll(kernel: int, stride: int) -> None:
    """All rows that an input row belongs to fit registers; places do not, nor do integers."""
    windows: dict[str, Any] = {"kernel_size": kernel, "stride": stride}
    for op in ("max_pool2d", "avg_pool2d"):
        for dtype, width in product((torch.float32, torch.float64, torch.bfloat16), (5, 9, 40)):
            shape = (2, 32, 9, width)
            assert algorithms(op, shape, dtype=dtype, **windows) == ["pool_rolling_rows"]
        assert "pool_rolling_rows" not in algorithms(
            op, (2, 32, 9, 40), dtype=torch.int64, **windows
        )
    windows["phase"] = "bwd_input"
    assert "pool_rolling_rows" not in algorithms("avg_pool2d", (2, 32, 9, 40), **windows)
    spread = algorithms("max_pool2d", (2, 32, 9, 40), **windows)
    assert (spread == ["pool_rolling_rows"]) == ((kernel, stride) in ((3, 1), (2, 2), (3, 2)))
    # Windows that do not overlap are taken along long rows; narrow rows follow one another.
    wide = algorithms("max_pool2d", (2, 32, 9, 400), **windows)
    assert (wide == ["pool_rolling_rows"]) == ((kernel, stride) in ((3, 1), (3, 2)))
    narrow = algorithms("max_pool2d", (2, 32, 9, 7), **windows)
    assert (narrow == ["pool_rolling_rows"]) == (stride == 2)


def test_adaptive_windows_may_lie_on_a_grid() -> None:
    """From 35 to 17 columns they are three wide and start two apart; to 16 they are not alike."""
    grid = algorithms("max_pool2d", (2, 32, 35, 35), kernel_size=3, stride=2)
    assert algorithms("adaptive_avg_pool2d", (2, 32, 35, 35), output_size=17) == grid
    assert algorithms("adaptive_avg_pool2d", (2, 32, 35, 35), output_size=16) == ["pool_blocks"]


def test_rows_of_values_go_by_phases_where_they_fill_registers() -> None:
    """At stride 2 that takes longer rows; places of maxima, and gradients, go by blocks."""
    for kernel, long in ((2, 64), (3, 96)):
        windows: dict[str, Any] = {"kernel_size": (5 - kernel, kernel), "stride": 2}
        for op in ("max_pool2d", "avg_pool2d"):
            assert algorithms(op, (2, 32, 9, long), **windows) == ["pool_rows_by_phases"]
            assert algorithms(op, (2, 32, 9, 5), **windows) == ["pool_blocks"]
        places = {"return_indices": True, **windows}
        assert algorithms("max_pool2d", (2, 32, 9, long), **places) == ["pool_blocks"]
    far: dict[str, Any] = {"kernel_size": 3, "stride": 1, "dilation": 70}
    assert algorithms("max_pool1d", (2, 32, 999), **far) != ["pool_rows_by_phases"]


def test_blocks_of_planes_take_scratch_that_does_not_grow() -> None:
    (small,) = cnnops.plan("avg_pool2d", (1, 64, 60, 60), kernel_size=3).steps
    (large,) = cnnops.plan("avg_pool2d", (8, 64, 600, 600), kernel_size=3).steps
    assert small.algorithm == large.algorithm == "pool_blocks"
    assert 0 < large.per_thread <= 1 << 18
    assert large.per_thread < 2 * small.per_thread


@pytest.mark.parametrize("layer", NAMED, ids=lambda layer: layer.name)
@pytest.mark.parametrize("phase", ["fwd", "bwd"])
def test_every_named_layer_has_a_plan_of_one_line(layer: Layer, phase: str) -> None:
    call = layer.call
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        plan = cnnops.plan(
            call.function, call.input, call.weight or None, phase=phase, dtype=dtype, **call.options
        )
        assert plan.steps
        assert "\n" not in str(plan)
        assert all(step.reason in str(plan) for step in plan.steps)
        # Weights in the order of a kernel, sums of their gradient, and a constant.
        weights = 4 * math.prod(call.weight) if call.weight else 0
        assert plan.workspace(1) <= 8 * weights + (24 << 20)


def test_the_tile_is_that_of_the_instruction_set(set_isa: Callable[[str], None]) -> None:
    lanes = {"baseline": 4, "avx2": 8, "avx512": 16}
    for isa in _C.available_isas():
        set_isa(isa)
        (step,) = cnnops.plan("conv2d", (1, 64, 30, 30), (64, 64, 3, 3)).steps
        rows, columns = step.tile
        assert rows > 1
        assert columns % lanes[isa] == 0
        # A group of 8 channels is in no register of 4.
        grouped = ("conv2d", (1, 32, 30, 30), (32, 8, 3, 3))
        found = algorithms(*grouped, groups=4, memory_format=torch.channels_last)
        assert found == ["broadcast_pixels" if isa == "baseline" else "grouped_channels_last"]


def test_mixed_layouts_copy() -> None:
    image = torch.empty(2, 8, 9, 9, device="meta")
    weight = torch.empty(16, 8, 3, 3, device="meta").contiguous(memory_format=torch.channels_last)
    plan = plan_call(cnnops.functional.conv2d, (image, weight), {}, "fwd")
    assert [step.algorithm for step in plan.steps] == ["copy", "broadcast_pixels"]
    assert plan.steps[0].held == image.nbytes
    assert plan.workspace(1) >= image.nbytes


def test_padding_that_reads_inside_folds() -> None:
    weight = torch.empty(16, 16, 3, 3, device="meta")
    image = torch.empty(1, 16, 9, 9, device="meta")

    def convolution(image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ones = (1, 1)
        return cnnops.ops.convolution(image, weight, None, ones, (1, 1, 1, 1), ones, 1, "reflect")

    plan = plan_call(convolution, (image, weight), {}, "bwd_input")
    assert [step.algorithm for step in plan.steps] == ["broadcast_pixels", "fold_padding"]
    assert plan.steps[1].held == 4 * 16 * 11 * 11  # the gradient of the padded image


@pytest.mark.parametrize("groups", [1, 8, 16, 64])
@pytest.mark.parametrize("stride", [1, 2])
def test_workspace_is_bounded_whatever_the_image(stride: int, groups: int) -> None:
    """A batch of 32 GB takes some megabytes, as one of 1 MB does."""
    for size in (32, 256, 4096):
        for phase in ("fwd", "bwd_input", "bwd_weight"):
            for memory_format in LAYOUTS.values():
                for dtype in (torch.float32, torch.bfloat16):
                    plan = cnnops.plan(
                        *("conv2d", (8, 64, size, size), (64, 64 // groups, 3, 3)),
                        phase=phase,
                        dtype=dtype,
                        memory_format=memory_format,
                        stride=stride,
                        groups=groups,
                    )
                    assert plan.workspace(2) < 8 << 20, (size, phase, memory_format, str(plan))


#: Prints, for each call, how far it makes memory grow beyond its result, for two sizes of image.
GROWTH = """
import sys
import torch
import cnnops.functional as F
from cnnops.benchmarks.memory import peak_of

torch.set_num_threads(1)

def growth(function, phase, dtype, size):
    x = torch.rand(1, 16, size, size).to(getattr(torch, dtype))
    if sys.argv[1] == "nhwc":
        x = x.contiguous(memory_format=torch.channels_last)
    if function == "conv2d":
        w = torch.rand(16, 16, 3, 3).to(x.dtype).requires_grad_(phase == "bwd_weight")
        call = lambda x: F.conv2d(x, w, padding=1)
    else:
        call = lambda x: getattr(F, function)(x, 3, 2, 1)
    if phase == "fwd":
        def run():
            return (call(x),)
    else:
        output = call(x.requires_grad_(phase == "bwd_input"))
        g = torch.rand_like(output)
        wanted = [x] if phase == "bwd_input" else [w]
        def run():
            return torch.autograd.grad(output, wanted, g, retain_graph=True)
    run()
    return peak_of(run)

for call in sys.argv[2:]:
    print(call, *(growth(*call.split(), size) for size in (256, 768)))
"""

#: Function, phase and dtype.
GROWING = (
    "conv2d fwd float32",
    "conv2d bwd_input float32",
    "conv2d bwd_weight float32",
    "conv2d bwd_weight bfloat16",
    "max_pool2d fwd float32",
    "max_pool2d bwd_input float32",
    "max_pool2d bwd_input bfloat16",
    "avg_pool2d bwd_input float32",
)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from Linux")
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_memory_does_not_grow_with_the_image(layout: str) -> None:
    """Measured, not planned: an image of nine times as many pixels takes no more beside itself."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, layout, *GROWING],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == len(GROWING)
    image = 16 * 768 * 768 * 2  # bytes of the large one in the narrowest type
    for line in lines:
        small, large = map(int, line.split()[-2:])
        assert large < small + image / 2, line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("softmax", (1, 2)), "'softmax'"),
        (("max_pool2d", (1, 2, 8, 8)), "kernel_size"),
        (("conv2d", (1, 3, 8, 8), (4, 2, 3, 3)), "channels"),
    ],
)
def test_calls_that_cannot_be_made(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((RuntimeError, TypeError, ValueError), match=message):
        cnnops.plan(*arguments)


def test_unknown_phase_and_misplaced_bias() -> None:
    with pytest.raises(ValueError, match="'sideways'"):
        cnnops.plan("conv2d", (1, 3, 8, 8), (4, 3, 3, 3), phase="sideways")
    with pytest.raises(ValueError, match="bias"):
        cnnops.plan("max_pool2d", (1, 3, 8, 8), bias=True, kernel_size=2)
    plan = cnnops.plan("conv_transpose2d", (1, 4, 8, 8), (4, 2, 3, 3), bias=True, groups=2)
    assert plan.steps
