"""Fixtures of the whole suite: seeded random numbers, thread counts, instruction sets."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import settings

from cnnops import _C


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same random numbers, whichever tests ran before it."""
    torch.manual_seed(0)


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


# The same examples on every run: a red build means a change, not luck.
settings.register_profile("cnnops", deadline=None, derandomize=True, max_examples=150)
settings.load_profile("cnnops")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests run last, so that a failure shows early."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
