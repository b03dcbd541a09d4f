"""Child processes that import the cnnops under test."""

from __future__ import annotations

import os
from pathlib import Path

import cnnops


def environment(**variables: str) -> dict[str, str]:
    """This process's environment with `variables`, no choice of instruction set but theirs, and
    the cnnops under test found first."""
    inherited = {key: value for key, value in os.environ.items() if key != "CNNOPS_ISA"}
    path = [str(Path(cnnops.__file__).parents[1]), inherited.get("PYTHONPATH", "")]
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, path)), **variables}
