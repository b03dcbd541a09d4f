"""Parametrization of tests over the grid of cases that `cnnops check` runs too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from cnnops.check.cases import CASES, Case
from cnnops.check.reference import examine


def over_grid(*functions: str) -> pytest.MarkDecorator:
    """Parametrizes `case` and `dtype` over all cases of these functions; they must exist."""
    chosen = [case for case in CASES if case.function in functions]
    assert {case.function for case in chosen} == set(functions)
    return pytest.mark.parametrize(
        ("case", "dtype"),
        [
            pytest.param(case, dtype, id=f"{case.name} {str(dtype)[6:]}")
            for case in chosen
            for dtype in case.dtypes
        ],
    )


def ranks(*names: str) -> list[str]:
    """conv -> conv1d, conv2d, conv3d."""
    return [f"{name}{rank}d" for name in names for rank in (1, 2, 3)]


def sample(step: int, keep: Callable[[Case], bool] = lambda case: True) -> list[Case]:
    """Every `step`-th case of each function: a small grid that still has all functions."""
    by_function: dict[str, list[Case]] = {}
    for case in CASES:
        if keep(case):
            by_function.setdefault(case.function, []).append(case)
    return [case for cases in by_function.values() for case in cases[::step]]


def check(case: Case, dtype: torch.dtype, device: str) -> None:
    """Asserts that cnnops agrees with torch on a case: values, gradients, dtype, memory format."""
    outcome = examine(case, dtype, device=device)
    assert not outcome.mismatches
    assert outcome.forward <= 1, "output error as a fraction of its bound"
    assert outcome.backward <= 1, "gradient error as a fraction of its bound"
