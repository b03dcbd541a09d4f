"""Every instruction set this machine can run computes the same operators, and is chosen as said."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from grid import check, sample
from process import environment

from cnnops import _C
from cnnops.check.cases import Case
from cnnops.check.reference import evaluate, make_problem

GRID = sample(5)


def import_with(isa: str | None) -> subprocess.CompletedProcess[str]:
    """Imports cnnops in a fresh interpreter with CNNOPS_ISA set to `isa`, and prints its choice."""
    variables = {} if isa is None else {"CNNOPS_ISA": isa}
    code = "from cnnops import _C; print(_C.isa())"
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("isa", _C.available_isas())
@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_grid(case: Case, isa: str, set_isa: Callable[[str], None]) -> None:
    set_isa(isa)
    for dtype in case.dtypes:
        check(case, dtype, "cpu")


@pytest.mark.parametrize("isa", [isa for isa in _C.available_isas() if isa != "baseline"])
@pytest.mark.parametrize("case", GRID, ids=lambda case: case.name)
def test_agrees_with_baseline(case: Case, isa: str, set_isa: Callable[[str], None]) -> None:
    import cnnops.functional

    problem = make_problem(case, case.dtypes[0])
    set_isa("baseline")
    baseline = evaluate(cnnops.functional, problem)
    set_isa(isa)
    results = evaluate(cnnops.functional, problem)
    exact = case.picks or not case.dtypes[0].is_floating_point
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(results.output, baseline.output, equal_nan=True, **tolerance)
    assert results.output.stride() == baseline.output.stride()
    if baseline.indices is not None:
        assert results.indices is not None
        assert torch.equal(results.indices, baseline.indices)


def test_the_instruction_set_in_use_is_available() -> None:
    assert _C.isa() in _C.available_isas()
    assert "baseline" in _C.available_isas()


@pytest.mark.parametrize("isa", _C.available_isas())
def test_set_isa(isa: str, set_isa: Callable[[str], None]) -> None:
    set_isa(isa)
    assert _C.isa() == isa


@pytest.mark.parametrize("name", ["", "sse9", "AVX2 ", "avx2\0", "x" * 1000])
def test_set_isa_refuses_unknown_names(name: str) -> None:
    before = _C.isa()
    with pytest.raises((RuntimeError, ValueError)):
        _C.set_isa(name)
    assert _C.isa() == before


def test_set_isa_refuses_what_is_not_a_name() -> None:
    for value in (None, 2, b"avx2"):
        with pytest.raises(TypeError):
            _C.set_isa(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("isa", _C.available_isas())
def test_environment_variable_chooses(isa: str) -> None:
    result = import_with(isa)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == isa


def test_without_the_variable_the_best_is_chosen() -> None:
    result = import_with(None)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in _C.available_isas()


def test_unknown_name_in_the_environment_is_an_import_error() -> None:
    result = import_with("pentium")
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    assert "pentium" in result.stderr
