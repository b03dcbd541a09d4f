"""Random hostile calls never crash the process, whatever they raise. See fuzz.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from process import environment

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("fuzz.py")


def fuzz(seed: int, calls: int, folder: Path, isa: str | None = None) -> dict[str, int]:
    """Runs the program and returns how often each outcome came; fails the test on a crash."""
    log = folder / "last_call.txt"
    # Freed memory is overwritten, so that reading it after all does not go unnoticed.
    variables = {"MALLOC_PERTURB_": "165", **({} if isa is None else {"CNNOPS_ISA": isa})}
    command = [sys.executable, str(PROGRAM), "--seed", str(seed), "--calls", str(calls)]
    try:
        result = subprocess.run(
            [*command, "--log", str(log)],
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=240,
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"seed {seed} hangs in {log.read_text()}")
    if result.returncode != 0:
        last = log.read_text() if log.exists() else "before the first call"
        pytest.fail(
            f"seed {seed} ended with {result.returncode} in {last}\n{result.stderr[-2000:]}"
        )
    return {
        name: int(count)
        for name, _, count in (pair.partition("=") for pair in result.stdout.split())
    }


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by Linux's means")
def test_hostile_calls_never_crash(seed: int, tmp_path: Path) -> None:
    outcomes = fuzz(seed, 3000, tmp_path)
    assert sum(outcomes.values()) == 3000
    # Both ends are reached: calls that are refused and calls that run.
    assert outcomes["returned"] > 300
    assert outcomes["RuntimeError"] > 300


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by Linux's means")
def test_hostile_calls_never_crash_in_baseline(tmp_path: Path) -> None:
    outcomes = fuzz(4, 2000, tmp_path, isa="baseline")
    assert sum(outcomes.values()) == 2000
