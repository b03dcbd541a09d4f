"""bfloat16 on the CPU's matrix unit: where it is chosen, results, the switch."""

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

NAME = "amx_channels_last"


def algorithm(
    shape: tuple[int, ...], weight: tuple[int, ...], phase: str = "fwd", **arguments: object
) -> str:
    return plan(
        f"conv{len(shape) - 2}d",
        shape,
        weight,
        phase=phase,
        dtype=torch.bfloat16,
        memory_format=torch.channels_last,
        **arguments,
    ).algorithm


def runs_here() -> bool:
    return algorithm((1, 32, 20, 20), (32, 32, 1, 1)) == NAME


needs_amx = pytest.mark.skipif(
    not runs_here(),
    reason="no AMX: the CPU or the system lacks it, or CNNOPS_AMX or CNNOPS_ISA turns it off",
)


def draw(*shape: int, channels_last: bool = True) -> Tensor:
    values = torch.randn(shape).bfloat16()
    if channels_last and len(shape) == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values


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
    """Output and gradient for the input, against float64."""
    arguments = stride, padding, dilation, groups
    x = x.detach().requires_grad_()
    output = cnnops.functional.conv2d(x, weight, bias, *arguments)
    wide = x.detach().double().requires_grad_()
    wide_bias = None if bias is None else bias.double()
    exact = F.conv2d(wide, weight.double(), wide_bias, *arguments)
    assert output.dtype is torch.bfloat16
    assert_rounded(output.detach(), exact.detach(), weight[0].numel() + 1)
    grad = draw(*output.shape)
    terms = weight.numel() // weight.shape[1] // groups
    (actual,) = torch.autograd.grad(output, x, grad)
    (expected,) = torch.autograd.grad(exact, wide, grad.double())
    assert_rounded(actual, expected, terms)


@needs_amx
@pytest.mark.parametrize("rows", [16, 17, 32, 33, 48, 100, 300])
@pytest.mark.parametrize("depth", [16, 17, 33, 48, 64, 100])
def test_channels(depth: int, rows: int) -> None:
    for kernel in (1, 3):
        shape, weight = (2, depth, 9, 13), (rows, depth, kernel, kernel)
        assert algorithm(shape, weight, padding=kernel // 2) == NAME
        check(draw(*shape), draw(*weight), draw(rows), padding=kernel // 2)


@needs_amx
@pytest.mark.parametrize("kernel", [(1, 1), (1, 5), (2, 3), (3, 3), (4, 1)])
@pytest.mark.parametrize("stride", [1, 2, (3, 1)])
@pytest.mark.parametrize("dilation", [1, (1, 3)])
def test_geometry(
    kernel: tuple[int, int], stride: int | tuple[int, int], dilation: int | tuple[int, int]
) -> None:
    for padding, groups in itertools.product((0, (1, 2)), (1, 3)):
        x, weight = draw(2, groups * 24, 17, 37), draw(groups * 20, 24, *kernel)
        check(x, weight, None, stride, padding, dilation, groups)


@needs_amx
@pytest.mark.parametrize("pixels", [9, 15, 16, 17, 31, 32, 33, 47, 64, 65])
@pytest.mark.parametrize("channels_last", [True, False])
def test_partial_tiles_and_layouts_of_the_weight(pixels: int, channels_last: bool) -> None:
    weight = draw(40, 36, 1, 3, channels_last=channels_last)
    check(draw(1, 36, 1, pixels), weight, draw(40), padding=(0, 1))


@needs_amx
@pytest.mark.parametrize("rows", [64, 520])
def test_slices_of_k_and_parts_of_the_rows(rows: int) -> None:
    check(draw(3, 200, 14, 14), draw(rows, 200, 3, 3), draw(rows), padding=1)


@needs_amx
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode: str) -> None:
    x = draw(2, 32, 11, 21).requires_grad_()
    layer = cnnops.nn.Conv2d(32, 40, 3, padding=(1, 2), padding_mode=mode, dtype=torch.bfloat16)
    exact = nn.Conv2d(32, 40, 3, padding=(1, 2), padding_mode=mode, dtype=torch.float64)
    exact.load_state_dict({name: value.double() for name, value in layer.state_dict().items()})
    output = layer(x)
    assert_rounded(output.detach(), exact(x.detach().double()).detach(), 9 * 32)


@needs_amx
@pytest.mark.parametrize("shape", [(2, 24, 70), (1, 20, 5, 6, 18)])
def test_other_ranks(shape: tuple[int, ...]) -> None:
    rank = len(shape) - 2
    weight = torch.randn(32, shape[1], *[3] * rank).bfloat16()
    x = torch.randn(shape).bfloat16()
    if rank == 3:
        x = x.contiguous(memory_format=torch.channels_last_3d)
    function = {1: "conv1d", 3: "conv3d"}[rank]
    output = getattr(cnnops.functional, function)(x, weight, padding=1)
    exact = getattr(F, function)(x.double(), weight.double(), padding=1)
    assert_rounded(output, exact, weight[0].numel())


@needs_amx
def test_kept_weights() -> None:
    layer = cnnops.nn.Conv2d(48, 40, 3, padding=1, dtype=torch.bfloat16)
    x = draw(1, 48, 20, 20)
    with torch.no_grad():
        first = layer(x)
        for _ in range(3):
            assert torch.equal(layer(x), first)


@needs_amx
def test_same_for_any_number_of_threads(set_threads: Callable[[int], None]) -> None:
    x, weight = draw(3, 80, 15, 19), draw(300, 80, 3, 3)
    results = []
    for threads in (1, 1, 2, 3):
        set_threads(threads)
        leaf = x.detach().requires_grad_()
        output = cnnops.functional.conv2d(leaf, weight, padding=1)
        results.append((output, *torch.autograd.grad(output, leaf, output.detach())))
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@needs_amx
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 2), (2, 1)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_reads_only_the_view(kernel: int, stride: int, padding: int) -> None:
    around = torch.full((4, 45, 23, 50), float("nan")).bfloat16()
    around = around.contiguous(memory_format=torch.channels_last)
    inner = around[1:3, 2:36, 3:20, 2:44]
    inner.copy_(torch.randn(inner.shape))
    weight = draw(20, 34, kernel, kernel)
    output = cnnops.functional.conv2d(inner, weight, stride=stride, padding=padding)
    exact = F.conv2d(inner.double(), weight.double(), stride=stride, padding=padding)
    assert_rounded(output, exact, weight[0].numel())


@needs_amx
def test_a_nan_reaches_its_windows_alone() -> None:
    x = draw(1, 33, 12, 40)
    x[0, 32, 6, 20] = float("nan")
    nan = cnnops.functional.conv2d(x, draw(20, 33, 3, 3), padding=1).isnan()
    assert nan[0, :, 5:8, 19:22].all()
    assert nan.sum() == 9 * 20


@needs_amx
def test_workspace_does_not_grow_with_the_image() -> None:
    small, large = (
        plan(
            "conv2d",
            (1, 256, size, size),
            (512, 256, 3, 3),
            padding=1,
            dtype=torch.bfloat16,
            memory_format=torch.channels_last,
        )
        for size in (112, 448)
    )
    assert small.algorithm == large.algorithm == NAME
    assert large.workspace(2) == small.workspace(2)


def test_few_channels_planes_and_float_go_elsewhere() -> None:
    assert algorithm((1, 15, 20, 20), (32, 15, 3, 3)) != NAME
    assert algorithm((1, 32, 20, 20), (15, 32, 3, 3)) != NAME
    shape, weight = (1, 32, 20, 20), (32, 32, 3, 3)
    assert plan("conv2d", shape, weight, dtype=torch.bfloat16).algorithm != NAME
    channels_last = {"memory_format": torch.channels_last}
    assert plan("conv2d", shape, weight, **channels_last).algorithm != NAME


@pytest.mark.parametrize("isa", _C.available_isas())
def test_only_beside_avx512(isa: str, set_isa: Callable[[str], None]) -> None:
    set_isa(isa)
    if isa != "avx512":
        assert not runs_here()
    x, weight = draw(1, 32, 9, 21), draw(24, 32, 3, 3)
    check(x, weight, padding=1)


def test_environment_variable_turns_it_off() -> None:
    code = (
        "import torch; from cnnops.plan import plan;"
        "print(plan('conv2d', (1, 32, 20, 20), (32, 32, 1, 1), dtype=torch.bfloat16,"
        "           memory_format=torch.channels_last).algorithm)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(CNNOPS_AMX="0"),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert result.stdout.strip() not in ("", NAME)
