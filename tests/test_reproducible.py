"""Results are bitwise the same from run to run and for any number of threads.

The shapes are large enough to be cut into several work items along every axis that a kernel may
cut: batch, channels, pixels and, for gradients of weights, the reduction.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import cnnops.functional
from cnnops.check.cases import Case
from cnnops.check.reference import Results, evaluate, make_problem

CHANNELS_LAST = {"layout": "channels_last", "grad_layout": "channels_last"}


def conv(
    shape: tuple[int, ...], weight: tuple[int, ...], name: str = "conv", layout: str = "", **options
) -> Case:
    """A convolution case with a bias; `layout` "last" makes input and gradient channels_last."""
    layouts = CHANNELS_LAST if layout == "last" else {}
    rank = len(shape) - 2
    return Case(f"{name}{rank}d", shape, options, weight=weight, bias=True, **layouts)


def pool(name: str, shape: tuple[int, ...], layout: str = "", **options) -> Case:
    """A pooling case, named without its rank."""
    layouts = CHANNELS_LAST if layout == "last" else {}
    return Case(f"{name}{len(shape) - 2}d", shape, options, **layouts)


CASES = [
    conv((4, 32, 3000), (48, 32, 5), padding=2),
    conv((2, 64, 40, 41), (96, 64, 3, 3), padding=1),
    conv((2, 64, 40, 41), (96, 64, 3, 3), padding=1, layout="last"),
    conv((1, 3, 150, 150), (32, 3, 7, 7), stride=2, padding=3),
    conv((1, 512, 14, 14), (128, 512, 1, 1)),
    conv((8, 64, 7, 7), (64, 64, 3, 3), stride=2, padding=1),
    # Each thread packs or transforms what it multiplies; rows in groups of different size.
    conv((1, 192, 7, 7), (48, 192, 3, 3), padding=1, layout="last"),
    conv((1, 64, 13, 13), (150, 64, 2, 2), layout="last", dilation=4),
    conv((1, 96, 12, 12), (80, 96, 3, 3), padding=1),
    conv((1, 96, 12, 12), (80, 96, 3, 3), padding=1, layout="last"),
    conv((2, 64, 14, 14), (144, 64, 5, 1), padding=(2, 0), layout="last"),
    conv((1, 48, 30, 29), (96, 48, 5, 5), stride=2, padding=2),
    conv((1, 48, 30, 29), (96, 48, 5, 5), stride=2, padding=2, layout="last"),
    conv((1, 300, 41, 45), (21, 300, 1, 1)),
    conv((1, 128, 28, 28), (96, 128, 1, 1), stride=2),
    conv((4, 96, 40, 40), (96, 1, 5, 5), padding=2, groups=96),
    conv((4, 96, 40, 40), (96, 1, 5, 5), padding=2, groups=96, layout="last"),
    conv((2, 64, 40, 40), (64, 8, 3, 3), padding=1, groups=8, dilation=2),
    conv((2, 16, 16, 20, 20), (24, 16, 3, 3, 3), padding=1),
    conv((4, 32, 1000), (32, 24, 4), "conv_transpose", stride=2, padding=1),
    conv((2, 64, 20, 21), (64, 48, 4, 4), "conv_transpose", stride=2, padding=1),
    conv((2, 64, 20, 21), (64, 48, 4, 4), "conv_transpose", stride=2, padding=1, layout="last"),
    conv((1, 16, 8, 12, 12), (16, 12, 3, 3, 3), "conv_transpose", stride=2),
    *(
        pool(name, (4, 48, *plane), layout, **options)
        for plane in ((2000,), (50, 51), (12, 20, 21))
        for layout in (("",) if len(plane) == 1 else ("", "last"))
        for name, options in (
            ("max_pool", {"kernel_size": 3, "stride": 2, "padding": 1}),
            ("avg_pool", {"kernel_size": 3, "stride": 2, "padding": 1}),
            ("adaptive_avg_pool", {"output_size": 7}),
            ("adaptive_max_pool", {"output_size": 7}),
            ("lp_pool", {"norm_type": 2.0, "kernel_size": 3}),
        )
    ),
    pool("fractional_max_pool", (4, 48, 50, 51), kernel_size=2, output_size=23),
    pool("fractional_max_pool", (2, 24, 12, 20, 21), kernel_size=2, output_size=9),
    pool("max_unpool", (4, 48, 1000), kernel_size=2),
    pool("max_unpool", (4, 48, 25, 26), kernel_size=2),
    pool("max_unpool", (4, 24, 10, 10, 9), kernel_size=2),
]


def tensors(results: Results) -> list[Tensor]:
    """Everything a case computes."""
    indices = [] if results.indices is None else [results.indices]
    return [results.output, *indices, *results.gradients]


def assert_bitwise_equal(ours: Results, first: Results, when: str) -> None:
    for one, other in zip(tensors(ours), tensors(first), strict=True):
        # As bytes: NaN equals itself and the sign of zero counts.
        assert one.stride() == other.stride()
        same = torch.equal(one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
        assert same, f"differs {when}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_threads_and_runs(
    case: Case, dtype: torch.dtype, set_threads: Callable[[int], None]
) -> None:
    problem = make_problem(case, dtype)
    set_threads(1)
    first = evaluate(cnnops.functional, problem)
    assert_bitwise_equal(evaluate(cnnops.functional, problem), first, "from run to run")
    for threads in (2, 3):
        set_threads(threads)
        again = evaluate(cnnops.functional, problem)
        assert_bitwise_equal(again, first, f"with {threads} threads")


def test_an_image_does_not_depend_on_the_batch_it_is_in() -> None:
    # Up to rounding: work is cut by problem, and another problem may be cut elsewhere.
    x, weight = torch.randn(5, 8, 20, 20), torch.randn(16, 8, 3, 3)
    whole = cnnops.functional.conv2d(x, weight, padding=1)
    for index in range(5):
        alone = cnnops.functional.conv2d(x[index : index + 1], weight, padding=1)
        torch.testing.assert_close(whole[index : index + 1], alone)
