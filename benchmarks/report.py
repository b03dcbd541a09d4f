"""Runs the benchmarks and prints them: a table that grows, then what the rows amount to."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import machine, results
from .cases import Layer
from .machine import Machine
from .measure import Job, Row, Settings, jobs, time_job
from .peers import OWN, TORCH

#: Lines below the growing table: the progress bar and what surrounds it.
_MARGIN = 6

#: The width of a terminal that all columns fit into, and that of a report that goes into a file.
_WIDE = 120
_FILE_WIDTH = 160


def run(
    layers: Sequence[Layer],
    settings: Settings,
    console: Console,
    save_to: Path | None = None,
    compare_with: Path | None = None,
) -> bool:
    """Times the layers against torch and prints tables.

    Args:
        layers: what to time.
        settings: how.
        console: where to print.
        save_to: a JSON file to write.
        compare_with: an earlier one; rows that lost speed-up since are marked.

    Returns:
        Whether every row was timed: no call raised an error or disagreed with torch.

    Raises:
        ValueError: `compare_with` cannot be read, `save_to` cannot be written, or there is nothing
            to time.
    """
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    if save_to and not save_to.parent.is_dir():
        raise ValueError(f"{save_to.parent} is no directory to write {save_to.name} to")
    then, old = results.load(compare_with) if compare_with else (None, [])
    todo = jobs(layers, settings)
    if not todo:
        raise ValueError("no layer has the chosen pass and layout: nothing to time")
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        where = machine.measure(settings.dtype, settings.threads)
        console.print(_headline(where, settings), soft_wrap=True)
        if then and _setup(then) != _setup(where):
            console.print(f"[yellow]The earlier run was on another set-up: {_setup(then)}[/yellow]")
        rows = _time_all(todo, settings, where, {results.key(row): row for row in old}, console)
    finally:
        torch.set_num_threads(before)
    if save_to:
        results.save(save_to, where, rows)
    return not any(row.error for row in rows)


def _setup(where: Machine) -> str:
    """What has to be the same for two runs to tell anything about cnnops."""
    return f"{where.processor}, {where.isa}, torch {where.torch}"


def _headline(where: Machine, settings: Settings) -> str:
    """What ran where, and the limits that were measured."""
    dtype = str(settings.dtype).removeprefix("torch.")
    limits = "limits unknown, there is no C compiler"
    if where.flops is not None and where.bandwidth is not None:
        limits = (
            f"multiply-add peak {where.flops / 1e9:.0f} GFLOP/s, "
            f"copy {where.bandwidth / 1e9:.0f} GB/s"
        )
    return (
        f"cnnops {where.cnnops} ({where.isa}) against torch {where.torch}: {dtype}, "
        f"threads: {where.threads}\n"
        f"{where.processor}: {limits}"
    )


def _time_all(
    todo: Sequence[Job],
    settings: Settings,
    where: Machine,
    old: Mapping[tuple[str, ...], Row],
    console: Console,
) -> list[Row]:
    """Times every job under a live table, and leaves the complete tables behind."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    task = progress.add_task("", total=len(todo))
    rows: list[Row] = []
    with Live(progress, console=console, transient=True) as live:
        for job in todo:
            progress.update(task, description=f"{job.layer.name}, {job.phase}")
            rows.append(time_job(job, settings, where))
            progress.advance(task)
            shown = rows[-max(1, console.height - _MARGIN) :]
            live.update(Group(table(shown, old, console.width), progress))
    console.print(table(rows, old, console.width))
    console.print(summary(rows))
    for line in _remarks(rows, old):
        console.print(line, highlight=False)
    return rows


def _other(row: Row) -> str:
    """Milliseconds of torch in the other layout, where there is one."""
    times = [time for name, time in row.seconds.items() if name not in (OWN, TORCH)]
    return _milliseconds(times[0]) if times else ""


#: The columns of figures; those marked wide are left out where they would not fit.
_COLUMNS: tuple[tuple[str, bool, Callable[[Row], str]], ...] = (
    (f"{OWN} ms", False, lambda row: _milliseconds(row.seconds[OWN])),
    (f"{TORCH} ms", False, lambda row: _milliseconds(row.seconds[TORCH])),
    ("other ms", True, _other),
    ("speed-up", False, lambda row: _factor(row.speedup)),
    ("spread", True, lambda row: f"{row.low:.2f}-{row.high:.2f}"),
    ("best", True, lambda row: _factor(row.best)),
    ("GFLOP/s", True, lambda row: f"{row.gflops:.0f}" if row.gflops else ""),
    ("GB/s", True, lambda row: f"{row.gbytes:.1f}"),
    ("limit", False, lambda row: "" if row.limit is None else f"{row.limit:.0%}"),
)


def table(rows: Sequence[Row], old: Mapping[tuple[str, ...], Row], width: int) -> Table:
    """A line for each row, in `width` columns; `old` has the rows of an earlier run by key."""
    columns = [column for column in _COLUMNS if width >= _WIDE or not column[1]]
    grid = Table(box=None, pad_edge=False)
    grid.add_column("layer", overflow="fold")
    for name in ("layout", "pass"):
        grid.add_column(name, no_wrap=True)
    for title in [title for title, _, _ in columns] + ["before"] * bool(old):
        grid.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        name = row.name if row.count == 1 else f"{row.count} x {row.name}"
        cells = ["[red]failed[/red]"]
        if not row.error:
            cells = [show(row) for _, _, show in columns]
            if old:
                cells.append(_change(row, old.get(results.key(row))))
        grid.add_row(escape(name), row.layout, row.phase, *cells)
    return grid


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}"


def _factor(value: float) -> str:
    """A speed-up, red where cnnops is slower; three hundredths are noise."""
    color = "red" if value < 0.97 else "green" if value > 1.03 else "yellow"
    return f"[{color}]{value:.2f}[/{color}]"


def _change(new: Row, old: Row | None) -> str:
    """The speed-up that the same row had in the earlier run, marked where it was higher."""
    if old is None:
        return "new"
    if results.regressed(new, old):
        return f"[red]{old.speedup:.2f} REGRESSED[/red]"
    return f"{old.speedup:.2f}"


def summary(rows: Sequence[Row]) -> Table:
    """The geometric mean and the worst row of each family of layers, and of all of them."""
    grid = Table(box=None, pad_edge=False, title="Speed-up over torch", title_justify="left")
    for title in ("layout", "pass", "family"):
        grid.add_column(title, no_wrap=True)
    for title in ("rows", "geomean", "over best"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("worst row", no_wrap=True)
    timed = [row for row in rows if not row.error]
    for (layout, phase), group in itertools.groupby(timed, lambda row: (row.layout, row.phase)):
        mine = list(group)
        families = sorted({row.family for row in mine})
        for family in [*families, "all"]:
            members = [row for row in mine if family in (row.family, "all")]
            worst = min(members, key=lambda row: row.speedup)
            grid.add_row(
                layout,
                phase,
                family,
                str(len(members)),
                _factor(geomean([row.speedup for row in members])),
                _factor(geomean([row.best for row in members])),
                f"{worst.speedup:.2f} {escape(worst.name)}",
                style="bold" if family == "all" else None,
            )
    return grid


def geomean(values: Sequence[float]) -> float:
    """The geometric mean: the mean of factors."""
    return math.exp(statistics.fmean(map(math.log, values)))


def _remarks(rows: Sequence[Row], old: Mapping[tuple[str, ...], Row]) -> list[str]:
    """What the tables do not say."""
    lines = [
        "[dim]speed-up: time of torch in the same layout over that of cnnops, the median of all "
        "rounds; spread: its quartiles. other ms: torch in the other layout. best: speed-up over "
        "the faster of torch's layouts. limit: percent of what the two measured limits allow, each "
        "tensor moved once; what stays in a cache can exceed it, and so can wide padding.[/dim]"
    ]
    if any(row.count > 1 for row in rows):
        timed = [row for row in rows if not row.error]
        for (layout, phase), group in itertools.groupby(timed, lambda row: (row.layout, row.phase)):
            mine = list(group)
            own, theirs = (
                sum(row.count * row.seconds[name] for row in mine) for name in (OWN, TORCH)
            )
            lines.append(
                f"{layout} {phase}, all {sum(row.count for row in mine)} calls of the model: "
                f"{own * 1e3:.1f} ms, torch {theirs * 1e3:.1f} ms, {_factor(theirs / own)}"
            )
    if old:
        timed = [row for row in rows if results.key(row) in old and not row.error]
        worse = sum(results.regressed(row, old[results.key(row)]) for row in timed)
        lines.append(f"{len(timed)} rows compared with the earlier run, {worse} regressed")
    lines += [
        f"[red]FAILED {escape(f'{row.name}, {row.layout} {row.phase}: {row.error}')}[/red]"
        for row in rows
        if row.error
    ]
    return lines
