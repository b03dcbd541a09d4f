"""Runs the grid of cases and prints what came out as a table."""

from __future__ import annotations

import itertools
import math
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import cnnops
import cnnops.functional
from cnnops.check.cases import CASES, FLOATS, Case
from cnnops.check.reference import Outcome, examine

#: Failing cases that are printed one by one; the rest is counted.
SHOWN_FAILURES = 30


#: A case, its dtype, and the precision that torch allows convolutions on CUDA in float32.
_Run = tuple[Case, torch.dtype, str]


@dataclass(frozen=True)
class _Record:
    """One case in one dtype: its outcome, or the exception it raised."""

    case: Case
    dtype: torch.dtype
    precision: str
    outcome: Outcome | None
    error: str

    @property
    def passed(self) -> bool:
        return self.outcome is not None and self.outcome.passed

    def explain(self) -> str:
        """What went wrong, in one line."""
        if self.outcome is None:
            return self.error
        found = list(self.outcome.mismatches)
        for name, fraction in (
            ("output", self.outcome.forward),
            ("gradient", self.outcome.backward),
        ):
            if not fraction <= 1:
                found.append(f"{name} error is {fraction:.3g} of its bound")
        return "; ".join(found)

    def kind(self) -> str:
        """float32 as "float32", or as "tf32" where that was allowed."""
        dtype = str(self.dtype).removeprefix("torch.")
        return self.precision if self.precision != "ieee" else dtype


def _why_not(device: str) -> str | None:
    """Why cnnops cannot run on this device, or None when it can: one small call is tried."""
    try:
        cnnops.functional.avg_pool1d(torch.ones(1, 1, 2, device=device), 2)
    except (RuntimeError, AssertionError) as error:  # NotImplementedError is a RuntimeError
        return str(error).splitlines()[0]
    return None


def _run_one(run: _Run, device: str) -> _Record:
    """One case; whatever it raises is a finding to report, not the end of the run."""
    case, dtype, precision = run
    try:
        return _Record(*run, examine(case, dtype, device=device, precision=precision), "")
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        return _Record(*run, None, f"{type(error).__name__}: {first_line}")


def _digits(fraction: float) -> str:
    """Two digits, rounded down: what is within its bound does not read 1.00."""
    return f"{math.floor(fraction * 100) / 100:.2f}".removeprefix("0")


def _cell(records: Sequence[_Record]) -> str:
    """Worst errors of forward and backward as fractions of their bounds, or what failed."""
    if not records:
        return ""
    failed = sum(not record.passed for record in records)
    if failed:
        return f"[red]{failed} fail[/red]"
    outcomes = [record.outcome for record in records if record.outcome is not None]
    forward = max(outcome.forward for outcome in outcomes)
    backward = max(outcome.backward for outcome in outcomes)
    if forward == backward == 0:
        return "exact"
    return f"{_digits(forward)} {_digits(backward)}"


def _table(records: Sequence[_Record], device: str) -> Table:
    """A row per operator; a column per floating dtype and one for all integers."""
    table = Table(
        title=f"cnnops against torch on {device}", title_justify="left", box=None, pad_edge=False
    )
    table.add_column("operator", no_wrap=True)
    table.add_column("runs", justify="right")
    tf32 = ("tf32",) if any(record.kind() == "tf32" for record in records) else ()
    for name in ("fp32", "fp64", "bf16", "fp16", *tf32, "integer"):
        table.add_column(name, justify="right", no_wrap=True, min_width=7)
    kinds = (*(str(dtype).removeprefix("torch.") for dtype in FLOATS), *tf32)
    table.add_column("")
    for function, group in itertools.groupby(records, key=lambda record: record.case.function):
        mine = list(group)
        passed = all(record.passed for record in mine)
        table.add_row(
            function,
            str(len(mine)),
            *(_cell([record for record in mine if record.kind() == kind]) for kind in kinds),
            _cell([record for record in mine if not record.dtype.is_floating_point]),
            "[green]pass[/green]" if passed else "[red]FAIL[/red]",
        )
    return table


def _selected(pattern: str | None, device: str) -> list[_Run]:
    """Cases whose name contains `pattern`, each with each of its dtypes, by operator.

    On CUDA, float32 convolutions run twice: exactly and, where kernels choose so, in tf32.
    """
    chosen = [case for case in CASES if pattern is None or pattern in case.name]
    chosen.sort(key=lambda case: (case.function[:-2], case.rank))
    runs = []
    for case in chosen:
        runs += [(case, dtype, "ieee") for dtype in case.dtypes]
        if device != "cpu" and case.weight and torch.float32 in case.dtypes:
            runs.append((case, torch.float32, "tf32"))
    return runs


def _progress(runs: Sequence[_Run], device: str, console: Console) -> list[_Record]:
    """Runs everything under a progress bar that names the operator at work."""
    columns = (
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    records = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(runs))
        for one in runs:
            progress.update(task, description=one[0].function)
            records.append(_run_one(one, device))
            progress.advance(task)
    return records


def run(device: str = "cpu", pattern: str | None = None, console: Console | None = None) -> int:
    """Compares every operator with torch, forward and backward, and prints a table.

    Args:
        device: where cnnops runs ("cpu", "cuda"); the float64 reference is torch on the CPU.
        pattern: run only the cases whose name contains this text, for example "conv2d".
        console: where to print; a new one by default.

    Returns:
        The number of runs that failed; 1 when cnnops cannot run on the device or when no case
        matches the pattern, for then nothing was shown to be right.

    """
    console = console or Console()
    reason = _why_not(device)
    if reason is not None:
        console.print(
            f"[red]Nothing was checked: cnnops cannot run on {device}.[/red] {reason}",
            soft_wrap=True,
        )
        return 1
    runs = _selected(pattern, device)
    if not runs:
        console.print(f"[red]Nothing was checked: no case has {pattern!r} in its name.[/red]")
        return 1
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using padding='same' with even kernel")
        records = _progress(runs, device, console)
    failures = [record for record in records if not record.passed]
    console.print(_table(records, device))
    console.print(
        "Numbers: worst error of output and of gradients as fractions of their bounds,\n"
        "against torch in float64. Max pooling and integers have to equal torch's.\n"
        "Not covered here, but in the test suite: padding modes other than zeros, second\n"
        "derivatives, modules. Integers have no gradients.",
        style="dim",
    )
    for record in failures[:SHOWN_FAILURES]:
        console.print(
            f"FAIL {record.case.name} {record.kind()}: {record.explain()}",
            style="red",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
    if len(failures) > SHOWN_FAILURES:
        console.print(f"... and {len(failures) - SHOWN_FAILURES} more", style="red")
    seconds = time.perf_counter() - start
    isa = f", {cnnops._C.isa()}" if device == "cpu" else ""
    console.print(
        f"{len(records) - len(failures)} of {len(records)} runs passed in {seconds:.0f} s "
        f"({platform.machine()}{isa}, torch {torch.__version__})",
        soft_wrap=True,
    )
    return len(failures)
