"""Mutants of the CUDA kernels that no test can notice, because they compute the same.

Each with its reason. One that is here although a test would notice it hides nothing: it is only not
tried.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.mutations import Mutant


@dataclass(frozen=True)
class Equivalent:
    """A mutant, or all of a line.

    Attributes:
        file: name of the source in csrc/cuda.
        source: the line, without the blanks around it.
        changes: old and new text of a mutant; all of the line where there is none.
        reason: why nothing changes.

    """

    file: str
    source: str
    reason: str
    changes: tuple[tuple[str, str], ...] = ()


EQUIVALENT: tuple[Equivalent, ...] = ()


def reason_for(mutant: Mutant) -> str | None:
    """Why the mutant computes the same, if it is known to."""
    for known in EQUIVALENT:
        if (known.file, known.source) != (mutant.file, mutant.source):
            continue
        if not known.changes or (mutant.old, mutant.new) in known.changes:
            return known.reason
    return None
