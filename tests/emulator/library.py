"""Loads the emulated operators, sends those of the CPU to them, and reads what they cost."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from cnnops import _C, plain
from emulator.build import build


@dataclass(frozen=True)
class Cost:
    """What the requests of warps at one place in a kernel cost.

    Attributes:
        kernel: its name with template arguments.
        kind: "global read", "global write", "shared read" or "shared write".
        place: file and line.
        requests: how many there were.
        transactions: 32-byte sectors of global memory, or turns of the banks of shared memory.
        ideal: the least number of transactions for the same bytes and sizes of access.

    """

    kernel: str
    kind: str
    place: str
    requests: int
    transactions: int
    ideal: int


@functools.cache
def library() -> ctypes.CDLL:
    """Builds and loads the library of torch.ops.cnnops_emulated, once in a process.

    CNNOPS_EMULATED_LIBRARY names one that is built already; its sanitizer, if it has one, must have
    been loaded before Python.
    """
    path = os.environ.get("CNNOPS_EMULATED_LIBRARY") or str(build("library"))
    torch.ops.load_library(path)
    library = ctypes.CDLL(path)
    for name in ("emulator_configure", "emulator_settings", "emulator_counters"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def configure(settings: str) -> None:
    """Settings as in CNNOPS_EMULATOR: "schedule=ahead,seed=7,races=0,count=1"."""
    wrong = library().emulator_configure(settings.encode())
    if wrong is not None:
        raise ValueError(wrong.decode())


@contextlib.contextmanager
def settings(text: str) -> Iterator[None]:
    """`configure`, undone at the end."""
    before = library().emulator_settings().decode()
    configure(text)
    try:
        yield
    finally:
        configure(before)


@contextlib.contextmanager
def counting() -> Iterator[Callable[[], list[Cost]]]:
    """Counts the costs of memory requests; what it yields returns them."""
    with settings("count=1"):
        library().emulator_clear_counters()
        yield costs
        library().emulator_clear_counters()


def costs() -> list[Cost]:
    """What was counted, by kernel and place."""
    lines = library().emulator_counters().decode().splitlines()
    rows = [line.split("\t") for line in lines]
    return [Cost(row[0], row[1], row[2], *map(int, row[3:])) for row in rows]


def names() -> list[str]:
    """The operators that have kernels for CUDA."""
    library()
    registered = torch._C._dispatch_get_registrations_for_dispatch_key("CPU")
    prefix = "cnnops_emulated::"
    return sorted(name[len(prefix) :] for name in registered if name.startswith(prefix))


@contextlib.contextmanager
def emulated_cuda() -> Iterator[None]:
    """Sends the operators of torch.ops.cnnops for CPU tensors to the emulated kernels.

    All of Python above them, derivatives included, stays what it is.
    """
    library()
    overrides = torch.library.Library("cnnops", "IMPL")
    _C.set_plain((), ())  # calls past the dispatcher would reach the kernels of the CPU
    try:
        for name in names():
            overrides.impl(name, _operator(name), "CPU", allow_override=True)
        yield
    finally:
        plain.allow_plain_calls()
        overrides._destroy()


def _operator(name: str) -> Callable[..., Any]:
    operator = getattr(torch.ops.cnnops_emulated, name).default

    def call(*args: Any, **kwargs: Any) -> Any:
        return operator(*args, **kwargs)

    return call
