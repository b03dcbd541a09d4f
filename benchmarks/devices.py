"""Where layers run: how that device is timed, what it can do at best, what its peers need.

A device is one small class; `DEVICES` names those there are.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from . import machine, memory
from .cuda import Cuda
from .machine import Machine


class Device(Protocol):
    """What the benchmark asks of a device."""

    #: As torch names it: where tensors are made.
    name: str

    def check(self) -> None:
        """Raises ValueError, saying why, where this machine or build has no such device."""

    def machine(self, dtype: torch.dtype, threads: int) -> Machine:
        """The device's name, versions and measured limits."""

    def session(self, threads: int) -> contextlib.AbstractContextManager[None]:
        """Settings that hold while everything is timed."""

    def seconds(self, run: Callable[[], Any], repeats: int) -> float:
        """Mean time of so many calls."""

    def extra_memory(self, run: Callable[[], tuple[Tensor, ...]]) -> int | None:
        """Bytes that a call takes at peak beside its arguments and results; None if unknown."""

    def tolerance(self, dtype: torch.dtype, usual: float) -> float:
        """The largest difference between contenders: the usual, or more where more is rounded."""


class Cpu:
    """The processor, timed by the clock on the wall."""

    name = "cpu"

    def check(self) -> None:
        """It is always there."""

    def machine(self, dtype: torch.dtype, threads: int) -> Machine:
        """Its limits are measured by loops of their own; takes about a second."""
        return machine.measure(dtype, threads)

    @contextlib.contextmanager
    def session(self, threads: int) -> Iterator[None]:
        """Sets torch's number of threads, which cnnops follows."""
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def seconds(self, run: Callable[[], Any], repeats: int) -> float:
        """Mean time of so many calls."""
        start = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - start) / repeats

    def extra_memory(self, run: Callable[[], tuple[Tensor, ...]]) -> int | None:
        """The growth of the process."""
        return memory.peak_of(run)

    def tolerance(self, dtype: torch.dtype, usual: float) -> float:
        """The usual."""
        return usual


#: By the name that `--device` takes.
DEVICES: dict[str, Callable[[], Device]] = {"cpu": Cpu, "cuda": Cuda}


def find(name: str) -> Device:
    """The device of this name.

    Raises:
        ValueError: there is none here; the message says why.
    """
    if name not in DEVICES:
        raise ValueError(f"device should be one of {', '.join(DEVICES)}, not {name!r}")
    device = DEVICES[name]()
    device.check()
    return device
