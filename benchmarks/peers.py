"""Who computes a layer: cnnops, and torch in the same and in the other memory layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F

import cnnops.functional

#: What users call the layouts, and their names in `cnnops.check.reference.lay_out`.
LAYOUTS = {"nchw": "contiguous", "nhwc": "channels_last"}

OWN, TORCH = "cnnops", "torch"


@dataclass(frozen=True)
class Contender:
    """One side of a comparison.

    Attributes:
        name: OWN, TORCH, or TORCH with the layout where that is the other one.
        function: what is called.
        layout: one of LAYOUTS, for all of its tensors.

    """

    name: str
    function: Callable[..., Any]
    layout: str


def has_layout(rank: int, layout: str) -> bool:
    """Whether tensors with this many spatial axes have the layout; 1-d knows NCHW alone."""
    return layout == "nchw" or rank > 1


def contenders(function: str, rank: int, layout: str) -> tuple[Contender, ...]:
    """The sides: cnnops, torch in the same layout, and torch in the other if there is one."""
    theirs = getattr(F, function)
    sides = [
        Contender(OWN, getattr(cnnops.functional, function), layout),
        Contender(TORCH, theirs, layout),
    ]
    sides += [
        Contender(f"{TORCH} {other}", theirs, other)
        for other in LAYOUTS
        if other != layout and has_layout(rank, other)
    ]
    return tuple(sides)
