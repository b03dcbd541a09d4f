"""`cnnops check` says what it ran, names what fails, and never passes for lack of cases."""

from __future__ import annotations

import io
import types

import pytest
import torch
import torch.nn.functional as F
from rich.console import Console

import cnnops.functional
from cnnops.check import report, run
from cnnops.check.cases import Case
from cnnops.check.reference import examine


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


def test_float32_convolutions_on_a_gpu_run_in_tf32_too() -> None:
    kinds = {(case.function, precision) for case, _, precision in report._selected(None, "cuda")}
    assert ("conv2d", "tf32") in kinds
    assert ("conv_transpose3d", "tf32") in kinds
    assert ("avg_pool2d", "tf32") not in kinds
    assert all(precision == "ieee" for _, _, precision in report._selected(None, "cpu"))


def test_tf32_has_a_bound_of_its_own() -> None:
    class Rounded(torch.autograd.Function):
        """A tensor with 10 bits after the point, gradients too."""

        @staticmethod
        def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
            return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

        @staticmethod
        def backward(ctx: object, grad: torch.Tensor) -> torch.Tensor:
            return grad

    def conv2d(x: torch.Tensor, weight: torch.Tensor, *bias: torch.Tensor) -> torch.Tensor:
        allowed = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
        seen.append(allowed)
        return F.conv2d(Rounded.apply(x), Rounded.apply(weight), *bias)

    seen: list[str] = []
    case = Case("conv2d", (2, 8, 9, 9), weight=(4, 8, 3, 3))
    namespace = types.SimpleNamespace(conv2d=conv2d)
    assert examine(case, torch.float32, namespace, precision="tf32").passed
    assert not examine(case, torch.float32, namespace).passed
    assert seen == ["tf32", "ieee"]
