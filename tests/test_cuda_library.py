"""The CUDA library is loaded where it can be; where it cannot run, everything says why.

None of this needs a GPU: fake tensors stand for those on one.
"""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch._subclasses import FakeTensorMode

import cnnops
from cnnops import UnsupportedError, cuda, support
from cnnops.benchmarks import cuda as cuda_benchmark
from cnnops.benchmarks import devices
from cnnops.cli import main

NO_LIBRARY = cuda.MISSING is not None

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
needs_library = pytest.mark.skipif(NO_LIBRARY, reason=str(cuda.MISSING))


@pytest.fixture
def without_library(monkeypatch: pytest.MonkeyPatch) -> str:
    """cnnops as it is without CUDA kernels; the reason that it gives."""
    monkeypatch.setattr(cuda, "MISSING", "there are none in this test")
    return "there are none in this test"


@needs_library
def test_every_operator_has_a_kernel() -> None:
    operators = {
        name.partition(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("cnnops::")
    }
    assert len(operators) >= 16
    for name in operators:
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name


@needs_library
def test_the_library_says_what_it_was_built_for() -> None:
    assert cuda.ARCHS
    for arch in cuda.ARCHS:
        major, _, minor = arch.removesuffix("+PTX").partition(".")
        assert int(major) >= 8
        assert minor.rstrip("af").isdigit()
    output = CliRunner().invoke(main, ["info"]).output
    assert all(arch in output for arch in cuda.ARCHS)


@needs_library
@no_gpu
def test_fake_tensors_on_a_gpu() -> None:
    with FakeTensorMode():
        image = torch.empty(2, 3, 9, 8, device="cuda").to(memory_format=torch.channels_last)
        weight = torch.empty(4, 3, 3, 3, device="cuda")
        model = cnnops.convert(torch.nn.Conv2d(3, 4, 3, device="cuda"))
        with cnnops.enable():
            enabled = F.conv2d(image, weight)
        for output in (cnnops.functional.conv2d(image, weight), model(image), enabled):
            assert output.shape == (2, 4, 7, 6)
            assert output.device.type == "cuda"
            assert output.is_contiguous(memory_format=torch.channels_last)
        pooled, indices = cnnops.functional.max_pool2d(image, 2, return_indices=True)
        assert pooled.device.type == indices.device.type == "cuda"


@needs_library
@no_gpu
def test_autocast_casts_convolutions_and_no_pooling() -> None:
    # torch.autocast("cuda") turns itself off where there is no GPU, but this is what it sets.
    torch.set_autocast_enabled("cuda", True)
    torch.set_autocast_dtype("cuda", torch.float16)
    try:
        with FakeTensorMode():
            volume = torch.empty(2, 3, 6, 6, 6, device="cuda")
            weight = torch.empty(4, 3, 3, 3, 3, device="cuda", dtype=torch.float64)
            assert cnnops.functional.conv3d(volume, weight.float()).dtype is torch.float16
            assert cnnops.functional.conv3d(volume.double(), weight).dtype is torch.float64
            assert cnnops.functional.avg_pool3d(volume.half(), 2).dtype is torch.float16
            assert cnnops.functional.max_pool3d(volume, 2).dtype is torch.float32
    finally:
        torch.set_autocast_enabled("cuda", False)
    torch.clear_autocast_cache()


@no_gpu
def test_without_kernels_a_gpu_tensor_is_refused(without_library: str) -> None:
    with FakeTensorMode():
        image = torch.empty(2, 3, 9, 8, device="cuda")
        with pytest.raises(UnsupportedError, match=f"avg_pool2d: {without_library}"):
            cnnops.functional.avg_pool2d(image, 2)


@no_gpu
def test_without_kernels_modules_and_enable_go_to_torch(
    without_library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(support, "_warned", set())
    with FakeTensorMode():
        image = torch.empty(2, 3, 9, 8, device="cuda")
        with pytest.warns(cnnops.FallbackWarning, match=without_library):
            assert cnnops.nn.AvgPool2d(2)(image).shape == (2, 3, 4, 4)
        with cnnops.enable():
            assert F.avg_pool2d(image, 2).shape == (2, 3, 4, 4)


def test_tensors_of_two_devices_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"same device.*cpu and meta"):
        cnnops.functional.conv2d(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2, device="meta"))


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (("8.0", "9.0"), (8, 0), True),
        (("8.0", "9.0"), (8, 9), True),
        (("8.0", "9.0"), (9, 0), True),
        (("8.0", "9.0"), (7, 5), False),
        (("8.0", "9.0"), (12, 0), False),
        (("8.0", "9.0+PTX"), (12, 0), True),
        (("8.6",), (8, 0), False),
        (("9.0a",), (9, 0), True),
        (("10.0a",), (10, 3), False),
        (("12.0+PTX",), (10, 0), False),
    ],
)
def test_which_gpus_the_code_runs_on(
    archs: tuple[str, ...],
    capability: tuple[int, int],
    runs: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda, "ARCHS", archs)
    reason = cuda._missing_code(capability)
    assert (reason is None) == runs
    if reason is not None:
        assert ", ".join(archs) in reason
        assert f"{capability[0]}.{capability[1]}" in reason


def test_a_gpu_that_the_code_does_not_run_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "MISSING", None)
    monkeypatch.setattr(cuda, "ARCHS", ("8.0",))
    monkeypatch.setattr(cuda, "_refusals", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    asked = []

    def capability(index: int) -> tuple[int, int]:
        asked.append(index)
        return (7, 5) if index == 1 else (8, 6)

    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    for _ in range(2):
        assert cuda.refusal(torch.device("cuda", 0)) is None
        assert "7.5" in str(cuda.refusal(torch.device("cuda", 1)))
    assert asked == [0, 1], "each GPU is asked once"


def test_a_library_that_does_not_load_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())

    def broken(name: str) -> None:
        raise ImportError("libcudart.so.99: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    archs, reason = cuda._load()
    assert archs == ()
    assert "libcudart.so.99" in str(reason)


def test_torch_without_cuda_loads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    archs, reason = cuda._load()
    assert archs == ()
    assert "built without CUDA" in str(reason)


@no_gpu
def test_bench_without_a_gpu_says_so() -> None:
    result = CliRunner().invoke(main, ["bench", "--device", "cuda"])
    assert result.exit_code != 0
    assert "nothing to time" in result.output


def test_bench_without_kernels_says_why(without_library: str) -> None:
    with pytest.raises(ValueError, match=without_library):
        devices.find("cuda")


def test_bench_allows_for_tf32() -> None:
    device = devices.DEVICES["cuda"]()
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    try:
        convolutions.fp32_precision = "ieee"
        assert device.tolerance(torch.float32, 1e-4) == 1e-4
        convolutions.fp32_precision = "tf32"
        assert device.tolerance(torch.float32, 1e-4) > 2**-10
        assert device.tolerance(torch.float64, 1e-12) == 1e-12
    finally:
        convolutions.fp32_precision = before


def test_bench_reads_nvidia_smi() -> None:
    said = "580.65.06, 1980 MHz, 1980 MHz, 2619 MHz, 700.00 W\n"
    described = cuda_benchmark._described(said)
    for part in ("driver 580.65.06", "SM clock 1980 MHz of 1980 MHz", "memory clock 2619 MHz"):
        assert part in described
