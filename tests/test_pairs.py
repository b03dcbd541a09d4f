"""bfloat16 by instructions that add up products of pairs: where, results, the switches."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from process import environment
from torch import Tensor, nn

import cnnops.functional
import cnnops.nn
from cnnops import _C
from cnnops.plan import plan

UNITS = ("matrix_unit", "dot_products")
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def algorithms(
    shape: tuple[int, ...],
    weight: tuple[int, ...],
    phase: str = "fwd",
    layout: torch.memory_format = torch.channels_last,
    **arguments: object,
) -> str:
    return plan(
        f"conv{len(shape) - 2}d",
        shape,
        weight,
        phase=phase,
        dtype=torch.bfloat16,
        memory_format=layout,
        **arguments,
    ).algorithm


def of_unit(algorithm: str) -> bool:
    return any(unit in algorithm for unit in UNITS)


def unit_here() -> str:
    return algorithms((1, 32, 20, 20), (32, 32, 1, 1))


def runs_here() -> bool:
    return of_unit(unit_here())


needs_unit = pytest.mark.skipif(
    not runs_here(),
    reason="no AMX and no fast AVX512_BF16: the CPU or the system lacks it, or a switch is off",
)
in_both_layouts = pytest.mark.parametrize("layout", LAYOUTS)


def draw(*shape: int, layout: torch.memory_format = torch.channels_last) -> Tensor:
    values = torch.randn(shape).bfloat16()
    return values.contiguous(memory_format=layout) if len(shape) == 4 else values


def assert_rounded(actual: Tensor, exact: Tensor, terms: int) -> None:
    """`actual` is a float32 sum of so many products, rounded to bfloat16."""
    error = (actual.double() - exact).abs()
    allowed = exact.abs() * torch.finfo(torch.bfloat16).eps + 1e-5 * terms**0.5
    assert (error <= allowed).all(), error.max()


def check(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> None:
    """Output and both gradients, against float64."""
    arguments = stride, padding, dilation, groups
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    output = cnnops.functional.conv2d(*leaves, bias, *arguments)
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = F.conv2d(*wide, None if bias is None else bias.double(), *arguments)
    assert output.dtype is torch.bfloat16
    assert_rounded(output.detach(), exact.detach(), weight[0].numel() + 1)
    grad = torch.empty_like(output).copy_(torch.randn(output.shape))
    terms = weight.numel() // weight.shape[1] // groups, output.numel() // output.shape[1]
    actual = torch.autograd.grad(output, leaves, grad)
    expected = torch.autograd.grad(exact, wide, grad.double())
    for mine, theirs, count in zip(actual, expected, terms, strict=True):
        assert_rounded(mine, theirs, count)


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("rows", [16, 17, 32, 33, 48, 100, 300])
@pytest.mark.parametrize("depth", [16, 17, 33, 48, 64, 100])
def test_channels(depth: int, rows: int, layout: torch.memory_format) -> None:
    for kernel in (1, 3):
        shape, weight = (2, depth, 9, 13), (rows, depth, kernel, kernel)
        # Tiles of the matrix unit would be mostly empty, which a single tap pays for.
        empty = kernel > 1 and depth * rows < 512
        for phase in ("fwd", "bwd_input", "bwd_weight"):
            found = algorithms(shape, weight, phase, layout, padding=kernel // 2)
            if empty and "matrix_unit" in unit_here():
                assert "matrix_unit" not in found
            else:
                assert of_unit(found)
        check(draw(*shape, layout=layout), draw(*weight), draw(rows), padding=kernel // 2)


@needs_unit
@in_both_layouts
@pytest.mark.parametrize(("depth", "rows"), [(8, 48), (12, 8), (9, 15), (50, 11)])
def test_pointwise_kernels_of_few_channels(
    depth: int, rows: int, layout: torch.memory_format
) -> None:
    shape, weight = (3, depth, 9, 13), (rows, depth, 1, 1)
    for phase in ("fwd", "bwd_input"):
        assert of_unit(algorithms(shape, weight, phase, layout))
    check(draw(*shape, layout=layout), draw(*weight), draw(rows))
    check(draw(*shape, layout=layout), draw(*weight), draw(rows), stride=2)


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("kernel", [(1, 1), (1, 5), (2, 3), (3, 3), (4, 1), (1, 19)])
@pytest.mark.parametrize("stride", [1, 2, (3, 1), (1, 3)])
@pytest.mark.parametrize("dilation", [1, (1, 3)])
def test_geometry(
    kernel: tuple[int, int],
    stride: int | tuple[int, int],
    dilation: int | tuple[int, int],
    layout: torch.memory_format,
) -> None:
    for padding, groups in itertools.product((0, (1, 2)), (1, 3)):
        x = draw(2, groups * 24, 17, 61, layout=layout)
        weight = draw(groups * 20, 24, *kernel, layout=layout)
        check(x, weight, None, stride, padding, dilation, groups)


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("pixels", [9, 15, 16, 17, 31, 32, 33, 47, 64, 65])
@pytest.mark.parametrize("of_weight", [*LAYOUTS, "transposed", "strided"])
def test_partial_tiles_and_layouts_of_the_weight(
    pixels: int, of_weight: torch.memory_format | str, layout: torch.memory_format
) -> None:
    if of_weight == "transposed":
        weight = torch.randn(36, 40, 1, 3).bfloat16().transpose(0, 1)
    elif of_weight == "strided":
        weight = torch.randn(40, 36, 2, 6).bfloat16()[:, :, 1:, ::2]
    else:
        weight = draw(40, 36, 1, 3, layout=of_weight)
    check(draw(1, 36, 1, pixels, layout=layout), weight, draw(40), padding=(0, 1))


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("size", [(3, 5), (7, 7), (14, 14)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_slices_of_weights_packed_as_they_are_used(
    kernel: int, size: tuple[int, int], layout: torch.memory_format
) -> None:
    # More than a megabyte of weights, and one block of pixels.
    x, weight = draw(1, 300 if kernel == 3 else 1200, *size, layout=layout), None
    for of_weight in LAYOUTS:
        weight = draw(600, x.shape[1], kernel, kernel, layout=of_weight)
        check(x, weight, draw(600), padding=kernel // 2)


@needs_unit
@in_both_layouts
def test_splits_of_the_pixels(layout: torch.memory_format) -> None:
    # Few sums and many pixels: shares of these are added up.
    check(draw(3, 20, 61, 67, layout=layout), draw(24, 20, 1, 1))
    check(draw(3, 20, 61, 67, layout=layout), draw(24, 20, 3, 3), stride=2, padding=1)


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("rows", [64, 520])
def test_slices_of_k_and_parts_of_the_rows(rows: int, layout: torch.memory_format) -> None:
    check(draw(3, 200, 14, 14, layout=layout), draw(rows, 200, 3, 3), draw(rows), padding=1)


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode: str, layout: torch.memory_format) -> None:
    x = draw(2, 32, 11, 21, layout=layout).requires_grad_()
    layer = cnnops.nn.Conv2d(32, 40, 3, padding=(1, 2), padding_mode=mode, dtype=torch.bfloat16)
    exact = nn.Conv2d(32, 40, 3, padding=(1, 2), padding_mode=mode, dtype=torch.float64)
    exact.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    output, wide = layer(x), exact(x.detach().double())
    assert_rounded(output.detach(), wide.detach(), 9 * 32)
    grad = torch.randn(output.shape).bfloat16()
    (actual,) = torch.autograd.grad(output, layer.weight, grad)
    (expected,) = torch.autograd.grad(wide, exact.weight, grad.double())
    assert_rounded(actual, expected, grad.numel() // 40)


@needs_unit
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 24, 70), (1, 20, 5, 6, 18)])
def test_other_ranks(shape: tuple[int, ...], stride: int, channels_last: bool) -> None:
    rank = len(shape) - 2
    weight = torch.randn(32, shape[1], *[3] * rank).bfloat16().requires_grad_()
    x = torch.randn(shape).bfloat16()
    if rank == 3 and channels_last:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    x.requires_grad_()
    function = {1: "conv1d", 3: "conv3d"}[rank]
    output = getattr(cnnops.functional, function)(x, weight, stride=stride, padding=1)
    wide = [leaf.detach().double().requires_grad_() for leaf in (x, weight)]
    exact = getattr(F, function)(*wide, stride=stride, padding=1)
    assert_rounded(output.detach(), exact.detach(), weight[0].numel())
    grad = torch.randn(output.shape).bfloat16()
    actual = torch.autograd.grad(output, (x, weight), grad)
    expected = torch.autograd.grad(exact, wide, grad.double())
    for mine, theirs in zip(actual, expected, strict=True):
        assert_rounded(mine, theirs, 1000)


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("size", [5, 20])
def test_kept_weights(size: int, layout: torch.memory_format) -> None:
    layer = cnnops.nn.Conv2d(400, 400, 3, padding=1, dtype=torch.bfloat16)
    x = draw(1, 400, size, size, layout=layout)
    with torch.no_grad():
        first = layer(x)
        for _ in range(3):
            assert torch.equal(layer(x), first)


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
def test_same_for_any_number_of_threads(
    set_threads: Callable[[int], None], layout: torch.memory_format
) -> None:
    x, weight = draw(3, 80, 15, 19, layout=layout), draw(300, 80, 3, 3)
    results = []
    for threads in (1, 1, 2, 3):
        set_threads(threads)
        leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
        output = cnnops.functional.conv2d(*leaves, padding=1)
        results.append((output, *torch.autograd.grad(output, leaves, output.detach())))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 2), (2, 1), (3, 1)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_reads_only_the_view(
    kernel: int, stride: int, padding: int, layout: torch.memory_format
) -> None:
    around = torch.full((4, 45, 23, 50), float("nan")).bfloat16()
    around = around.contiguous(memory_format=layout)
    inner = around[1:3, 2:36, 3:20, 2:44]
    inner.copy_(torch.randn(inner.shape))
    check(inner, draw(20, 34, kernel, kernel), stride=stride, padding=padding)


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
def test_a_nan_reaches_its_windows_alone(layout: torch.memory_format) -> None:
    x = draw(1, 33, 12, 40, layout=layout)
    x[0, 32, 6, 20] = float("nan")
    nan = cnnops.functional.conv2d(x, draw(20, 33, 3, 3), padding=1).isnan()
    assert nan[0, :, 5:8, 19:22].all()
    assert nan.sum() == 9 * 20


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
def test_an_infinity_reaches_the_weights_of_its_windows_alone(layout: torch.memory_format) -> None:
    # Pixels that a tap does not read stand beside those that it reads in a pair.
    x, weight = draw(1, 20, 9, 17, layout=layout), draw(24, 20, 3, 3).requires_grad_()
    x[0, 7, 0, 0] = float("inf")
    output = cnnops.functional.conv2d(x, weight, stride=2)
    grad = torch.randn(output.shape).bfloat16()
    (actual,) = torch.autograd.grad(output, weight, grad)
    assert actual.isfinite().logical_not().sum() == 24  # channel 7, tap (0, 0), each row
    assert not actual[:, 7, 0, 0].isfinite().any()


@needs_unit
@in_both_layouts
@pytest.mark.usefixtures("without_winograd")
@pytest.mark.parametrize("phase", ["fwd", "bwd_weight"])
def test_workspace_does_not_grow_with_the_image(phase: str, layout: torch.memory_format) -> None:
    small, large = (
        plan(
            "conv2d",
            (1, 256, size, size),
            (512, 256, 3, 3),
            padding=1,
            phase=phase,
            dtype=torch.bfloat16,
            memory_format=layout,
        )
        for size in (112, 448)
    )
    assert small.algorithm == large.algorithm
    assert of_unit(small.algorithm)
    assert large.workspace(2) == small.workspace(2)


def test_few_channels_and_float_go_elsewhere() -> None:
    assert not of_unit(algorithms((1, 15, 20, 20), (32, 15, 3, 3)))
    assert not of_unit(algorithms((1, 32, 20, 20), (15, 32, 3, 3)))
    channels_last = {"memory_format": torch.channels_last}
    assert not of_unit(plan("conv2d", (1, 32, 20, 20), (32, 32, 3, 3), **channels_last).algorithm)


@pytest.mark.parametrize("isa", _C.available_isas())
def test_only_beside_avx512(isa: str, set_isa: Callable[[str], None]) -> None:
    set_isa(isa)
    if isa != "avx512":
        assert not runs_here()
    x, weight = draw(1, 32, 9, 21), draw(24, 32, 3, 3)
    check(x, weight, padding=1)


def test_environment_variables_turn_them_off() -> None:
    code = (
        "import torch; from cnnops.plan import plan;"
        "print(plan('conv2d', (1, 32, 20, 20), (32, 32, 1, 1), dtype=torch.bfloat16,"
        "           memory_format=torch.channels_last).algorithm)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(CNNOPS_AMX="0", CNNOPS_AVX512_BF16="0"),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert result.stdout.strip() not in ("", *UNITS)
