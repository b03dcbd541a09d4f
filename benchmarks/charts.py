"""Charts of a run: the speed-up of every row, and the rows under the roofline of the machine."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from .machine import Machine
from .measure import Row
from .peers import OWN, TORCH

#: Okabe and Ito's colors, which also readers who see fewer of them can tell apart.
_COLORS = {
    "dense": "#0072B2",
    "grouped": "#CC79A7",
    "depthwise": "#009E73",
    "transposed": "#E69F00",
    "pooling": "#56B4E9",
    "network": "#D55E00",
}


def save(folder: Path, rows: Sequence[Row], machine: Machine) -> list[Path]:
    """Writes the charts as PNG files into `folder`; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures(rows, machine).items():
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1], dpi=120)
    return paths


def figures(rows: Sequence[Row], machine: Machine) -> dict[str, Figure]:
    """The charts by name; those that would be empty are left out."""
    timed = [row for row in rows if not row.error]
    made = {}
    if timed:
        made["speedup"] = speedup(timed)
    bounded = [row for row in timed if row.intensity > 0]
    if bounded and machine.flops is not None and machine.bandwidth is not None:
        made["roofline"] = roofline(bounded, machine)
    return made


def svg(figure: Figure) -> str:
    """The picture as an element of a page."""
    text = io.StringIO()
    figure.savefig(text, format="svg")
    return text.getvalue()[text.getvalue().index("<svg") :]


def speedup(rows: Sequence[Row]) -> Figure:
    """A bar for each row, a panel for each layout and pass; whiskers are the quartiles."""
    names = list(dict.fromkeys(row.name for row in rows))
    groups = [
        (key, list(group))
        for key, group in itertools.groupby(rows, lambda row: (row.layout, row.phase))
    ]
    size = (3.0 + 3.6 * len(groups), 1.6 + 0.22 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(groups), sharex=True, sharey=True, squeeze=False)[0]
    for panel, ((layout, phase), mine) in zip(panels, groups, strict=True):
        places = [names.index(row.name) for row in mine]
        values = np.array([row.speedup for row in mine])
        # Bars grow from 1, where both take the same time, to either side.
        panel.barh(
            places,
            values - 1,
            left=1,
            height=0.72,
            color=[_COLORS[row.family] for row in mine],
            xerr=[
                [row.speedup - row.low for row in mine],
                [row.high - row.speedup for row in mine],
            ],
            error_kw={"elinewidth": 0.8, "ecolor": "#333333"},
        )
        for place, value in zip(places, values, strict=True):
            panel.annotate(
                f"{value:.2f}",
                (max(value, 1.0), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7,
                color="#333333" if value >= 0.97 else "#C00000",
            )
        panel.axvline(1, color="black", linewidth=0.9)
        panel.set_title(f"{layout}, {phase}", fontsize=10)
        panel.set_xscale("log", base=2)
        panel.margins(y=0.01)
        panel.grid(axis="x", alpha=0.25)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    # Room for the figures beside the bars.
    panels[0].set_xlim(
        min(0.5, min(row.low for row in rows) / 1.3), max(2.0, max(row.high for row in rows) * 2)
    )
    panels[0].set_yticks(range(len(names)), names, fontsize=7)
    panels[0].invert_yaxis()
    figure.supxlabel(
        "speed-up over torch in the same layout; right of 1 cnnops is faster", fontsize=9
    )
    figure.legend(handles=_handles(rows), loc="outside lower right", ncols=6, fontsize=7)
    return figure


def roofline(rows: Sequence[Row], machine: Machine) -> Figure:
    """What was reached at which intensity: cnnops as dots, torch in the same layout as rings."""
    assert machine.flops is not None
    assert machine.bandwidth is not None
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.subplots()
    intensity = [row.intensity for row in rows]
    ridge = machine.flops / machine.bandwidth
    x = np.geomspace(min(*intensity, ridge) / 2, max(*intensity, ridge) * 2)
    axes.plot(x, np.minimum(machine.flops, x * machine.bandwidth) / 1e9, color="black")
    axes.annotate(
        f"multiply-adds: {machine.flops / 1e9:.0f} GFLOP/s",
        (x[-1], machine.flops / 1e9),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    axes.annotate(
        f"memory: {machine.bandwidth / 1e9:.0f} GB/s",
        (ridge / 2, machine.flops / 2e9),
        xytext=(-8, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    for row in rows:
        flops = row.gflops * row.seconds[OWN]
        theirs = flops / row.seconds[TORCH]
        color = _COLORS[row.family]
        axes.plot([row.intensity] * 2, [theirs, row.gflops], color=color, linewidth=0.7, alpha=0.6)
        axes.plot(row.intensity, theirs, "o", color=color, markersize=4.5, fillstyle="none")
        axes.plot(row.intensity, row.gflops, "o", color=color, markersize=4.5)
    axes.set(xscale="log", yscale="log")
    axes.set_xlabel("operations per byte of input, weight and output, each moved once")
    axes.set_ylabel("GFLOP/s")
    axes.set_title("dots: cnnops, rings: torch in the same layout", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(handles=_handles(rows), loc="lower right", fontsize=7)
    return figure


def _handles(rows: Sequence[Row]) -> list[Line2D]:
    """A mark for each family that occurs."""
    return [
        Line2D([], [], marker="s", linestyle="", color=color, label=family)
        for family, color in _COLORS.items()
        if any(row.family == family for row in rows)
    ]
