"""The memory that a call takes beside its arguments and results, whoever allocates it.

Libraries allocate in ways of their own, so none of their counters sees everything. The kernel does:
it keeps the peak of the memory that a process has touched, and resets it on request. Measured is
the peak of a call that is not the first: what a library keeps between calls does not count, so
figures of peers are on the low side.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

#: The least of so many calls counts: whatever else the process does can only add.
_ATTEMPTS = 3

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def peak_of(run: Callable[[], tuple[Tensor, ...]]) -> int | None:
    """Bytes by which memory peaks during `run`, without its results; None where unknown.

    Known on Linux, in pages: figures of some kilobytes mean little.
    """
    try:
        return min(_growth(run) for _ in range(_ATTEMPTS))
    except (OSError, AttributeError):  # another system, another C library
        return None


def _growth(run: Callable[[], tuple[Tensor, ...]]) -> int:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # memory that is free but still held would hide what is taken
    _CLEAR.write_text("5")
    before = _kilobytes("VmRSS")
    results = run()
    after = _kilobytes("VmHWM")
    return max(0, (after - before) * 1024 - sum(result.nbytes for result in results))


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    if found is None:
        raise OSError(f"{_STATUS} has no {name}")
    return int(found[1])
