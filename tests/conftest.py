"""Fixtures of the whole suite: devices, random numbers, threads, instruction sets, precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import devices
import pytest
import torch
from emulator import library
from hypothesis import settings

from cnnops import _C


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same random numbers, whichever tests ran before it."""
    devices.seed(0)


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone after the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def set_isa() -> Iterator[Callable[[str], None]]:
    """cnnops._C.set_isa, undone after the test."""
    before = _C.isa()
    yield _C.set_isa
    _C.set_isa(before)


@pytest.fixture
def precision() -> Iterator[Callable[[Any, str], None]]:
    """Sets fp32_precision of torch.backends or one below it, and undoes it after the test."""
    before = []
    # torch.testing's own helpers, where they are imported, forbid assignments outside of this.
    allowed = getattr(torch.backends, "__allow_nonbracketed_mutation")

    def assign(backend: Any, value: str) -> None:
        with allowed():
            backend.fp32_precision = value

    def set_precision(backend: Any, value: str) -> None:
        before.append((backend, backend.fp32_precision))
        assign(backend, value)

    yield set_precision
    for backend, value in reversed(before):
        assign(backend, value)


@pytest.fixture
def without_winograd(precision: Callable[[Any, str], None]) -> None:
    """No convolution is transformed during the test: those kernels run that would otherwise."""
    precision(torch.backends.mkldnn.conv, "ieee")


# The same examples on every run: a red build means a change, not luck.
settings.register_profile("cnnops", deadline=None, derandomize=True, max_examples=150)
settings.load_profile("cnnops")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--device and --share."""
    parser.addoption(
        "--device",
        choices=devices.DEVICES,
        help="run only the tests of operators, and those on this device, all of them",
    )
    parser.addoption(
        "--share", type=int, default=1, help="with --device: run one in so many of its tests"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test of an operator for each device."""
    devices.parametrize(metafunc)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run last, so that a failure shows early."""
    devices.select(config, items)
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


@pytest.fixture(scope="module")
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each device of devices.py in turn; the value is torch's name of it."""
    with devices.on(request.param) as name:
        yield name


@pytest.fixture(scope="session")
def emulated() -> Any:
    """The operators on emulated CUDA kernels; torch.ops.cnnops stays those of the CPU."""
    library.library()
    return torch.ops.cnnops_emulated


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Emulated tests: their own schedule, named where they fail, and fewer examples."""
    chosen = devices.schedule(item)
    if chosen is None:
        return (yield)
    item.add_report_section("call", "emulator", f"to repeat: CNNOPS_EMULATOR={chosen}")
    with library.settings(chosen), devices.fewer_examples(item):
        return (yield)
