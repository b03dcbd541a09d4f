"""Rows of earlier runs: written, read and held against new ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .machine import Machine
from .measure import Row

#: Raised with every change that makes older files unreadable.
VERSION = 2

#: What two rows that can be compared have in common.
Key = tuple[str, ...]

#: A smaller loss of speed-up than this fraction is never called a regression.
NOISE = 0.05


def save(path: Path, machine: Machine, rows: Sequence[Row]) -> None:
    """Writes a run as JSON."""
    run: dict[str, Any] = {
        "version": VERSION,
        "machine": dataclasses.asdict(machine),
        "rows": [dataclasses.asdict(row) for row in rows if not row.error],
    }
    path.write_text(json.dumps(run, indent=1) + "\n")


def load(path: Path) -> tuple[Machine, list[Row]]:
    """Reads what `save` wrote.

    Raises:
        ValueError: the file is not a run of this version.
    """
    try:
        run = json.loads(path.read_text())
        if run["version"] != VERSION:
            raise ValueError(f"{path} has version {run['version']} of the format, not {VERSION}")
        return Machine(**run["machine"]), [Row(**row) for row in run["rows"]]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a file that `cnnops bench --json` wrote") from error


def key(row: Row) -> Key:
    """The key of a row."""
    return (row.call, row.phase, row.layout, row.dtype, str(row.threads))


def regressed(new: Row, old: Row) -> bool:
    """Whether the speed-up over torch fell, beyond noise and beyond the spread of both runs."""
    return new.speedup < (1 - NOISE) * old.speedup and new.high < old.low
