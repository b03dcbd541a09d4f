"""`cnnops check` says what it ran, names what fails, and never passes for lack of cases."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

import cnnops.functional
from cnnops.check import run


def printed(device: str = "cpu", pattern: str | None = None) -> tuple[int, str]:
    """What run() returns and prints on a terminal of 80 columns."""
    stream = io.StringIO()
    failures = run(device, pattern, Console(file=stream, width=80))
    return failures, stream.getvalue()


def test_passes() -> None:
    failures, text = printed(pattern="max_unpool2d")
    assert failures == 0
    assert "max_unpool2d" in text
    assert "pass" in text
    assert "conv2d" not in text


def test_names_the_failing_case(monkeypatch: pytest.MonkeyPatch) -> None:
    right = cnnops.functional.avg_pool1d

    def wrong(input: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        return right(input, *arguments, **options) * 1.01  # type: ignore[arg-type]

    monkeypatch.setattr(cnnops.functional, "avg_pool1d", wrong)
    failures, text = printed(pattern="avg_pool1d 2x3x29 kernel_size=2 grad-sliced")
    assert failures == 4
    assert "FAIL avg_pool1d 2x3x29 kernel_size=2 grad-sliced float32" in text
    assert "of its bound" in text


def test_an_exception_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(cnnops.functional, "max_pool3d", broken)
    failures, text = printed(pattern="max_pool3d 3x7x9x8 kernel_size=3")
    assert failures == 4
    assert "RuntimeError: no such kernel" in text


def test_no_case_is_a_failure() -> None:
    failures, text = printed(pattern="conv9d")
    assert failures == 1
    assert "no case has 'conv9d' in its name" in text


def test_a_device_without_kernels_is_a_failure() -> None:
    failures, text = printed(device="meta" if torch.cuda.is_available() else "cuda")
    assert failures >= 1
    assert "pass" not in text.replace("runs passed", "")
