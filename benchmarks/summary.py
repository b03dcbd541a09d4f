"""What the rows amount to: the geometric mean and the worst row of every group."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from .measure import Row


@dataclass(frozen=True)
class Group:
    """The rows of one layout, pass and family of layers.

    Attributes:
        layout, phase: what ran.
        family: one of layers, or ALL.
        rows: how many.
        geomean: of the speed-ups over torch in the same layout.
        over_best: of those over the fastest peer.
        worst: the row of the least speed-up.

    """

    ALL: ClassVar[str] = "all"

    layout: str
    phase: str
    family: str
    rows: int
    geomean: float
    over_best: float
    worst: Row


def summarize(rows: Sequence[Row]) -> list[Group]:
    """A group for each family in each layout and pass, and one of all families."""
    groups = []
    for (layout, phase), mine in by_pass(rows):
        for family in [*sorted({row.family for row in mine}), Group.ALL]:
            members = [row for row in mine if family in (row.family, Group.ALL)]
            groups.append(
                Group(
                    layout,
                    phase,
                    family,
                    len(members),
                    geomean([row.speedup for row in members]),
                    geomean([row.best for row in members]),
                    min(members, key=lambda row: row.speedup),
                )
            )
    return groups


def by_pass(rows: Sequence[Row]) -> list[tuple[tuple[str, str], list[Row]]]:
    """The rows that were timed, by layout and pass."""
    timed = [row for row in rows if not row.error]
    grouped = itertools.groupby(timed, lambda row: (row.layout, row.phase))
    return [(key, list(group)) for key, group in grouped]


def geomean(values: Sequence[float]) -> float:
    """The geometric mean: the mean of factors."""
    return math.exp(statistics.fmean(map(math.log, values)))
