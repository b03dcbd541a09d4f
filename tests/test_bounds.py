"""The error bounds of the grid: torch's own float32 is within them, a wrong kernel is not.

Each mutant below is a plausible mistake in a kernel. A bound that lets one pass is too loose.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from grid import sample
from torch import Tensor

from cnnops.check.cases import CASES, Case
from cnnops.check.reference import Outcome, examine


def named(name: str) -> Case:
    """The case of the grid that has this name."""
    return next(case for case in CASES if case.name == name)


CASE = named("conv2d 2x96x8x8 w50x96x3x3 bias padding=1")
POOL = named("max_pool2d 2x3x13x11 kernel_size=3 stride=2 padding=1 ties")
AVERAGE = named("avg_pool2d 2x3x13x11 kernel_size=3 stride=2 padding=1 channels_last")


def summing(case: Case) -> bool:
    """Whether rounding errors arise at all in float32: max pooling copies."""
    return not case.picks and torch.float32 in case.dtypes


@pytest.mark.parametrize("case", sample(3, summing), ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_torch_in_float32_is_within_the_bounds(case: Case) -> None:
    outcome = examine(case, torch.float32, F)
    assert outcome.forward <= 1
    assert outcome.backward <= 1


def _examine(case: Case, function: Callable[..., Any], dtype: torch.dtype) -> Outcome:
    return examine(case, dtype, SimpleNamespace(**{case.function: function}))


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, **options: Any) -> Tensor:
    """Adds up in float32 at least, and rounds once. Some processors' torch does not, in float16."""
    wide = torch.promote_types(x.dtype, torch.float32)
    added = bias if bias is None else bias.to(wide)
    return F.conv2d(x.to(wide), weight.to(wide), added, **options).to(x.dtype)


def _rounded_operands(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """Multiplies in TensorFloat-32: ten bits of mantissa, as some libraries do unasked."""

    def cut(tensor: Tensor) -> Tensor:
        return (tensor.detach().view(torch.int32) & -8192).view(torch.float32)

    return _convolution(x + (cut(x) - x).detach(), cut(weight) + 0 * weight, bias, **options)


def _low_accumulator(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """Adds up four parts of the channels in the tensors' own 16-bit dtype."""
    parts = [
        _convolution(part, piece, None, **options)
        for part, piece in zip(x.chunk(4, 1), weight.chunk(4, 1), strict=True)
    ]
    return parts[0] + parts[1] + parts[2] + parts[3] + bias.view(-1, 1, 1)


def _lost_tap(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """Forgets one corner of one channel of the kernel."""
    mask = torch.ones_like(weight)
    mask[-1, -1, -1, -1] = 0
    return _convolution(x, weight * mask, bias, **options)


def _lost_bias(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """Forgets the bias of the last output channel."""
    mask = torch.ones_like(bias)
    mask[-1] = 0
    return _convolution(x, weight, bias * mask, **options)


def _shifted_border(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """Pads two at the beginning and none at the end."""
    return _convolution(F.pad(x, (2, 0, 2, 0)), weight, bias)


def _channels_last_output(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
    """Right values in another layout than torch's."""
    return _convolution(x, weight, bias, **options).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("mutant", "dtype"),
    [
        (_rounded_operands, torch.float32),
        (_low_accumulator, torch.bfloat16),
        (_low_accumulator, torch.float16),
        (_lost_tap, torch.float32),
        (_lost_tap, torch.bfloat16),
        (_lost_bias, torch.float64),
        (_shifted_border, torch.float32),
        (_channels_last_output, torch.float32),
    ],
)
def test_a_wrong_convolution_is_caught(mutant: Callable[..., Tensor], dtype: torch.dtype) -> None:
    assert _examine(CASE, _convolution, dtype).passed
    assert not _examine(CASE, mutant, dtype).passed


def test_a_wrong_gradient_alone_is_caught() -> None:
    def wrong(x: Tensor, weight: Tensor, bias: Tensor, **options: Any) -> Tensor:
        right = _convolution(x, weight, bias, **options)
        return right.detach() + 1.0001 * (right - right.detach())

    outcome = _examine(CASE, wrong, torch.float32)
    assert outcome.forward <= 1
    assert outcome.backward > 1


def test_another_choice_among_equal_maxima_is_caught() -> None:
    def last(x: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
        values, indices = F.max_pool2d(x.flip(-1, -2), **options)
        return values.flip(-1, -2), (x[0, 0].numel() - 1 - indices).flip(-1, -2)

    assert _examine(POOL, F.max_pool2d, torch.float32).passed
    outcome = _examine(POOL, last, torch.float32)
    assert outcome.forward == 0
    assert "indices differ" in outcome.mismatches


def test_averaging_without_the_padding_is_caught() -> None:
    def wrong(x: Tensor, **options: Any) -> Tensor:
        return F.avg_pool2d(x, count_include_pad=False, **options)

    assert _examine(AVERAGE, F.avg_pool2d, torch.float32).passed
    assert not _examine(AVERAGE, wrong, torch.float32).passed
