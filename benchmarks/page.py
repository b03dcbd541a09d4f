"""A run as one HTML file that needs nothing else: figures, charts and what they were taken on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup

from . import charts, results
from .machine import Machine
from .measure import Row
from .peers import OWN, TORCH
from .summary import Group, summarize


def save(path: Path, rows: Sequence[Row], machine: Machine, old: Mapping[results.Key, Row]) -> None:
    """Writes the page; `old` has the rows of an earlier run to compare with, by key."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pictures = charts.figures(rows, machine)
    text = environment.get_template("page.html").render(
        machine=machine,
        rows=rows,
        old=[old.get(results.key(row)) for row in rows] if old else [],
        regressed=results.regressed,
        groups=summarize(rows),
        all=Group.ALL,
        peers=list(dict.fromkeys(name for row in rows for name in row.seconds)),
        own=OWN,
        torch=TORCH,
        pictures={name: Markup(charts.svg(figure)) for name, figure in pictures.items()},
    )
    path.write_text(text)
