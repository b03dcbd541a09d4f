"""The devices that the tests of operators run on, and which of these tests run on which.

A test that uses the fixture `device` runs once for each of

    cpu             the kernels of the CPU
    cuda-emulated   the CUDA kernels, emulated on the CPU (see emulator/README.md)
    cuda            the CUDA kernels on a GPU

or for those that the marker `devices` names: tests with tensors of the CPU cannot run on a GPU.
`--device` chooses one of them, and then only these tests run. A run without it leaves out what
takes long on the emulator: large cases of the grid, `slow` tests, and all but one in n of those
that are marked `emulated_share(n)`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import zlib
from collections.abc import Iterator

import pytest
import torch
from emulator import build, library
from hypothesis import settings

from cnnops.check.cases import Case

DEVICES = ("cpu", "cuda-emulated", "cuda")

#: Multiplications of a case above which it is not emulated, in a run of all devices.
MOST_WORK = 600_000
#: Examples of property tests on the emulator, where each takes long.
EMULATED_EXAMPLES = 40


@functools.cache
def missing(device: str) -> str | None:
    """Why tests cannot run on `device`, or None where they can."""
    if device == "cuda-emulated":
        lacks = build.missing()
        return lacks and f"the emulator cannot be built: {lacks}"
    if device == "cuda":
        if torch.version.cuda is None:
            return "this torch was built without CUDA"
        if not torch.cuda.is_available():
            return "no CUDA GPU here"
        if not torch._C._dispatch_has_kernel_for_dispatch_key("cnnops::convolution", "CUDA"):
            return "this cnnops was built without CUDA kernels"
    return None


def seed(value: int) -> None:
    """torch.manual_seed for the devices that are here.

    For others torch keeps the seed until they are, and a listing of the call stack with it: several
    milliseconds, for each of the many tests.
    """
    torch.default_generator.manual_seed(value)
    if missing("cuda") is None:
        torch.cuda.manual_seed_all(value)


def needs(device: str) -> pytest.MarkDecorator:
    """Skips a test where it cannot run on `device`, and says why not."""
    reason = missing(device)
    return pytest.mark.skipif(reason is not None, reason=f"{reason}")


#: Marks tests that run on the emulator without the fixture `device`.
needs_emulator = needs("cuda-emulated")


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Parametrizes tests that use the fixture `device`."""
    if "device" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("devices")
    values = [
        pytest.param(device, marks=[needs(device)])
        for device in (marker.args if marker else DEVICES)
    ]
    metafunc.parametrize("device", values, indirect=True, scope="module")


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drops the tests that `--device`, or the lack of it, leaves out."""
    chosen = config.getoption("--device")
    keep = [item for item in items if (_device(item) == chosen if chosen else _is_quick(item))]
    share = config.getoption("--share")
    if share > 1:
        keep = [item for item in keep if _number(item) % share == 0 and _is_small(item)]
    if len(keep) < len(items):
        kept = set(map(id, keep))
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
        items[:] = keep


@contextlib.contextmanager
def on(device: str) -> Iterator[str]:
    """Runs everything on `device`, and yields torch's name of it."""
    with tf32(False):  # the bounds of the tests are those of float32
        if device == "cuda-emulated":
            with library.emulated_cuda():
                yield "cpu"
        elif device == "cuda":
            torch.set_default_device("cuda")
            try:
                yield "cuda"
            finally:
                torch.set_default_device(None)
        else:
            yield "cpu"


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether convolutions of float32 may run in tf32, undone at the end."""
    cudnn = torch.backends.cudnn
    # Not an assignment: torch.testing's own helpers, where they are imported, forbid those.
    with cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        deterministic=cudnn.deterministic,
        allow_tf32=allowed,
    ):
        yield


@contextlib.contextmanager
def fewer_examples(item: pytest.Item) -> Iterator[None]:
    """Emulated property tests try EMULATED_EXAMPLES; other tests are left alone."""
    function = getattr(item, "function", None)
    usual = getattr(function, "_hypothesis_internal_use_settings", None)
    if usual is None or _device(item) != "cuda-emulated":
        yield
        return
    function._hypothesis_internal_use_settings = settings(usual, max_examples=EMULATED_EXAMPLES)
    try:
        yield
    finally:
        function._hypothesis_internal_use_settings = usual


def schedule(item: pytest.Item) -> str | None:
    """The emulator's settings for this test, other ones for each; None where it is not emulated."""
    if _device(item) != "cuda-emulated":
        return None
    seed = _number(item) % 1000
    return os.environ.get("CNNOPS_EMULATOR") or f"schedule=mixed,seed={seed}"


def _device(item: pytest.Item) -> str | None:
    call = getattr(item, "callspec", None)
    return call and call.params.get("device")


def _is_quick(item: pytest.Item) -> bool:
    if _device(item) != "cuda-emulated":
        return True
    if item.get_closest_marker("slow") is not None:
        return False
    share = item.get_closest_marker("emulated_share")
    if share is not None and _number(item) % share.args[0]:
        return False
    return _is_small(item)


def _is_small(item: pytest.Item) -> bool:
    case = item.callspec.params.get("case")  # type: ignore[attr-defined]
    return not isinstance(case, Case) or _work(case) <= MOST_WORK


def _number(item: pytest.Item) -> int:
    """A number that spreads tests evenly, the same in every run."""
    return zlib.crc32(item.nodeid.encode())


def _work(case: Case) -> int:
    """About how many multiplications a case takes."""
    elements = math.prod(case.input)
    if not case.weight:
        return elements * (case.window if "unpool" not in case.function else 1)
    channels = case.weight[1] if not case.transposed else case.weight[0]
    return elements // max(channels, 1) * math.prod(case.weight)
