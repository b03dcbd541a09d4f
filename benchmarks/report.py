"""Runs the benchmarks and prints them: a table that grows, then what the rows amount to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from . import results, summary
from .cases import Layer
from .devices import Device
from .machine import Machine
from .measure import Job, Row, Settings, jobs, name_of, time_job
from .networks import Network, NetworkJob, network_jobs, time_network
from .peers import OPTIONAL, OWN, TORCH

#: Lines below the growing table: the progress bar and what surrounds it.
_MARGIN = 6

#: The width of a report that goes into a file.
_FILE_WIDTH = 200


@dataclass(frozen=True)
class Files:
    """What a run reads and writes beside the terminal.

    Attributes:
        json: where to write the figures.
        compare: an earlier such file; rows that lost speed-up since are marked.
        plot: a folder for the charts, speedup.png and roofline.png.
        html: where to write the report as one page.

    """

    json: Path | None = None
    compare: Path | None = None
    plot: Path | None = None
    html: Path | None = None

    def check(self) -> None:
        """Raises where something could not be written once all is timed.

        Raises:
            ValueError: a folder to write to does not exist.
            ModuleNotFoundError: what charts and pages need is not installed.
        """
        for path in (self.json, self.html):
            if path and not path.parent.is_dir():
                raise ValueError(f"{path.parent} is no directory to write {path.name} to")
        if self.plot or self.html:
            try:
                from . import charts, page  # noqa: F401
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError(
                    f"charts and pages need {error.name}: pip install 'cnnops[bench]'"
                ) from error

    def write(self, rows: Sequence[Row], machine: Machine, old: Mapping[results.Key, Row]) -> None:
        """Writes all that is asked for."""
        if self.json:
            results.save(self.json, machine, rows)
        if self.plot:
            from . import charts

            charts.save(self.plot, rows, machine)
        if self.html:
            from . import page

            page.save(self.html, rows, machine, old)


def run(
    work: Sequence[Layer] | Sequence[Network],
    settings: Settings,
    device: Device,
    console: Console,
    files: Files | None = None,
) -> bool:
    """Times layers or whole networks against torch and prints tables.

    Args:
        work: what to time.
        settings: how.
        device: where, from `devices.find`.
        console: where to print.
        files: what else to read and write.

    Returns:
        Whether every row was timed: no call raised an error or disagreed with torch.

    Raises:
        ValueError: a file cannot be read or written, or there is nothing to time.
        ModuleNotFoundError: what charts need is not installed.
    """
    files = files or Files()
    files.check()
    if not console.is_terminal:
        console.width = max(console.width, _FILE_WIDTH)
    then, before = results.load(files.compare) if files.compare else (None, [])
    old = {results.key(row): row for row in before}
    todo: Sequence[Job | NetworkJob] = [
        *network_jobs([each for each in work if isinstance(each, Network)], settings),
        *jobs([each for each in work if isinstance(each, Layer)], settings),
    ]
    if not todo:
        raise ValueError("nothing has the chosen pass and layout: nothing to time")
    with device.session(settings.threads):
        where = device.machine(settings.dtype, settings.threads)
        console.print(_headline(where, settings), soft_wrap=True)
        if then and _setup(then) != _setup(where):
            console.print(f"[yellow]The earlier run was on another set-up: {_setup(then)}[/yellow]")
        rows = _time_all(todo, settings, where, device, old, console)
    files.write(rows, where, old)
    return not any(row.error for row in rows)


def _setup(where: Machine) -> str:
    """What has to be the same for two runs to tell anything about cnnops."""
    return f"{where.processor}, {where.isa}, torch {where.torch}"


def _headline(where: Machine, settings: Settings) -> str:
    """What ran where, and the limits that were measured."""
    limits = "limits unknown, there is no C compiler"
    if where.flops is not None and where.bandwidth is not None:
        limits = (
            f"multiply-add peak {where.flops / 1e9:.0f} GFLOP/s, "
            f"copy {where.bandwidth / 1e9:.0f} GB/s"
        )
    return (
        f"cnnops {where.cnnops} ({where.isa}) against torch {where.torch}: "
        f"{name_of(settings.dtype)}, threads: {where.threads}\n"
        f"{where.processor}: {limits}"
    )


def _time_all(
    todo: Sequence[Job | NetworkJob],
    settings: Settings,
    where: Machine,
    device: Device,
    old: Mapping[results.Key, Row],
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
            if isinstance(job, NetworkJob):
                rows.append(time_network(job, settings, where, device))
            else:
                rows.append(time_job(job, settings, where, device))
            progress.advance(task)
            shown = rows[-max(1, console.height - _MARGIN) :]
            live.update(Group(table(shown, old, console.width), progress))
    console.print(table(rows, old, console.width))
    console.print(summary_table(rows))
    for line in _remarks(rows, old):
        console.print(line, highlight=False)
    return rows


def _other(row: Row) -> str:
    """Milliseconds of torch in the other layout, where there is one."""
    names = [name for name in row.seconds if name.startswith(f"{TORCH} ")]
    return _milliseconds(row.seconds[names[0]]) if names else ""


def _megabytes(size: int | None) -> str:
    return "" if size is None else f"{size / 2**20:.2f}"


@dataclass(frozen=True)
class _Column:
    """A column of figures.

    Attributes:
        title: what it is called.
        show: its text for a row.
        width: of a terminal that is wide enough to show it.

    """

    title: str
    show: Callable[[Row], str]
    width: int = 0


def _columns(rows: Sequence[Row], width: int) -> list[_Column]:
    """The columns that fit `width` and say something about these rows."""
    peers = [
        _Column(f"{peer} ms", partial(_peer, peer), 120)
        for peer in OPTIONAL
        if any(peer in row.seconds for row in rows)
    ]
    columns = [
        _Column(f"{OWN} ms", lambda row: _milliseconds(row.seconds[OWN])),
        _Column(f"{TORCH} ms", lambda row: _milliseconds(row.seconds[TORCH])),
        _Column("other ms", _other, 110),
        *peers,
        _Column("speed-up", lambda row: _factor(row.speedup)),
        _Column("spread", lambda row: f"{row.low:.2f}-{row.high:.2f}", 110),
        _Column("best", lambda row: _factor(row.best), 110),
        _Column("GFLOP/s", lambda row: f"{row.gflops:.0f}" if row.gflops else "", 120),
        _Column("GB/s", lambda row: f"{row.gbytes:.1f}" if row.gbytes else "", 120),
        _Column("limit", lambda row: "" if row.limit is None else f"{row.limit:.0%}"),
        _Column("MB", lambda row: _megabytes(row.workspace), 150),
        _Column(f"{TORCH} MB", lambda row: _megabytes(row.torch_memory), 150),
        _Column("algorithm", lambda row: row.algorithm, 150),
    ]
    return [column for column in columns if width >= column.width]


def _peer(peer: str, row: Row) -> str:
    return _milliseconds(row.seconds[peer]) if peer in row.seconds else ""


def table(rows: Sequence[Row], old: Mapping[results.Key, Row], width: int) -> Table:
    """A line for each row, in `width` columns; `old` has the rows of an earlier run by key."""
    columns = _columns(rows, width)
    grid = Table(box=None, pad_edge=False)
    grid.add_column("layer", overflow="fold")
    for name in ("layout", "pass"):
        grid.add_column(name, no_wrap=True)
    for column in columns:
        justify: Literal["left", "right"] = "left" if column.title == "algorithm" else "right"
        grid.add_column(column.title, justify=justify, no_wrap=True)
    if old:
        grid.add_column("before", justify="right", no_wrap=True)
    for row in rows:
        name = row.name if row.count == 1 else f"{row.count} x {row.name}"
        cells = ["[red]failed[/red]"]
        if not row.error:
            cells = [column.show(row) for column in columns]
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


def summary_table(rows: Sequence[Row]) -> Table:
    """The geometric mean and the worst row of each family of layers, and of all of them."""
    grid = Table(box=None, pad_edge=False, title="Speed-up over torch", title_justify="left")
    for title in ("layout", "pass", "family"):
        grid.add_column(title, no_wrap=True)
    for title in ("rows", "geomean", "over best"):
        grid.add_column(title, justify="right", no_wrap=True)
    grid.add_column("worst row", no_wrap=True)
    for group in summary.summarize(rows):
        grid.add_row(
            group.layout,
            group.phase,
            group.family,
            str(group.rows),
            _factor(group.geomean),
            _factor(group.over_best),
            f"{group.worst.speedup:.2f} {escape(group.worst.name)}",
            style="bold" if group.family == group.ALL else None,
        )
    return grid


#: What the titles of columns stand for.
_LEGEND = (
    "speed-up: time of torch in the same layout over that of cnnops, the median of all rounds; "
    "spread: its quartiles. other ms: torch in the other layout. best: speed-up over the fastest "
    "of all peers. limit: percent of what the two measured limits allow, each tensor moved once; "
    "what stays in a cache can exceed it, and so can wide padding. MB: memory at peak beside "
    "arguments and results, of cnnops by its plan, of torch as the process grows."
)


def _remarks(rows: Sequence[Row], old: Mapping[results.Key, Row]) -> list[str]:
    """What the tables do not say."""
    lines = [f"[dim]{_LEGEND}[/dim]"]
    if any(row.count > 1 for row in rows):
        for (layout, phase), mine in summary.by_pass(rows):
            own, theirs = (
                sum(row.count * row.seconds[name] for row in mine) for name in (OWN, TORCH)
            )
            lines.append(
                f"{layout} {phase}, all {sum(row.count for row in mine)} calls of the model: "
                f"{own * 1e3:.1f} ms, torch {theirs * 1e3:.1f} ms, {_factor(theirs / own)}"
            )
    absent = dict.fromkeys((peer, why) for row in rows for peer, why in row.absent.items())
    lines += [f"[dim]{escape(f'{peer} is missing from rows: {why}')}[/dim]" for peer, why in absent]
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
